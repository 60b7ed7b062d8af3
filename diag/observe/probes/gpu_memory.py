"""How much memory each GPU has free, and who holds the rest.

An engine that starts on a GPU where an earlier launch's worker, another user or nobody visible still holds memory
dies at once ("free memory is less than the desired utilization") or much later, in the profile run.

Facts: {gpus: [{index, name, total_bytes, free_bytes, used_bytes, reserved_bytes, holders: [...], holders_error, error}],
error, pci_gpus, all_pids_visible, caller_uid, launch_since_s, driver_version}. In a container NVML rarely names pids:
then `local_pids` has the processes of this container that run CUDA on the GPU. A holder is {pid, used_bytes, kind:
compute | graphics, process: {state, uid, parent, command, started_s} or null where the pid is not visible here}.
What a plan needs is compared with these figures elsewhere.
"""

from __future__ import annotations

import os
from typing import Any

from diag.model import Finding, Reason, Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.nvhost import cuda_users, in_first_pid_namespace, pci_gpus
from diag.observe.probes.nvml import ABSENT, ErrorFacts, Nvml, explain_error, open_nvml
from diag.system.processes import read_process

ID = "gpu.memory"

GIB = 1 << 30
FAIL_FRACTION = 0.10
"""Held by others beyond this, an engine at its default share does not start. Source: vLLM, gpu_memory_utilization 0.9."""
WARN_BYTES = 2 * GIB
"""In use before a start. Source: AMD-AGI/Primus node checks (GPU memory used before the job >= 2 GiB)."""
MEMORY_V2 = 0x02000028
"""nvmlMemory_v2: the version that tells the driver's own reserve from what is used. Source: nvml.h."""


def collect(setup: Setup) -> Facts:
    """Ask NVML for memory and holders, and /proc for who they are."""
    with open_nvml() as nvml:
        return {
            "gpus": [_read(nvml, index, setup) for index in range(nvml.count())],
            "error": nvml.error,
            "driver_version": nvml.value("nvmlSystemGetDriverVersion") if nvml.error is None else None,
            "pci_gpus": len(pci_gpus(setup.root)),
            "all_pids_visible": in_first_pid_namespace(setup.root),
            "caller_uid": os.getuid(),
            "launch_since_s": setup.launch_since_s,
        }


def _read(nvml: Nvml, index: int, setup: Setup) -> Facts:
    gpu: Facts = {
        "index": index, "name": None, "total_bytes": None, "free_bytes": None, "used_bytes": None,
        "reserved_bytes": None, "holders": [], "holders_error": None, "local_pids": [], "error": None,
    }  # fmt: skip
    handle, gpu["error"] = nvml.ask("nvmlDeviceGetHandleByIndex", index)
    if gpu["error"] is not None:
        return gpu
    gpu["name"] = nvml.value("nvmlDeviceGetName", handle)
    memory = nvml.value("nvmlDeviceGetMemoryInfo", handle, MEMORY_V2)
    if memory is None:
        memory, gpu["error"] = nvml.ask("nvmlDeviceGetMemoryInfo", handle)
    if memory is None:
        return gpu
    gpu |= {"total_bytes": memory.total, "free_bytes": memory.free, "used_bytes": memory.used}
    gpu["reserved_bytes"] = getattr(memory, "reserved", None)
    gpu["holders"], gpu["holders_error"] = _holders(nvml, handle, setup)
    if gpu["holders_error"] is not None or not in_first_pid_namespace(setup.root):
        minor = nvml.value("nvmlDeviceGetMinorNumber", handle)
        gpu["local_pids"] = cuda_users(setup.root, index if minor is None else minor)
    return gpu


def _holders(nvml: Nvml, handle: Any, setup: Setup) -> tuple[list[Facts], ErrorFacts | None]:
    holders: dict[int, Facts] = {}
    failure = None
    for kind in ("Compute", "Graphics"):
        running, error = nvml.ask(f"nvmlDeviceGet{kind}RunningProcesses", handle)
        failure = failure or error
        for one in running or []:
            holders.setdefault(
                one.pid,
                {
                    "pid": one.pid,
                    "kind": kind.lower(),
                    "used_bytes": one.usedGpuMemory,
                    "process": _owner(setup, one.pid),
                },
            )
    return list(holders.values()), failure


def _owner(setup: Setup, pid: int) -> Facts | None:
    one = read_process(setup.root, pid)
    if one is None:
        return None
    return {
        "state": one.state, "uid": one.uid, "parent": one.ppid, "command": one.title[:200], "started_s": one.start_s,
    }  # fmt: skip


def judge(facts: Facts) -> list[Finding]:
    """One finding for each GPU."""
    error = facts["error"]
    if error is None and facts["gpus"]:
        return [_judge_gpu(gpu, facts) for gpu in facts["gpus"]]
    if error is None:
        return [finding(ID, Status.SKIP, "NVML counts no GPU here.", reason=Reason.NOT_APPLICABLE)]
    if error["kind"] in ABSENT and not facts["pci_gpus"]:
        return [
            finding(ID, Status.SKIP, "No NVIDIA GPU here, so no GPU memory.", reason=Reason.NOT_APPLICABLE)
        ]
    reason = Reason.PERMISSION if error["kind"] == "no-permission" else Reason.CRASHED
    if error["kind"] in ABSENT:
        reason = Reason.TOOL_MISSING
    return [
        finding(ID, Status.UNKNOWN, f"GPU memory could not be read: {explain_error(error)}.", reason=reason)
    ]


