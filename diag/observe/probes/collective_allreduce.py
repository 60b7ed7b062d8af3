"""Whether processes of this node can add numbers together: a real all-reduce, numbers checked.

If two processes on one node cannot meet, many nodes will not. Gloo is really run between two processes over the
loopback, over whatever it chooses by itself (which follows the host name) and over the interface that the launch
would use; with GPUs, NCCL runs over all of them. A hang is cut at the deadline and each rank's last phase kept.
The NCCL part has not been proven on a GPU yet.

Facts: {python, python_from, torch, nccl, gpus, gpu_error, rounds: [{name, backend, interface, chosen_by}], ranks:
[...], failed: {reason, message} | null, proven_on_gpu}. A GPU-less node has no NCCL round.
"""

from __future__ import annotations

from typing import Any

from diag.model import Finding, Reason, Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
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
from diag.system import Root

ID = "collective.allreduce"

LEAST_RANKS = 2


def collect(setup: Setup) -> Facts:
    """Run the worker with the patient's torch."""
    python, origin = find_interpreter(setup)
    gpus, error = count_cuda_devices(setup.env)
    interface, chosen_by = choose_interface(setup)
    rounds: list[dict[str, Any]] = [
        {"name": "gloo over lo", "backend": "gloo", "interface": "lo", "chosen_by": "loopback"},
        {"name": "gloo as it chooses", "backend": "gloo", "interface": None, "chosen_by": "host name"},
    ]
    if interface is not None and interface != "lo":
        rounds.append(
            {
                "name": f"gloo over {interface}",
                "backend": "gloo",
                "interface": interface,
                "chosen_by": chosen_by,
            }
        )
    if gpus:
        rounds.append({"name": "NCCL", "backend": "nccl", "interface": None, "chosen_by": "NCCL"})
    facts: Facts = {
        "python": python,
        "python_from": origin,
        "gpus": gpus,
        "gpu_error": error,
        "rounds": rounds,
        "ranks": [],
        "failed": None,
        "proven_on_gpu": False,
    }
    if python is not None:
        job = {"rounds": rounds, "ranks": max(LEAST_RANKS, gpus), "gpus": gpus}
        facts |= run_worker(setup, python, "allreduce.py", job)
    return facts


def choose_interface(setup: Setup) -> tuple[str | None, str]:
    """The interface gloo is told to take, else the one that carries the default route."""
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        value = setup.env.get(name, "").split(",")[0].strip()
        if value and (name.startswith("GLOO") or value[0] not in "^"):
            return _match(setup.root, value.lstrip("=")), name
    for line in (setup.root.read("/proc/net/route") or "").splitlines()[1:]:
        fields = line.split()
        if len(fields) > 1 and fields[1] == "00000000":
            return fields[0], "default route"
    return None, "no default route"


def _match(root: Root, prefix: str) -> str:
    """NCCL takes prefixes, gloo whole names: the first interface that fits, or the name as it stands."""
    names = root.names("/sys/class/net")
    return prefix if prefix in names else next((name for name in names if name.startswith(prefix)), prefix)


def judge(facts: Facts) -> list[Finding]:
    """One finding a round; one alone where nothing could be run."""
    blocked = _judge_blocked(facts)
    if blocked is not None:
        return [blocked]
    found = [_judge_round(one, facts) for one in facts["rounds"]]
    error = facts["gpu_error"]
    if error is not None and error["kind"] not in ABSENT:
        text = f"NCCL not tried: {explain_error(error)}."
        reason = Reason.TIMEOUT if error["kind"] == "timeout" else Reason.CRASHED
        found.append(finding(ID, Status.UNKNOWN, text, subject="NCCL", reason=reason))
    return found


def _judge_blocked(facts: Facts) -> Finding | None:
    if facts["python"] is None:
        text = f"All-reduce not run: {facts['python_from']}."
        return finding(ID, Status.SKIP, text, reason=Reason.TOOL_MISSING, remedy=NEED_TORCH)
    if facts["failed"] is not None:
        why = facts["failed"]
        text = f"All-reduce not run: {facts['python']} gave no answer ({why['message'] or why['reason']})."
        return finding(ID, Status.UNKNOWN, text, reason=Reason(why["reason"]), remedy=NEED_TORCH)
    broken = import_failure(facts["ranks"])
    if broken is not None and "No module named 'torch'" in broken:
        text = f"All-reduce not run: {facts['python']} has no torch."
        return finding(ID, Status.SKIP, text, reason=Reason.TOOL_MISSING, remedy=NEED_TORCH)
    if broken is not None:
        text = f"torch of {facts['python']} cannot be imported: {broken[:300]}"
        cause = cause_of(broken) or "python-env-broken"
        return finding(ID, Status.FAIL, text, cause=cause, python=facts["python"])
    if still_importing(facts["ranks"]):
        text = "All-reduce not reached: torch was still being imported at the deadline (slow storage or few cores)."
        return finding(ID, Status.UNKNOWN, text, reason=Reason.TIMEOUT, python=facts["python"])
    return None


