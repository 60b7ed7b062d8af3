"""One pass over bytes: which lines hold a string of which pattern.

hyperscan tells per block which strings occur at all (one answer a string, however often it occurs); only those
are then looked for one by one. So a billion healthy bytes cost what hyperscan costs, and a string that occurs a
million times costs no more than its first few thousand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_HITS = 2000
"""Lines kept per string and file; beyond, each block gives its next and its last."""

MAX_LINE = 16 << 10
"""A longer line is read as the window around what was found."""


@dataclass(frozen=True, slots=True)
class LinePattern:
    """Something to look for in lines. `owner` and `name` come back with each match."""

    owner: str
    name: str
    expression: str
    literals: tuple[str, ...]


@dataclass(slots=True)
class Counter:
    """How often a string was seen in the file at hand."""

    hits: int = 0


@dataclass(slots=True)
class Scanner:
    """Compiled strings of a set of patterns. `engine` is hyperscan, or `re` where there is no wheel."""

    patterns: Sequence[LinePattern]
    literals: list[bytes] = field(default_factory=list)
    users: list[list[int]] = field(default_factory=list)
    """For each string the numbers of the patterns that want it."""
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


def build_scanner(patterns: Sequence[LinePattern], cache: Path | None = None, key: str = "") -> Scanner:
    """Compile the strings of all patterns; the compiled form is kept in `cache` under `key`."""
    index: dict[bytes, int] = {}
    users: list[list[int]] = []
    for number, pattern in enumerate(patterns):
        for literal in pattern.literals:
            raw = literal.encode("utf-8")
            if raw not in index:
                index[raw] = len(users)
                users.append([])
            users[index[raw]].append(number)
    scanner = Scanner(patterns=patterns, literals=list(index), users=users)
    try:
        scanner._database = _hyperscan(scanner.literals, cache, key)
        scanner.engine = "hyperscan"
    except Exception:  # noqa: BLE001  no wheel, or a processor without SSSE3: the slower way is as right
        scanner._database = None
    return scanner


def _hyperscan(literals: list[bytes], cache: Path | None, key: str) -> Any:
    import hashlib

    import hyperscan

    digest = hashlib.sha256(b"\0".join(literals)).hexdigest()[:20]
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
    lines: dict[tuple[int, int], set[int]] = {}
    for number in scanner.present(block):
        literal = scanner.literals[number]
        counter = counters.setdefault(number, Counter())
        for position in _positions(block, literal, counter):
            span = line_around(block, position)
            lines.setdefault(span, set()).update(scanner.users[number])
    return [(start, end, sorted(users)) for (start, end), users in sorted(lines.items())]


def _positions(block: bytes, literal: bytes, counter: Counter) -> list[int]:
    found = []
    position = block.find(literal)
    while position >= 0 and counter.hits < MAX_HITS:
        found.append(position)
        counter.hits += 1
        position = block.find(literal, max(line_around(block, position)[1], position + len(literal)))
    if position >= 0:
        found.append(position)
        found.append(block.rfind(literal))
    return found


_BREAKS = (b"\n", b"\r")


def line_around(block: bytes, position: int) -> tuple[int, int]:
    """The line (or progress-bar segment between carriage returns) around a position, at most MAX_LINE long."""
    low = max(0, position - MAX_LINE // 2)
    high = min(len(block), position + MAX_LINE // 2)
    start = max(block.rfind(mark, low, position) for mark in _BREAKS) + 1
    ends = [end for end in (block.find(mark, position, high) for mark in _BREAKS) if end >= 0]
    return (start if start else low), (min(ends) if ends else high)


_COMPILED: dict[str, re.Pattern[str]] = {}


def compiled(expression: str) -> re.Pattern[str]:
    """A compiled expression; only those that come into question are ever compiled."""
    pattern = _COMPILED.get(expression)
    if pattern is None:
        pattern = _COMPILED[expression] = re.compile(expression)
    return pattern
