"""Does a playbook's clause hold on the evidence? And on which lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from diag.diagnose.evidence import Evidence, stream_of
from diag.diagnose.spread import grouped, odd_hosts
from diag.model import Finding, Observation, Status
from diag.playbooks.schema import PROGRAM, Clause, Condition, Playbook, Signal
from diag.system.lazy import lazily

STATED = ("cause", "effect")

_ANOTHER_WAY = lazily(
    r"\b[Ff]all(?:ing|s)? back\b|\b[Rr]everting\b|\bsilently ignoring\b|\b[Tt]runcating to\b|\b[Uu]sing \S+ instead\b|"
    r"\bweight-only via\b|[;,.] [Ss]kipping\b|, padding\b|[;,] setting \w|[;,.] (?:Trying each|Retrying without|Proceeding with)\b"
)
"""A logger's note that the program takes another way instead: whatever it names, this is not why a launch fails."""


@dataclass(slots=True)
class SignalHits:
    """Where one signal was met."""

    signal: Signal
    lines: list[Observation] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    fact: bool = False

    def __bool__(self) -> bool:
        return bool(self.lines or self.findings or self.fact)


@dataclass(slots=True)
class ClauseMatch:
    """A clause that holds, with what carries it, the telling signals first."""

    playbook: Playbook
    clause: Clause
    hits: list[SignalHits]
    by_absence: bool = False

    @property
    def lines(self) -> list[Observation]:
        """All lines of the positive signals, in order of telling."""
        return [line for hit in self.hits for line in hit.lines]

    @property
    def primary(self) -> list[Observation]:
        """The lines of the most telling kind that is there."""
        for says in ("cause", "effect", "hint", "context"):
            lines = [line for hit in self.hits if hit.signal.says == says for line in hit.lines]
            if lines:
                return lines
        return []

    @property
    def says(self) -> str:
        """The most telling kind of evidence in the match."""
        kinds = {hit.signal.says for hit in self.hits}
        return next((says for says in ("cause", "effect", "hint", "context") if says in kinds), "context")


