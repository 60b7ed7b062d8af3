"""Who holds up the job: findings on its processes, of one node or many, to the rank at which the waiting ends. Pure.

The odd one out is only a hint: whoever waits for others is a victim wherever it stands. A job that moves is not judged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from diag.diagnose.ranges import fold
from diag.diagnose.stuck.process import PROBE as PROCESS
from diag.diagnose.stuck.process import STUCK_S
from diag.diagnose.stuck.ras import PROBE as RAS
from diag.diagnose.stuck.ras import judge_ras
from diag.model import Finding, Status

PROBE = "attach.verdict"
PLACES = "attach.places"
HOLDERS = ("stopped", "blocked", "gil", "stuck")
COMPUTES = ("rank", "worker", "engine")
LONG_WAIT_S = 30.0

Data = Mapping[str, Any]


def judge_jobs(findings: Sequence[Finding]) -> list[Finding]:
    """Verdicts on every job among the processes looked at, and where its ranks stand."""
    jobs: dict[str, list[Data]] = defaultdict(list)
    for one in findings:
        if one.probe == PROCESS:
            shared = str(one.data.get("job", "")).startswith("port ")
            jobs[one.data["job"] if shared else f"{one.data.get('host')} {one.data.get('job')}"].append(
                one.data
            )
    found = []
    for members in jobs.values():
        ranks = [one for one in members if one["role"] in COMPUTES]
        if ranks:
            found += [*_places(ranks), *_crowded(ranks), *_judge(ranks)]
    return found


def judge_together(findings: Sequence[Finding]) -> list[Finding]:
    """All findings, with the verdicts over the processes of all nodes: what each node concluded alone gives way."""
    kept = [one for one in findings if one.probe not in (PROBE, PLACES, RAS)]
    return kept + judge_jobs(kept) + judge_ras(kept)


def _judge(ranks: Sequence[Data]) -> list[Finding]:
    lost = _missing(ranks)
    waiting = [one for one in ranks if one["kind"] == "waits" and one["still_s"] >= STUCK_S]
    holders = [one for one in ranks if one["kind"] in HOLDERS]
    moving = [
        one
        for one in ranks
        if one["kind"] in ("busy", "pause") or (one["kind"] == "waits" and one not in waiting)
    ]
    dead = [one for one in ranks if one["kind"] == "dead"]
    if (lost or dead) and waiting:
        return [_dead(lost, dead, waiting)]
    stopped = [one for one in holders if one["kind"] == "stopped"]
    if stopped:
        return [_holding(stopped, waiting)]
    if moving:
        return _slow(moving, waiting)
    if holders and waiting:
        return [_holding(holders, waiting)]
    if holders:
        return (
            [_holding(holders, waiting)]
            if len(holders) < len(ranks) or len(ranks) == 1
            else [_all_stuck(holders)]
        )
    return _all_waiting(waiting, ranks) if waiting else []


def _crowded(ranks: Sequence[Data]) -> list[Finding]:
    """More ranks than processors they may use, on a machine that has more: each rank's threads starve the others'."""
    found = []
    groups: dict[tuple[str, str], list[Data]] = defaultdict(list)
    for one in ranks:
        if one.get("cpus_allowed"):
            groups[(str(one.get("host")), str(one["cpus_allowed"]))].append(one)
    for (host, cpus), members in groups.items():
        have = members[0].get("cpus", 0)
        allowed = sum(_span(part) for part in cpus.split(","))
        if len(members) > allowed and have > allowed:
            text = f"{_who(members)} may all use only processor {cpus} of {have} on their node"
            data = {"cause": "numa-cpu-starvation", "certain": False, "host": host, "cpus_allowed": cpus}
            found.append(Finding(PROBE, _who(members), Status.FAIL, text, None, data))
    return found


def _span(part: str) -> int:
    low, _, high = part.partition("-")
    return int(high) - int(low) + 1 if low.isdigit() and high.isdigit() else 1


def _missing(ranks: Sequence[Data]) -> list[int]:
    """Ranks of a node, by the launcher's own numbers, that have no process there any more."""
    nodes: dict[str, list[Data]] = defaultdict(list)
    for one in ranks:
        nodes[str(one.get("host"))].append(one)
    lost = []
    for members in nodes.values():
        sizes = {one["local_world_size"] for one in members if "local_world_size" in one}
        offsets = {
            one["rank"] - one["local_rank"] for one in members if "rank" in one and "local_rank" in one
        }
        if len(sizes) == 1 and len(offsets) == 1:
            first = offsets.pop()
            here = {one["rank"] for one in members if "rank" in one and one["kind"] != "dead"}
            here.update(rank for one in members for rank in one.get("present", ()))
            lost += [rank for rank in range(first, first + sizes.pop()) if rank not in here]
    return sorted(lost)


