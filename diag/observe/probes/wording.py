"""Figures as a reader wants them, the same in every probe."""

from __future__ import annotations

from collections.abc import Iterable

GIB = 1 << 30
MIB = 1 << 20


def size(count: float | None) -> str:
    """Bytes in the unit that keeps them short: `64 MiB`, `1.5 GiB`; `unlimited` for None."""
    if count is None:
        return "unlimited"
    for unit, step in (("TiB", 1 << 40), ("GiB", GIB), ("MiB", MIB), ("KiB", 1 << 10)):
        if count >= step:
            return f"{count / step:.1f}".removesuffix(".0") + f" {unit}"
    return f"{count:.0f} bytes"


def listed(words: Iterable[str], most: int = 4) -> str:
    """`a, b, c and 5 more`."""
    words = list(words)
    more = len(words) - most
    return ", ".join(words[:most]) + (f" and {more} more" if more > 0 else "")


def count(number: int, thing: str) -> str:
    """`1 process`, `3 processes`."""
    plural = f"{thing}es" if thing.endswith(("s", "ch")) else f"{thing}s"
    return f"{number} {thing if number == 1 else plural}"
