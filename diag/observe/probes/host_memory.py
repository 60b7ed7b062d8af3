"""Host memory decides launches before any GPU does: weights pass through it, and a cgroup's limit kills silently.

The victim of the kernel's or a cgroup's out-of-memory killer leaves no message of its own: its ranks just see a peer
vanish (exit 137, signal 9). A commit limit (`vm.overcommit_memory=2`) makes fork fail while memory looks free.
Sources: proc(5), cgroups(7), Documentation/admin-guide/cgroup-v2.rst, Documentation/vm/overcommit-accounting.
"""

from __future__ import annotations

import re
import time
from typing import Any

from diag.model import Finding, Reason, Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.wording import GIB, count, size
from diag.system import Root
from diag.system.jobs import find_job
from diag.system.kernel_log import read_kernel_log

ID = "host.memory"
NO_LIMIT = 1 << 60
"""cgroup v1 writes a number near 2**63 for `no limit`."""
OOM_LINE = re.compile(r"Killed process (\d+) \(([^)]*)\)")
"""mm/oom_kill.c: one such line for every victim, of a cgroup or of the whole machine."""


def collect(setup: Setup) -> Facts:
    """Read /proc/meminfo, the cgroups of ourselves and of running jobs, and the kernel's killings."""
    root = setup.root
    meminfo = {
        name: int(kib) * 1024
        for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", root.read("/proc/meminfo") or "", re.M)
    }
    vmstat = re.search(r"^oom_kill (\d+)", root.read("/proc/vmstat") or "", re.M)
    overcommit = (root.read("/proc/sys/vm/overcommit_memory") or "").strip()
    pids = ["self", *(str(member.process.pid) for member in find_job(root) if member.role != "idle")][:12]
    groups: dict[str, dict[str, Any]] = {}
    for pid in pids:
        for group in _cgroups(root, root.read(f"/proc/{pid}/cgroup") or ""):
            groups.setdefault(group["path"], {**group, "of": pid})
    return {
        "total_bytes": meminfo.get("MemTotal"), "available_bytes": meminfo.get("MemAvailable"),
        "swap_total_bytes": meminfo.get("SwapTotal", 0), "swap_free_bytes": meminfo.get("SwapFree", 0),
        "commit_limit_bytes": meminfo.get("CommitLimit"), "committed_bytes": meminfo.get("Committed_AS"),
        "overcommit_mode": int(overcommit) if overcommit.isdigit() else None,
        "oom_kills_since_boot": int(vmstat[1]) if vmstat else None,
        "cgroups": list(groups.values()), **_killed(root, setup.launch_since_s),
    }  # fmt: skip


def _cgroups(root: Root, text: str) -> list[dict[str, Any]]:
    """Every limited (or killing) memory group from the process's own up to the top, in both hierarchies."""
    found = []
    for line in text.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if "memory" in controllers.split(","):
            base, names = (
                "/sys/fs/cgroup/memory",
                ("limit_in_bytes", "usage_in_bytes", "oom_control", "total_inactive_file"),
            )
        elif not controllers:
            base, names = "/sys/fs/cgroup", ("max", "current", "events", "inactive_file")
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            group = "/".join([base, *parts[:depth]])
            limit, usage, kills = (root.read(f"{group}/memory.{name}") for name in names[:3])
            if usage is None:
                continue
            cache = re.search(rf"^{names[3]} (\d+)", root.read(f"{group}/memory.stat") or "", re.M)
            killed = re.search(r"^oom_kill (\d+)", kills or "", re.M)
            number = int(limit) if limit and limit.strip().isdigit() else None
            found.append({
                "path": group, "limit_bytes": number if number is not None and number < NO_LIMIT else None,
                "used_bytes": max(0, int(usage) - (int(cache[1]) if cache else 0)),
                "oom_kills": int(killed[1]) if killed else 0,
            })  # fmt: skip
    return [group for group in found if group["limit_bytes"] is not None or group["oom_kills"]]


def _killed(root: Root, since_s: float | None) -> dict[str, Any]:
    log = read_kernel_log(root)
    uptime = (root.read("/proc/uptime") or "").split()
    now_s = float(uptime[0]) if uptime else 0.0
    victims = []
    for line in log or []:
        match = OOM_LINE.search(line.text)
        if match:
            age_s = max(0.0, now_s - line.since_boot_s)
            recent = since_s is not None and time.time() - age_s >= since_s
            victims.append({
                "pid": int(match[1]), "name": match[2], "age_s": round(age_s), "during_launch": recent,
                "cgroup_limit": "Memory cgroup" in line.text,
            })  # fmt: skip
    return {"kernel_log_readable": log is not None, "victims": victims[-20:]}