def _judge_gpu(gpu: Facts, facts: Facts) -> Finding:
    subject = f"GPU {gpu['index']}"
    if gpu["error"] is not None or gpu["total_bytes"] is None:
        why = explain_error(gpu["error"]) if gpu["error"] else "no figure"
        lost = gpu["error"] is not None and gpu["error"]["kind"] in ("gpu-lost", "unknown")
        reason = Reason.CRASHED if lost else Reason.NOT_APPLICABLE
        return finding(
            ID, Status.UNKNOWN, f"{subject}: memory not known: {why}.", subject=subject, reason=reason
        )
    total, used = gpu["total_bytes"], gpu["used_bytes"]
    data: dict[str, Any] = {
        "total_bytes": total, "free_bytes": gpu["free_bytes"], "used_bytes": used, "gpu": gpu["index"],
    }  # fmt: skip
    summary = f"{subject}: {_gib(gpu['free_bytes'])} of {_gib(total)} GiB free"
    if used < WARN_BYTES and used <= FAIL_FRACTION * total:
        return finding(ID, Status.OK, f"{summary}.", subject=subject, **data)
    described = [_describe(holder, facts) for holder in gpu["holders"]]
    data["holders"] = [
        {"pid": h["pid"], "used_bytes": h["used_bytes"], "who": who}
        for h, (who, _) in zip(gpu["holders"], described, strict=True)
    ]
    who = "; ".join(
        f"{_gib(h['used_bytes'])} GiB by {text}"
        for h, (_, text) in zip(gpu["holders"], described, strict=True)
    )
    kinds = {kind for kind, _ in described}
    known = sum(holder["used_bytes"] or 0 for holder in gpu["holders"])
    if used - known > max(WARN_BYTES, FAIL_FRACTION * total):
        unowned, kind = _unowned(gpu, facts)
        kinds.add(kind)
        who = "; ".join(part for part in (who, f"{_gib(used - known)} GiB by {unowned}") if part)
    summary = f"{summary}; held: {who}."
    if kinds <= {"launch"}:
        return finding(ID, Status.OK, summary, subject=subject, **data)
    if kinds <= {"launch", "same-user"}:
        return finding(
            ID, Status.WARN, f"{summary} A further launch finds only what is free.", subject=subject, **data
        )
    if "unreadable" in kinds:
        return finding(ID, Status.WARN, summary, subject=subject, **data)
    certain = bool(kinds - {"launch", "same-user", "orphan"}) and used > FAIL_FRACTION * total
    status = Status.FAIL if certain else Status.WARN  # an orphan may be a service that its supervisor started
    return finding(ID, status, summary, subject=subject, cause="gpu-memory-in-use", **data)


def _describe(holder: Facts, facts: Facts) -> tuple[str, str]:
    """(kind, words): launch, same-user, orphan, earlier, foreign, zombie, invisible."""
    owner, pid = holder["process"], holder["pid"]
    if owner is None and facts["all_pids_visible"]:
        return "gone", f"pid {pid}, which no longer exists"
    if owner is None:
        return "invisible", f"pid {pid}, not visible from this container"
    words = f"pid {pid} ({owner['command']})"
    if owner["state"] in ("Z", "X"):
        return "zombie", f"{words}, a dead process that nobody has reaped"
    if owner["state"] == "D":
        words += ", in uninterruptible sleep"
    if owner["uid"] != facts["caller_uid"] and facts["caller_uid"] != 0:
        return "foreign", f"{words} of another user (uid {owner['uid']})"
    since, started = facts["launch_since_s"], owner["started_s"]
    if since is None or started is None:
        if owner["parent"] == 1 and facts["all_pids_visible"]:
            return "orphan", f"{words}, whose launcher is gone (its parent is pid 1)"
        return "same-user", words
    if started < since:
        return "earlier", f"{words}, older than this launch by {since - started:.0f} s"
    return "launch", words


def _unowned(gpu: Facts, facts: Facts) -> tuple[str, str]:
    if gpu["local_pids"]:
        return f"this container's own pid {', '.join(map(str, gpu['local_pids'][:8]))}", "same-user"
    if gpu["holders_error"] is not None:
        return "processes that NVML does not list here", "unreadable"
    if not facts["all_pids_visible"]:
        return "no process of this container: by others outside it, or left over", "invisible"
    return "no living process (left over; resetting the GPU or rebooting frees it)", "gone"


def _gib(count: int | None) -> str:
    return "?" if count is None else f"{count / GIB:.1f}"


PROBE = Probe(ID, "GPU memory", collect, judge, timeout_s=10.0, touches_gpu=False, section="hardware")
