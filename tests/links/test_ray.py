"""`diag run --ray`: what is said without Ray, and a real small cluster of several nodes where Ray is installed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DIAG = [sys.executable, "-m", "diag.cli.main", "run", "--quiet", "--only", "host.limits"]

CLUSTER = """
import sys, time
import ray
from ray.cluster_utils import Cluster
small = {"num_cpus": 1, "object_store_memory": 80 << 20}  # as little as Ray takes
cluster = Cluster(initialize_head=True, head_node_args=small)
nodes = [cluster.add_node(**small) for _ in range(int(sys.argv[1]) - 1)]
ray.init(address=cluster.address, log_to_driver=False)
@ray.remote(num_cpus=1)
class Holder:
    def hold(self): time.sleep(600)
holders = [Holder.remote() for _ in range(int(sys.argv[1]))]
for one in holders:
    one.hold.remote()
while ray.available_resources().get("CPU", 0) > 0:
    time.sleep(0.2)
raylet = nodes[-1].all_processes["raylet"][0].process.pid
print(cluster.address, raylet, flush=True)
time.sleep(300)
"""


def test_without_ray_the_user_is_told_what_to_give(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", symlinks=True)
    python = str(tmp_path / "bare" / "bin" / "python")
    words = [*DIAG, "--ray", "auto", "--python", python]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert done.returncode == 2
    assert "has no ray" in done.stderr
    assert "--python" in done.stderr


@contextlib.contextmanager
def cluster(folder: Path, count: int) -> Iterator[tuple[str, int]]:
    """A Ray cluster all of whose CPUs actors hold: (address, process of the last node's raylet)."""
    script = folder / "cluster.py"
    script.write_text(CLUSTER)
    log = (folder / "cluster.log").open("w")
    process = subprocess.Popen(
        [sys.executable, str(script), str(count)], stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
        env={**os.environ, "RAY_DISABLE_IMPORT_WARNING": "1", "RAY_USAGE_STATS_ENABLED": "0"},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        told = process.stdout.readline().split()
        assert len(told) == 2, (folder / "cluster.log").read_text()
        yield told[0], int(told[1])
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
        process.stdout.close()
        log.close()


def run_on(address: str, folder: Path, *options: str) -> dict[str, Any]:
    done = subprocess.run(
        [*DIAG, "--ray", address, "--json", "--out", str(folder / "out"), *options], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


@pytest.mark.lab
def test_every_node_of_a_busy_cluster_reports(tmp_path: Path) -> None:
    """All CPUs are held by actors: the probes run all the same. A node whose raylet then stops is named, nobody waits for it."""
    pytest.importorskip("ray")
    with cluster(tmp_path, 3) as (address, raylet):
        whole = run_on(address, tmp_path)
        os.kill(raylet, signal.SIGSTOP)
        broken = run_on(address, tmp_path, "--timeout", "3", "--wait", "3")
        os.kill(raylet, signal.SIGCONT)

    assert "3 of 3 nodes of Ray's cluster reported" in whole["notes"]
    fine = {one["probe"] for one in whole["findings"] if one["status"] == "ok"}
    assert fine >= {"host.limits", "link.meeting", "link.tcp"}
    assert len(whole["facts"]["network"]["links"]["links"]) == 6

    assert "2 of 3 nodes of Ray's cluster reported" in broken["notes"]
    silent = [one["summary"] for one in broken["findings"] if "gave no report" in one["summary"]]
    assert len(silent) == 1
    assert broken["verdict"] != "ok"
