"""All ranks' dumps side by side: one table a process group, whatever order the files came in. Pure.

Sequence numbers are compared within a group only; record numbers only within a rank.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from diag.observe.flight.dump import Call, GroupKey, GroupLog, RankDump

CONTEXT = 3
"""Calls before one that must have been seen before for the past to tell what comes next."""


class Pending(NamedTuple):
    """A call that a rank has not finished."""

    group: GroupKey
    call: Call


@dataclass(slots=True)
class Member:
    """One rank in one group."""

    rank: int
    log: GroupLog | None = None
    """None: the rank left a dump that knows nothing of this group, or no dump at all."""
    calls: dict[int, list[Call]] = field(default_factory=dict)
    enqueued: int = 0
    completed: int = 0

    def completed_seq(self, seq: int) -> bool:
        """True if the collective with this number is over for this rank."""
        here = self.calls.get(seq)
        return all(call.done for call in here) if here else self.completed >= seq


@dataclass(slots=True)
class Group:
    """A process group with all its members."""

    key: GroupKey
    description: str
    members: dict[int, Member]
    order: tuple[int, ...]
    """Global ranks in the group's own numbering; empty where the dumps do not tell it."""
    gloo: bool = False

    @property
    def label(self) -> str:
        """How a reader knows it."""
        name = self.description if self.description not in ("", "undefined") else "group"
        return "the default group" if name == "default_pg" else f"{name} (group {self.key[0]})"


@dataclass(slots=True)
class Table:
    """Everything aligned."""

    dumps: Mapping[int, RankDump]
    world: tuple[int, ...]
    groups: dict[GroupKey, Group]
    blocked: dict[int, Pending]
    """Each rank's oldest unfinished call: what its queue stands at."""

    @property
    def absent(self) -> tuple[int, ...]:
        """Ranks of the job that left no readable dump."""
        return tuple(rank for rank in self.world if rank not in self.dumps)


def build_table(dumps: Sequence[RankDump]) -> Table:
    """Join the dumps of all ranks (each with a rank of its own)."""
    by_rank = {
        dump.rank: dump for dump in sorted(dumps, key=lambda one: one.rank or 0) if dump.rank is not None
    }
    told = Counter(dump.world for dump in by_rank.values() if dump.world)
    world = told.most_common(1)[0][0] if told else tuple(range(max(by_rank, default=-1) + 1))
    logs: dict[GroupKey, dict[int, GroupLog]] = defaultdict(dict)
    for rank, dump in by_rank.items():
        for key, log in dump.groups.items():
            logs[key][rank] = log
    guessed = _guess_members(logs, world)
    groups = {}
    for key, seen in logs.items():
        order = key[1]
        ranks = order or guessed.get(key) or tuple(sorted(seen))
        members = {rank: _member(rank, seen.get(rank)) for rank in ranks}
        members.update({rank: _member(rank, log) for rank, log in seen.items() if rank not in members})
        description = next(iter(seen.values())).description
        if not order and _is_default(key, description):
            order = world
        gloo = any(by_rank[rank].backend == "gloo" for rank in seen)
        groups[key] = Group(key, description, members, order, gloo)
    blocked = {}
    for rank, dump in by_rank.items():
        pending = [
            Pending(key, call)
            for key, log in dump.groups.items()
            for call in (*log.calls, *log.transfers)
            if not call.done
        ]
        if pending:
            blocked[rank] = min(pending, key=lambda one: (one.call.record, one.call.created_ns))
    return Table(by_rank, tuple(world), groups, blocked)


def _is_default(key: GroupKey, description: str) -> bool:
    return description == "default_pg" or key[0] == "0"


def _member(rank: int, log: GroupLog | None) -> Member:
    member = Member(rank, log)
    if log is None:
        return member
    calls: dict[int, list[Call]] = defaultdict(list)
    for call in log.calls:
        calls[call.seq].append(call)
    for same in calls.values():
        same.sort(key=lambda call: call.op_id)
    member.calls = dict(calls)
    done = [seq for seq, same in calls.items() if all(call.done for call in same)]
    member.enqueued = max([*calls, log.enqueued if log.enqueued is not None else -1], default=-1)
    open_calls = [seq for seq, same in calls.items() if not all(call.done for call in same)]
    counted = log.completed if log.completed is not None else -1
    member.completed = max([*done, counted], default=-1)
    if open_calls:
        member.completed = min(member.completed, min(open_calls) - 1)
    return member


def _guess_members(
    logs: Mapping[GroupKey, Mapping[int, GroupLog]], world: Sequence[int]
) -> dict[GroupKey, tuple[int, ...]]:
    """Members of groups whose dumps do not tell them (gloo): the default group has everybody; of sibling groups that
    share a description and no rank, the only short one lacks those that are in none."""
    result: dict[GroupKey, tuple[int, ...]] = {}
    siblings: dict[str, list[GroupKey]] = defaultdict(list)
    for key, seen in logs.items():
        if key[1]:
            continue
        description = next(iter(seen.values())).description
        if _is_default(key, description):
            result[key] = tuple(world)
        else:
            siblings[description].append(key)
    for keys in siblings.values():
        seen_ranks = [rank for key in keys for rank in logs[key]]
        missing = set(world) - set(seen_ranks)
        sizes = [len(logs[key]) for key in keys]
        short = [key for key in keys if len(logs[key]) < max(sizes)]
        apart = len(seen_ranks) == len(set(seen_ranks))
        if missing and apart and len(short) == 1 and len(logs[short[0]]) + len(missing) == max(sizes):
            result[short[0]] = tuple(sorted((*logs[short[0]], *missing)))
    return result


