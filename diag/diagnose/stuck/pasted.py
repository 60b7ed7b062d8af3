"""Stacks and process lists pasted into logs, made into the same findings as our own look at the processes. Pure.

One dump is no film: whether its process moved is told by a second one, else by what it stood at. So computing alone
accuses nobody, and a dump that the launch outlived tells nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from diag.diagnose.stuck.process import PROBE
from diag.diagnose.stuck.sites import Site, own_place, phase_of, site_of
from diag.diagnose.stuck.verdict import LONG_WAIT_S, judge_jobs
from diag.diagnose.whois import Whois
from diag.model import Finding, Status
from diag.observe.logs.dumps import Standing
from diag.observe.logs.filestate import FileReading

NATIVE: tuple[tuple[str, str, str], ...] = (
    # (site, kind, calls in C and C++ that tell it)
    ("rendezvous", "waits", r"TCPStore::(?:wait|doWait|doGet)|bootstrap(?:AllGather|Init|Recv|Send)|ncclCommInitRank|commInitRank|connectFullMesh"),
    ("collective", "waits", r"gloo::\S*(?:UnboundBuffer::wait|waitRecv|waitSend)|ProcessGroup\w+::\S*(?:wait|synchronize)|WorkNCCL::|ncclGroupEnd|nccl(?:All|Reduce|Broadcast|Send|Recv)\w*|PMPI_\w+|MPI_(?:Allreduce|Barrier|Bcast|Recv|Wait)\w*|ompi_\w+_wait"),
    ("collective", "waits", r"cu(?:da)?(?:Stream|Device|Ctx|Event)Synchronize|cudaMemcpy\b|cuMemcpy"),
    ("dns", "local", r"getaddrinfo|__res_(?:context_)?(?:n?send|query|search)|gethostbyname"),
    ("lock", "local", r"__lll_lock_wait|pthread_mutex_lock|futex_wait\b.*malloc|_dl_(?:open|init)|dlopen"),
    ("file-system", "local", r"^(?:__)?(?:read|pread64|pread|open64|openat|fstat64|fsync|fdatasync|statx?) "),
)  # fmt: skip
_NATIVE = [(name, kind, re.compile(pattern)) for name, kind, pattern in NATIVE]
_OTHERS = re.compile(
    r"torchrun|torch\.distributed\.(?:run|launch)|accelerate|deepspeed(?: |$)|mpirun|APIServer|api_server|raylet|gcs_server|"
    r"resource_tracker|forkserver|multiprocessing\.spawn|pt_data_worker|nvidia-smi|py-spy|grep "
)
_AT_WORK = (
    "compile",
    "download",
    "weights",
    "data",
    "checkpoint",
    "graph-capture",
    "build-lock",
    "dns",
    "connect",
    "file-system",
)
_PYTHON = re.compile(r" \(\S+\.pyx?:\d+\)$")


def pasted_findings(readings: Sequence[FileReading], who: Whois) -> list[Finding]:
    """Findings on processes that logs show standing, and the verdict over them."""
    ranks = _ranks(readings, who)
    seen: dict[tuple[str, str], list[tuple[FileReading, Standing]]] = {}
    for reading in readings:
        last = max((one.order for one in reading.observations if one.kind == "alive"), default=0)
        died = any("Fatal Python error" in one.text for one in reading.observations if one.kind == "dead")
        for number, one in enumerate(reading.standing):
            if one.line < last or (died and one.tool == "faulthandler"):
                continue  # it went on, or these are the last words of one that crashed
            rank = ranks.get((reading.name, one.line))
            key = (
                f"rank {rank}"
                if rank is not None
                else f"pid {one.pid}"
                if one.pid
                else f"{reading.name} {number}"
            )
            host = "" if rank is not None else _host(reading, one) or reading.name
            seen.setdefault((host, key), []).append((reading, one))
    found = [
        finding
        for group in seen.values()
        if (finding := _finding(group, ranks.get((group[0][0].name, group[0][1].line)), who)) is not None
    ]
    return [*found, *judge_jobs(found)]


def _ranks(readings: Sequence[FileReading], who: Whois) -> dict[tuple[str, int], int]:
    """(file, line of a dump) -> rank: one tool's word on a pid holds for the others', and who is left is the one missing."""
    told = {
        (reading.name, one.line): (one, rank)
        for reading in readings
        for one in reading.standing
        if (rank := _rank(reading, one, who)) is not None
    }
    of_pid: dict[int, set[int]] = {}
    for one, rank in told.values():
        if one.pid is not None:
            of_pid.setdefault(one.pid, set()).add(rank)
    result = {place: rank for place, (_, rank) in told.items()}
    for reading in readings:
        for one in reading.standing:
            known = of_pid.get(one.pid, set()) if one.pid is not None else set()
            if (reading.name, one.line) not in result and len(known) == 1:
                result[reading.name, one.line] = next(iter(known))
    left = set(range(who.world or 0)) - set(result.values())
    zombies = [
        (reading.name, one.line) for reading in readings for one in reading.standing if one.state == "Z"
    ]
    if len(left) == 1 and len(zombies) == 1 and zombies[0] not in result:
        result[zombies[0]] = left.pop()
    return result


def _rank(reading: FileReading, one: Standing, who: Whois) -> int | None:
    if one.rank is not None:
        return one.rank
    told = who.rank_of_pid(reading.name, _host(reading, one), one.pid) if one.pid is not None else None
    return (
        told
        if told is not None
        else who.rank_of_file(reading.name)
        if not _OTHERS.search(one.command)
        else None
    )


def _host(reading: FileReading, one: Standing) -> str | None:
    above = [place for number, place in reading.places if number <= one.line]
    return above[-1] if above else None


def _finding(group: Sequence[tuple[FileReading, Standing]], rank: int | None, who: Whois) -> Finding | None:
    reading, last = max(group, key=lambda pair: (bool(pair[1].frames), pair[1].line))
    state = next((one.state for _, one in group if one.state), "")
    wchan = next((one.wchan for _, one in group if one.wchan), "")
    command = next((one.command for _, one in group if one.command), "")
    stacks = [one.frames for _, one in group if one.frames and one.tool == last.tool]
    python = [frame for frame in last.frames if _PYTHON.search(frame)] or list(last.frames)
    site = site_of(python) or _native_site(last.frames)
    kind = _kind(last, state, wchan, site, repeated=len(stacks) > 1 and stacks[-1] == stacks[-2])
    if kind is None or (_OTHERS.search(command) and rank is None):
        return None
    file = reading.name.rsplit("/", 1)[-1]
    name = f"rank {rank}" if rank is not None else f"pid {last.pid}" if last.pid else file
    place = own_place(python)
    data: dict[str, Any] = {
        "pid": last.pid, "rank": rank, "host": _host(reading, last) or (who.host_of_rank(rank) if rank is not None else None),
        "process": command.rsplit("/", 1)[-1][:60] or name, "role": "engine" if "EngineCore" in command else "rank", "job": "port of a pasted dump", "state": state or "S",
        "kind": kind, "site": site.name if site else "", "detail": site.detail if site else "", "place": place, "wchan": wchan,
        "phase": phase_of(python), "frames": python[:40], "still_s": LONG_WAIT_S, "moving": "false", "world_size": who.world,
        "stuck": "true" if kind in ("stuck", "stopped", "blocked") else "false", "pasted": f"{file}:{last.line}",
    }  # fmt: skip
    text = f"{name} {_TEXT[kind]}{' at ' + place if place else ' in ' + wchan if wchan else ''} ({file}:{last.line})"
    status = Status.WARN if kind in ("stuck", "stopped", "blocked", "dead") else Status.OK
    return Finding(
        PROBE,
        name,
        status,
        text,
        None,
        {key: value for key, value in data.items() if value not in (None, "")},
    )


_TEXT = {
    "waits": "waits for others",
    "idle": "is idle",
    "stuck": "stands",
    "stopped": "is stopped",
    "blocked": "is in uninterruptible sleep",
    "dead": "is dead",
    "busy": "computes",
}


def _kind(last: Standing, state: str, wchan: str, site: Site | None, *, repeated: bool) -> str | None:
    """What a process was doing; None where the dump tells nothing."""
    if state in ("T", "t", "Z"):
        return "dead" if state == "Z" else "stopped"
    if state == "D" and (wchan or last.frames):
        return "blocked"
    if not last.frames:
        return None
    if site is not None and site.kind in ("idle", "waits"):
        return site.kind
    if site is not None and site.name in _AT_WORK:
        return "stuck"
    return "stuck" if repeated or (not last.active and site is not None) else "busy"


def _native_site(frames: Sequence[str]) -> Site | None:
    for frame in frames:
        for name, kind, pattern in _NATIVE:
            if pattern.search(frame):
                return Site(name, kind, frame)
    return None
