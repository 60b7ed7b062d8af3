"""Tells a flight-recorder dump from other files by its first bytes; light, because every input is asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from diag.observe.flight.dump import RankDump

MAX_BYTES = 1 << 30
"""2,000 calls with 30 frames each take 10 MB."""
_PICKLE_DICT = re.compile(rb"\x80[\x02-\x05](?:\x95.{8})?[}(]", re.DOTALL)
_JSON_KEYS = (
    b'"comm_lib_version"',
    b'"nccl_version"',
    b'"collective_seq_id"',
    b'"pg_config"',
    b'"pg_status"',
)


class Readable(Protocol):
    """What is asked of an input: its name, its content in blocks, and where it broke off."""

    name: str
    problem: str

    def blocks(self) -> Iterator[bytes]:
        """The content from the start."""


def looks_like_dump(head: bytes) -> bool:
    """True for the first bytes of a flight-recorder dump: a pickled dictionary, or JSON with its keys."""
    if _PICKLE_DICT.match(head[:16]):
        return True
    return head.lstrip()[:1] == b"{" and any(key in head for key in _JSON_KEYS)


def read_flight_dump(source: Readable) -> RankDump:
    """Read one input as a dump. Never raises for bad content: the dump's `problem` says what it is."""
    from diag.observe.flight.dump import RankDump, read_dump

    parts: list[bytes] = []
    size = 0
    for block in source.blocks():
        size += len(block)
        if size > MAX_BYTES:
            return RankDump(source.name, problem="is larger than a dump can be", bytes=size)
        parts.append(block)
    dump = read_dump(source.name, b"".join(parts))
    if source.problem and not dump.problem:
        dump.problem = source.problem
    try:
        dump.taken_ns = Path(source.name).stat().st_mtime_ns
    except OSError:
        dump.taken_ns = None  # standard input, or a member of an archive
    return dump