class Split(NamedTuple):
    """Ranks of a group that made different calls at the same number."""

    group: GroupKey
    seq: int
    classes: tuple[tuple[str, tuple[int, ...]], ...]
    """(what they called, ranks), the largest class first."""
    odd: tuple[int, ...]
    """The ranks that departed; empty where that cannot be told."""
    by_past: bool
    """They were told by what the group did before, not by number."""
    kind: str
    """type, size or dtype."""


def find_split(group: Group) -> Split | None:
    """The first number at which members made different calls and that somebody has not finished."""
    seen = [member for member in group.members.values() if member.calls]
    for seq in _open_seqs(seen):
        classes: dict[tuple[object, ...], list[Member]] = defaultdict(list)
        for member in seen:
            if seq in member.calls:
                classes[tuple(call.signature for call in member.calls[seq])].append(member)
        if len(classes) > 1:
            return _split(group, seq, classes)
        if any(member.calls[seq][0].op == "all_to_all" for members in classes.values() for member in members):
            split = _uneven(group, seq)
            if split is not None:
                return split
    return None


def _open_seqs(seen: Iterable[Member]) -> list[int]:
    """Numbers that may have gone wrong: unfinished on a member, or a member's last."""
    numbers: set[int] = set()
    for member in seen:
        last = max(member.calls)
        numbers.add(last)
        numbers.update(seq for seq, same in member.calls.items() if not all(call.done for call in same))
    return sorted(numbers)


def _split(group: Group, seq: int, classes: Mapping[tuple[object, ...], list[Member]]) -> Split | None:
    ordered = sorted(classes.items(), key=lambda item: (-len(item[1]), item[1][0].rank))
    finished = [all(member.completed_seq(seq) for member in members) for _, members in ordered]
    last = max(member.enqueued for member in group.members.values())
    if all(finished) and not (
        group.gloo and seq == last
    ):  # gloo marks a call that failed as it marks one that went well
        return None  # they differed and went through all the same
    total = sum(len(members) for _, members in ordered)
    odd: tuple[int, ...] = ()
    by_past = False
    if len(ordered[0][1]) * 2 > total:
        odd = tuple(sorted(member.rank for _, members in ordered[1:] for member in members))
    else:
        expected = _expected(group, seq)
        departed = [members for signature, members in ordered if signature != expected]
        if expected is not None and len(departed) == len(ordered) - 1:
            odd = tuple(sorted(member.rank for members in departed for member in members))
            by_past = True
    shown = tuple(
        (describe(members[0].calls[seq]), tuple(sorted(member.rank for member in members)))
        for _, members in ordered
    )
    firsts = [members[0].calls[seq][0].signature for _, members in ordered]
    kind = (
        "type"
        if len({one[0] for one in firsts}) > 1
        else "size"
        if len({one[1] for one in firsts}) > 1
        else "dtype"
    )
    return Split(group.key, seq, shown, odd, by_past, kind)


def _uneven(group: Group, seq: int) -> Split | None:
    """An all-to-all in which more is sent than received: the sizes that ranks told each other do not fit."""
    calls = [call for member in group.members.values() for call in member.calls.get(seq, ())]
    if len(calls) < len(group.members) or all(call.done for call in calls):
        return None
    sent, received = sum(call.volume[0] for call in calls), sum(call.volume[1] for call in calls)
    if sent == received:
        return None
    text = f"all_to_all, {sent} elements sent and {received} expected in all"
    return Split(group.key, seq, ((text, tuple(sorted(group.members))),), (), False, "size")


def _expected(group: Group, seq: int) -> tuple[object, ...] | None:
    """What the group called the last time after the same few calls; None if the past tells nothing."""
    past: dict[int, set[tuple[object, ...]]] = defaultdict(set)
    for member in group.members.values():
        for number, same in member.calls.items():
            if number < seq:
                past[number].add(tuple(call.signature for call in same))
    agreed = {number: next(iter(signatures)) for number, signatures in past.items() if len(signatures) == 1}
    context = [agreed.get(seq - back) for back in range(1, CONTEXT + 1)]
    if None in context:
        return None
    for number in sorted(agreed, reverse=True):
        before = [agreed.get(number - back) for back in range(1, CONTEXT + 1)]
        if before == context:
            return agreed[number]
    return None


def describe(calls: Sequence[Call]) -> str:
    """`all_reduce of 4096 Float`."""
    call = calls[0]
    name, sizes, types = call.signature
    parts = " + ".join(str(size) for size in sizes[:4]) + (" + ..." if len(sizes) > 4 else "")
    what = f"{name} of {parts} {'/'.join(types)}".rstrip() if sizes else name
    return what if len(calls) == 1 else f"{len(calls)} operations at once, the first {what}"
