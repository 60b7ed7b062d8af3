"""Who is who over all files: the rank of a process, the machine of a rank, the names of one machine. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from diag.model import Observation
from diag.observe.logs.filestate import FileReading
from diag.observe.logs.identity import Introduction
from diag.system.lazy import lazily

Process = tuple[str, str | None, int]
"""(file, machine, pid)"""

MAX_WORLD = 100_000
AFTERWORDS = 8
"""Lines behind an exception that still belong to it: `Last error:` and what it says."""

IDLE_SHARE, BUSY_SHARE = 5, 90
"""Utilisation in percent."""
DESCRIPTION = 6
"""Lines of a pod's description from its name to its node."""
SPEECH = 60
"""Lines of the traceback that a rank prints behind a sentence about itself."""

_PID = lazily(r"\bpid=(\d+)")
_ADDRESS = lazily(r"\d+\.\d+\.\d+\.\d+\Z")
_CONTAINER = lazily(r"[0-9a-f]{12}(?:[0-9a-f]{52})?\Z")


@dataclass(slots=True)
class Whois:
    """What the lines that introduce somebody say together."""

    world: int | None = None
    _ranks: dict[Process, dict[int, int]] = field(default_factory=dict)
    """Process -> rank it calls itself -> size of the biggest group in which it does."""
    _files: dict[str, set[int]] = field(default_factory=dict)
    """File -> ranks that its lines name as their writer."""
    _places: dict[int, set[str]] = field(default_factory=dict)
    _tables: list[tuple[tuple[str, int], ...]] = field(default_factory=list)
    _names: dict[str, set[str]] = field(default_factory=dict)
    """Address -> host names."""
    _nodes: dict[str, set[str]] = field(default_factory=dict)
    """Pod or container -> machines."""
    _own: dict[str, set[int]] = field(default_factory=dict)
    """File -> ranks that say so of themselves in a file that is theirs."""
    unready: set[str] = field(default_factory=set)
    """Pods that a listing shows as not running."""
    looked_at: set[str] = field(default_factory=set)
    """Nodes that somebody looks at with kubectl."""
    absent: Counter[int] = field(default_factory=Counter)
    """Rank -> how often a launcher lists it among those that have not come."""
    idle_gpu: tuple[str, int] | None = None
    """(file, index) of the one GPU that does nothing while all others of its machine are busy."""
    _tasks: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """File -> (line, machine) of Ray tasks whose traceback begins there."""
    _speeches: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)
    """File -> (first line, last line, rank) of exceptions whose writer is known."""

    @property
    def hosts(self) -> set[str]:
        """Machines that tables and introductions name."""
        told = {place for places in self._places.values() for place in places}
        return told | {host for table in self._tables for host, _ in table}

    @property
    def ranks(self) -> set[int]:
        """Ranks that introduce themselves or whose processes are known."""
        own = {rank for mine in self._files.values() for rank in mine}
        return own | set(self._places) | {rank for told in self._ranks.values() for rank in told}

    @property
    def claimed_twice(self) -> int | None:
        """The lowest rank that processes on two machines call themselves while others below the world's size are nobody's."""
        machines = {rank: distinct(hosts, self) for rank, hosts in self._places.items()}
        claims = sum(map(len, machines.values()))
        twice = [rank for rank, hosts in machines.items() if len(hosts) > 1]
        missing = self.world is not None and len(set(machines) & set(range(self.world))) < self.world
        return min(twice) if twice and missing and claims == self.world else None

    def rank_of(self, one: Observation) -> int | None:
        """The rank that wrote a line: by its head, its process, the exception around it."""
        origin = one.origin
        if origin.rank is not None:
            return origin.rank
        pid = _PID.search(origin.process or "")
        if pid:
            return self.rank_of_pid(origin.source, origin.host, int(pid[1]))
        if origin.host is None and origin.time_s is None and origin.process is None:
            told = {
                rank
                for first, last, rank in self._speeches.get(origin.source, ())
                if first <= one.order <= last
            }
            if len(told) == 1:
                return told.pop()
        return self.rank_of_file(origin.source)

    def rank_of_pid(self, source: str, host: str | None, pid: int) -> int | None:
        """The rank of a process; another file's word counts only where the machine is the same."""
        told = self._ranks.get((source, host, pid))
        if told is None:
            near = [
                ranks
                for (file, where, number), ranks in self._ranks.items()
                if number == pid and (file == source or where == host)
            ]
            told = near[0] if len(near) == 1 else None
        if not told:
            return None
        widest = max(told.values())
        ranks = [rank for rank, size in told.items() if size == widest]
        return ranks[0] if len(ranks) == 1 and self._alone(ranks[0], widest) else None

    def _alone(self, rank: int, size: int) -> bool:
        """False where several processes are this rank of groups of one size: then it is no rank of the launch."""
        return (
            len({(where, pid) for (_, where, pid), told in self._ranks.items() if told.get(rank) == size})
            == 1
        )

    def rank_of_file(self, source: str) -> int | None:
        """The only rank whose lines a file holds, where each of several ranks has a file of its own."""
        mine = self._files.get(source, set())
        others = [ranks for name, ranks in self._files.items() if name != source and ranks]
        if len(mine) != 1 or any(len(ranks) != 1 or ranks == mine for ranks in others):
            return None
        complete = self.world is None or len(others) + 1 == self.world or self._own.get(source) == mine
        return next(iter(mine)) if others and complete else None

    def host_of_rank(self, rank: int) -> str | None:
        """The machine of a rank by tables and introductions."""
        places = self._places.get(rank, set())
        named = {place for place in places if not _ADDRESS.match(place)} or places
        if named:
            return next(iter(named)) if len(named) == 1 else None
        for table in self._tables:
            first = 0
            for host, count in table:
                if first <= rank < first + count:
                    return host
                first += count
        return None

    def host_of_task(self, one: Observation) -> str | None:
        """The machine of the innermost Ray task in whose traceback a line stands."""
        first = int(one.fields.get("begin_line", one.order - SPEECH))
        above = [host for line, host in self._tasks.get(one.origin.source, ()) if first <= line <= one.order]
        return above[-1] if above else None

    def rank_of_gpu(self, host: str | None, gpu: int) -> int | None:
        """The global rank of a machine's GPU, where a table says how many ranks each machine has."""
        for table in self._tables:
            first = 0
            for name, count in table:
                if host is not None and self.same(name, host) and gpu < count:
                    return first + gpu
                first += count
        return None

    def node_of(self, host: str) -> str:
        """The machine below a pod or container; the name itself where no line tells."""
        nodes = self._nodes.get(host, set())
        return next(iter(nodes)) if len(nodes) == 1 else host

    def name_of(self, host: str) -> str:
        """The name of an address, where exactly one is known."""
        named = self._names.get(host, set())
        return next(iter(named)) if _ADDRESS.match(host) and len(named) == 1 else host

    def same(self, one: str, other: str) -> bool:
        """True if both names are known to be one machine's."""
        return _short(one) == _short(other) or bool(self.names(one) & self.names(other))

    def names(self, host: str) -> set[str]:
        """All names of a machine, the given one included."""
        found = {host, _short(host)}
        for address, named in self._names.items():
            if address == host or named & found:
                found |= {address, *named}
        return found


