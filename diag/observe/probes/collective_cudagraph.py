"""Whether CUDA graphs can be captured and replayed here, alone and with an all-reduce inside.

Engines capture dozens of graphs after loading the weights; with some drivers that hangs without a word, and the
launch looks like slow loading. Every step is run eagerly first: what passes eagerly and stalls captured names the
fault, and `--enforce-eager` (slower) as the way around. Beyond the CUDA context that every process pays, a few MB.
The worker has not been proven on a GPU yet.

Facts: {python, python_from, gpus, gpu_error, ranks: [...], failed, driver_version, proven_on_gpu}.
"""

from __future__ import annotations

from typing import Any

from diag.model import Finding, Reason, Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.nvhost import kernel_module
from diag.observe.probes.nvml import ABSENT, explain_error
from diag.observe.probes.patient import (
    NEED_TORCH,
    cause_of,
    find_interpreter,
    import_failure,
    run_worker,
    still_importing,
)
from diag.observe.probes.visible import count_cuda_devices

ID = "collective.cudagraph"

CAPTURED = ("capture", "replay", "capture all-reduce", "replay all-reduce")
"""Phases that run inside or out of a graph; the others are eager."""


def collect(setup: Setup) -> Facts:
    """Run the worker on every GPU that CUDA would show, if there is any."""
    gpus, error = count_cuda_devices(setup.env)
    python, origin = find_interpreter(setup)
    facts: Facts = {
        "python": python,
        "python_from": origin,
        "gpus": gpus,
        "gpu_error": error,
        "ranks": [],
        "failed": None,
        "driver_version": (kernel_module(setup.root) or {}).get("version"),
        "proven_on_gpu": False,
    }
    if gpus and python is not None:
        facts |= run_worker(setup, python, "cudagraph.py", {"gpus": gpus})
    return facts


def judge(facts: Facts) -> list[Finding]:
    """One finding: what was captured and replayed, or the first step that was not."""
    blocked = _judge_blocked(facts)
    if blocked is not None:
        return [blocked]
    ranks = facts["ranks"]
    data: dict[str, Any] = {
        "gpus": facts["gpus"],
        "python": facts["python"],
        "driver_version": facts["driver_version"],
    }
    steps = [event for rank in ranks for event in rank["events"] if "step" in event]
    wrong = sorted({event["step"] for event in steps if not event["right"]})
    if wrong:
        text = f"Wrong numbers from these steps on the GPU: {', '.join(wrong)}."
        return [finding(ID, Status.FAIL, text, wrong=wrong, **data)]
    if all(rank["done"] for rank in ranks):
        also = " with an all-reduce inside" if facts["gpus"] > 1 else ""
        text = f"CUDA graphs{also} are captured and replayed on {facts['gpus']} GPU(s), numbers right."
        return [finding(ID, Status.OK, text, **data)]
    return [_judge_failure(ranks, data)]


def _judge_blocked(facts: Facts) -> Finding | None:
    error = facts["gpu_error"]
    if error is not None and error["kind"] == "binding-missing":
        text = f"CUDA graphs not tried: GPUs could not be counted ({explain_error(error)})."
        return finding(ID, Status.UNKNOWN, text, reason=Reason.TOOL_MISSING)
    if error is not None and error["kind"] in ABSENT:
        text = f"CUDA graphs not tried: no usable NVIDIA GPU here ({explain_error(error)})."
        return finding(ID, Status.SKIP, text, reason=Reason.NOT_APPLICABLE)
    if error is not None:
        text = f"CUDA graphs not tried: {explain_error(error)}."
        reason = Reason.TIMEOUT if error["kind"] == "timeout" else Reason.CRASHED
        return finding(ID, Status.UNKNOWN, text, reason=reason)
    if not facts["gpus"]:
        text = "CUDA graphs not tried: CUDA is shown no GPU here."
        return finding(ID, Status.SKIP, text, reason=Reason.NOT_APPLICABLE)
    if facts["python"] is None:
        text = f"CUDA graphs not tried: {facts['python_from']}."
        return finding(ID, Status.SKIP, text, reason=Reason.TOOL_MISSING, remedy=NEED_TORCH)
    if facts["failed"] is not None:
        why = facts["failed"]
        text = f"CUDA graphs not tried: {facts['python']} gave no answer ({why['message'] or why['reason']})."
        return finding(ID, Status.UNKNOWN, text, reason=Reason(why["reason"]), remedy=NEED_TORCH)
    broken = import_failure(facts["ranks"])
    if broken is not None:
        text = f"CUDA graphs not tried: torch of {facts['python']} cannot be imported: {broken[:300]}"
        return finding(ID, Status.SKIP, text, reason=Reason.TOOL_MISSING, remedy=NEED_TORCH)
    if any(r["error"] and "not compiled with CUDA" in r["error"]["message"] for r in facts["ranks"]):
        text = f"CUDA graphs not tried: torch of {facts['python']} is built without CUDA."
        return finding(ID, Status.SKIP, text, reason=Reason.TOOL_MISSING, remedy=NEED_TORCH)
    if still_importing(facts["ranks"]):
        text = "CUDA graphs not reached: torch was still being imported at the deadline (slow storage or few cores)."
        return finding(ID, Status.UNKNOWN, text, reason=Reason.TIMEOUT)
    return None


def _judge_failure(ranks: list[dict[str, Any]], data: dict[str, Any]) -> Finding:
    """The earliest phase in which a rank failed, died or hung decides."""
    died = [rank for rank in ranks if rank["ended"] and not rank["done"] and not rank["error"]]
    errors = sorted((rank for rank in ranks if rank["error"]), key=lambda rank: float(rank["error"]["at_s"]))
    stuck = [rank for rank in ranks if not rank["ended"]]
    culprit = (died or errors or stuck)[0]
    phase = culprit["phase"]
    data |= {
        "phase": phase,
        "ranks": [rank["rank"] for rank in (died or errors or stuck)],
        "said": culprit["said"],
    }
    if culprit["error"]:
        error = culprit["error"]
        text = f"{phase} on GPU {culprit['rank']} fails with {error['type']}: {error['message'].splitlines()[0][:300] if error['message'] else ''}"
        cause = cause_of(error["message"], *culprit["said"])
    elif culprit["ended"]:
        text = f"The process on GPU {culprit['rank']} died with code {culprit['code']} in {phase}."
        cause = None
    else:
        text = f"{phase} does not finish on GPU(s) {', '.join(str(rank['rank']) for rank in stuck)}."
        cause = "cudagraph-capture-hang" if phase in CAPTURED else None
    if phase in CAPTURED:
        text += " The same steps pass eagerly, so --enforce-eager gets around it."
    else:
        text += " This is before any graph is captured."
    if cause is not None:
        data["cause"] = cause
    return finding(ID, Status.FAIL, text, subject=phase, **data)


PROBE = Probe(ID, "CUDA graph capture", collect, judge, timeout_s=22.0, touches_gpu=True, section="hardware")