def judge(facts: Facts) -> list[Finding]:
    """Kills first, then what is left in the machine and in each limited group."""
    if facts["total_bytes"] is None:
        return [finding(ID, Status.UNKNOWN, "/proc/meminfo cannot be read", reason=Reason.UNPARSABLE)]
    found = [*_judge_kills(facts), *(one for group in facts["cgroups"] for one in _judge_group(group))]
    free, total = facts["available_bytes"] or 0, facts["total_bytes"]
    swap_used = facts["swap_total_bytes"] - facts["swap_free_bytes"]
    data = {"free_bytes": free, "total_bytes": total, "swap_used_bytes": swap_used}
    if free < max(GIB, total // 50):
        text = f"only {size(free)} of {size(total)} host memory are available: the next large allocation is killed"
        found.append(finding(ID, Status.WARN, text, cause="host-oom-killed", **data))
    elif swap_used > total // 20:
        text = f"{size(swap_used)} of memory are swapped out: ranks crawl and look hung; {size(free)} are available"
        found.append(finding(ID, Status.WARN, text, **data))
    else:
        found.append(finding(ID, Status.OK, f"{size(free)} of {size(total)} host memory available", **data))
    if facts["overcommit_mode"] == 2 and facts["commit_limit_bytes"]:
        limit, used = facts["commit_limit_bytes"], facts["committed_bytes"] or 0
        text = (
            f"vm.overcommit_memory is 2 and {size(used)} of {size(limit)} are promised: fork and large maps fail "
            "with `cannot allocate memory` although memory is free"
        )
        status = Status.WARN if used > limit * 0.8 else Status.OK
        data = {"commit_limit_bytes": limit, "committed_bytes": used}
        if status is Status.WARN:
            data["cause"] = "fork-enomem"
        found.append(finding(ID, status, text, subject="overcommit", **data))
    return found


def _judge_kills(facts: Facts) -> list[Finding]:
    victims = facts["victims"]
    recent = [one for one in victims if one["during_launch"]]
    if victims:
        last = (recent or victims)[-1]
        where = "its cgroup's limit" if last["cgroup_limit"] else "the whole machine's memory"
        text = (
            f"the kernel killed {count(len(recent or victims), 'process')} for lack of memory, last {last['name']} "
            f"(pid {last['pid']}) {_ago(last['age_s'])} ago over {where}"
        )
        status = Status.FAIL if recent else Status.WARN
        return [
            finding(ID, status, text, subject="OOM kills", cause="host-oom-killed", victims=recent or victims)
        ]
    total = facts["oom_kills_since_boot"]
    if total:  # of this whole machine, other containers and earlier jobs included: worth knowing, no reproach
        tells = (
            "the kernel log no longer tells"
            if facts["kernel_log_readable"]
            else "only the host's kernel log tells"
        )
        text = f"{count(total, 'process')} of this machine killed for lack of memory since boot; whom and when {tells}"
        return [finding(ID, Status.OK, text, subject="OOM kills", oom_kills=total)]
    return []


def _judge_group(group: dict[str, Any]) -> list[Finding]:
    path, limit, used, kills = group["path"], group["limit_bytes"], group["used_bytes"], group["oom_kills"]
    data = {"limit_bytes": limit, "used_bytes": used, "oom_kills": kills}
    if kills:
        at = "in it or below" if limit is None else f"at its limit of {size(limit)}"
        text = f"cgroup: {count(kills, 'process')} killed for lack of memory {at} since it exists"
        if limit is None:  # a group that only holds others: theirs are the limits
            return [finding(ID, Status.OK, text, subject=path, **data)]
        return [finding(ID, Status.WARN, text, subject=path, cause="host-oom-killed", **data)]
    if used > limit * 0.95:
        text = f"{size(used)} of the cgroup's {size(limit)} are used (page cache not counted): its next allocation is killed"
        return [finding(ID, Status.WARN, text, subject=path, cause="host-oom-killed", **data)]
    text = f"cgroup limit {size(limit)}, {size(used)} used, nobody killed"
    return [finding(ID, Status.OK, text, subject=path, **data)]


def _ago(seconds: float) -> str:
    for unit, step in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= step:
            return f"{seconds / step:.0f} {unit}"
    return f"{seconds:.0f} s"


PROBE = Probe(ID, "Host memory, cgroup limits, OOM kills", collect, judge)
