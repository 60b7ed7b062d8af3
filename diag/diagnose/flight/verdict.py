"""From the wait-for graph to findings, each with the culprit it names. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from diag.diagnose.flight.graph import Waiting, build_graph
from diag.diagnose.flight.table import Pending, Split, Table, build_table, describe
from diag.diagnose.ranges import fold
from diag.model import Finding, Gap, Status
from diag.observe.flight.dump import Call, RankDump, settle_ranks

PROBE = "flight.collectives"
YOUNG_S = 1.0
"""A call younger than this when the dump was written, or than 1.5 of the longest pause before, may just be running."""


def judge_dumps(dumps: Sequence[RankDump]) -> tuple[list[Finding], list[Gap]]:
    """What all dumps together say, and which of them could not be used."""
    chosen = settle_ranks(sorted(dumps, key=lambda one: one.source))
    gaps = [Gap(one.source, one.problem, "write or copy the dump again") for one in dumps if one.problem]
    if not chosen:
        return [], gaps
    table = build_table(chosen)
    findings = [_overview(table)]
    gaps += [
        Gap(
            f"flight-recorder dump of {fold(table.absent)}",
            "there is none among the files",
            "its folder on that rank's node",
        )
    ] * bool(table.absent)
    graph = build_graph(table)
    found = _splits(table, graph)
    if found:
        return findings + found, gaps
    found = [*_culprits(table, graph), *_cycles(table, graph)] or _all_equal(table, graph)
    young = _too_young(table)
    if young:
        note = (
            f"; the oldest of these calls was only {young:.1f} s old when the dumps were written, "
            "so the job may just be running"
        )
        found = [
            Finding(
                PROBE,
                one.subject,
                Status.OK,
                one.summary + note,
                None,
                {"seq": one.data.get("seq"), "young": True},
            )
            for one in found
        ]
    return findings + found, gaps


def _overview(table: Table) -> Finding:
    calls = sum(
        len(log.calls) + len(log.transfers) for dump in table.dumps.values() for log in dump.groups.values()
    )
    versions = sorted({dump.version for dump in table.dumps.values() if dump.version})
    text = (
        f"flight-recorder dumps of {len(table.dumps)} of {len(table.world)} ranks: {calls} calls in {len(table.groups)} groups; "
        f"{len(table.blocked)} ranks have calls that are not finished"
    )
    backends = sorted({dump.backend for dump in table.dumps.values() if dump.backend})
    return Finding("flight.dumps", "", Status.OK, text, None, {
        "ranks": len(table.dumps), "world_size": len(table.world), "waiting": len(table.blocked), "schema": versions, "backends": backends,
    })  # fmt: skip


def _found(
    cause: str | None, status: Status, text: str, ranks: Sequence[int], certain: bool, **data: Any
) -> Finding:
    extra: dict[str, Any] = {"cause": cause, "culprit": True, "certain": certain} if cause else {}
    if len(ranks) == 1:
        extra["rank"] = ranks[0]
    subject = fold(ranks) if ranks else ""
    return Finding(PROBE, subject, status, text, None, {**extra, "ranks": list(ranks)[:64], **data})


def _splits(table: Table, graph: Waiting) -> list[Finding]:
    """Ranks that call different operations, sizes or types at the same number."""
    found = []
    for split in graph.splits:
        group = table.groups[split.group]
        sides = "; ".join(f"{fold(ranks)}: {what}" for what, ranks in split.classes[:4])
        place = _place_of(table, split.odd[0], split) if split.odd else ""
        where = f", at {place}" if place else ""
        who = (
            f"{fold(split.odd)} departed from the others"
            if split.odd
            else "which side is wrong cannot be told from the dumps"
        )
        past = " (by what the group called before)" if split.by_past else ""
        differ = {"type": "operation", "size": "size", "dtype": "type of elements"}[split.kind]
        text = f"the ranks of {group.label} differ in the {differ} of collective {split.seq}: {sides}; {who}{past}{where}"
        found.append(_found(
            "collective-desync", Status.FAIL, text, split.odd, bool(split.odd) and not split.by_past,
            seq=split.seq, group=group.key[0], kind=split.kind, op=split.classes[0][0],
        ))  # fmt: skip
    return found


def _place_of(table: Table, rank: int, split: Split) -> str:
    calls = table.groups[split.group].members[rank].calls.get(split.seq, [])
    return calls[0].place if calls else ""


def _culprits(table: Table, graph: Waiting) -> list[Finding]:
    """Ranks at which all waiting ends, by what they do themselves."""
    kinds: dict[str, list[int]] = defaultdict(list)
    for rank in (*graph.sinks(), *(one for one in sorted(graph.queue_behind) if one not in graph.sinks())):
        if rank not in table.dumps:
            kinds["absent"].append(rank)
        elif rank in graph.queue_behind:
            kinds["device"].append(rank)
        elif all(one in graph.unmatched for one, targets in graph.edges.items() if rank in targets):
            kinds["transfer"].append(rank)
        else:
            kinds["late"].append(rank)
    if kinds.keys() - {"absent"}:
        kinds.pop(
            "absent", None
        )  # somebody who left a dump explains the waiting: no need to accuse the silent
    return [_culprit(table, graph, kind, ranks) for kind, ranks in kinds.items()]


def _culprit(table: Table, graph: Waiting, kind: str, ranks: list[int]) -> Finding:
    waiting = sorted({one for rank in ranks for one in graph.behind(rank)} - set(ranks))
    pending = _typical(
        table, [one for one in waiting if graph.edges.get(one, set()) & set(ranks)] or waiting or ranks
    )
    data: dict[str, Any] = {"waiting": len(waiting), "kind": kind}
    what = ""
    if pending is not None:
        group = table.groups[pending.group]
        data.update(seq=pending.call.seq, group=group.key[0], op=pending.call.op)
        what = f"{_call_text(pending.call)} of {group.label}"
    who, wait = fold(ranks), fold(waiting)
    stand = _standing(table, ranks, pending)
    if kind == "absent":
        text = f"{wait} wait in {what} for {who}, of which there is no dump: it died, or hung before it could write one"
        return _found("worker-died", Status.FAIL, text, ranks, False, **data)
    if kind == "device":
        verb = "has" if len(ranks) == 1 else "have"
        text = f"{who} {verb} enqueued {what or 'the same operations'} like the others, but the GPU side does not get on{stand}; {wait or 'the others'} wait"
        return _found("collective-timeout-slow-rank", Status.FAIL, text, ranks, False, **data)
    if kind == "transfer":
        text = f"{wait} wait in {what}, whose counterpart {who} never posted{stand}"
        return _found("collective-desync", Status.FAIL, text, ranks, False, **data)
    text = f"{wait} wait in {what} for {who}, which never called it{stand}"
    return _found("collective-timeout-slow-rank", Status.FAIL, text, ranks, False, **data)


def _typical(table: Table, ranks: Sequence[int]) -> Pending | None:
    """The unfinished call that most of these ranks stand at."""
    standing = [table.blocked[rank] for rank in ranks if rank in table.blocked]
    votes = Counter((one.group, one.call.seq, one.call.op) for one in standing)
    if not votes:
        return None
    chosen = min(votes, key=lambda key: (-votes[key], key[1]))
    return next(one for one in standing if (one.group, one.call.seq, one.call.op) == chosen)


def _call_text(call: Call) -> str:
    number = "" if call.peer is not None else f" (collective {call.seq})"
    where = f", called at {call.place}," if call.place else ""
    return f"{describe([call])}{number}{where}"


def _standing(table: Table, ranks: Sequence[int], pending: Pending | None) -> str:
    """Where the culprit itself is in that group."""
    if len(ranks) != 1 or pending is None:
        return ""
    member = table.groups[pending.group].members.get(ranks[0])
    if member is None or member.log is None:
        return "; it has called nothing in that group"
    last = member.calls.get(member.enqueued)
    text = f"; its last call there is {describe(last)} (collective {member.enqueued})" if last else ""
    place = table.blocked[ranks[0]].call.place if ranks[0] in table.blocked else ""
    return text + (f"; it stands at {place}" if place else "")


def _cycles(table: Table, graph: Waiting) -> list[Finding]:
    """Ranks that wait for each other: they call the collectives of two groups in different orders."""
    found = []
    for ranks in graph.cycles():
        places: dict[tuple[str, int, str], list[int]] = defaultdict(list)
        for rank in ranks:
            if rank in table.blocked:
                pending = table.blocked[rank]
                places[(table.groups[pending.group].label, pending.call.seq, pending.call.op)].append(rank)
        if not places:
            continue
        sides = "; ".join(
            f"{fold(members)} in {op} (collective {seq}) of {label}"
            for (label, seq, op), members in places.items()
        )
        sizes = sorted((len(members), tuple(members)) for members in places.values())
        odd = sizes[0][1] if len(sizes) > 1 and sizes[0][0] < sizes[1][0] else ()
        who = (
            f"{fold(odd)} alone takes another order"
            if odd
            else "which order is wrong cannot be told from the dumps"
        )
        text = f"{fold(ranks)} wait for each other: {sides}; {who}"
        found.append(_found("collective-desync", Status.FAIL, text, odd, False, kind="order"))
    return found


def _all_equal(table: Table, graph: Waiting) -> list[Finding]:
    """Everybody waits at the same place: no rank is to blame."""
    if not table.blocked or any(graph.edges.values()):
        return []
    pending = _typical(table, sorted(table.blocked))
    if pending is None:
        return []
    members = table.groups[pending.group].members
    inside = [rank for rank in members if rank in table.blocked]
    gave_up = any(one.call.gave_up for one in table.blocked.values())
    if not inside or len(inside) < len(members):
        return []
    text = (
        f"all {len(inside)} ranks have called {_call_text(pending.call)} of {table.groups[pending.group].label} and none has finished it: "
        "no rank is late; look at the network, the devices or the library"
    )
    status = Status.WARN
    return [_found(None, status, text, (), False, seq=pending.call.seq, kind="equal", timed_out=gave_up)]


def _too_young(table: Table) -> float:
    """Age in seconds of the oldest unfinished call if it is too young to prove a hang; 0 otherwise or where unknown."""
    taken = [dump.taken_ns for dump in table.dumps.values()]
    created = [pending.call.created_ns for pending in table.blocked.values()]
    told = [one for one in taken if one is not None]
    if not created or len(told) < len(taken) or min(created) <= 0 or max(told) < min(created):
        return 0.0
    if any(pending.call.gave_up for pending in table.blocked.values()):
        return 0.0
    usual_s = 0.0
    for dump in table.dumps.values():
        times = sorted(call.created_ns for log in dump.groups.values() for call in log.calls if call.done)
        pauses = [(after - before) / 1e9 for before, after in pairwise(times)]
        usual_s = max([usual_s, *pauses[len(pauses) // 2 :]])  # the beginning is slow in every job
    age_s = (max(told) - min(created)) / 1e9
    return age_s if age_s < max(YOUNG_S, 1.5 * usual_s) else 0.0