def introduce(readings: Sequence[FileReading]) -> Whois:
    """Gather what all files say."""
    who = Whois()
    worlds: list[int] = []
    for reading in readings:
        mine = who._files.setdefault(reading.name, set())
        for one in reading.who:
            worlds += [one.world] if one.world is not None else []
            if one.rank is not None and one.kind in ("rank", "self", "place"):
                _take_rank(who, reading.name, one.host, one.pid, one.rank, one.world or 0)
            if one.rank is not None and one.kind in ("rank", "self"):
                mine.add(one.rank)
            if one.rank is not None and one.kind == "self":
                who._own.setdefault(reading.name, set()).add(one.rank)
            if one.rank is not None and one.kind == "speech":
                who._speeches.setdefault(reading.name, []).append((one.line, one.line + SPEECH, one.rank))
            if one.rank is not None and one.kind == "absent":
                who.absent[one.rank] += 1
            if one.host and one.kind == "node":
                who.looked_at.add(one.host)
            _take_machine(who, reading, one)
            if one.kind == "place" and one.rank is not None and one.host:
                who._places.setdefault(one.rank, set()).add(one.host)
            if one.kind == "alias" and one.host and one.address and not _ADDRESS.match(one.host):
                who._names.setdefault(one.address, set()).add(_short(one.host))
            if one.ranks:
                who._tables.append(one.ranks)
        _take_lines(who, reading, mine)
        _take_gpus(who, reading)
    who.world = max((world for world in worlds if world <= MAX_WORLD), default=None)
    return who


