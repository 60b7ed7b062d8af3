"""The ready-made snippets use options that are there."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from ruamel.yaml import YAML

from diag.cli.main import app
from diag.observe.links.launchers import recognise

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(path for path in EXAMPLES.iterdir() if path.is_file())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_option_of_an_example_is_there(path: Path) -> None:
    run = getattr(typer.main.get_command(app), "commands")["run"]  # noqa: B009 - typer's own class
    known = {option for one in run.params for option in one.opts}
    used = set()
    for found in re.finditer(r"diag[, ]+run([^\n;|\]`]*)", path.read_text()):
        used |= set(re.findall(r"--[a-z][a-z-]*", found[1]))

    assert used <= known


def test_the_kubernetes_job_tells_all_that_is_needed() -> None:
    _, job = YAML(typ="safe").load_all((EXAMPLES / "kubernetes-job.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    env = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}

    layout = recognise({**env, "JOB_COMPLETION_INDEX": "3"}, "diag-3")

    assert layout is not None
    assert (layout.nnodes, layout.node_rank, layout.master_host) == (
        job["spec"]["completions"],
        3,
        "diag-0.diag",
    )


def test_the_daemonset_s_script_gives_every_pod_its_place(tmp_path: Path) -> None:
    """The script as it stands, on two addresses of this machine; `getent` answers as a headless service's name does."""
    _, daemons = YAML(typ="safe").load_all((EXAMPLES / "kubernetes-daemonset.yaml").read_text())
    (container,) = daemons["spec"]["template"]["spec"]["containers"]
    script = container["command"][2].replace("exec sleep infinity", "true").replace("29511", str(free_port()))
    script = script.replace("diag run", "diag run --quiet --only host.limits")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in (
        ("getent", "echo '127.0.0.2 STREAM diag-nodes'; echo '127.0.0.2 DGRAM'; echo '127.0.0.1 STREAM'"),
        ("diag", f'exec {sys.executable} -m diag.cli.main "$@"'),
    ):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    pods = []
    for address in ("127.0.0.1", "127.0.0.2"):
        place = {
            "POD_IP": address,
            "NNODES": "2",
            "SERVICE": "diag-nodes",
            "PATH": f"{tools}:{os.environ['PATH']}",
        }
        text = script.replace("/tmp/diag", str(tmp_path / address))
        pods.append(
            subprocess.Popen(
                ["sh", "-c", text], env={**os.environ, **place}, cwd=tmp_path, stdout=subprocess.DEVNULL
            )
        )

    assert [pod.wait(timeout=90) for pod in pods] == [0, 0]
    job = json.loads((tmp_path / "127.0.0.1" / "report.json").read_text())
    assert job["facts"]["network"]["links"]["met"] is True
    assert set(job["facts"]["network"]["links"]["nodes"]) == {"0", "1"}


@pytest.mark.parametrize("name", ["leaderworkerset.yaml", "leaderworkerset-sidecar.yaml"])
def test_a_leader_worker_set_needs_no_more_than_what_it_sets(name: str) -> None:
    (group,) = YAML(typ="safe").load_all((EXAMPLES / name).read_text())
    size = group["spec"]["leaderWorkerTemplate"]["size"]
    told = {"LWS_LEADER_ADDRESS": "vllm-0.vllm.default", "LWS_GROUP_SIZE": str(size), "LWS_WORKER_INDEX": "1"}

    layout = recognise(told, "vllm-0-1")

    assert layout is not None
    assert (layout.nnodes, layout.node_rank, layout.many) == (2, 1, True)


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.suffix in (".sh", ".sbatch")], ids=lambda path: path.name
)
def test_a_script_is_sound_shell(path: Path) -> None:
    shell = "bash" if path.suffix == ".sbatch" else "sh"

    assert subprocess.run([shell, "-n", str(path)], check=False).returncode == 0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
