"""Flight-recorder dumps of torch 2.4 to 2.15, as pickle or JSON, gloo's and NCCL's, in one form.

Facts about the format: schema versions 2.3 to 2.10; keys pg_config, pg_status, entries (oldest first, a ring), nccl_version or
comm_lib_version. The JSON form writes numbers of pg_status as texts and 0 for "never". Gloo's form leaves every entry in the
state `scheduled` and marks the end with `retired`; its pg_config is empty and it records no send and no receive.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from diag.observe.flight.plainpickle import PickleRefused, load_plain
from diag.system.lazy import lazily

MAX_TENSORS, MAX_DIMS, MAX_FRAMES = 64, 16, 24
MAX_WORLD = 200_000
HISTORY = 400
"""Finished calls of a rank that are kept: enough to know a step again."""
GroupKey = tuple[str, tuple[int, ...]]
"""A process group: its name and its members (empty where the dump does not tell them)."""

Signature = tuple[str, tuple[int, ...], tuple[str, ...]]
"""What must agree between the ranks: operation, elements of each tensor, types."""


@dataclass(slots=True)
class Call:
    """One collective, send or receive that a rank enqueued."""

    seq: int
    """Number of the collective in its group; for send and receive that of the last collective before it."""
    op_id: int
    record: int
    signature: Signature
    done: bool
    started: bool
    """It runs on the device (NCCL only; gloo does not tell)."""
    gave_up: bool = False
    """Timed out or aborted: retired without having completed."""
    peer: int | None = None
    """Send and receive: the other side, numbered in the group; -1 for any."""
    created_ns: int = 0
    timeout_ms: int = 0
    place: str = ""
    """Innermost call of the program itself, `function (file:line)`, where the dump holds stacks."""
    volume: tuple[int, int] = (0, 0)
    """Elements that go in and come out (all-to-all may be uneven: only sums over all ranks must agree)."""

    @property
    def op(self) -> str:
        """The operation."""
        return self.signature[0]


@dataclass(slots=True)
class GroupLog:
    """What one rank recorded of one group."""

    name: str
    description: str
    members: tuple[int, ...] = ()
    calls: list[Call] = field(default_factory=list)
    transfers: list[Call] = field(default_factory=list)
    """Sends and receives."""
    enqueued: int | None = None
    started: int | None = None
    completed: int | None = None

    @property
    def key(self) -> GroupKey:
        """What makes it the same group on another rank."""
        return (self.name, self.members)


@dataclass(slots=True)
class RankDump:
    """One rank's dump. `problem` says what is wrong with the file, empty if nothing."""

    source: str
    rank: int | None = None
    version: str = ""
    backend: str = ""
    groups: dict[GroupKey, GroupLog] = field(default_factory=dict)
    world: tuple[int, ...] = ()
    """Members of the default group, where the dump tells them."""
    newest_ns: int = 0
    taken_ns: int | None = None
    """When the file was written, by the file system's clock."""
    problem: str = ""
    bytes: int = 0
    candidates: frozenset[int] | None = None
    """Ranks that the dump's own groups allow it to be of."""


def read_dump(source: str, data: bytes) -> RankDump:
    """Make a dump's bytes into calls by group. Never raises for bad content: `problem` says what it is."""
    dump = RankDump(source, rank_in_name(source), bytes=len(data))
    raw: Any = None
    try:
        if data[:1] == b"\x80":
            raw, cut = load_plain(data)
            dump.problem = "breaks off; the calls before were read" if cut else ""
        else:
            raw = json.loads(data)
    except PickleRefused as error:
        dump.problem = str(error)
    except (ValueError, RecursionError) as error:
        dump.problem = f"is damaged JSON: {str(error)[:120]}"
    if not isinstance(raw, Mapping) or not ({"entries", "pg_status", "pg_config"} & set(raw)):
        dump.problem = dump.problem or "is no flight-recorder dump"
        return dump
    dump.version = str(raw.get("version") or "")[:20]
    _Filler(dump, raw).fill()
    return dump


def rank_in_name(source: str) -> int | None:
    """The rank that a file's name tells: `..._rank_3`, `rank3.json`, `gpu07_dump_3`; None if it tells none."""
    name = source.rsplit("!", 1)[-1].rsplit("/", 1)[-1]
    named = re.findall(r"rank[-_.]?(\d{1,6})", name)
    if named:
        return int(named[-1])
    stem = re.sub(r"(?:\.(?:json|pkl|pickle|gz|zst|bin|txt|dump|trace|fr))+\Z", "", name)
    last = re.search(r"(\d{1,6})\Z", stem)
    return int(last[1]) if last else None


