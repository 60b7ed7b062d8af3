"""One pass over bytes: which lines hold a string of which pattern.

hyperscan tells per block which strings occur at all (one answer a string, however often it occurs); only those
are then looked for one by one. So a billion healthy bytes cost what hyperscan costs, and a string that occurs a
million times costs no more than its first few thousand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

MAX_HITS = 2000
"""Lines kept per string and file; beyond, samples `STRIDE` apart, and each block's next and last."""

FEW_HITS = 16
"""The same for strings that only tell that something went on: their first lines, samples and the last say it."""

STRIDE = 64 << 10
MAX_SAMPLES = 64

MAX_LINE = 16 << 10
"""A longer line is read as the window around what was found."""


@dataclass(frozen=True, slots=True)
class LinePattern:
    """Something to look for in lines. `owner` and `name` come back with each match."""

    owner: str
    name: str
    expression: str
    literals: tuple[str, ...]
    few: bool = False
    """A few of its lines tell as much as all of them."""


@dataclass(slots=True)
class Counter:
    """How often a string was seen in the file at hand."""

    hits: int = 0
    samples: int = 0


@dataclass(slots=True)
class Scanner:
    """Compiled strings of a set of patterns. `engine` is hyperscan, or `re` where there is no wheel."""

    patterns: Sequence[LinePattern]
    literals: list[bytes] = field(default_factory=list)
    users: list[list[int]] = field(default_factory=list)
    """For each string the numbers of the patterns that want it."""
    limits: list[int] = field(default_factory=list)
    """For each string how many of its lines are kept in a file before they are sampled."""
    engine: str = "re"
    _database: Any = None
    _fallback: Any = None
    _found: set[int] = field(default_factory=set)

    def present(self, block: bytes) -> list[int]:
        """Numbers of the strings that occur in the block."""
        if self._database is not None:
            self._found = set()
            self._database.scan(block, match_event_handler=self._note)
            return sorted(self._found)
        return [number for number, literal in enumerate(self.literals) if literal in block]

    def _note(self, number: int, _start: int, _end: int, _flags: int, _context: Any) -> None:
        self._found.add(number)


class StoredPatterns(Sequence[LinePattern]):
    """Patterns in their stored form, each made when it is first asked for: few of thousands ever are."""

    def __init__(self, rows: Sequence[tuple[str, str, str, bool]]) -> None:
        self._rows = rows
        self._made: dict[int, LinePattern] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, number: int) -> LinePattern: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[LinePattern]: ...
    def __getitem__(self, number: int | slice) -> LinePattern | Sequence[LinePattern]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        made = self._made.get(number)
        if made is None:
            owner, name, expression, few = self._rows[number]
            made = self._made[number] = LinePattern(owner, name, expression, (), few)
        return made


def stored_scanner(cache: Path | None, key: str, patterns: Callable[[], Sequence[LinePattern]]) -> Scanner:
    """The scanner kept in `cache` under `key`; where it is not there, it is compiled from `patterns()` and kept."""
    place = cache / f"scan-{key}.json" if cache is not None else None
    if place is not None:
        try:
            rows, literals, users, limits, digest = json.loads(place.read_bytes())
            raw = [literal.encode() for literal in literals]
            return _with_engine(Scanner(StoredPatterns(rows), raw, users, limits), cache, digest)
        except (OSError, ValueError, TypeError):
            pass
    made = list(patterns())
    scanner, digest = _compile(made)
    if place is not None:
        from diag.playbooks.base import write_private

        rows = [(one.owner, one.name, one.expression, one.few) for one in made]
        kept = (rows, [raw.decode() for raw in scanner.literals], scanner.users, scanner.limits, digest)
        write_private(place, json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode())
    return _with_engine(scanner, cache, digest)


def build_scanner(patterns: Sequence[LinePattern]) -> Scanner:
    """Compile the strings of all patterns."""
    scanner, digest = _compile(patterns)
    return _with_engine(scanner, None, digest)


def _compile(patterns: Sequence[LinePattern]) -> tuple[Scanner, str]:
    index: dict[bytes, int] = {}
    users: list[list[int]] = []
    for number, pattern in enumerate(patterns):
        for literal in pattern.literals:
            raw = literal.encode("utf-8")
            if raw not in index:
                index[raw] = len(users)
                users.append([])
            users[index[raw]].append(number)
    limits = [FEW_HITS if all(patterns[one].few for one in wanted) else MAX_HITS for wanted in users]
    literals = list(index)
    import hashlib

    digest = hashlib.sha256(b"\0".join(literals)).hexdigest()[:20]
    return Scanner(patterns, literals, users, limits), digest


