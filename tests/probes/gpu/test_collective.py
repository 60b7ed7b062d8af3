"""collective.allreduce and collective.cudagraph: gloo really runs; without a GPU the CUDA steps say so."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diag.model import Reason, Status
from diag.observe.probes import collective_allreduce, collective_cudagraph
from diag.observe.probes.interface import Setup
from diag.observe.probes.patient import WORKERS, cause_of
from diag.system import run_command

Look = Callable[..., Any]

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="torch is not installed beside diag, so no collective can really be run (CI installs torch==2.13.0)",
)


def allreduce(env: dict[str, str]) -> list[Any]:
    facts = collective_allreduce.collect(Setup(env={**os.environ, **env}))
    return collective_allreduce.judge(json.loads(json.dumps(facts)))


@needs_torch
def test_gloo_really_adds_over_the_loopback() -> None:
    found = {one.subject: one for one in allreduce({})}

    assert found["gloo over lo"].status is Status.OK
    assert found["gloo over lo"].data["world"] == 2


@needs_torch
def test_an_interface_that_is_not_there_is_named_and_the_others_are_still_tried() -> None:
    found = {one.subject: one for one in allreduce({"GLOO_SOCKET_IFNAME": "nosuch0"})}

    assert found["gloo over lo"].status is Status.OK
    failed = found["gloo over nosuch0"]
    assert (failed.status, failed.data["cause"]) == (Status.FAIL, "nccl-wrong-interface")
    assert "GLOO_SOCKET_IFNAME names nosuch0" in failed.summary


@needs_torch
def test_gloo_runs_although_nvml_is_broken_and_nccl_is_said_not_to_have(look: Look) -> None:
    seen = look("collective.allreduce", "init=18")

    assert seen.one("gloo over lo").status is Status.OK
    assert (seen.one("NCCL").status, seen.one("NCCL").reason) == (Status.UNKNOWN, Reason.CRASHED)


@needs_torch
def test_a_torch_without_cuda_does_not_pretend_to_capture() -> None:
    job = {"gpus": 1, "deadline_s": 18, "round_s": 5}
    outcome = run_command(
        [sys.executable, str(WORKERS / "cudagraph.py"), json.dumps(job)], timeout_s=22, answer_fd=True
    )
    ranks = json.loads(outcome.answer)["ranks"]

    assert ranks[0]["done"] is False
    assert ranks[0]["error"]["phase"] == "CUDA start"


HANGING_TORCH = """
import time
print("noise on stdout")
time.sleep(60)
"""


@pytest.fixture
def patient(tmp_path: Path) -> Callable[[str], str]:
    """An interpreter whose torch is what the test says."""

    def make(torch: str) -> str:
        package = tmp_path / "lib" / "torch"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(torch)
        (package / "distributed.py").write_text("")
        python = tmp_path / "python3"
        python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / "lib"} exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        return str(python)

    return make


def test_a_stuck_rank_ends_at_the_deadline_and_its_phase_is_kept(patient: Callable[[str], str]) -> None:
    job = {"rounds": [], "ranks": 2, "gpus": 0, "deadline_s": 1.5, "round_s": 1}
    begin = time.monotonic()
    argv = [patient(HANGING_TORCH), str(WORKERS / "allreduce.py"), json.dumps(job)]
    outcome = run_command(argv, timeout_s=10, answer_fd=True)
    ranks = json.loads(outcome.answer)["ranks"]

    assert time.monotonic() - begin < 6
    assert [(rank["ended"], rank["phase"]) for rank in ranks] == [(False, "import torch")] * 2


def test_a_killed_coordinator_leaves_no_rank_behind(patient: Callable[[str], str], tmp_path: Path) -> None:
    marker = tmp_path / "pids"
    torch = f"import os, time\nopen({str(marker)!r}, 'a').write(f'{{os.getpid()}}\\n')\ntime.sleep(60)\n"
    job = {"rounds": [], "ranks": 2, "gpus": 0, "deadline_s": 30, "round_s": 1}
    run_command(
        [patient(torch), str(WORKERS / "allreduce.py"), json.dumps(job)], timeout_s=1.5, answer_fd=True
    )
    time.sleep(0.3)
    alive = [
        pid for pid in marker.read_text().split() if Path(f"/proc/{pid}/stat").exists() and state(pid) != "Z"
    ]

    assert len(marker.read_text().split()) == 2
    assert alive == []


def state(pid: str) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def test_a_torch_that_cannot_be_imported_is_a_broken_environment(patient: Callable[[str], str]) -> None:
    python = patient("raise ImportError('libcudart.so.12: undefined symbol: foo')")
    facts = collective_allreduce.collect(Setup(env=dict(os.environ), python=python))
    (found,) = collective_allreduce.judge(facts)

    assert (found.status, found.data["cause"]) == (Status.FAIL, "abi-mismatch")


def test_an_interpreter_that_is_not_there_is_a_missing_tool() -> None:
    facts = collective_allreduce.collect(Setup(env=dict(os.environ), python="/nonexistent/python3"))
    (found,) = collective_allreduce.judge(facts)

    assert (found.status, found.reason) == (Status.UNKNOWN, Reason.TOOL_MISSING)


def test_a_patient_without_torch_is_told_how_to_get_it(patient: Callable[[str], str]) -> None:
    facts = collective_allreduce.collect(
        Setup(python=patient("raise ModuleNotFoundError(\"No module named 'torch'\")"))
    )
    (found,) = collective_allreduce.judge(facts)

    assert (found.status, found.reason) == (Status.SKIP, Reason.TOOL_MISSING)
    assert "--python" in found.data["remedy"]


def test_cuda_graphs_without_a_gpu_are_not_applicable(look: Look) -> None:
    seen = look("collective.cudagraph", None)

    assert (seen.one().status, seen.one().reason) == (Status.SKIP, Reason.NOT_APPLICABLE)


def test_cuda_graphs_with_a_gpu_and_a_broken_nvml_are_unknown(look: Look) -> None:
    assert look("collective.cudagraph", "init=18").one().status is Status.UNKNOWN


def rank(number: int, phase: str, **more: Any) -> dict[str, Any]:
    base = {
        "rank": number,
        "ended": True,
        "code": 0,
        "done": False,
        "phase": phase,
        "error": None,
        "events": [],
        "said": [],
    }
    return {**base, **more}


def graph_facts(*ranks: dict[str, Any]) -> dict[str, Any]:
    base = {
        "python": "/p",
        "python_from": "given",
        "gpu_error": None,
        "failed": None,
        "driver_version": "550.90.07",
    }
    return {**base, "gpus": len(ranks), "ranks": list(ranks)}


def test_a_capture_that_stalls_after_eager_steps_passed_names_the_fault() -> None:
    eager = [{"step": "eager", "right": True}]
    stuck = [rank(n, "capture all-reduce", ended=False, events=eager) for n in (0, 1)]
    (found,) = collective_cudagraph.judge(graph_facts(*stuck))

    assert (found.status, found.data["cause"]) == (Status.FAIL, "cudagraph-capture-hang")
    assert "--enforce-eager" in found.summary
    assert found.data["driver_version"] == "550.90.07"


def test_what_stalls_eagerly_is_no_fault_of_graphs() -> None:
    (found,) = collective_cudagraph.judge(graph_facts(rank(0, "eager all-reduce", ended=False)))

    assert found.status is Status.FAIL
    assert "cause" not in found.data


def test_texts_of_cuda_name_their_causes() -> None:
    assert cause_of("CUDA error 802: system not yet initialized") == "fabric-manager"
    assert cause_of("The NVIDIA driver on your system is too old (found version 11040)") == "driver-too-old"
    assert cause_of('File "torch/cuda/__init__.py", line 802, in _lazy_init') is None
