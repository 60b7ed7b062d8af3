"""Looks at all processes of the launches on this node, several times a moment apart; runs inside a child with a deadline.

Answers go out process by process, so that one that blocks us costs only what comes after it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event
from typing import Any

from diag.model import Reason
from diag.observe.stacks.look import describe, sample
from diag.observe.stacks.ras_job import ask_again, ask_first
from diag.system import Root
from diag.system.jobs import JobProcess, find_job, hidden_pythons
from diag.system.processes import Process, list_processes, read_environment
from diag.system.pyspy import dump_stacks
from diag.system.stacks import Frame, Stacks, ThreadStack

MOST = 256
AT_ONCE = 4
FIRST_PAUSE_S = 0.8
"""Between the first two looks: longer than a step of most jobs' Python code, short enough to wait for."""
STUCK_S = 5.0
"""Stillness shorter than this may be an ordinary pause: the look goes on until it is longer, or something moves."""
STACK_S = 2.5
MAX_FRAMES, MAX_THREADS = 48, 24
COMPUTES = ("rank", "worker", "engine")
"""Whose standing still matters: launchers and servers wait all their lives."""

Tell = Callable[[dict[str, Any]], None]


def collect(root: Root, pids: Sequence[int], span_s: float, tell: Tell, limit_s: float = 25.0) -> None:
    """Look until something is known about everybody, at most for about `span_s` seconds, then tell each process."""
    begin = time.monotonic()
    everything = list_processes(root)
    everybody = find_job(root, everything)
    members = choose(everybody, everything, pids)
    hidden = hidden_pythons(root, everything, members) if not pids else []
    tell({"found": len(members), "hidden": [f"{one.name} (pid {one.pid})" for one in hidden][:16]})
    looks = [describe(root, member) for member in members]
    _tell_present(root, everybody, looks)
    pairs = list(zip(members, looks, strict=True))
    wait = Event()
    questions = ask_first(looks, begin + limit_s)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number in range(64):
            below = _children(everything)
            list(pool.map(_add, [root] * len(pairs), pairs, [below] * len(pairs)))
            left = span_s - (time.monotonic() - begin)
            if number and (left <= 0 or all(settled(look) for look in looks if look["role"] in COMPUTES)):
                break
            wait.wait(max(0.05, min(FIRST_PAUSE_S if number == 0 else 1.0, left)))
            everything = list_processes(root)
    for look in looks:
        look["samples"] = (
            [look["samples"][0], *look["samples"][-2:]] if len(look["samples"]) > 3 else look["samples"]
        )
        tell({"process": look})
    for answer in ask_again(questions, begin + limit_s):
        tell({"ras": answer})
    tell({"done": True})


def _tell_present(root: Root, everybody: Sequence[JobProcess], looks: Sequence[dict[str, Any]]) -> None:
    """The ranks of each look's job that live on this node, also those not asked for: who is not among them has died."""
    present: dict[tuple[str, str], set[int]] = {}
    for member in everybody:
        if member.rank is not None and member.process.state not in "ZX":
            environment = read_environment(root, member.process.pid, 0.3) or {}
            present.setdefault(_job_key(environment), set()).add(member.rank)
    for look in looks:
        look["present"] = sorted(present.get(_job_key(look["environment"]), ()))[:1024]


def _job_key(environment: Mapping[str, str]) -> tuple[str, str]:
    """What the ranks of one job have in common."""
    return environment.get("MASTER_PORT", ""), environment.get("WORLD_SIZE", "")


def choose(
    everybody: Sequence[JobProcess], everything: Sequence[Process], pids: Sequence[int]
) -> list[JobProcess]:
    """The launches' processes, or those given with all below them. Helpers that inherited a rank are left out."""
    job = {member.process.pid: member for member in everybody}
    if pids:
        job = _below(job, everything, pids)
    chosen = []
    for member in job.values():
        parent = job.get(member.process.ppid)
        ranks = member.role == "rank" and parent is not None and parent.role == "rank"
        copied = ranks and parent is not None and parent.rank == member.rank and parent.framework != "script"
        if member.role not in ("idle", "control") and not copied:
            chosen.append(member if member.launch else replace(member, launch=member.process.pid))
    return sorted(chosen, key=lambda one: one.process.pid)[:MOST]


