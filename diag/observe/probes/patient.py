"""Running a worker script in the patient's interpreter: the very torch and NCCL of the launch, nothing installed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from diag.observe.probes.interface import Setup
from diag.system import run_command
from diag.system.jobs import find_patient_python

WORKERS = Path(__file__).parent / "workers"

DEADLINE_S = 18.0
"""For all ranks together: starting torch on a cold disk takes most of it, and a whole `diag run` is promised 30 s."""
GRACE_S = 2.0
"""What the coordinator may take beyond its ranks."""
ROUND_S = 6
"""One round between processes of one node takes well under a second; gloo's own default is 30 min."""

CUDA_CAUSES = (
    (r"[Ee]rror:? 802\b|system not yet initialized", "fabric-manager"),
    (r"[Ee]rror:? 803\b|system has unsupported display driver|driver mismatch", "driver-library-mismatch"),
    (r"forward compatibility was attempted on non supported HW", "cuda-compat-shadow"),  # 804
    (r"driver on your system is too old|CUDA driver version is insufficient", "driver-too-old"),
    (r"no kernel image is available", "no-kernel-image"),
    (r"out of memory", "gpu-memory-in-use"),
    (r"all CUDA-capable devices are busy or unavailable", "gpu-busy-exclusive"),
    (r"Found no NVIDIA driver|No CUDA GPUs are available|no CUDA-capable device", "gpu-not-visible"),
    (r"illegal memory access", "illegal-memory-access"),
    (r"[Dd]uplicate GPU detected", "duplicate-gpu"),
    (r"failed to extend|failed to create shared memory|No space left on device.*shm", "shm-too-small"),
    (r"undefined symbol|GLIBCXX|cannot open shared object file", "abi-mismatch"),
)
"""Texts of CUDA, torch and NCCL, and the cause each names. Source: CUDA runtime API error list; torch/csrc/cuda; NCCL."""


def find_interpreter(setup: Setup) -> tuple[str | None, str]:
    """(path, where from): the one given, that of a running rank or of this shell if it has torch, else our own."""
    if setup.python:
        return setup.python, "given"
    path, how = find_patient_python(setup.root, setup.env or os.environ, None)
    if path is not None and has_torch(path):
        return path, how
    if importlib.util.find_spec("torch") is not None:
        return sys.executable, "diag's own"
    seen = f"no torch in {path} ({how})" if path is not None else "no interpreter of a launch was found"
    return None, f"{seen}, and none beside diag"


def has_torch(python: str) -> bool:
    """True if that interpreter could import torch; torch itself is not loaded."""
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    return run_command([python, "-I", "-c", code], timeout_s=4.0).code == 0


NEED_TORCH = (
    "give the launch's interpreter with --python, or install the extra: pip install 'launch-diag[torch]'"
)


def run_worker(setup: Setup, python: str, script: str, job: dict[str, Any]) -> dict[str, Any]:
    """The worker's answer, {ranks, python}, with `failed` {reason, message} instead of ranks where there is none."""
    env = {**(setup.env or os.environ), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    job = {"deadline_s": DEADLINE_S, "round_s": ROUND_S, **job}
    outcome = run_command(
        [python, str(WORKERS / script), json.dumps(job)],
        timeout_s=DEADLINE_S + GRACE_S,
        env=env,
        answer_fd=True,
    )
    if outcome.answer:
        try:
            answer: dict[str, Any] = json.loads(outcome.answer)
        except ValueError:
            answer = {}
        if answer.get("ranks"):
            return {**answer, "failed": None}
    reason = "timeout" if outcome.timed_out else "permission" if outcome.denied else "crashed"
    said = outcome.err.decode("utf-8", "replace").strip().splitlines()
    return {
        "python": python,
        "ranks": [],
        "failed": {
            "reason": "tool-missing" if outcome.missing else reason,
            "message": said[-1][:300] if said else "",
        },
    }


def cause_of(*texts: str) -> str | None:
    """The cause that these error texts name by themselves, None if they name none."""
    joined = "\n".join(texts)
    return next((cause for pattern, cause in CUDA_CAUSES if re.search(pattern, joined)), None)


def import_failure(ranks: list[dict[str, Any]]) -> str | None:
    """The message, where torch could not be imported at all."""
    for rank in ranks:
        error = rank["error"]
        if error is not None and error["phase"] == "import torch":
            return f"{error['type']}: {error['message']}"
    return None


def still_importing(ranks: list[dict[str, Any]]) -> bool:
    """True where the deadline passed before torch was there: slow storage, not a broken collective."""
    return any(not rank["ended"] and rank["phase"] in ("start", "import torch") for rank in ranks)