def _judge_round(one: dict[str, Any], facts: Facts) -> Finding:
    name, ranks = one["name"], facts["ranks"]
    results = [event for rank in ranks for event in rank["events"] if event.get("round") == name]
    world = facts["gpus"] if one["backend"] == "nccl" else len(ranks)
    data: dict[str, Any] = {"interface": one["interface"], "backend": one["backend"], "world": world}
    data["python"] = facts["python"]
    if len(results) == world and all(event["right"] for event in results):
        if one["backend"] == "nccl" and world == 1:
            text = "NCCL starts on the one GPU; with no second GPU nothing crossed a link."
        else:
            text = f"All-reduce ({name}) between {world} processes gives the right numbers."
        return finding(ID, Status.OK, text, subject=name, **data)
    if any(event.get("absent") for event in results):
        text = f"{name} not tried: torch of {facts['python']} is {results[0]['absent']}."
        return finding(ID, Status.SKIP, text, subject=name, reason=Reason.TOOL_MISSING, remedy=NEED_TORCH)
    if any(event["right"] is False for event in results):
        text = (
            f"All-reduce ({name}) finished with WRONG numbers: no result of a collective can be trusted here."
        )
        return finding(ID, Status.FAIL, text, subject=name, **data)
    failed = next((event["failed"] for event in results if event.get("failed")), None)
    stuck = [rank for rank in ranks if not rank["ended"] and rank["phase"].startswith(f"{name}:")]
    died = next(
        (rank for rank in ranks if rank["error"] and rank["error"]["phase"].startswith(f"{name}:")), None
    )
    gone = [rank for rank in ranks if rank["ended"] and not rank["done"] and not rank["error"]]
    error = failed or (died["error"] if died else None)
    if error is not None:
        return _judge_error(one, error, died, data)
    if stuck:
        where = ", ".join(f"rank {rank['rank']} in {rank['phase'].split(': ')[1]}" for rank in stuck)
        text = f"All-reduce ({name}) does not finish: {where} at the deadline."
        if one["backend"] == "nccl":
            text += " If it passes with NCCL_P2P_DISABLE=1, the GPUs' direct path is broken."
        return finding(ID, Status.FAIL, text, subject=name, said=stuck[0]["said"], **data)
    if gone and any(rank["phase"].startswith(f"{name}:") for rank in gone):
        first = gone[0]
        text = (
            f"All-reduce ({name}): rank {first['rank']} died with code {first['code']} in {first['phase']}."
        )
        return finding(ID, Status.FAIL, text, subject=name, said=first["said"], **data)
    text = f"All-reduce ({name}) was not reached: an earlier step took the time or failed."
    return finding(ID, Status.UNKNOWN, text, subject=name, reason=Reason.TIMEOUT, **data)


def _judge_error(
    one: dict[str, Any], error: dict[str, Any], died: dict[str, Any] | None, data: dict[str, Any]
) -> Finding:
    message, name = error["message"], one["name"]
    data["message"] = message
    if died is not None:
        data["said"] = died["said"]
    if "Unable to find address for" in message:
        text = f"{one['chosen_by']} names {one['interface']}, which has no address on this node: gloo cannot start."
        return finding(ID, Status.FAIL, text, subject=name, cause="nccl-wrong-interface", **data)
    cause = cause_of(message, *(died["said"] if died else ()))
    if cause is not None:
        data["cause"] = cause
    text = (
        f"All-reduce ({name}) fails with {error['type']}: {message.splitlines()[0][:300] if message else ''}"
    )
    return finding(ID, Status.FAIL, text, subject=name, **data)


PROBE = Probe(
    ID, "All-reduce on this node", collect, judge, timeout_s=22.0, touches_gpu=True, section="network"
)  # fmt: skip
