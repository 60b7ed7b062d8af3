"""Runs appended to one file without any line that says that another begins."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from diag.model import Observation

STEPS = 3
"""Signs of life after a failure that make it another run: a process that raised takes no further steps."""

VOLUME = 100
"""Lines without a failure at a file's end that are another run, whatever they say."""


def silent_starts(observations: Sequence[Observation], lines: int, *, quiet: bool = False) -> list[int]:
    """Lines where another run begins because one process failed and then steps were taken again, or much was printed.

    Only in files of one writer: among several ranks the others go on for a while. `quiet`: what stands at the end is
    warnings, which a process also prints while it is torn down.
    """
    if not _one_writer(observations):
        return []
    alive = [one.order for one in observations if one.kind == "alive"]
    ends = sorted({one.order for one in observations if _ends(one)})
    starts = []
    for end, following in pairwise([*ends, 1 << 60]):
        if sum(end < order < following for order in alive) >= STEPS:
            starts.append(end + 1)
    failures = [one.order for one in observations if one.kind in ("dead", "exception", "failure", "exit")]
    if failures and not quiet and lines - max(failures) >= VOLUME and max(failures) + 1 not in starts:
        starts.append(max(failures) + 1)
    return starts


def long_run(observations: Sequence[Observation], first: int, lines: int) -> bool:
    """True for what one writer printed at length, with no failure in it: it says something even if no word is known."""
    failures = any(
        one.order >= first and one.kind in ("dead", "exception", "failure", "exit") for one in observations
    )
    return first > 1 and lines - first >= VOLUME and not failures and _one_writer(observations)


def _one_writer(observations: Sequence[Observation]) -> bool:
    return len({(one.origin.host, one.origin.rank, one.origin.process) for one in observations}) <= 1


def _ends(one: Observation) -> bool:
    """True for what a process does not outlive: an exception that nobody caught, a refused command line."""
    if one.kind == "exception":
        return not one.fields.get("ignored")
    return one.kind == "dead" and ": error: " in one.text
