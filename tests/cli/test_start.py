"""The quick way into `diag explain` says what the full command line says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from diag.cli.start import plain_explain

ROOT = Path(__file__).parents[2]
BROKEN = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.25 GiB of which 1.2 GiB is free.\n"


def _run(module: str, args: list[str], folder: Path, stdin: str = "") -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", module, *args], cwd=folder, input=stdin, capture_output=True, text=True,
        timeout=120, check=False, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder), "DIAG_INCIDENT": "x"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["explain", "bad.log"],
        ["explain", "bad.log", "--quiet", "--raw"],
        ["explain", "good.log", "-q"],
        ["explain", "absent.log"],
        ["explain", "-"],
        ["explain", "picture.png"],
    ],
)
def test_both_ways_say_the_same(tmp_path: Path, args: list[str]) -> None:
    (tmp_path / "bad.log").write_text("INFO starting\n" + BROKEN)
    (tmp_path / "good.log").write_text("INFO starting\nINFO:     Application startup complete.\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8)
    assert plain_explain(args) is not None
    assert _run("diag", args, tmp_path, BROKEN) == _run("diag.cli.main", args, tmp_path, BROKEN)


@pytest.mark.parametrize(
    "args", [["explain"], ["explain", "--help"], ["explain", "a.log", "-o", "x"], ["check", "a.yaml"], []]
)
def test_anything_else_goes_the_full_way(args: list[str]) -> None:
    assert plain_explain(args) is None


def test_typer_stays_out(tmp_path: Path) -> None:
    (tmp_path / "good.log").write_text("INFO starting\n")
    program = "import sys; sys.argv = ['diag', 'explain', 'good.log']; from diag.cli.start import run; run(); print('typer' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "False"
