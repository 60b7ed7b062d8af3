"""`diag run` under launchers that are really there: Slurm, Open MPI's mpirun, torchrun. One machine plays both nodes."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
PROBE = ("--only", "host.limits")

pytestmark = pytest.mark.lab


def free_ports(count: int) -> list[int]:
    """Neighbouring ports below the ephemeral range, none of which the kernel hands to anybody before we use it.

    A port that bind(0) gave and that was let go may be the next connection's own; and torchrun's nodes meet on the port
    after the one that was asked for. Processes that test side by side start looking at different places.
    """
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for first in (15000 + (os.getpid() * 97 + 31 * step) % (low - 15000 - count) for step in range(500)):
        with contextlib.ExitStack() as held:
            try:
                for port in range(first, first + count + 1):
                    sock = held.enter_context(socket.socket())
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    sock.bind(("", port))
            except OSError:
                continue
            return list(range(first, first + count))
    raise AssertionError("no free ports")


def need(*tools: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")


def environment(folder: Path) -> dict[str, str]:
    """A PATH on which `diag` is this checkout's, and a port of our own to meet on."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "diag").write_text(f'#!/bin/sh\nexec {sys.executable} -m diag.cli.main "$@"\n')
    (tools / "diag").chmod(0o755)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM", "OMPI", "PMI", "RANK"))
    }
    (port,) = free_ports(1)
    return {
        **kept,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def job_report(folder: Path) -> dict[str, Any]:
    """The job's report, after a look whether every node left its own."""
    assert {path.name for path in folder.glob("*.json")} == {
        "report.json",
        "report-node0.json",
        "report-node1.json",
    }
    loaded: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return loaded


def check(report: dict[str, Any], launcher: str) -> None:
    links = report["facts"]["network"]["links"]
    assert (links["launcher"], links["nnodes"], links["met"]) == (launcher, 2, True)
    assert set(links["links"]) == {"0>1", "1>0"}
    assert not [one["summary"] for one in report["findings"] if one["status"] == "fail"]
    assert report["facts"]["host"]["node"]["launcher"] == launcher


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Munge, a controller and two slurmd of our own, on ports of our own; all ended at the end."""
    if os.geteuid() != 0:
        pytest.skip("slurmd needs root")
    need("slurmctld", "slurmd", "munged", "sbatch")
    tmp_path.chmod(0o755)
    host = socket.gethostname().split(".")[0]
    controller, first, second = free_ports(3)
    key = tmp_path / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    (tmp_path / "state").mkdir()
    conf = tmp_path / "slurm.conf"
    conf.write_text(
        f"ClusterName=diag\nSlurmctldHost={host}(127.0.0.1)\nSlurmUser=root\nSlurmdUser=root\n"
        f"AuthInfo=socket={tmp_path}/munge.socket\nSlurmctldPort={controller}\nStateSaveLocation={tmp_path}/state\n"
        f"SlurmctldPidFile={tmp_path}/slurmctld.pid\nSlurmdPidFile={tmp_path}/slurmd.%n.pid\nSlurmdSpoolDir={tmp_path}/spool.%n\n"
        f"SlurmctldLogFile={tmp_path}/slurmctld.log\nSlurmdLogFile={tmp_path}/slurmd.%n.log\n"
        "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nMpiDefault=none\nReturnToService=2\n"
        "SelectType=select/cons_tres\nSelectTypeParameters=CR_Core\nJobAcctGatherType=jobacct_gather/none\n"
        f"NodeName=n0 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=1\n"
        f"NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=1\n"
        "PartitionName=all Nodes=ALL Default=YES State=UP\n"
    )
    daemons = [
        ["munged", "-F", "--force", f"--key-file={key}", f"--socket={tmp_path}/munge.socket", f"--pid-file={tmp_path}/munge.pid",
         f"--log-file={tmp_path}/munge.log", f"--seed-file={tmp_path}/munge.seed"],
        ["slurmctld", "-D", "-c", "-f", str(conf)],
        *(["slurmd", "-D", "-N", name, "-f", str(conf)] for name in ("n0", "n1")),
    ]  # fmt: skip
    running = []
    try:
        for words in daemons:
            running.append(
                subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
            if words[0] == "munged":
                wait_for((tmp_path / "munge.socket").exists)
        env = {**environment(tmp_path), "SLURM_CONF": str(conf)}
        wait_for(lambda: idle_nodes(env) == 2)
        yield env
    finally:
        for process in reversed(running):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=10)


def wait_for(there: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it does not come up"
        time.sleep(0.2)


def idle_nodes(env: dict[str, str]) -> int:
    done = subprocess.run(
        ["sinfo", "-h", "-N", "-o", "%T"], capture_output=True, text=True, check=False, env=env, timeout=20
    )
    return done.stdout.split().count("idle")


def test_slurm_s_own_example_runs_on_two_nodes(slurm: dict[str, str], tmp_path: Path) -> None:
    """examples/slurm.sbatch as it stands, but for two nodes instead of four and one quick probe."""
    text = (EXAMPLES / "slurm.sbatch").read_text()
    assert "--nodes=4" in text
    script = tmp_path / "job.sbatch"
    script.write_text(text.replace("--nodes=4", "--nodes=2").replace("--quiet", "--quiet --only host.limits"))

    done = subprocess.run(
        ["sbatch", "--wait", "-o", str(tmp_path / "job.out"), str(script)],
        capture_output=True,
        text=True,
        check=False,
        env=slurm,
        cwd=tmp_path,
        timeout=90,
    )

    said = (
        done.stderr + (tmp_path / "job.out").read_text() if (tmp_path / "job.out").exists() else done.stderr
    )
    assert done.returncode == 0, said
    (folder,) = tmp_path.glob("diag-*")
    check(job_report(folder), "Slurm")


def test_tasks_beside_the_first_on_a_slurm_node_end_quietly(slurm: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        ["srun", "-N2", "-n4", "--overcommit", "diag", "run", "--quiet", "--json", *PROBE, "--out", str(tmp_path / "out")],
        capture_output=True, text=True, check=False, env=slurm, cwd=tmp_path, timeout=90,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    check(job_report(tmp_path / "out"), "Slurm")
    assert done.stdout.count('"schema"') == 2


def test_mpirun_starts_it_on_every_node(tmp_path: Path) -> None:
    need("mpirun")
    env = {**environment(tmp_path), "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    # mpirun counts ranks of one machine as one node: each rank is told that it is alone on its own.
    alone = "export OMPI_COMM_WORLD_LOCAL_RANK=0 OMPI_COMM_WORLD_LOCAL_SIZE=1; exec diag run"
    done = subprocess.run(
        ["mpirun", "--oversubscribe", "-np", "2", "-x", "MASTER_ADDR", "-x", "MASTER_PORT", "sh", "-c",
         f"{alone} --quiet {' '.join(PROBE)} --out {tmp_path / 'out'}"],
        capture_output=True, text=True, check=False, env=env, cwd=tmp_path, timeout=90,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    check(job_report(tmp_path / "out"), "Open MPI")


def test_mpirun_with_two_ranks_on_a_node_probes_it_once(tmp_path: Path) -> None:
    need("mpirun")
    env = {**environment(tmp_path), "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(
        ["mpirun", "--oversubscribe", "-np", "2", "diag", "run", "--quiet", "--json", *PROBE, "--out", str(tmp_path / "out")],
        capture_output=True, text=True, check=False, env=env, cwd=tmp_path, timeout=90,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"schema"') == 1


def torchrun_two_nodes(tmp_path: Path, env: dict[str, str]) -> None:
    """Start `diag run` with torchrun on two nodes; fails with what every process printed."""
    logs = [(tmp_path / f"torchrun{rank}.log").open("w") for rank in range(2)]
    nodes = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--no-python", "--nnodes", "2", "--nproc-per-node", "2", "--node-rank", str(rank),
             "--master-addr", "127.0.0.1", "--master-port", env["MASTER_PORT"], "diag", "run", "--quiet", *PROBE, "--out", str(tmp_path / "out")],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path,
            env={name: value for name, value in env.items() if not name.startswith("MASTER")},
        )
        for rank, log in enumerate(logs)
    ]  # fmt: skip
    try:
        codes = [node.wait(timeout=120) for node in nodes]
    finally:
        for node, log in zip(nodes, logs, strict=True):
            node.kill()
            log.close()
    said = "\n".join(f"--- node {rank}\n{Path(log.name).read_text()}" for rank, log in enumerate(logs))
    assert codes == [0, 0], said


def test_torchrun_starts_it_on_every_node(tmp_path: Path) -> None:
    needs_torch()
    env = environment(tmp_path)

    torchrun_two_nodes(tmp_path, env)

    check(job_report(tmp_path / "out"), "torchrun")


def test_another_program_on_the_port_beside_torchrun_s_is_no_fault_of_the_job(tmp_path: Path) -> None:
    """torchrun's store holds MASTER_PORT, so the nodes meet on the next one, unless somebody else has it."""
    needs_torch()
    env = environment(tmp_path)
    beside = int(env["MASTER_PORT"]) + 1
    with socket.create_server(("", beside)):
        torchrun_two_nodes(tmp_path, env)

    check(job_report(tmp_path / "out"), "torchrun")
    follower = json.loads((tmp_path / "out" / "report-node1.json").read_text())
    assert follower["facts"]["network"]["links"]["meeting"]["port"] in (beside + 1, beside + 2)


def needs_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed beside diag")
