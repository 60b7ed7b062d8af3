"""Who waits for whom: edges between ranks, and where they end. Pure.

A rank stands at its oldest unfinished call. It waits for members that have not enqueued that call, and for members whose
own queue stands at something earlier. Whoever is waited for and waits for nobody holds the others up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from diag.diagnose.flight.table import Group, Pending, Split, Table, find_split
from diag.observe.flight.dump import Call


@dataclass(slots=True)
class Waiting:
    """The wait-for graph."""

    edges: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    splits: list[Split] = field(default_factory=list)
    queue_behind: set[int] = field(default_factory=set)
    """Ranks whose device has not finished what others have, or not begun what others run."""
    unmatched: dict[int, Pending] = field(default_factory=dict)
    """Ranks that wait in a send or receive without a counterpart."""

    def sinks(self) -> tuple[int, ...]:
        """Ranks that are waited for and wait for nobody."""
        waited = {rank for targets in self.edges.values() for rank in targets}
        return tuple(sorted(rank for rank in waited if not self.edges.get(rank)))

    def behind(self, rank: int) -> tuple[int, ...]:
        """Every rank that waits for `rank`, directly or through others."""
        reverse: dict[int, set[int]] = defaultdict(set)
        for waiter, targets in self.edges.items():
            for target in targets:
                reverse[target].add(waiter)
        return tuple(sorted(reachable(reverse, rank) - {rank}))

    def cycles(self) -> list[tuple[int, ...]]:
        """Sets of ranks that wait for each other and for nobody else."""
        reach = {rank: reachable(self.edges, rank) for rank, targets in self.edges.items() if targets}
        found = {
            tuple(sorted(inside))
            for rank, inside in reach.items()
            if rank in inside and all(reach.get(other) == inside for other in inside)
        }
        return sorted(found)


def reachable(edges: Mapping[int, set[int]], start: int) -> set[int]:
    """Every rank that can be reached by following edges from `start` (itself only through a circle)."""
    seen: set[int] = set()
    todo = list(edges.get(start, ()))
    while todo:
        rank = todo.pop()
        if rank not in seen:
            seen.add(rank)
            todo += edges.get(rank, ())
    return seen


def build_graph(table: Table) -> Waiting:
    """Edges from collectives, sends and receives, and calls that differ."""
    graph = Waiting()
    for group in table.groups.values():
        split = find_split(group)
        if split is not None:
            graph.splits.append(split)
    split_at = {split.group: split for split in graph.splits}
    for rank, pending in table.blocked.items():
        group = table.groups[pending.group]
        if pending.call.peer is not None:
            _add_transfer(graph, table, rank, pending, group)
        else:
            _add_collective(graph, table, rank, pending, split_at.get(pending.group))
    for rank in graph.queue_behind:
        graph.edges[rank] = set()
    return graph


def _add_collective(graph: Waiting, table: Table, rank: int, pending: Pending, split: Split | None) -> None:
    group, seq = table.groups[pending.group], pending.call.seq
    if split is not None and split.seq <= seq and split.odd:
        if rank not in split.odd:
            graph.edges[rank].update(split.odd)
        return
    for other, member in group.members.items():
        if other == rank:
            continue
        if member.enqueued < seq or (
            not member.completed_seq(seq) and _queue_stands_before(table, other, pending)
        ):
            graph.edges[rank].add(other)
    mine = group.members[rank]
    finished = [
        other for other, member in group.members.items() if other != rank and member.completed_seq(seq)
    ]
    if (
        finished
        and len(finished) * 2 >= len(group.members) - 1
        and not graph.edges[rank]
        and mine.log is not None
    ):
        graph.queue_behind.add(rank)
    _add_unstarted(graph, group, seq)


def _queue_stands_before(table: Table, rank: int, pending: Pending) -> bool:
    """True if `rank` has enqueued the call but its queue still stands at an earlier one."""
    standing = table.blocked.get(rank)
    if standing is None:
        return False
    return (standing.group, standing.call.seq) != (pending.group, pending.call.seq) and any(
        standing.call.record < call.record
        for call in table.groups[pending.group].members[rank].calls.get(pending.call.seq, ())
    )


def _add_unstarted(graph: Waiting, group: Group, seq: int) -> None:
    """Most members run the operation on their devices and a few have not begun it: those devices are late."""
    here = {rank: member.calls[seq] for rank, member in group.members.items() if seq in member.calls}
    started = [rank for rank, calls in here.items() if any(call.started for call in calls)]
    late = [rank for rank, calls in here.items() if not any(call.started or call.done for call in calls)]
    if late and len(started) > len(late) and len(here) == len(group.members):
        for rank in started:
            if rank not in graph.queue_behind:
                graph.edges[rank].update(late)
        graph.queue_behind.update(late)


def _add_transfer(graph: Waiting, table: Table, rank: int, pending: Pending, group: Group) -> None:
    """A send or receive waits for the other side to post its own."""
    peer = _global(group, pending.call.peer)
    if peer is None or peer == rank:
        return
    other = table.dumps.get(peer)
    counterpart = "recv" if pending.call.op == "send" else "send"
    posted = _posted(
        other.groups[pending.group].transfers if other and pending.group in other.groups else (),
        group,
        counterpart,
        rank,
    )
    if any(not call.done for call in posted):
        sizes = {call.signature[1:] for call in posted if not call.done} | {pending.call.signature[1:]}
        if len(sizes) == 1 or not pending.call.signature[1]:
            standing = table.blocked.get(peer)
            mine = next(call for call in posted if not call.done)
            if standing is not None and standing.call.record < mine.record and standing.call.peer is None:
                graph.edges[rank].add(peer)  # it comes to that only after what it stands at
            return
    graph.edges[rank].add(peer)
    graph.unmatched[rank] = pending


def _posted(transfers: Iterable[Call], group: Group, op: str, rank: int) -> list[Call]:
    return [
        call for call in transfers if call.op == op and (call.peer == -1 or _global(group, call.peer) == rank)
    ]


def _global(group: Group, local: int | None) -> int | None:
    """The global rank of a number in a group."""
    if local is None or local < 0:
        return None
    if group.order:
        return group.order[local] if local < len(group.order) else None
    return local