class _Filler:
    """Fills one dump from its raw values, suspicious of each."""

    def __init__(self, dump: RankDump, raw: Mapping[str, Any]) -> None:
        self.dump = dump
        self.raw = raw
        self.members = {
            str(name): (ranks_of(one.get("ranks")), str(one.get("desc") or ""))
            for name, one in _mapping(raw.get("pg_config")).items()
            if isinstance(one, Mapping) and name != ""
        }
        self.ids: dict[str, GroupKey] = {}
        self.known: dict[tuple[str, ...], tuple[Signature, int | None, tuple[int, int]]] = {}

    def fill(self) -> None:
        """Entries first: they tie the local number of a group to its name."""
        raw = self.raw.get("entries")
        entries: list[Mapping[str, Any]] = (
            [one for one in raw if isinstance(one, dict)] if isinstance(raw, list) else []
        )
        older: dict[Any, Mapping[str, Any]] = {}
        for entry in entries[:-HISTORY]:
            if entry.get("state") == "completed" or entry.get("retired"):
                older[str(entry.get("pg_id"))] = (
                    entry  # finished long ago: the last of each group tells how far it got
                )
            else:
                self._entry(entry)
        for entry in sorted(older.values(), key=lambda one: _int(one.get("record_id")) or 0):
            self._entry(entry)
        for entry in entries[-HISTORY:]:
            self._entry(entry)
        self._status()
        for group in self.dump.groups.values():
            if not self.dump.world and (group.description == "default_pg" or group.name == "0"):
                self.dump.world = group.members
        for members, description in self.members.values():
            if description == "default_pg" and members:
                self.dump.world = members
        own = [set(members) for members, _ in self.members.values() if members]
        self.dump.candidates = frozenset(set.intersection(*own)) if own else None

    def _entry(self, entry: Mapping[str, Any]) -> None:
        name, description = _pair(entry.get("process_group"))
        profiling = str(entry.get("profiling_name") or "")
        backend, _, operation = profiling.rpartition(":")
        if not operation:
            return
        members = self.members.get(name, ((), ""))[0]
        group = self.dump.groups.setdefault((name, members), GroupLog(name, description, members))
        self.ids[str(entry.get("pg_id"))] = group.key
        self.dump.backend = self.dump.backend or backend
        call = self._call(entry, operation, backend)
        if call is None:
            return
        self.dump.newest_ns = max(self.dump.newest_ns, call.created_ns)
        is_transfer = call.peer is not None or bool(entry.get("is_p2p"))
        (group.transfers if is_transfer else group.calls).append(call)

    def _call(self, entry: Mapping[str, Any], operation: str, backend: str) -> Call | None:
        seq, record = _int(entry.get("collective_seq_id")), _int(entry.get("record_id"))
        if seq is None:
            seq = _int(entry.get("seq_id"))  # before schema 2.3
        if seq is None:
            return None
        state, retired = str(entry.get("state")), bool(entry.get("retired"))
        gloo = backend == "gloo"
        done = retired if gloo else state == "completed"
        signature, peer, volume = self._shape(entry, operation)
        return Call(
            seq=seq,
            op_id=_int(entry.get("op_id")) or 0,
            record=record if record is not None else 0,
            signature=signature,
            done=done,
            started=state == "started" or bool(entry.get("time_discovered_started_ns")),
            gave_up=retired and not done,
            peer=peer,
            created_ns=_int(entry.get("time_created_ns")) or 0,
            timeout_ms=_int(entry.get("timeout_ms")) or 0,
            place="" if done else _place(entry.get("frames")),
            volume=volume,
        )

    def _shape(
        self, entry: Mapping[str, Any], operation: str
    ) -> tuple[Signature, int | None, tuple[int, int]]:
        """Signature, peer and volume; a step's few calls come again and again."""
        sizes, types = (entry.get("input_sizes"), entry.get("output_sizes")), entry.get("input_dtypes")
        key = (
            operation,
            str(sizes)[:2000],
            str(types)[:500],
            "" if types else str(entry.get("output_dtypes"))[:500],
        )
        if key not in self.known:
            name, peer = _operation(operation)
            inputs, outputs = _sizes(sizes[0]), _sizes(sizes[1])
            signature = _signature(name, inputs, outputs, _texts(types) or _texts(entry.get("output_dtypes")))
            self.known[key] = (signature, peer, (sum(inputs), sum(outputs)))
        return self.known[key]

    def _status(self) -> None:
        """The counters. Those of gloo count sends too and cannot be compared: its entries tell enough."""
        if self.dump.backend == "gloo":
            return
        status = _mapping(self.raw.get("pg_status"))
        unnamed = [one for one in status if str(one) not in self.ids]
        silent = [name for name in self.members if not any(key[0] == name for key in self.ids.values())]
        if len(unnamed) == len(silent):
            # A group without an entry in the ring is tied to its name by order of creation only.
            for one, name in zip(sorted(unnamed, key=_natural), sorted(silent, key=_natural), strict=True):
                members, description = self.members[name]
                self.dump.groups[(name, members)] = GroupLog(name, description, members)
                self.ids[str(one)] = (name, members)
        for one, counters in status.items():
            key = self.ids.get(str(one))
            if key is None or not isinstance(counters, Mapping):
                continue
            group = self.dump.groups[key]
            group.enqueued = _int(counters.get("last_enqueued_collective"))
            group.started = _int(counters.get("last_started_collective"))
            group.completed = _int(counters.get("last_completed_collective"))


