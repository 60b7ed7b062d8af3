"""A playbook that fits, and how those that fit are told apart: which explains which, which stands first. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diag.diagnose.matching import STACKS, ClauseMatch
from diag.model import Finding, Strength
from diag.playbooks.schema import Playbook

LAST_RESORT = ("worker-died", "application-error")
SYMPTOMS = ("cudagraph-capture-hang", "collective-timeout-slow-rank", "rendezvous-timeout")
"""What waiting ranks and wrappers print whatever the cause: echoes of any cause that a line names."""


@dataclass(slots=True)
class Candidate:
    """A playbook that fits, before it is compared with the others."""

    playbook: Playbook
    matches: list[ClauseMatch]
    findings: list[Finding]
    strength: Strength
    echoes: list[str] = field(default_factory=list)
    explained_by: str | None = None
    by_line: bool = False
    """Its lines and those of the others stand in one file, and not all of them have a time."""
    told: Mapping[str, Any] = field(default_factory=dict)
    """Captures of signals that stand in no clause: figures for the sentences."""

    @property
    def stated(self) -> int:
        """0: the evidence names the cause; 1: a failure that this cause brings; 2: hints or absence."""
        if any(match.says == "cause" for match in self.matches):
            return 0
        if self.findings and not printed_only(self.findings):
            return 0
        return 1 if any(match.says == "effect" for match in self.matches) else 2

    @property
    def failing(self) -> bool:
        """The evidence itself says that something failed or stands still."""
        return bool(self.findings) or self.stated < 2 or any(match.by_absence for match in self.matches)

    @property
    def stands_still(self) -> bool:
        """Carried by something that began and never ended, in company of a second sign."""
        return any(match.by_absence for match in self.matches) and self.strength is not Strength.POSSIBLE

    @property
    def slows(self) -> bool:
        """Carried by what only slows a launch down."""
        return any(match.clause.slow for match in self.matches)

    @property
    def seen_standing(self) -> bool:
        """Carried by a process that was seen to stand still."""
        return any(
            one.probe == STACKS for match in self.matches for hit in match.hits for one in hit.findings
        )

    @property
    def first(self) -> tuple[float, int]:
        """(time, line) of the first telling line."""
        lines = [line for match in self.matches for line in match.primary]
        if not lines:
            return (0.0, 0)
        times = [line.origin.time_s for line in lines if line.origin.time_s is not None and not self.by_line]
        begin = min(times) if times else 0.0 if self.by_line else float("inf")
        return (begin, min(line.order for line in lines))

    @property
    def breadth(self) -> int:
        """How many different signals carry it."""
        return max((len(match.hits) for match in self.matches), default=1)


def order(found: Sequence[Candidate]) -> None:
    """Settle how those found are ordered in time: within one file by line where some lines have no time."""
    lines = [line for one in found for match in one.matches for line in match.primary]
    one_file = len({line.origin.source for line in lines}) == 1
    untimed = any(line.origin.time_s is None for line in lines)
    for one in found:
        one.by_line = one_file and untimed


def printed_only(findings: Sequence[Finding]) -> bool:
    """Contradictions in a configuration that a log printed: they need not be why this launch failed."""
    return all("supports_only" in finding.data for finding in findings)


def rank(one: Candidate) -> tuple[Any, ...]:
    """Notes last; what is only possible behind what is likely; last resorts behind what names a cause; then time."""
    severity = ("error", "warning", "note").index(one.playbook.severity)
    return (
        severity == 2,
        one.strength is Strength.POSSIBLE,
        one.playbook.yields,
        one.strength.order,
        one.stated,
        severity,
        *one.first,
        -one.breadth,
    )


def explain_echoes(found: Sequence[Candidate]) -> None:
    """Mark what another candidate explains. A weak cause explains no strong one; of two that explain each other the first in time wins."""
    by_id = {one.playbook.id: one for one in found}
    for cause in found:
        for name in _explained(cause, by_id):
            echo = by_id.get(name)
            if echo is None or echo is cause or _too_weak(cause, echo, name in cause.playbook.explains):
                continue
            if (
                cause.playbook.id in echo.playbook.explains
                and not echo.playbook.yields
                and rank(echo) < rank(cause)
            ):
                continue
            if _reaches(cause, echo.playbook.id, by_id) or _apart(cause, echo):
                continue
            cause.echoes.append(name)
            if echo.explained_by is None or rank(cause) < rank(by_id[echo.explained_by]):
                echo.explained_by = cause.playbook.id


def _too_weak(cause: Candidate, echo: Candidate, predicted: bool) -> bool:
    """What is proven needs as much to explain it; a hint explains what it predicts unless its playbook forbids."""
    if cause.strength.order <= echo.strength.order:
        return False
    if not predicted:  # a mere hint does not explain a failure that nobody said it brings
        return True
    capped = all(match.clause.ceiling == "possible" for match in cause.matches) and not cause.findings
    return echo.strength is Strength.PROVEN or capped


def _apart(one: Candidate, other: Candidate) -> bool:
    """True if both were only measured, and on different machines: neither brings the other."""
    places = [
        {
            str(name)
            for finding in each.findings
            for name in (finding.data.get("host"), *(finding.data.get("link") or ()))
            if name
        }
        for each in (one, other)
        if each.findings and not each.matches
    ]
    return len(places) == 2 and all(places) and not places[0] & places[1]


def _reaches(one: Candidate, target: str, by_id: Mapping[str, Candidate]) -> bool:
    """True if `target` already explains `one` (no circles)."""
    seen: set[str] = set()
    current = one.explained_by
    while current is not None and current not in seen:
        if current == target:
            return True
        seen.add(current)
        current = by_id[current].explained_by
    return False


def _explained(cause: Candidate, present: Iterable[str]) -> list[str]:
    """Ids that this cause explains: those its playbook names, last resorts, and mere symptoms of a named cause."""
    own = cause.playbook.id
    names = list(cause.playbook.explains)
    if cause.playbook.yields:
        return [name for name in names if name in set(present)]  # nothing beyond what it says itself
    names += [name for name in LAST_RESORT if name not in names and name != own]
    if cause.stated == 0 and own not in SYMPTOMS:
        names += [name for name in SYMPTOMS if name not in names]
    present = set(present)
    return [name for name in names if name in present]


def raise_hints(found: Sequence[Candidate]) -> None:
    """A hint whose predicted consequence was seen is more than a hint."""
    for one in found:
        if one.strength is not Strength.POSSIBLE or any(
            match.clause.ceiling == "possible" for match in one.matches
        ):
            continue
        own = [name for name in one.echoes if name not in LAST_RESORT]
        if own:
            one.strength = Strength.LIKELY


def without_last_resorts(roots: list[Candidate]) -> list[Candidate]:
    """`worker-died` and the like stand only where nothing else does."""
    better = [
        one
        for one in roots
        if not one.playbook.yields
        and one.playbook.severity == "error"
        and one.strength is not Strength.POSSIBLE
    ]
    return [one for one in roots if not one.playbook.yields] if better else roots