class Matcher:
    """Looks up signals of one playbook in the evidence, each once."""

    def __init__(self, playbook: Playbook, evidence: Evidence, index: dict[str, list[Observation]]) -> None:
        self.playbook = playbook
        self.evidence = evidence
        self.index = index
        self._cache: dict[tuple[str, bool], SignalHits] = {}
        self._slow = False

    def matches(self) -> list[ClauseMatch]:
        """Every clause that holds."""
        found = []
        for clause in self.playbook.when:
            if clause.slow and self.evidence.has_failure:
                continue
            self._slow = clause.slow
            match = self._clause(clause)
            self._slow = False
            if match is not None:
                found.append(match)
        return found

    def hits(self, name: str) -> SignalHits:
        """Where a signal was met, with lines that later life took back left out."""
        key = (name, self._slow)
        if key not in self._cache:
            self._cache[key] = self._look_up(self.playbook.signals[name])
        return self._cache[key]

    def _look_up(self, signal: Signal) -> SignalHits:
        hits = SignalHits(signal)
        if signal.kind == "log":
            hits.lines = self.index.get(f"{self.playbook.id}/{signal.name}", [])
            if signal.conditions:  # on the captures: `s_per_it above 8`
                hits.lines = [
                    one
                    for one in hits.lines
                    if all(
                        holds(condition, {key: [str(value)] for key, value in one.fields.items()})
                        for condition in signal.conditions
                    )
                ]
        elif signal.kind == "exception":
            hits.lines = [
                one
                for item in self.evidence.files
                for one in item.exceptions
                if not one.fields.get("ignored") and _exception_fits(signal, one)
            ]
        elif signal.kind == "words":
            hits.lines = [
                one
                for one in self.evidence.last_words
                if any(re.search(pattern, one.text) for pattern in signal.patterns)
            ]
        elif signal.kind == "finding":
            hits.findings = [one for one in self.evidence.findings if _finding_fits(signal, one)]
        elif signal.kind == "stack":
            hits.findings = [one for one in self.evidence.findings if _stack_fits(signal, one)]
        else:
            hits.fact = all(holds(condition, self.evidence.facts) for condition in signal.conditions)
            if hits.fact and any(one.path.startswith("experiment.") for one in signal.conditions):
                hits.lines = [item.cure for item in self.evidence.files if item.cure is not None]
        if signal.kind == "log" and signal.says in STATED:
            hits.lines = [one for one in hits.lines if not (one.note and _ANOTHER_WAY.search(one.text))]
        if hits.lines and not self._slow:  # (what only slows a launch down is not taken back by its life)
            hits.lines = [one for one in hits.lines if not self._taken_back(signal, one)]
        return hits

    def _taken_back(self, signal: Signal, one: Observation) -> bool:
        item = self.evidence.file_of(one)
        if item is None:
            return False
        for name in signal.cleared_by:
            if name == PROGRAM:
                later = [*item.phases, *item.alive, *item.exceptions]
            else:
                later = self.index.get(f"{self.playbook.id}/{name}", [])
            if any(
                other.order >= one.order
                and other is not one
                and other.origin.source == one.origin.source
                and stream_of(other)[2] in ("", stream_of(one)[2])
                for other in later
            ):
                return True
        if signal.says == "context":
            return False
        if self.playbook.while_serving:
            return item.starts_after(one)
        end = item.orderly_end
        survived = item.lives_on(one, hint=signal.says == "hint")
        return survived or (end is not None and one.order >= end)

    def _clause(self, clause: Clause) -> ClauseMatch | None:
        if any(self.hits(name) for name in clause.none):
            return None
        hits = [self.hits(name) for name in clause.all]
        if not all(hits):
            return None
        if clause.any:
            alternatives = [self.hits(name) for name in clause.any]
            if not any(alternatives):
                return None
            hits += [hit for hit in alternatives if hit]
        for name, least in clause.repeats:
            hit = self.hits(name)
            if len(hit.lines) < least:
                return None
            hits.append(hit)
        if clause.sequence and not self._in_sequence(clause.sequence, hits):
            return None
        absent = self._absence(clause, hits)
        if absent is None or not self._spread(clause, hits):
            return None
        match = ClauseMatch(self.playbook, clause, _unique(hits), by_absence=absent)
        return match if self._in_phase(clause, match) and self._on_ranks(clause, match) else None

    def _in_sequence(self, names: Sequence[str], hits: list[SignalHits]) -> bool:
        line = -1
        source: str | None = None
        for name in names:
            hit = self.hits(name)
            later = [one for one in hit.lines if one.order > line and source in (None, one.origin.source)]
            if not later:
                return False
            line, source = later[0].order, later[0].origin.source
            hits.append(hit)
        return True

    def _absence(self, clause: Clause, hits: list[SignalHits]) -> bool | None:
        """None: asked for and not there. True: absence is part of the evidence."""
        for begin, end in clause.unfinished:
            begun = [one for one in self.hits(begin).lines if not self._ended(one, end)]
            if not begun:
                return None
            hits.append(SignalHits(self.playbook.signals[begin], begun))
        if clause.stalled:
            last = [
                one
                for name in clause.stalled
                for one in self.hits(name).lines
                if (item := self.evidence.file_of(one)) is not None and one.order >= item.last_progress
            ]
            if not last:
                return None
            names = {one.name.rsplit("/", 1)[-1] for one in last}
            hits += [
                SignalHits(
                    self.playbook.signals[name], [one for one in last if one.name.endswith(f"/{name}")]
                )
                for name in clause.stalled
                if name in names
            ]
        return bool(clause.unfinished or clause.stalled)

    def _ended(self, begun: Observation, end: str) -> bool:
        item = self.evidence.file_of(begun)
        if item is None or item.lives_on(begun, hint=True):
            return True
        mine = stream_of(begun)
        ends = self.index.get(f"{self.playbook.id}/{end}", [])
        return any(
            other.origin.source == begun.origin.source
            and other.order >= begun.order
            and (not mine[2] or not stream_of(other)[2] or stream_of(other)[2] == mine[2])
            for other in ends
        )

    def _spread(self, clause: Clause, hits: list[SignalHits]) -> bool:
        for name, capture in clause.differs:
            values = {str(one.fields.get(capture)) for one in self.hits(name).lines if capture in one.fields}
            if len(values) < 2:
                return False
            hits.append(self.hits(name))
        for name, capture in clause.same:
            writers: dict[str, set[tuple[str, str, str]]] = {}
            for one in self.hits(name).lines:
                if capture in one.fields:
                    writers.setdefault(str(one.fields[capture]), set()).add(stream_of(one))
            if not any(len(group) > 1 for group in writers.values()):
                return False
            hits.append(self.hits(name))
        for name, pair in clause.conflicts:
            key, _, capture = pair.partition(" ")
            found = grouped(self.hits(name).lines, key, capture)
            if not any(len(values) > 1 for values in found.values()):
                return False
            hits.append(self.hits(name))
        for name, capture in clause.outlier:
            odd = odd_hosts(self.hits(name).lines, capture)
            if not odd:
                return False
            hits.append(SignalHits(self.hits(name).signal, odd))
        return True

    def _in_phase(self, clause: Clause, match: ClauseMatch) -> bool:
        if not clause.phases and not clause.not_phases:
            return True
        phases = []
        for one in match.primary:
            item = self.evidence.file_of(one)
            phase = item.phase_at(one) if item is not None else None
            phases.append(phase.value if phase is not None else None)
        known = [phase for phase in phases if phase is not None]
        if clause.phases and (not known or known[0] not in clause.phases):
            return False
        return not (clause.not_phases and known and known[0] in clause.not_phases)

    def _on_ranks(self, clause: Clause, match: ClauseMatch) -> bool:
        if not clause.ranks:
            return True
        mine = {one.origin.rank for one in match.primary if one.origin.rank is not None}
        everyone = {
            one.origin.rank
            for item in self.evidence.files
            for one in item.observations
            if one.origin.rank is not None
        }
        if clause.ranks == "one":
            return len(mine) == 1
        if clause.ranks == "every":
            return len(everyone) > 1 and mine == everyone
        return bool(mine) and mine < everyone


