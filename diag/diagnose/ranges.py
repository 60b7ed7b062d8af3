"""Rank lists as people write them."""

from __future__ import annotations

from collections.abc import Iterable

MOST = 12
"""Ranges shown before a list is cut."""


def fold(ranks: Iterable[int]) -> str:
    """`rank 3`, `ranks 0-2, 5`; empty for nobody."""
    numbers = sorted(set(ranks))
    if not numbers:
        return ""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    texts = [
        str(low) if low == high else f"{low}-{high}" if high > low + 1 else f"{low}, {high}"
        for low, high in spans
    ]
    more = f" and {len(texts) - MOST} more" if len(texts) > MOST else ""
    return f"{'rank' if len(numbers) == 1 else 'ranks'} {', '.join(texts[:MOST])}{more}"
