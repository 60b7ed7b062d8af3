"""One process's look to one finding: stopped, dead, moving, idle, waiting for others, or stuck in something of its own. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from diag.diagnose.stuck.sites import Site, own_place, phase_of, site_of
from diag.model import Finding, Reason, Status

PROBE = "attach.process"
STUCK_S = 4.5
"""Stillness that is no ordinary pause of a running job; the look goes on for five seconds to see it."""
BUSY_SHARE = 0.05
"""Part of a core above which a thread works."""
IO_BYTES = 256 << 10
GROWTH_KIB = 8 << 10
FEW_SWITCHES = 3
"""Times a second that a frozen thread may wake up: a lock with a time-out looks in once a second."""
REPEATED_SYN = 3
"""SYN retransmissions after which nobody is going to answer: 1 + 2 + 4 s (tcp(7), tcp_syn_retries)."""
POLLING = ("ring", "ready", "actors", "rendezvous", "placement", "control-plane")
"""Waits that look again and again: waking up is no sign of progress there."""

Look = Mapping[str, Any]


def judge_processes(processes: Sequence[Look], host: str) -> list[Finding]:
    """One finding a process, and one for each connection that nobody answers."""
    found = []
    for look in processes:
        if look.get("samples"):
            found.append(_finding(look, host))
            found += _connections(look, host)
    return _with_lock_owners(found)


def _with_lock_owners(findings: list[Finding]) -> list[Finding]:
    """Who waits for a build's lock waits for its owner, if a process of the same job builds or stands still elsewhere."""
    held = {
        one.data["job"]
        for one in findings
        if one.probe == PROBE and (one.data["kind"] in ("stopped", "blocked", "gil") or _builds(one))
    }
    return [
        replace(one, status=Status.OK, data={**one.data, "kind": "waits", "stuck": "false"})
        if one.data.get("site") == "build-lock"
        and one.data.get("kind") == "stuck"
        and one.data["job"] in held
        else one
        for one in findings
    ]


def _builds(one: Finding) -> bool:
    return one.data["kind"] == "busy" and one.data.get("site") == "compile"


_SOLE_RANK = re.compile(r"(?:VLLM::Worker|sglang::scheduler)_TP(\d+)(?:_EP\d+)? ")
"""Titles that give a rank by themselves: with pipeline or data parallel parts in them they give a coordinate only."""


def _rank(look: Look) -> int | None:
    told = _SOLE_RANK.match(f"{look['who']} ")
    rank = look.get("rank")
    return int(told[1]) if rank is None and told else rank