def _unique(hits: list[SignalHits]) -> list[SignalHits]:
    order = {"cause": 0, "effect": 1, "hint": 2, "context": 3}
    seen: dict[str, SignalHits] = {}
    for hit in hits:
        seen[hit.signal.name] = hit
    return sorted(seen.values(), key=lambda hit: order[hit.signal.says])


def _exception_fits(signal: Signal, one: Observation) -> bool:
    if not any(re.search(pattern, one.text) for pattern in signal.patterns):
        return False
    if signal.frames:
        where = f"{one.fields.get('functions', '')} {one.fields.get('files', '')}"
        if not any(re.search(frame, where) for frame in signal.frames):
            return False
    plain = {key: [str(value)] for key, value in one.fields.items()}
    return all(holds(condition, plain) for condition in signal.conditions)


def _finding_fits(signal: Signal, one: Finding) -> bool:
    if one.probe != signal.check:
        return False
    wanted = signal.statuses or (Status.FAIL.value,)
    return one.status.value in wanted and _fields_fit(signal, one)


STACKS = "attach.process"
"""The check whose findings carry the calls of a process."""


def _stack_fits(signal: Signal, one: Finding) -> bool:
    """A process that stands in one of the calls. Where a signal asks for nothing else, it must have stood still."""
    if one.probe != STACKS:
        return False
    frames = one.data.get("frames")
    calls = (
        [str(frame) for frame in frames]
        if isinstance(frames, (list, tuple))
        else str(frames or "").splitlines()
    )
    if not any(re.search(pattern, call) for pattern in signal.patterns for call in calls):
        return False
    return _fields_fit(signal, one) if signal.conditions else one.data.get("stuck") == "true"


def _fields_fit(signal: Signal, one: Finding) -> bool:
    plain = {
        key: [str(item) for item in value] if isinstance(value, list) else [str(value)]
        for key, value in one.data.items()
    }
    return all(holds(condition, plain) for condition in signal.conditions)


def holds(condition: Condition, facts: dict[str, list[str]] | object) -> bool:
    """One comparison against the values of a fact; true if any value fulfils it."""
    table = facts if isinstance(facts, dict) else dict(facts)  # type: ignore[call-overload]
    values = table.get(condition.path, [])
    if condition.comparison == "present":
        return bool(values)
    if condition.comparison == "absent":
        return not values
    if condition.comparison == "not_matches":
        return not any(re.search(pattern, value) for pattern in condition.values for value in values)
    against = list(condition.values)
    if condition.other is not None:
        against = table.get(condition.other, [])
    return any(_compare(condition.comparison, value, against) for value in values) if against else False


def _compare(comparison: str, value: str, against: Sequence[str]) -> bool:
    if comparison in ("equals", "in"):
        return value in against
    if comparison == "not_equals":
        return value not in against
    if comparison == "matches":
        return any(re.search(pattern, value) for pattern in against)
    if comparison.startswith("version"):
        mine = version(value)
        if mine is None:
            return False
        others = [known for text in against if (known := version(text)) is not None]
        if comparison == "version_in":
            return mine in others
        return any(mine < other if comparison == "version_below" else mine >= other for other in others)
    try:
        number, limits = float(value), [float(text) for text in against]
    except ValueError:
        return False
    if comparison == "below":
        return any(number < limit for limit in limits)
    if comparison == "above":
        return any(number > limit for limit in limits)
    return any(number >= limit for limit in limits)


def version(text: str) -> tuple[int, ...] | None:
    """`2.21.5+cuda12.4` -> (2, 21, 5); None for what is no version."""
    match = re.match(r"\D{0,3}(\d+(?:\.\d+)*)", text)
    return tuple(int(part) for part in match.group(1).split(".")) if match else None
