"""Limits differ between a login shell, a systemd unit, sshd, Slurm and a container: those of the *running* ranks count.

Locked memory too low makes RDMA registration fail; open files run out with many peers; an unlimited stack crashed
NCCL's threads before 2.28. Floors: NCCL's troubleshooting page (memlock unlimited or >= 32 GiB, nofile 131072).
"""

from __future__ import annotations

from typing import Any

from diag.model import Finding, Reason, Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.wording import GIB, MIB, count, listed, size
from diag.system.jobs import find_job
from diag.system.processes import read_limits

ID = "host.limits"
MEMLOCK_FLOOR_BYTES = 32 * GIB
MEMLOCK_BROKEN_BYTES = 64 * MIB
"""The distributions' defaults are 64 KiB and 8 MiB: below one registered NCCL buffer set."""
NOFILE_FLOOR = 4096
KEPT = {
    "Max locked memory": "memlock", "Max open files": "nofile", "Max stack size": "stack",
    "Max core file size": "core", "Max processes": "nproc", "Max address space": "as",
}  # fmt: skip


def collect(setup: Setup) -> Facts:
    """Limits of ourselves (the caller's shell) and of every rank and worker of running jobs."""
    root = setup.root
    processes = []
    for member in find_job(root):
        if member.computes:
            pid = member.process.pid
            limits = _kept(read_limits(root, pid))
            used = len(root.names(f"/proc/{pid}/fd"))
            capable = _ipc_lock(root.read(f"/proc/{pid}/status"))
            processes.append(
                {"who": member.label, "limits": limits, "open_files": used or None, "ipc_lock": capable}
            )
    return {
        "shell": _kept(read_limits(root, "self")), "ipc_lock": _ipc_lock(root.read("/proc/self/status")),
        "processes": processes, "rdma_devices": root.names("/sys/class/infiniband"),
    }  # fmt: skip


def _kept(limits: dict[str, tuple[int | None, int | None]] | None) -> dict[str, list[int | None]] | None:
    return (
        None if limits is None else {KEPT[name]: list(pair) for name, pair in limits.items() if name in KEPT}
    )


def _ipc_lock(status: str | None) -> bool | None:
    """CAP_IPC_LOCK (bit 14 in linux/capability.h) lifts the limit on locked memory."""
    for line in (status or "").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> 14 & 1)
    return None


def judge(facts: Facts) -> list[Finding]:
    """Ranks first; the shell stands in for ranks that are yet to come."""
    looked = [("this shell", facts["shell"], None, facts["ipc_lock"])] + [
        (one["who"], one["limits"], one["open_files"], one["ipc_lock"]) for one in facts["processes"]
    ]
    seen = [(who, limits, used, lock) for who, limits, used, lock in looked if limits is not None]
    if not seen:
        return [finding(ID, Status.UNKNOWN, "/proc/PID/limits cannot be read", reason=Reason.PERMISSION)]
    found = [one for who, limits, used, lock in seen for one in _judge_one(facts, who, limits, used, lock)]
    if found:
        return _merged(found)
    limits = seen[0][1]
    text = (
        f"memlock {size(limits['memlock'][0])}, nofile {limits['nofile'][0]}, stack {size(limits['stack'][0])}, "
        f"core {size(limits['core'][0])} in this shell"
    )
    if len(seen) > 1:
        text += f"; nothing too low in {count(len(seen) - 1, 'job process')} either"
    return [finding(ID, Status.OK, text, limits=limits)]


def _judge_one(
    facts: Facts, who: str, limits: dict[str, Any], used: int | None, lock: bool | None
) -> list[Finding]:
    found = []
    memlock, nofile, stack = limits["memlock"][0], limits["nofile"][0], limits["stack"][0]
    if facts["rdma_devices"] and not lock and memlock is not None and memlock < MEMLOCK_FLOOR_BYTES:
        broken = memlock < MEMLOCK_BROKEN_BYTES
        text = f"locked memory limited to {size(memlock)}: RDMA memory registration {'fails' if broken else 'may fail'}"
        found.append(
            finding(
                ID, Status.FAIL if broken else Status.WARN, text, subject=who, cause="ulimit-memlock",
                limit_bytes=memlock, needed_bytes=MEMLOCK_FLOOR_BYTES,
                remedy="ulimit -l unlimited; docker: --ulimit memlock=-1; systemd: LimitMEMLOCK=infinity",
            )
        )  # fmt: skip
    if nofile is not None and used is not None and used > 0.9 * nofile:
        text = f"{used} of at most {nofile} files are open: the next socket or file fails"
        found.append(
            finding(
                ID,
                Status.FAIL,
                text,
                subject=who,
                cause="ulimit-nofile",
                limit=nofile,
                open_files=used,
                needed=131072,
            )
        )
    elif nofile is not None and nofile < NOFILE_FLOOR:
        text = f"at most {nofile} open files: too few for jobs with many peers (NCCL's guide asks for 131072)"
        found.append(
            finding(ID, Status.WARN, text, subject=who, cause="ulimit-nofile", limit=nofile, needed=131072)
        )
    if stack is None:
        text = "the stack is unlimited: NCCL before 2.28 can crash when it starts its threads; 8 MiB is usual"
        found.append(finding(ID, Status.WARN, text, subject=who, stack="unlimited"))
    return found


def _merged(found: list[Finding]) -> list[Finding]:
    """The same sentence about sixteen ranks is one finding."""
    groups: dict[tuple[Status, str], list[Finding]] = {}
    for one in found:
        groups.setdefault((one.status, one.summary), []).append(one)
    return [
        finding(ID, status, text, subject=listed((one.subject for one in same), 3), **same[0].data)
        for (status, text), same in groups.items()
    ]


PROBE = Probe(ID, "Limits of the shell and of running ranks", collect, judge)
