"""Nodes that really meet, each a process of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from diag.cli.main import app
from diag.diagnose.pipeline import explain
from diag.model import Status
from diag.observe.links.launchers import by_hand
from diag.observe.links.meeting import Gathering, join
from diag.observe.links.place import describe
from diag.observe.links.session import run_links

CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("SLURM", "OMPI", "PMI", "MASTER", "RANK"))
}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def start(
    rank: int, nnodes: int, port: int, folder: Path, *options: str, **env: str
) -> subprocess.Popen[bytes]:
    words = [
        "--nnodes",
        str(nnodes),
        "--node-rank",
        str(rank),
        "--master",
        f"127.0.0.1:{port}",
        "--only",
        "host.limits",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "diag.cli.main", "run", "--quiet", "--json", "--out", str(folder), *words, *options],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**CLEAN, **env}, cwd=folder.parent,
    )  # fmt: skip


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def test_three_nodes_meet_and_share_one_folder(tmp_path: Path) -> None:
    port = free_port()
    nodes = [start(rank, 3, port, tmp_path / "out") for rank in range(3)]

    assert [node.wait(timeout=60) for node in nodes] == [0, 0, 0]
    names = {path.name for path in (tmp_path / "out").glob("*.json")}
    assert names == {"report.json", "report-node0.json", "report-node1.json", "report-node2.json"}
    job = load(tmp_path / "out" / "report.json")
    assert len(job["facts"]["network"]["links"]["links"]) == 6
    assert {one["probe"] for one in job["findings"] if one["status"] == "ok"} >= {
        "link.meeting",
        "link.tcp",
        "link.bandwidth",
    }


def test_every_node_reports_before_it_needs_anybody(tmp_path: Path) -> None:
    node = start(1, 2, free_port(), tmp_path / "out", "--wait", "30")
    path = tmp_path / "out" / "report-node1.json"
    try:
        deadline = time.monotonic() + 30
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)

        assert path.exists()
        assert node.poll() is None
    finally:
        node.kill()
        node.wait()


def test_who_finds_nobody_says_what_it_tried(tmp_path: Path) -> None:
    node = start(1, 2, free_port(), tmp_path / "out", "--wait", "2")

    assert node.wait(timeout=30) == 1
    told = next(
        one for one in load(tmp_path / "out" / "report.json")["findings"] if one["probe"] == "link.meeting"
    )
    assert (told["status"], told["data"]["ended_at"]) == (
        "fail",
        "address",
    )  # the master's name is this node itself
    assert "tcp" in told["summary"]


def test_a_missing_node_is_named_by_the_master(tmp_path: Path) -> None:
    node = start(0, 3, free_port(), tmp_path / "out", "--wait", "2")

    assert node.wait(timeout=30) == 1
    told = [
        one for one in load(tmp_path / "out" / "report.json")["findings"] if one["probe"] == "link.meeting"
    ]
    assert [one["data"]["node_rank"] for one in told] == [1, 2]


def test_other_processes_of_a_node_end_quietly(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "diag.cli.main", "run", "--out", str(tmp_path / "out")], capture_output=True, check=False, cwd=tmp_path,
        env={**CLEAN, "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "2", "LOCAL_RANK": "3", "RANK": "3"},
    )  # fmt: skip

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert not (tmp_path / "out").exists()


def test_another_program_on_the_port_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        layout = by_hand(2, 1, f"127.0.0.1:{port}", {})

        facts = run_links(layout, describe(layout, {}, "1"), meeting_s=3.5)

    assert (facts["met"], facts["steps"]["ended_at"], facts["steps"]["outcome"]) == (
        False,
        "greeting",
        "silent",
    )


def test_a_welcome_that_a_lossy_link_holds_back_is_waited_for() -> None:
    """The master has counted the node in: a second try would come too late. A relay keeps what the master says for 4 s."""
    port, relay_port = free_port(), free_port()
    layouts = [by_hand(2, rank, f"127.0.0.1:{port}", {}) for rank in range(2)]
    master = Gathering(port, describe(layouts[0], {}, "1"))

    def pump(source: socket.socket, target: socket.socket, late: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if late and b"welcome" in data:
                    time.sleep(4.0)
                target.sendall(data)

    def relay(listener: socket.socket) -> None:
        near, _ = listener.accept()
        with near, socket.create_connection(("127.0.0.1", port)) as far:
            threading.Thread(target=pump, args=(near, far, False), daemon=True).start()
            pump(far, near, True)

    with socket.create_server(("127.0.0.1", relay_port)) as listener:
        threading.Thread(target=relay, args=(listener,), daemon=True).start()
        try:
            wire, _, trace = join(
                "127.0.0.1", relay_port, describe(layouts[1], {}, "1"), time.monotonic() + 20
            )
        finally:
            master.close()

    assert wire is not None, trace
    assert (trace["tries"], trace["outcome"]) == (1, "ok")
    assert 1 in master.cards
    wire.close()


@pytest.mark.parametrize("hand_in", [(0, 1, 2), (0, 2)])
def test_separate_reports_make_one_answer(tmp_path: Path, hand_in: tuple[int, ...]) -> None:
    """The master waits, the others knock at a closed port: seen only through what each wrote."""
    wrong, right = free_port(), free_port()
    ports = {0: right, 1: wrong, 2: wrong}
    nodes = [start(rank, 3, ports[rank], tmp_path / f"out{rank}", "--wait", "2") for rank in range(3)]
    for node in nodes:
        node.wait(timeout=60)

    report = explain([str(tmp_path / f"out{rank}" / f"report-node{rank}.json") for rank in hand_in])

    assert report.exit_code == 1
    absent = [one for one in report.findings if one.subject == "missing reports"]
    assert bool(absent) == (len(hand_in) < 3)
    assert all(one.status is Status.WARN for one in absent)


def test_options_are_there() -> None:
    import typer

    run = getattr(typer.main.get_command(app), "commands")["run"]  # noqa: B009 - typer's own class
    assert {"--nnodes", "--node-rank", "--master", "--wait"} <= {
        option for one in run.params for option in one.opts
    }
