"""The launch's own processes: alive, stopped or stuck, waiting for whom, and in which Python call.

A hang usually shows here first: a rank in uninterruptible sleep, one that was stopped, a connection attempt nobody
answers, or one rank in another call than its peers. Stacks come from py-spy, which reads memory without pausing anybody.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

from diag.model import Finding, Reason, Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.wording import count, listed
from diag.system import Root
from diag.system.jobs import JobProcess, entry_point, find_job, hidden_pythons
from diag.system.processes import list_processes, read_descriptors, read_process, read_tcp_sockets
from diag.system.pyspy import PTRACE_REMEDY, dump_stacks
from diag.system.stacks import Stacks

ID = "process.launch"
MOST = 64
"""Processes described; a node of eight GPUs has a few dozen."""
STACKS_MOST, STACKS_AT_ONCE, STACK_S, ALL_STACKS_S = 32, 4, 2.5, 7.0
FRAMES = 40
REPEATED = 3
"""SYN retransmissions after which nobody is going to answer: 1 + 2 + 4 s (tcp(7), tcp_syn_retries)."""
NATIVE_WAIT = {
    "D": "is in uninterruptible sleep: a disk, NFS or driver call that does not return; not even SIGKILL ends it",
    "T": "is stopped (SIGSTOP, SIGTSTP or a job-control stop): it waits for SIGCONT, and its peers wait for it",
    "t": "is stopped by a debugger that traces it: its peers wait for it",
}


def collect(setup: Setup) -> Facts:
    """Describe each process, its connection attempts, and its Python stacks while time allows."""
    root = setup.root
    processes = list_processes(root)
    everybody = find_job(root, processes)
    job = [member for member in everybody if member.role != "idle"][:MOST]
    hidden = hidden_pythons(root, processes, everybody)
    described = [_describe(root, member) for member in job]
    if setup.root.path == "/":
        python = [member for member in job if member.computes or member.role in ("frontend", "router")][
            :STACKS_MOST
        ]
        stacks = _stacks([member.process.pid for member in python])
        for entry in described:
            entry["stacks"] = stacks.get(entry["pid"])
    unseen = [f"{PurePosixPath(entry_point(one.argv)).name} (pid {one.pid})" for one in hidden]
    return {"processes": described, "unseen": unseen[:16], "unseen_count": len(unseen)}


def _describe(root: Root, member: JobProcess) -> dict[str, Any]:
    pid = member.process.pid
    links = read_descriptors(root, pid)
    inodes = {int(link[8:-1]) for link in links or () if link.startswith("socket:[")}
    sockets = [socket for socket in read_tcp_sockets(root, pid) if socket.inode in inodes] if inodes else []
    now = read_process(root, pid)
    return {
        "pid": pid, "parent": member.process.ppid, "who": member.label, "framework": member.framework, "role": member.role,
        "rank": member.rank, "state": now.state if now else "gone", "threads": member.process.threads,
        "age_s": round(max(0.0, time.time() - member.process.start_s)), "cpu_s": round(member.process.cpu_s, 1),
        "waits_in": (root.read(f"/proc/{pid}/wchan") or "").strip().strip("0") or None, "stuck_threads": _stuck(root, pid),
        "descriptors_readable": links is not None,
        "connecting": [
            {"to": f"{s.remote}:{s.remote_port}", "retransmits": s.retransmits} for s in sockets if s.state == "SYN_SENT"
        ],
        "peers": sorted({f"{s.remote}:{s.remote_port}" for s in sockets if s.state == "ESTABLISHED" and s.remote != s.local})[:16],
        "listening": sorted({s.local_port for s in sockets if s.state == "LISTEN"})[:16], "stacks": None,
    }  # fmt: skip


def _stuck(root: Root, pid: int) -> list[dict[str, str]]:
    """Threads in uninterruptible sleep in two looks a moment apart, with the kernel function they wait in."""

    def sleeping() -> set[str]:
        names = root.names(f"/proc/{pid}/task")
        stats = {name: root.read(f"/proc/{pid}/task/{name}/stat") or "" for name in names}
        return {name for name, stat in stats.items() if stat.rpartition(") ")[2].startswith("D")}

    first = sleeping()
    if not first:
        return []
    time_to_change = 0.2  # a disk read is over by then
    _pause(time_to_change)
    return [
        {"thread": name, "waits_in": (root.read(f"/proc/{pid}/task/{name}/wchan") or "").strip()}
        for name in sorted(first & sleeping())
    ]


def _pause(seconds: float) -> None:
    import threading

    threading.Event().wait(seconds)


def _stacks(pids: list[int]) -> dict[int, dict[str, Any]]:
    """Stacks by pid, a few at a time; what does not fit into the time is left out and said to be."""
    deadline = time.monotonic() + ALL_STACKS_S

    def one(pid: int) -> Stacks:
        left = deadline - time.monotonic()
        if left < 0.3:
            return Stacks(
                pid, reason=Reason.TIMEOUT, message="not looked at: the time for stacks was used up"
            )
        return dump_stacks(pid, timeout_s=min(STACK_S, left))

    with ThreadPoolExecutor(STACKS_AT_ONCE) as pool:
        return {result.pid: _plain(result) for result in pool.map(one, pids)}


def _plain(stacks: Stacks) -> dict[str, Any]:
    threads = [
        {
            "name": thread.name, "active": thread.active, "gil": thread.owns_gil, "os_thread_id": thread.os_thread_id,
            "frames": [f"{frame.function} ({frame.file}:{frame.line})" for frame in thread.frames[:FRAMES]],
        }
        for thread in stacks.threads[:32]
    ]  # fmt: skip
    return {
        "reason": stacks.reason.value if stacks.reason else None,
        "message": stacks.message,
        "threads": threads,
    }


def judge(facts: Facts) -> list[Finding]:
    """Who is stopped or stuck, who calls somebody that does not answer, where everybody is, and what was not seen."""
    processes, hidden = facts["processes"], []
    if facts["unseen_count"]:
        text = (
            f"{count(facts['unseen_count'], 'Python process')} of other users may not be looked into, so ranks among "
            f"them are not seen: {listed(facts['unseen'])}"
        )
        remedy = "run diag as root or as the user of the launch"
        hidden = [
            finding(ID, Status.UNKNOWN, text, subject="other users", reason=Reason.PERMISSION, remedy=remedy)
        ]
    if not processes and hidden:
        return hidden
    if not processes:
        text = "no process of a launch runs on this node (looked for torchrun, vLLM, SGLang, Dynamo, TRT-LLM, Ray, DeepSpeed, MPI)"
        return [finding(ID, Status.SKIP, text, reason=Reason.NOT_APPLICABLE)]
    found = [one for process in processes for one in _judge_one(process)]
    frameworks = listed(sorted({process["framework"] for process in processes}))
    text = f"{count(len(processes), 'process')} of a launch ({frameworks}): {listed((p['who'] for p in processes), 6)}"
    found.append(finding(ID, Status.OK, text, pids=[process["pid"] for process in processes]))
    return found + _judge_stacks(processes) + hidden


def _judge_one(process: dict[str, Any]) -> list[Finding]:
    who, state = process["who"], process["state"]
    data = {"pid": process["pid"], "rank": process["rank"], "state": state, "waits_in": process["waits_in"]}
    found = []
    stuck = process["stuck_threads"]
    if state in ("T", "t"):
        found.append(finding(ID, Status.FAIL, f"{who} {NATIVE_WAIT[state]}", subject=who, **data))
    elif stuck:
        where = listed(dict.fromkeys(one["waits_in"] or "an unnamed place" for one in stuck))
        text = f"{who}: {count(len(stuck), 'thread')} {NATIVE_WAIT['D']} (kernel function {where})"
        found.append(finding(ID, Status.WARN, text, subject=who, threads=stuck, **data))
    elif state == "Z":
        found.append(
            finding(ID, Status.WARN, f"{who} is dead and not collected by its parent", subject=who, **data)
        )
    for call in process["connecting"]:
        dead = call["retransmits"] >= REPEATED
        text = f"{who} tries to connect to {call['to']}" + (
            f"; {call['retransmits']} repeated attempts without any answer: dropped by a firewall, wrong address, or node down"
            if dead
            else ", not answered yet"
        )
        status = Status.FAIL if dead else Status.OK
        extra: dict[str, Any] = (
            {"cause": "network-unreachable", "to": call["to"]} if dead else {"to": call["to"]}
        )
        found.append(finding(ID, status, text, subject=who, **extra, **data))
    return found


def _judge_stacks(processes: list[dict[str, Any]]) -> list[Finding]:
    """One finding a place: who stands in the same innermost calls; then who could not be looked at, and why."""
    places: dict[str, list[dict[str, Any]]] = {}
    refused: dict[tuple[str, str], list[str]] = {}
    for process in processes:
        stacks = process["stacks"]
        if stacks is None:
            continue
        if stacks["reason"]:
            refused.setdefault((stacks["reason"], stacks["message"]), []).append(process["who"])
            continue
        main = next(
            (t for t in stacks["threads"] if t["name"] == "MainThread"), (stacks["threads"] or [None])[0]
        )
        if main and main["frames"]:
            # Decorators say nothing about where a rank is; the calls around them do.
            calls = [frame for frame in main["frames"] if "wrapper" not in frame.partition(" (")[0]] or main[
                "frames"
            ]
            places.setdefault(" < ".join(calls[:4]), []).append(process)
    found = []
    for place, same in places.items():
        who = [process["who"] for process in same]
        text = f"{listed(who)} in {' < '.join(_short(frame) for frame in place.split(' < '))}"
        found.append(
            finding(ID, Status.OK, text, subject="stacks", pids=[process["pid"] for process in same])
        )
    for (reason, message), who in refused.items():
        if reason == Reason.NOT_APPLICABLE.value:
            continue
        remedy = PTRACE_REMEDY if reason == Reason.PERMISSION.value else "diag attach PID looks longer"
        text = f"no Python stacks of {listed(who)}: {message}"
        found.append(
            finding(ID, Status.UNKNOWN, text, subject="stacks", reason=Reason(reason), remedy=remedy)
        )
    return found


def _short(frame: str) -> str:
    """`call (torch/distributed/rendezvous.py:12)`: the last three parts of a path name it well enough."""
    function, _, place = frame.partition(" (")
    return f"{function} ({'/'.join(place.split('/')[-3:])}" if place else frame


PROBE = Probe(ID, "The launch's own processes", collect, judge, timeout_s=12.0)