def _finding(look: Look, host: str) -> Finding:
    samples = look["samples"]
    first, last = samples[0], samples[-1]
    frames = _main_frames(last)
    site = site_of(frames) or _site_without_frames(last)
    span = max(0.001, last["at"] - first["at"])
    moving = _moves(samples, site, span)
    still = last.get("still_s")
    lasted = still if still is not None and still >= span else span if not moving else 0.0
    what, status, text = _kind(look, last, site, moving, frames, lasted)
    stacks = last.get("stacks") or {}
    if not frames and stacks.get("reason") and what in ("waits", "stuck", "unknown"):
        status = Status.UNKNOWN
    data = {
        "pid": look["pid"], "rank": _rank(look), "host": host, "process": look["who"], "role": look["role"],
        "framework": look["framework"], "job": _job(look), "world_size": _number(look, "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"),
        "local_world_size": _number(look, "LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        "local_rank": _number(look, "LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"),
        "state": last["state"], "kind": what, "site": site.name if site else "", "moving": "true" if moving else "false",
        "stuck": "true" if what in ("stuck", "stopped", "blocked", "gil") else "false",
        "still_s": round(lasted, 1), "phase": phase_of(frames), "peer": _peer(last), "wchan": last.get("wchan"),
        "reads": last.get("reads"), "place": own_place(frames), "detail": site.detail if site else "",
        "cpus_allowed": look.get("cpus_allowed"), "cpus": look.get("cpus"), "present": look.get("present"), "frames": frames[:40],
    }  # fmt: skip
    return Finding(
        PROBE, look["who"], status, f"{look['who']} {text}", Reason(stacks["reason"]) if status is Status.UNKNOWN else None,
        {name: value for name, value in data.items() if value is not None and value != ""},
    )  # fmt: skip


def _kind(
    look: Look, last: Mapping[str, Any], site: Site | None, moving: bool, frames: Sequence[str], lasted: float
) -> tuple[str, Status, str]:
    """(kind, status, the rest of the sentence)."""
    state = last["state"]
    if state in ("gone", "Z"):
        return (
            "dead",
            Status.WARN,
            "has ended" if state == "gone" else "is dead and not collected by its parent",
        )
    if state in ("T", "t"):
        how = "is stopped (SIGSTOP or a job-control stop) and waits for SIGCONT"
        return "stopped", Status.WARN, how if state == "T" else "is stopped by a debugger that traces it"
    if look.get("cgroup", {}).get("frozen"):
        return "stopped", Status.WARN, "is frozen together with its control group (cgroup.freeze)"
    before = look["samples"][0]
    asleep = state == before["state"] == "D" and last.get("switches") == before.get("switches")
    if asleep and lasted >= STUCK_S:
        where = last.get("wchan") or "an unnamed place"
        text = f"is in uninterruptible sleep in the kernel ({where}): a disk, NFS, driver or child that does not return"
        return "blocked", Status.WARN, text + _at(frames)
    if moving:
        return "busy", Status.OK, f"works{_at(frames)}"
    if site is not None and site.kind == "idle":
        return "idle", Status.OK, "is idle: it waits for something to do"
    if site is not None and site.kind == "waits":
        return (
            "waits",
            Status.OK,
            f"waits in {_call(site.detail)}{_peer_text(last)}{_at(frames)} and has not moved for {lasted:.0f} s",
        )
    if look["role"] in ("launcher", "server", "frontend", "router") and site is None:
        return "idle", Status.OK, f"waits for its children or for requests{_at(frames)}"
    if lasted < STUCK_S:
        return (
            "pause",
            Status.OK,
            f"has not moved for {lasted:.1f} s{_at(frames)}: too short to call it stuck",
        )
    if _holds_gil(look["samples"]):
        return (
            "gil",
            Status.WARN,
            f"holds Python's lock (GIL) inside a C call that does not return{_at(frames)}; none of its threads can run",
        )
    reads = f" from {last['reads']}" if last.get("reads") else ""
    what = f" ({site.name}{reads})" if site else f" ({last['wchan']}{reads})" if last.get("wchan") else ""
    return "stuck", Status.WARN, f"waits for nobody and has not moved for {lasted:.0f} s{_at(frames)}{what}"


def _moves(samples: Sequence[Mapping[str, Any]], site: Site | None, span: float) -> bool:
    """True if anything got on between the first and the last look."""
    first, last = samples[0], samples[-1]
    if last["state"] in ("gone", "Z", "T", "t") or "switches" not in first:
        return False
    still = last.get("still_s")
    if still is not None and still > span and last["state"] != "R":
        return False  # the main thread has not run once since the first look
    if any(_main_frames(one) != _main_frames(last) for one in samples if _main_frames(one)):
        return True
    waits = site is not None and site.kind == "waits"
    if last["state"] == "R" and not waits:
        return True  # it works, or would if somebody gave it a processor
    woke = (last["switches"] - first["switches"]) / span
    cpu = _difference(first, last, "main_cpu_s") / span
    if waits:
        return woke > FEW_SWITCHES and site is not None and site.name not in POLLING
    compiling = sum(one["cpu_s"] for one in last.get("compilers", ())) != sum(
        one["cpu_s"] for one in first.get("compilers", ())
    )
    moved = max(_difference(first, last, name) for name in ("rchar", "read_bytes", "wchar"))
    grown = abs(_difference(first, last, "rss_kib"))
    return cpu > BUSY_SHARE or compiling or moved > IO_BYTES or grown > GROWTH_KIB


def _difference(first: Mapping[str, Any], last: Mapping[str, Any], name: str) -> float:
    if first.get(name) is None or last.get(name) is None:
        return 0.0
    return float(last[name]) - float(first[name])


def _main_frames(seen: Mapping[str, Any]) -> list[str]:
    threads = (seen.get("stacks") or {}).get("threads") or []
    return next((list(one["frames"]) for one in threads if one["main"]), [])


def _holds_gil(samples: Sequence[Mapping[str, Any]]) -> bool:
    """The same thread owns the GIL in every look and does not use a CPU: it sleeps inside C with the lock held."""
    owners = []
    for seen in samples:
        threads = (seen.get("stacks") or {}).get("threads") or []
        owners.append([one["name"] for one in threads if one["gil"] and not one["active"]])
    return len(owners) > 1 and all(owners) and all(one == owners[0] for one in owners)


def _site_without_frames(last: Mapping[str, Any]) -> Site | None:
    """What /proc alone tells of a process whose stack may not be read."""
    wchan = str(last.get("wchan") or "")
    if re.search(r"nfs|rpc_wait|fuse|ceph|lustre|ll_", wchan):
        return Site("file-system", "local", wchan)
    return None


def _peer(last: Mapping[str, Any]) -> int | None:
    threads = (last.get("stacks") or {}).get("threads") or []
    return next((one["peer"] for one in threads if one["main"] and "peer" in one), None)


def _peer_text(last: Mapping[str, Any]) -> str:
    peer = _peer(last)
    return f" (rank {peer} at the other end)" if peer is not None else ""


def _call(frame: str) -> str:
    return frame.partition(" (")[0].rsplit(".", 1)[-1]


def _at(frames: Sequence[str]) -> str:
    place = own_place(frames)
    return f" at {place}" if place else ""


def _number(look: Look, *names: str) -> int | None:
    environment = look.get("environment") or {}
    return next((int(environment[name]) for name in names if str(environment.get(name, "")).isdigit()), None)


def _job(look: Look) -> str:
    """What the processes of one job have in common: the port of their master, else the launch on this node."""
    environment = look.get("environment") or {}
    port = environment.get("MASTER_PORT")
    world = _number(look, "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE")
    return f"port {port}, {world} ranks" if port and world else f"launch {look.get('launch') or look['pid']}"


def _connections(look: Look, host: str) -> list[Finding]:
    found = []
    for call in look.get("connecting", ()):
        dead = call["retransmits"] >= REPEATED_SYN
        text = f"{look['who']} tries to connect to {call['to']}" + (
            f": {call['retransmits']} repeated packets without any answer (dropped by a firewall, a wrong address, or the node is down)"
            if dead
            else ", not answered yet"
        )
        data: dict[str, Any] = {"to": call["to"], "pid": look["pid"], "host": host, "process": look["who"]}
        if look.get("rank") is not None:
            data["rank"] = look["rank"]
        if dead:
            data |= {"cause": "network-unreachable", "link": [host, call["to"]]}
        found.append(
            Finding("attach.connection", look["who"], Status.FAIL if dead else Status.OK, text, None, data)
        )
    return found