def _numbers(ranks: Sequence[Data]) -> list[int]:
    return sorted(one["rank"] for one in ranks if "rank" in one)


def _who(ranks: Sequence[Data]) -> str:
    """`rank 3`, `ranks 0-2`, or the processes' names where they have no rank."""
    numbers = _numbers(ranks)
    if len(numbers) == len(ranks):
        return fold(numbers)
    return ", ".join(str(one["process"]) for one in ranks[:6]) + (
        f" and {len(ranks) - 6} more" if len(ranks) > 6 else ""
    )


def _verdict(cause: str | None, status: Status, text: str, culprits: Sequence[Data], **data: Any) -> Finding:
    extra: dict[str, Any] = {"cause": cause, "certain": False, "culprit": True} if cause else {}
    if len(culprits) == 1:
        one = culprits[0]
        extra |= {name: one[name] for name in ("rank", "host", "process", "phase") if name in one}
        if "rank" not in one:
            extra["component"] = one["process"]
    return Finding(PROBE, _who(culprits), status, text, None, {**extra, "ranks": _numbers(culprits), **data})


def _waits_text(waiting: Sequence[Data]) -> str:
    if not waiting:
        return ""
    sites: dict[str, list[Data]] = defaultdict(list)
    for one in waiting:
        sites[_call(one)].append(one)
    parts = [f"{_who(members)} in {call}" for call, members in sites.items()]
    if any("pasted" in one for one in waiting):  # how long, only who pasted it knows
        return f"; {', '.join(parts)} {'waits' if len(waiting) == 1 else 'wait'} for it"
    least = min(float(one["still_s"]) for one in waiting)
    return (
        f"; {', '.join(parts)} {'waits' if len(waiting) == 1 else 'wait'} for it since {least:.0f} s at least"
    )


def _call(one: Data) -> str:
    call = str(one.get("detail", "")).partition(" (")[0].rsplit(".", 1)[-1]
    return f"{call} with rank {one['peer']}" if "peer" in one else call


def _symptom(waiting: Sequence[Data]) -> str:
    """The cause that names what the others suffer from."""
    sites = {one.get("site") for one in waiting}
    return "rendezvous-timeout" if sites == {"rendezvous"} else "collective-timeout-slow-rank"


def _holding(holders: Sequence[Data], waiting: Sequence[Data]) -> Finding:
    texts = [_standing(one) for one in holders[:4]]
    text = "; ".join(texts) + _waits_text(waiting)
    kinds = sorted({one["kind"] for one in holders})
    if not waiting:  # nobody suffers from it as far as we see: what it waits in is told, no peer is accused
        return Finding(
            PROBE,
            _who(holders),
            Status.WARN,
            text,
            None,
            {"kind": kinds[0], "ranks": _numbers(holders), "unexplained": True},
        )
    return _verdict(
        _symptom(waiting),
        Status.FAIL,
        text,
        holders,
        waiting=len(waiting),
        kind=kinds[0],
        still_s=holders[0]["still_s"],
    )


def _standing(one: Data) -> str:
    name = (
        f"rank {one['rank']} ({one['process'].rsplit('(', 1)[-1]}" if "rank" in one else str(one["process"])
    )
    place = f" at {one['place']}" if one.get("place") else ""
    if one["kind"] == "stopped":
        return f"{name} is stopped (state {one['state']})"
    if one["kind"] == "blocked":
        return f"{name} is in uninterruptible sleep in {one.get('wchan', 'the kernel')}{place}"
    if one["kind"] == "gil":
        return f"{name} holds the GIL in a C call that does not return{place}"
    what = f" ({one['site']})" if one.get("site") else f" ({one['wchan']})" if one.get("wchan") else ""
    return f"{name} waits for nobody and does not move{place}{what}"


def _all_stuck(holders: Sequence[Data]) -> Finding:
    sites = sorted({str(one.get("site") or one.get("wchan") or "an unknown place") for one in holders})
    text = f"all {len(holders)} processes stand still in {', '.join(sites)}, and none waits for another"
    return Finding(
        PROBE, "", Status.WARN, text, None, {"kind": "all-stuck", "sites": sites, "unexplained": True}
    )


def _dead(lost: Sequence[int], dead: Sequence[Data], waiting: Sequence[Data]) -> Finding:
    gone = sorted({*lost, *_numbers(dead)})
    text = f"{fold(gone) or _who(dead)} has no living process on its node any more{_waits_text(waiting)}"
    hosts = {str(one["host"]) for one in waiting if one.get("host")}
    data: dict[str, Any] = {"cause": "worker-died", "certain": False, "culprit": True, "ranks": gone}
    if len(gone) == 1:
        data["rank"] = gone[0]
    if len(hosts) == 1:
        data["host"] = hosts.pop()
    return Finding(PROBE, fold(gone), Status.FAIL, text, None, data)


