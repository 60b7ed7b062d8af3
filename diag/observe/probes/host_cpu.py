"""One core for eight ranks looks exactly like a hang: a rank needs cores for its proxy threads, loaders and compiler.

Quotas (cgroup cpu.max), affinity masks (Slurm, cpuset, taskset) and throttling are invisible in every log. Sources:
cgroup-v2 and cpusets documents of the kernel; Primus measured about 30 times slower launches with a single core.
"""

from __future__ import annotations

import re
from typing import Any

from diag.model import Finding, Reason, Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.wording import count, listed
from diag.system import Root
from diag.system.jobs import find_job

ID = "host.cpu"


def collect(setup: Setup) -> Facts:
    """Cores there, cores allowed, quota and throttling of our cgroups, load, NUMA nodes, the ranks' masks."""
    root = setup.root
    load = (root.read("/proc/loadavg") or "").split()
    governor = (root.read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "").strip()
    clock = (root.read("/sys/devices/system/clocksource/clocksource0/current_clocksource") or "").strip()
    ranks = []
    for member in find_job(root):
        if member.computes:
            ranks.append({"who": member.label, "cores": _cores_of(root, member.process.pid)})
    gpus = [name for name in root.names("/dev") if re.fullmatch(r"nvidia\d+", name)]
    return {
        "cores_online": len(_cores(root.read("/sys/devices/system/cpu/online") or "")),
        "cores_allowed": len(_allowed(root.read("/proc/self/status"))), **_quota(root),
        "load_1min": float(load[0]) if load else None, "gpus": len(gpus), "governor": governor, "clocksource": clock,
        "numa_nodes": _nodes(root), "ranks": ranks,
        "numa_balancing": (root.read("/proc/sys/kernel/numa_balancing") or "").strip() == "1",
    }  # fmt: skip


def _cores(text: str) -> list[int]:
    """The numbers of a list such as `0-3,8`."""
    parts = [part.partition("-") for part in text.strip().split(",") if part]
    return [core for low, _, high in parts for core in range(int(low), int(high or low) + 1)]


def _allowed(status: str | None) -> list[int]:
    match = re.search(r"^Cpus_allowed_list:\s*(\S+)", status or "", re.M)
    return _cores(match[1]) if match else []


def _cores_of(root: Root, pid: int) -> list[int]:
    """Where a process may run. Engines bind each thread to a core of its own, so one core for the main thread alone is no limit."""
    cores = set(_allowed(root.read(f"/proc/{pid}/status")))
    if len(cores) == 1:
        for thread in root.names(f"/proc/{pid}/task")[:128]:
            cores |= set(_allowed(root.read(f"/proc/{pid}/task/{thread}/status")))
    return sorted(cores)


def _nodes(root: Root) -> list[dict[str, Any]]:
    base = "/sys/devices/system/node"
    names = [name for name in root.names(base) if re.fullmatch(r"node\d+", name)]
    return [
        {"node": int(name[4:]), "cores": len(_cores(root.read(f"{base}/{name}/cpulist") or ""))}
        for name in names
    ]


def _quota(root: Root) -> dict[str, Any]:
    """The tightest quota (in cores) and the worst share of throttled periods from our group up to the top."""
    quotas: list[float] = []
    throttled: list[float] = []
    for line in (root.read("/proc/self/cgroup") or "").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = "/sys/fs/cgroup/cpu" if controllers else "/sys/fs/cgroup"
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            group = "/".join([base, *parts[:depth]])
            both = (root.read(f"{group}/cpu.max") or "").split() or [
                (root.read(f"{group}/cpu.cfs_{name}_us") or "").strip() for name in ("quota", "period")
            ]
            if len(both) == 2 and both[0].isdigit() and both[1].isdigit() and int(both[1]):
                quotas.append(int(both[0]) / int(both[1]))
                stat = dict(re.findall(r"^(nr_\w+) (\d+)", root.read(f"{group}/cpu.stat") or "", re.M))
                if int(stat.get("nr_periods", 0)) > 100:
                    throttled.append(int(stat.get("nr_throttled", 0)) / int(stat["nr_periods"]))
    return {"quota_cores": min(quotas, default=None), "throttled_share": max(throttled, default=None)}


def judge(facts: Facts) -> list[Finding]:
    """Too few cores for the GPUs there, throttling, ranks squeezed onto one core, overload."""
    online, allowed, quota = facts["cores_online"], facts["cores_allowed"], facts["quota_cores"]
    if not allowed:
        return [
            finding(ID, Status.UNKNOWN, "/proc/self/status does not tell the cores", reason=Reason.UNPARSABLE)
        ]
    usable = allowed if quota is None else min(allowed, quota)
    data = {"usable_cores": usable, "cores_online": online, "quota_cores": quota, "gpus": facts["gpus"]}
    found = []
    need = max(2, facts["gpus"])
    if usable < need:
        why = (
            f"a quota of {quota:.3g}"
            if quota is not None and quota < allowed
            else f"an affinity mask of {allowed}"
        )
        whom = f"for {count(facts['gpus'], 'GPU')}" if facts["gpus"] else "for a launch"
        text = f"only {usable:.3g} of {online} cores may be used ({why}): too few {whom}; starts crawl and look hung"
        found.append(finding(ID, Status.WARN, text, cause="numa-cpu-starvation", needed_cores=need, **data))
    found += _judge_ranks(facts["ranks"])
    share = facts["throttled_share"]
    if share is not None and share > 0.1:
        text = f"the CPU quota of {quota:.3g} cores throttled {share:.0%} of all periods: proxy threads stall"
        found.append(
            finding(
                ID,
                Status.WARN,
                text,
                subject="quota",
                cause="numa-cpu-starvation",
                throttled_share=share,
                **data,
            )
        )
    load = facts["load_1min"]
    if load is not None and load > 2 * online:
        text = f"load {load:.0f} on {online} cores: processes wait for a CPU (or for a disk) most of the time"
        found.append(
            finding(
                ID, Status.WARN, text, subject="load", cause="numa-cpu-starvation", load_1min=load, **data
            )
        )
    nodes = len(facts["numa_nodes"])
    text = f"{usable:.3g} of {online} cores usable, {count(nodes, 'NUMA node')}, load {load if load is not None else 'unknown'}"
    return found or [finding(ID, Status.OK, text, **data)]


def _judge_ranks(ranks: list[dict[str, Any]]) -> list[Finding]:
    """Several ranks bound to the same single core: the classic of a launcher's default binding."""
    bound: dict[int, list[str]] = {}
    for rank in ranks:
        if len(rank["cores"]) == 1:
            bound.setdefault(rank["cores"][0], []).append(rank["who"])
    found = []
    for core, who in bound.items():
        share = f"share core {core} alone" if len(who) > 1 else f"may run on core {core} only"
        text = f"{listed(who)} {share}: loading and communication {'run' if len(who) > 1 else 'may run'} many times slower"
        status = Status.FAIL if len(who) > 1 else Status.WARN
        found.append(
            finding(
                ID, status, text, subject=f"core {core}", cause="numa-cpu-starvation", ranks=who, core=core
            )
        )
    return found


PROBE = Probe(ID, "CPU quota, affinity, load", collect, judge)