def _take_rank(who: Whois, source: str, host: str | None, pid: int | None, rank: int, world: int) -> None:
    if pid is not None:
        told = who._ranks.setdefault((source, host, pid), {})
        told[rank] = max(world, told.get(rank, 0))


def _take_machine(who: Whois, reading: FileReading, one: Introduction) -> None:
    """The machine of a task, the machine below a pod, a pod that does not come up."""
    if one.kind == "task" and one.host:
        who._tasks.setdefault(reading.name, []).append((one.line, one.host))
    elif one.kind == "described" and one.host:
        _take_described(who, reading, one.line, one.host)
    elif one.kind == "unready" and one.pod:
        who.unready.add(one.pod)
    elif one.pod and one.host and one.pod != one.host:
        who._nodes.setdefault(one.pod, set()).add(one.host)


def _take_described(who: Whois, reading: FileReading, line: int, node: str) -> None:
    """`kubectl describe pod` prints the pod's name a few lines above its node."""
    above = [(number, pod) for number, pod in reading.places if line - DESCRIPTION <= number < line]
    if above and above[-1][1] != node:
        who._nodes.setdefault(above[-1][1], set()).add(node)


def _take_gpus(who: Whois, reading: FileReading) -> None:
    """In a hang GPUs spin in the collective that they wait in; the one that idles was never told to."""
    for table in reading.gpus:
        idle = [index for index, share in table.busy if share <= IDLE_SHARE]
        if (
            len(idle) == 1
            and len(table.busy) > 2
            and all(share >= BUSY_SHARE for index, share in table.busy if index not in idle)
        ):
            who.idle_gpu = (reading.name, idle[0])


def _take_lines(who: Whois, reading: FileReading, mine: set[int]) -> None:
    """What heads tell: ranks, their machines, the exceptions' writers."""
    for one in reading.observations:
        rank = one.origin.rank
        if rank is None:
            continue
        mine.add(rank)
        if one.origin.host:
            who._places.setdefault(rank, set()).add(one.origin.host)
        if one.kind == "exception":
            first = int(one.fields.get("begin_line", one.order))
            who._speeches.setdefault(reading.name, []).append((first, one.order + AFTERWORDS, rank))


def is_container(host: str) -> bool:
    """True for the name that docker gives a container that has none."""
    return bool(_CONTAINER.match(host))


def distinct(hosts: Iterable[str], who: Whois) -> set[str]:
    """Each machine once, under a name rather than an address."""
    found: set[str] = set()
    for host in sorted(hosts, key=lambda name: (bool(_ADDRESS.match(name)), name)):
        if not any(who.same(host, other) for other in found):
            found.add(host)
    return found


def _short(host: str) -> str:
    return host if _ADDRESS.match(host) else host.partition(".")[0]