def _below(
    job: Mapping[int, JobProcess], everything: Sequence[Process], pids: Sequence[int]
) -> dict[int, JobProcess]:
    """The given processes and what they started. A script that started ranks is their launcher, else it is looked at itself."""
    wanted = set(pids)
    for one in sorted(everything, key=lambda process: process.start_s):
        if one.ppid in wanted:
            wanted.add(one.pid)
    members = {pid: member for pid, member in job.items() if pid in wanted}
    given = {one.pid: one for one in everything if one.pid in wanted}
    has_ranks = any(member.role in COMPUTES for member in members.values())
    for pid in pids:
        if pid in given and pid not in members:
            role = "launcher" if has_ranks else "rank"
            members[pid] = JobProcess(given[pid], "script", role, None, pid)
    if not has_ranks:
        for one in given.values():  # `bash run.sh` waits for its child: the interpreter below is who works
            python = bool(one.argv) and re.search(r"(python|pypy)[\d.]*$", one.argv[0]) is not None
            if python and one.pid not in members:
                members[one.pid] = JobProcess(one, "script", "rank", None, pids[0])
                for pid in pids:
                    members[pid] = (
                        replace(members[pid], role="launcher") if pid in members else members[one.pid]
                    )
    return members


def _children(everything: Sequence[Process]) -> dict[int, list[Process]]:
    found: dict[int, list[Process]] = {}
    for one in everything:
        found.setdefault(one.ppid, []).append(one)
    return found


def _add(root: Root, pair: tuple[JobProcess, dict[str, Any]], children: dict[int, list[Process]]) -> None:
    """One more sample of one process."""
    member, look = pair
    below = _descendants(member.process.pid, children)
    seen = sample(root, member.process, below)
    if seen["state"] not in ("gone", "Z"):
        wants_peer = any(_is_transfer(one) for one in look["samples"][-1:])
        seen["stacks"] = plain(dump_stacks(member.process.pid, timeout_s=STACK_S, numbers=wants_peer))
        if wants_peer and seen["stacks"]["reason"]:
            seen["stacks"] = plain(dump_stacks(member.process.pid, timeout_s=STACK_S))
    look["samples"].append(seen)


def _descendants(pid: int, children: dict[int, list[Process]]) -> list[Process]:
    found: list[Process] = []
    todo = [pid]
    while todo and len(found) < 256:
        below = children.get(todo.pop(), [])
        found += below
        todo += [one.pid for one in below]
    return found


def settled(look: dict[str, Any]) -> bool:
    """True if more looks would tell no more: it moves, it is stopped or gone, or it has been still for long."""
    first, last = look["samples"][0], look["samples"][-1]
    if last["state"] in ("gone", "Z", "T", "t"):
        return True
    if last["at"] - first["at"] >= STUCK_S:
        return True
    still = last.get("still_s")
    if still is not None and still >= STUCK_S:
        return True
    before = look["samples"][-2]
    same = main_frames(before) == main_frames(last)
    return not same and last["at"] - first["at"] >= FIRST_PAUSE_S


def main_frames(seen: dict[str, Any]) -> list[str]:
    """The main thread's frames of one sample."""
    threads = (seen.get("stacks") or {}).get("threads") or []
    main = next((one for one in threads if one["main"]), None)
    return main["frames"] if main else []


def _is_transfer(seen: dict[str, Any]) -> bool:
    return any(
        frame.startswith(("send (", "recv (", "irecv (", "isend (", "wait ("))
        for frame in main_frames(seen)[:6]
    )


def plain(stacks: Stacks) -> dict[str, Any]:
    """Stacks as plain values. Files are named by their last parts: enough to know them, nobody's home in it."""
    main = next((one for one in stacks.threads if one.name == "MainThread"), None)
    main = main or next((one for one in stacks.threads if one.os_thread_id == stacks.pid), None)
    main = main or next(iter(stacks.threads[-1:]), None)
    ordered = sorted(stacks.threads, key=lambda one: one is not main)[:MAX_THREADS]
    return {
        "reason": stacks.reason.value
        if stacks.reason and stacks.reason is not Reason.NOT_APPLICABLE
        else None,
        "message": stacks.message,
        "threads": [_thread(one, one is main) for one in ordered],
    }


def _thread(one: ThreadStack, main: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": one.name, "main": main, "active": one.active, "gil": one.owns_gil,
        "frames": [frame_text(frame) for frame in one.frames[:MAX_FRAMES]],
    }  # fmt: skip
    for frame in one.frames[:6] if main else ():
        for name in ("src", "group_src", "dst", "group_dst"):
            if frame.function in ("send", "recv", "isend", "irecv") and name in frame.numbers:
                found.setdefault("peer", frame.numbers[name])
    return found


def frame_text(frame: Frame) -> str:
    """`all_reduce (torch/distributed/distributed_c10d.py:3245)`, `train_step (app/train.py:40)`: no home, no user's name."""
    parts = frame.file.replace("\\", "/").split("/")
    for anchor in ("site-packages", "dist-packages"):
        if anchor in parts:
            return f"{frame.function} ({'/'.join(parts[parts.index(anchor) + 1 :][-6:])}:{frame.line})"
    if parts[1:2] in (["home"], ["Users"]):
        parts = parts[3:]
    elif parts[1:2] == ["root"]:
        parts = parts[2:]
    return f"{frame.function} ({'/'.join(part for part in parts[-2:] if part)}:{frame.line})"
