"""Runs the real command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cli_runner import ROOT, Run


@pytest.fixture
def diag(tmp_path: Path) -> Run:
    """Call `diag ARGS...` in an empty folder."""

    def call(
        *args: str, stdin: str = "", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in ("NO_COLOR", "COLUMNS", "DIAG_INCIDENT")
        }
        return subprocess.run(
            [sys.executable, "-m", "diag.cli.main", *args], cwd=tmp_path, input=stdin, capture_output=True, text=True, timeout=120, check=False,
            env={**kept, "PYTHONPATH": str(ROOT), "DIAG_CACHE_DIR": str(tmp_path / ".cache"), **(env or {})},
        )  # fmt: skip

    return call


@pytest.fixture
def broken_log(tmp_path: Path) -> Path:
    """A log whose cause a playbook knows; it names a host, a user, an address and a token."""
    path = tmp_path / "run.log"
    path.write_text(
        "dgx-canary7:812:812 [3] NCCL INFO Bootstrap : Using eth0:10.9.8.7<0>\n"
        "dgx-canary7:812:901 [3] misc/shmutils.cc:72 NCCL WARN Error: failed to extend /dev/shm/nccl-Xy12 to 9637892 bytes\n"
        "dgx-canary7:812:901 [3] misc/shmutils.cc:113 NCCL WARN Error while creating shared memory segment /dev/shm/nccl-Xy12 (size 9637888)\n"
        "Traceback (most recent call last):\n"
        '  File "/home/canaryuser/train.py", line 12, in main\n'
        "RuntimeError: NCCL error: unhandled system error\n"
    )
    return path


@pytest.fixture
def healthy_log(tmp_path: Path) -> Path:
    """A log in which nothing happens."""
    path = tmp_path / "healthy.log"
    path.write_text(
        "".join(f"INFO 04-28 08:14:{second:02d} [loader.py:12] step {second} done\n" for second in range(60))
    )
    return path
