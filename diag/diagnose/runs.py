"""Runs appended to one file without any line that says that another begins."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from diag.model import Observation

STEPS = 3
"""Signs of life after a failure that make it another run: a process that raised takes no further steps."""


def silent_starts(observations: Sequence[Observation]) -> list[int]:
    """Lines where another run begins because one process failed and then steps were taken again.

    Only in files of one writer: among several ranks the others go on for a while.
    """
    writers = {(one.origin.host, one.origin.rank, one.origin.process) for one in observations}
    if len(writers) > 1:
        return []
    alive = [one.order for one in observations if one.kind == "alive"]
    ends = sorted({one.order for one in observations if _ends(one)})
    starts = []
    for end, following in pairwise([*ends, 1 << 60]):
        if sum(end < order < following for order in alive) >= STEPS:
            starts.append(end + 1)
    return starts


def _ends(one: Observation) -> bool:
    """True for what a process does not outlive: an exception that nobody caught, a refused command line."""
    if one.kind == "exception":
        return not one.fields.get("ignored")
    return one.kind == "dead" and ": error: " in one.text
