"""`diag run --ray`: what is said without Ray, and a real small cluster where Ray is installed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

DIAG = [sys.executable, "-m", "diag.cli.main", "run", "--quiet", "--only", "host.limits"]


def test_without_ray_the_user_is_told_what_to_give(tmp_path: Path) -> None:
    if importlib.util.find_spec("ray") is not None:
        pytest.skip("ray is installed beside diag")
    done = subprocess.run([*DIAG, "--ray", "auto"], capture_output=True, text=True, check=False, cwd=tmp_path)

    assert done.returncode == 2
    assert "has no ray" in done.stderr
    assert "--python" in done.stderr


@pytest.mark.lab
def test_every_node_of_a_busy_cluster_reports(tmp_path: Path) -> None:
    """All CPUs are held by actors: the probes run all the same."""
    pytest.importorskip("ray")
    script = tmp_path / "cluster.py"
    script.write_text(
        "import ray, time\nfrom ray.cluster_utils import Cluster\n"
        "cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 1})\ncluster.add_node(num_cpus=1)\n"
        "ray.init(address=cluster.address, log_to_driver=False)\n"
        "@ray.remote(num_cpus=1)\nclass Holder:\n    def hold(self): time.sleep(600)\n"
        "holders = [Holder.remote() for _ in range(2)]\n[one.hold.remote() for one in holders]\ntime.sleep(3)\n"
        "print(cluster.address, flush=True)\ntime.sleep(300)\n"
    )
    cluster = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        done = subprocess.run(
            [*DIAG, "--ray", address, "--json", "--out", str(tmp_path / "out")],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        cluster.terminate()
        cluster.wait(timeout=30)
        if cluster.stdout is not None:
            cluster.stdout.close()

    report = json.loads(done.stdout)
    assert "2 of 2 nodes of Ray's cluster reported" in report["notes"]
    assert {one["probe"] for one in report["findings"] if one["status"] == "ok"} >= {
        "host.limits",
        "link.tcp",
    }