_RENAMED = {
    "_all_gather_base": "all_gather", "all_gather_into_tensor": "all_gather", "all_gather_single": "all_gather",
    "_reduce_scatter_base": "reduce_scatter", "reduce_scatter_tensor": "reduce_scatter", "reduce_scatter_single": "reduce_scatter",
    "all_to_all_single": "all_to_all", "all_to_allv": "all_to_all", "all_reduce_barrier": "barrier",
    "_broadcast_oop": "broadcast", "_reduce_oop": "reduce",
}  # fmt: skip
"""The same operation on the wire under several names."""
_TRANSFER = lazily(r"(send|recv)(?:_any_source)? (\d+)(?:->|<-)(\d+|\?)\Z")


def _operation(text: str) -> tuple[str, int | None]:
    """`recv 0<-3` -> (recv, 3); `_all_gather_base` -> (all_gather, None)."""
    match = _TRANSFER.match(text)
    if match:
        return match[1], -1 if match[3] == "?" else int(match[3])
    if text.startswith("recv_any_source"):
        return "recv", -1
    return _RENAMED.get(text, text)[:60], None


def _signature(
    name: str, inputs: tuple[int, ...], outputs: tuple[int, ...], types: tuple[str, ...]
) -> Signature:
    """What all ranks must agree on; the sides of a tensor that only the root has are left out."""
    if name in ("barrier", "all_to_all"):
        return (name, (), types if name == "all_to_all" else ())
    if name == "scatter":
        return (name, outputs, types)
    return (name, inputs or outputs, types)


def _int(value: object) -> int | None:
    """A number that a counter or a time can be; texts as in JSON's pg_status; None otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    try:
        number = int(value) if isinstance(value, int) or len(value) < 20 else None
    except ValueError:
        return None
    return number if number is not None and abs(number) < 1 << 63 else None


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _pair(value: object) -> tuple[str, str]:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return str(value[0])[:120], str(value[1])[:120]
    return str(value)[:120] if isinstance(value, (str, int)) else "", ""


def ranks_of(value: object) -> tuple[int, ...]:
    """`"[0, 1]"` (a text in every version seen) or a list, as numbers."""
    if isinstance(value, str) and len(value) <= 10 * MAX_WORLD:
        return tuple(int(number) for number in re.findall(r"\d{1,7}", value))
    if isinstance(value, (list, tuple)):
        return tuple(number for one in value[:MAX_WORLD] if (number := _int(one)) is not None)
    return ()


def _sizes(value: object) -> tuple[int, ...]:
    """Elements of each tensor."""
    if not isinstance(value, (list, tuple)):
        return ()
    sizes = []
    for dims in value[:MAX_TENSORS]:
        if isinstance(dims, (list, tuple)):
            numbers = [number for one in dims[:MAX_DIMS] if (number := _int(one)) is not None]
            sizes.append(min(prod(numbers), 1 << 62))
    return tuple(sizes)


def _texts(value: object) -> tuple[str, ...]:
    """Types of the tensors, each once: how many there are is told by the sizes."""
    if not isinstance(value, (list, tuple)):
        return ()
    return tuple(dict.fromkeys(str(one)[:30] for one in value[:MAX_TENSORS] if isinstance(one, str)))


def _place(frames: object) -> str:
    """The innermost call outside torch."""
    if not isinstance(frames, (list, tuple)):
        return ""
    for frame in frames[:MAX_FRAMES]:
        if isinstance(frame, Mapping):
            name, file = str(frame.get("name") or "")[:80], str(frame.get("filename") or "")[:300]
            if name and "/torch/" not in file and "site-packages/torch" not in file:
                return f"{name} ({file}:{_int(frame.get('line')) or 0})"
    return ""


def _natural(name: object) -> tuple[int, str]:
    text = str(name)
    return (int(text) if text.isdigit() and len(text) < 18 else 1 << 60, text)


def settle_ranks(dumps: Iterable[RankDump]) -> list[RankDump]:
    """Give each dump its rank: by name, else as the only one that its groups leave; keep the newest of each rank.

    A name that its own groups contradict is not believed. What has to stand back gets a `problem`.
    """
    dumps = list(dumps)
    for dump in dumps:
        if dump.candidates and dump.rank not in dump.candidates:
            dump.rank = None
    taken = {dump.rank for dump in dumps if dump.rank is not None}
    for dump in dumps:
        if dump.rank is None and dump.candidates:
            left = dump.candidates - taken
            if len(left) == 1:
                dump.rank = next(iter(left))
                taken.add(dump.rank)
    newest: dict[int, RankDump] = {}
    for dump in dumps:
        if not dump.groups:
            continue
        if dump.rank is None:
            dump.problem = (
                dump.problem or "does not tell which rank wrote it; put the rank at the end of its name"
            )
            continue
        other = newest.get(dump.rank)
        if other is None:
            newest[dump.rank] = dump
        else:
            older, newer = sorted((other, dump), key=lambda one: (one.newest_ns, one.source))
            newest[dump.rank] = newer
            older.problem = f"is an older dump of rank {dump.rank}; {newer.source} was judged"
    return [newest[rank] for rank in sorted(newest)]