def _with_engine(scanner: Scanner, cache: Path | None, digest: str) -> Scanner:
    try:
        scanner._database = _hyperscan(scanner.literals, cache, digest)
        scanner.engine = "hyperscan"
    except Exception:  # noqa: BLE001  no wheel, or a processor without SSSE3: the slower way is as right
        scanner._database = None
    return scanner


def _hyperscan(literals: list[bytes], cache: Path | None, digest: str) -> Any:
    import hyperscan

    stored = (
        cache / f"strings-{digest}-{getattr(hyperscan, '__version__', '0')}.hs" if cache is not None else None
    )
    if stored is not None and stored.is_file():
        try:
            loaded = hyperscan.loadb(stored.read_bytes(), hyperscan.HS_MODE_BLOCK)
            loaded.scratch = hyperscan.Scratch(loaded)  # working memory is not part of the stored form
            return loaded
        except Exception:  # noqa: BLE001  another processor or a cut file: compile anew
            stored.unlink(missing_ok=True)
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    database.compile(
        expressions=literals,
        ids=list(range(len(literals))),
        elements=len(literals),
        flags=[hyperscan.HS_FLAG_SINGLEMATCH] * len(literals),
        literal=True,
    )
    if stored is not None:
        from diag.playbooks.base import write_private

        write_private(stored, hyperscan.dumpb(database))
    return database


def candidates(
    scanner: Scanner, block: bytes, counters: dict[int, Counter]
) -> list[tuple[int, int, list[int]]]:
    """Return (start, end, pattern numbers) of every line of the block worth trying, in order."""
    lines: dict[tuple[int, int], list[int]] = {}
    breaks = _BREAKS if b"\r" in block else _BREAKS[:1]
    for number in scanner.present(block):
        counter = counters.get(number)
        if counter is None:
            counter = counters[number] = Counter()
        users = scanner.users[number]
        for span in _spans(block, scanner.literals[number], counter, scanner.limits[number], breaks):
            lines.setdefault(span, []).extend(users)
    return [(start, end, sorted(set(users))) for (start, end), users in sorted(lines.items())]


def _spans(
    block: bytes, literal: bytes, counter: Counter, limit: int, breaks: Sequence[bytes]
) -> list[tuple[int, int]]:
    """Lines of the block that hold the string: all up to the limit, then samples, the next and the last."""
    found = []
    position = block.find(literal)
    while position >= 0 and counter.hits < limit:
        span = line_around(block, position, breaks)
        found.append(span)
        counter.hits += 1
        position = block.find(literal, max(span[1], position + len(literal)))
    if position >= 0:
        last = block.rfind(literal)
        while 0 <= position < last and counter.samples < MAX_SAMPLES:
            found.append(line_around(block, position, breaks))
            counter.samples += 1
            position = block.find(literal, position + STRIDE)
        found += [line_around(block, one, breaks) for one in (position, last) if one >= 0]
    return found


_BREAKS = (b"\n", b"\r")


def line_around(block: bytes, position: int, breaks: Sequence[bytes] = _BREAKS) -> tuple[int, int]:
    """The line (or progress-bar segment between carriage returns) around a position, at most MAX_LINE long."""
    low = max(0, position - MAX_LINE // 2)
    high = min(len(block), position + MAX_LINE // 2)
    start, end = block.rfind(b"\n", low, position) + 1, block.find(b"\n", position, high)
    if len(breaks) > 1:
        start = max(start, block.rfind(b"\r", low, position) + 1)
        carriage = block.find(b"\r", position, high)
        end = carriage if carriage >= 0 and (end < 0 or carriage < end) else end
    return (start or low), (end if end >= 0 else high)


_COMPILED: dict[str, re.Pattern[str]] = {}


def compiled(expression: str) -> re.Pattern[str]:
    """A compiled expression; only those that come into question are ever compiled."""
    pattern = _COMPILED.get(expression)
    if pattern is None:
        pattern = _COMPILED[expression] = re.compile(expression)
    return pattern