def _slow(moving: Sequence[Data], waiting: Sequence[Data]) -> list[Finding]:
    """Somebody still works: no hang. Where others have waited long for the few that do, that is worth a line."""
    long = [one for one in waiting if one["still_s"] >= LONG_WAIT_S]
    if not long or len(moving) > len(long):
        return []
    text = (
        f"{_who(moving)} still {'work' if len(moving) > 1 else 'works'} (slow, not stuck){_waits_text(long)}"
    )
    return [
        Finding(PROBE, _who(moving), Status.WARN, text, None, {"kind": "slow", "ranks": _numbers(moving)})
    ]


def _all_waiting(waiting: Sequence[Data], ranks: Sequence[Data]) -> list[Finding]:
    """Nobody is late here: another node holds them up, they call different things, or the transport stands still."""
    if len(waiting) < len(ranks):
        return []
    world = max((one.get("world_size", 0) for one in ranks), default=0)
    absent = (
        sorted(set(range(world)) - set(_numbers(ranks)))
        if world and len(_numbers(ranks)) == len(ranks)
        else []
    )
    sites: dict[tuple[str, str], list[Data]] = defaultdict(list)
    for one in waiting:
        sites[(str(one["site"]), _call(one))].append(one)
    if absent:
        since = (
            ""
            if any("pasted" in one for one in waiting)
            else f" since {min(one['still_s'] for one in waiting):.0f} s at least"
        )
        text = (
            f"all {len(ranks)} ranks looked at wait for others{since}; "
            f"{fold(absent)} of {world} were not looked at: attach there too and explain the reports together"
        )
        data: dict[str, Any] = {"kind": "absent", "absent": absent[:64], "unexplained": True}
        long = min(float(one["still_s"]) for one in waiting) >= LONG_WAIT_S
        if long and {one[0] for one in sites} == {"rendezvous"}:
            data |= {"cause": "rendezvous-timeout", "certain": False}
        return [Finding(PROBE, "", Status.FAIL if "cause" in data else Status.WARN, text, None, data)]
    if len(sites) > 1:
        return [_different(sites)]
    places = {str(one.get("place", "")) for one in waiting}
    site, call = next(iter(sites))
    if site in ("collective", "barrier", "transfer") and len(waiting) > 1:
        where = (
            f" at {places.copy().pop()}" if len(places) == 1 else f" at {len(places)} places of the program"
        )
        text = f"all {len(waiting)} ranks stand in {call}{where}: no rank is late; look at the network, the devices or the library, or at calls that differ in size or type"
        return [
            Finding(PROBE, "", Status.WARN, text, None, {"kind": "equal", "op": call, "unexplained": True})
        ]
    return []


def _different(sites: Mapping[tuple[str, str], Sequence[Data]]) -> Finding:
    """Every rank waits, but not for the same thing. Of three or more the one that departs is named."""
    ordered = sorted(sites.items(), key=lambda item: len(item[1]))
    smallest = ordered[0][1]
    odd = (
        smallest
        if len(ordered[-1][1]) > len(smallest) and len(smallest) * 2 < sum(len(one) for one in sites.values())
        else []
    )
    sides = "; ".join(
        f"{_who(members)} in {call} at {members[0].get('place', 'an unknown place')}"
        for (_, call), members in ordered
    )
    who = (
        f"; {_who(odd)} departed from the others"
        if odd
        else "; which of them is wrong cannot be told from the stacks"
    )
    return _verdict(
        "collective-desync",
        Status.FAIL,
        f"the ranks wait in different calls: {sides}{who}",
        odd,
        kind="different",
    )


def _places(ranks: Sequence[Data]) -> list[Finding]:
    """One finding a group of equal stacks: who stands where."""
    groups: dict[tuple[str, str], list[Data]] = defaultdict(list)
    for one in ranks:
        frames = [str(frame) for frame in one.get("frames", ()) if "wrapper" not in str(frame)][:3]
        groups[(str(one["kind"]), " < ".join(frames))].append(one)
    found = []
    for (kind, place), members in sorted(groups.items(), key=lambda item: -len(item[1])):
        text = f"{_who(members)}: {kind}{', ' + place if place else ', no Python stack'}"
        found.append(
            Finding(
                PLACES,
                _who(members),
                Status.OK,
                text,
                None,
                {"kind": kind, "ranks": _numbers(members)},
            )
        )
    return found
