"""A torchrun job that really fails is explained from what it really printed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diag.diagnose.pipeline import explain
from diag.model import Report

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None, reason="torch is not installed beside diag"
    ),
]

PROGRAM = """
import os, sys, time
import torch, torch.distributed as dist
dist.init_process_group("gloo")
rank = dist.get_rank()
how = sys.argv[1]
for step in range(3):
    dist.all_reduce(torch.ones(4))
    print(f"step {step} loss {1.0 / (step + 1):.3f}", flush=True)
if how == "exception" and rank == 1:
    settings = {"lr": 0.1}
    settings["momentum"]
if how == "killed" and rank == 1:
    os.kill(os.getpid(), 9)
if how == "shapes":
    dist.all_reduce(torch.ones(4 if rank == 0 else 8))
dist.all_reduce(torch.ones(4))
dist.destroy_process_group()
print("Training finished successfully", flush=True)
"""


def run(folder: Path, how: str, *options: str, timeout_s: int = 60) -> Report:
    script = folder / "job.py"
    script.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2", *options, str(script), how],
        capture_output=True, text=True, timeout=timeout_s, check=False, cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"},
    )  # fmt: skip
    log = folder / "run.log"
    log.write_text(done.stdout + done.stderr)
    return explain([str(log)])


def test_an_exception_on_one_rank_is_named_with_its_rank(tmp_path: Path) -> None:
    report = run(tmp_path, "exception")

    assert [("application-error", 1)] == [(one.id, one.culprit.rank) for one in report.diagnoses[:1]]
    assert "momentum" in report.diagnoses[0].summary
    assert report.exit_code == 1


def test_a_killed_rank_is_named_and_its_peers_are_not_blamed(tmp_path: Path) -> None:
    report = run(tmp_path, "killed")

    assert report.diagnoses[0].id in ("worker-died", "host-oom-killed")
    assert report.diagnoses[0].culprit.rank == 1


def test_ranks_that_disagree_on_a_size_are_a_desync(tmp_path: Path) -> None:
    report = run(tmp_path, "shapes")

    assert report.diagnoses[0].id == "collective-desync"


def test_a_run_that_works_is_left_in_peace(tmp_path: Path) -> None:
    report = run(tmp_path, "nothing")

    assert () == report.diagnoses
    assert report.exit_code == 0


def test_a_missing_script_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", str(tmp_path / "gone.py")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    log = tmp_path / "run.log"
    log.write_text(done.stdout + done.stderr)

    assert explain([str(log)]).diagnoses[0].id == "launch-script-missing"
