"""Root, echo, culprit: from matched clauses to ranked diagnoses. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from diag.diagnose.candidate import (
    Candidate,
    explain_echoes,
    order,
    printed_only,
    raise_hints,
    rank,
    without_last_resorts,
)
from diag.diagnose.culprit import find_culprit
from diag.diagnose.evidence import Evidence
from diag.diagnose.filling import fill, fill_fix
from diag.diagnose.matching import STACKS, STATED, ClauseMatch, Matcher, SignalHits
from diag.model import Culprit, Diagnosis, Finding, Fix, Observation, Role, Status, Strength
from diag.model import Evidence as EvidenceLine
from diag.playbooks.base import Base
from diag.playbooks.schema import Clause, Signal

MAX_EVIDENCE = 8
MAX_DIAGNOSES = 8


def candidates(base: Base, evidence: Evidence) -> list[Candidate]:
    """Every playbook that fits the evidence, unranked."""
    index: dict[str, list[Observation]] = {}
    for item in evidence.files:
        for one in item.observations:
            if one.kind == "log":
                index.setdefault(one.name, []).append(one)
    touched = {name.split("/", 1)[0] for name in index}
    found = []
    for name in _concerned(base, evidence, touched):
        playbook = base.playbooks[name]
        failing = [
            one
            for one in evidence.findings
            if one.data.get("cause") == playbook.id and one.status is Status.FAIL
        ]
        matcher = Matcher(playbook, evidence, index)
        matches = matcher.matches()
        findings = failing if matches else [one for one in failing if not one.data.get("supports_only")]
        if matches or findings:
            told = {
                key: value
                for name, signal in playbook.signals.items()
                if signal.kind == "log"
                for line in matcher.hits(name).lines  # not what the signal's own conditions exclude
                for key, value in line.fields.items()
            }
            found.append(Candidate(playbook, matches, findings, _strength(matches, findings), told=told))
    return found


def _concerned(base: Base, evidence: Evidence, touched: set[str]) -> list[str]:
    """Playbooks that could fire at all: a line, an exception, a finding or a fact of theirs is there."""
    there = {
        "exception": any(item.exceptions for item in evidence.files),
        "words": bool(evidence.last_words),
        "finding": bool(evidence.findings),
        "stack": any(one.probe == STACKS for one in evidence.findings),
        "fact": bool(evidence.facts),
    }
    causes = {str(one.data.get("cause")) for one in evidence.findings}
    wanted = touched | causes
    wanted |= {name for name, kinds in base.kinds() if any(there.get(kind) for kind in kinds)}
    return [name for name in base.playbooks if name in wanted]


def _strength(matches: Sequence[ClauseMatch], findings: Sequence[Finding]) -> Strength:
    strengths = [_clause_strength(match) for match in matches]
    if findings:
        certain = any(finding.data.get("certain", True) for finding in findings)
        stated = any(match.says in STATED for match in matches)
        alone = not matches and printed_only(findings)
        strengths.append(Strength.PROVEN if (certain or stated) and not alone else Strength.LIKELY)
    return min(strengths, key=lambda one: one.order)


def _clause_strength(match: ClauseMatch) -> Strength:
    """From the kind of evidence alone."""
    stated = match.says in STATED
    measured = any(hit.findings or hit.fact for hit in match.hits)
    if stated and measured:
        strength = Strength.PROVEN
    elif stated or (match.by_absence and len(match.hits) > 1) or (measured and match.says == "hint"):
        strength = Strength.LIKELY
    else:
        strength = Strength.POSSIBLE
    if match.clause.ceiling:
        strength = max(strength, Strength(match.clause.ceiling), key=lambda one: one.order)
    return strength


def diagnose(base: Base, evidence: Evidence, *, guess: bool = True) -> tuple[Diagnosis, ...]:
    """All causes that the evidence carries, the root first. Empty for a launch that works.

    With `guess`, a failure that no playbook knows gets the causes whose known messages it resembles.
    """
    found = candidates(base, evidence)
    order(found)
    if any(one.failing for one in found):  # beside a failure nobody asks why it is slow
        found = [one for one in found if not one.slows or one.failing]
    if not evidence.has_failure:
        found = [one for one in found if not _left_behind(one, evidence)]
        if not any(one.failing for one in found):
            found = [one for one in found if one.slows]  # hints alone accuse nobody
        elif evidence.works:  # nothing died: only what goes wrong in a launch that serves can be wrong
            found = [
                one
                for one in found
                if one.findings
                or one.playbook.while_serving
                or one.stands_still
                or one.seen_standing
                or _outlasts(one, evidence)
                or one.slows
            ]
    explain_echoes(found)
    raise_hints(found)
    roots = sorted((one for one in found if one.explained_by is None), key=rank)
    roots = without_last_resorts(roots)
    echoes = [one for one in found if one.explained_by is not None]
    result = [
        _diagnosis(one, evidence, Role.ROOT if number == 0 else Role.CONTRIBUTING)
        for number, one in enumerate(roots)
    ]
    result += [_diagnosis(one, evidence, Role.ECHO) for one in sorted(echoes, key=rank)]
    if guess and not result and evidence.has_failure:
        result = _resembling(base, evidence)
    return tuple(result[:MAX_DIAGNOSES])


DETOUR = 12
"""Lines within which a program says that it falls back to something else."""

LONG_AGO, STILL = 500, 60
"""Lines that a file goes on for, with no word of failure, after what nobody died of, and after what seemed to stand still."""


def _left_behind(one: Candidate, evidence: Evidence) -> bool:
    """True if the program went on for long after everything that the candidate rests on."""
    lines = [line for match in one.matches for line in match.primary]
    if one.findings or not lines:
        return False
    if all(_goes_another_way(line, evidence) for line in lines):
        return True
    limit = STILL if one.stands_still else LONG_AGO
    return all(_lines_after(line, evidence) >= limit for line in lines)


def _goes_another_way(line: Observation, evidence: Evidence) -> bool:
    """True if the program soon says what it takes instead, and goes on for longer than that took."""
    item = evidence.file_of(line)
    if item is None:
        return False
    detours = [one.order - line.order for one in item.observations if one.kind == "detour"]
    return any(0 <= away <= DETOUR and _lines_after(line, evidence) > 2 * away for away in detours)


def _lines_after(line: Observation, evidence: Evidence) -> int:
    """Lines that its file goes on for after a line and everything later that looks like a failure."""
    item = evidence.file_of(line)
    if item is None:
        return 0
    failures = [other.order for other in item.observations if other.kind == "failure"]
    return item.reading.lines - max([line.order, *failures])


def _outlasts(one: Candidate, evidence: Evidence) -> bool:
    """True if the files that tell what the candidate rests on show life before it, and none after."""
    if one.strength is Strength.POSSIBLE:
        return False
    lines = [line for match in one.matches for line in match.primary]
    lives = [(line, item.alive) for line in lines if (item := evidence.file_of(line)) is not None]
    return bool(lives) and all(
        alive and not any(mark.order > line.order for mark in alive) for line, alive in lives
    )


def _resembling(base: Base, evidence: Evidence) -> list[Diagnosis]:
    """Guesses, each only possible and marked as one."""
    from diag.diagnose.resembling import guesses

    found: list[Diagnosis] = []
    for one in guesses(base.known_lines(), evidence):
        playbook = base.playbooks[one.cause]
        signal = Signal("resembles", "log", "hint")
        match = ClauseMatch(playbook, Clause(), [SignalHits(signal, [one.line])])
        candidate = Candidate(playbook, [match], [], Strength.POSSIBLE)
        made = _diagnosis(candidate, evidence, Role.CONTRIBUTING if found else Role.ROOT)
        summary = f"No playbook knows this failure; of the messages known, this one of {one.cause} is the nearest: {one.known[:160]}"
        found.append(replace(made, summary=summary, guessed=True))
    return found


def _diagnosis(one: Candidate, evidence: Evidence, role: Role) -> Diagnosis:
    playbook = one.playbook
    culprit = find_culprit(one.matches, one.findings, evidence)
    names = _names(one, evidence, culprit)
    fixes = [fix for text in playbook.fixes if (fix := fill_fix(text, names, evidence.framework)) is not None]
    fixes.sort(key=lambda fix: not any(f"experiment.{name}" in evidence.facts for name in fix.settings))
    fixes = [*_finding_fixes(one.findings), *fixes]  # (what the user saw working comes first)
    summary = fill(playbook.summary, names)
    if one.findings and not one.matches:
        summary = one.findings[0].summary
    return Diagnosis(
        id=playbook.id,
        title=playbook.title,
        strength=one.strength,
        role=role,
        summary=summary,
        culprit=culprit,
        evidence=tuple(_evidence_lines(one, culprit.rank)),
        echoes=tuple(sorted(set(one.echoes))),
        fixes=tuple(fixes),
        confirm=tuple(fill(text, names) for text in playbook.confirm)
        if one.strength is not Strength.PROVEN
        else (),
        explanation=fill(playbook.explanation, names),
        severity=playbook.severity,
    )


def _names(one: Candidate, evidence: Evidence, culprit: Culprit) -> dict[str, Any]:
    names: dict[str, Any] = {**evidence.names, **one.told}
    for finding in one.findings:
        names.update(
            {key: value for key, value in finding.data.items() if isinstance(value, (str, int, float))}
        )
    for match in reversed(one.matches):
        for hit in reversed(match.hits):
            for line in reversed(hit.lines):
                names.update(line.fields)
            for line in reversed(
                [line for line in hit.lines if culprit.rank is None or line.origin.rank == culprit.rank]
            ):
                names.update(line.fields)
            for finding in hit.findings:
                names.update(
                    {
                        key: value
                        for key, value in finding.data.items()
                        if isinstance(value, (str, int, float))
                    }
                )
    for key in ("rank", "host", "gpu", "phase", "process"):
        value = getattr(culprit, key)
        if value is not None:
            names[key] = value
        else:
            names.pop(key, None)
    return names


def _finding_fixes(findings: Sequence[Finding]) -> list[Fix]:
    fixes = []
    for finding in findings:
        raw = finding.data.get("fix")
        if isinstance(raw, Mapping) and raw.get("do"):
            fixes.append(
                Fix(
                    do=str(raw["do"]),
                    settings={str(key): str(value) for key, value in (raw.get("settings") or {}).items()},
                    command=raw.get("command"),
                    patch=raw.get("patch"),
                    risk=str(raw.get("risk", "restarts-job")),
                    verify=raw.get("verify"),
                    undo=raw.get("undo"),
                )
            )
    return fixes


def _evidence_lines(one: Candidate, rank: int | None) -> list[EvidenceLine]:
    found: list[EvidenceLine] = []
    seen: set[tuple[str, int | None]] = set()
    matches = sorted(one.matches, key=lambda match: (_clause_strength(match).order, -len(match.hits)))
    for finding in one.findings:
        found.append(EvidenceLine(f"probe:{finding.probe}", None, finding.summary))
    for match in matches:
        for hit in match.hits:
            for finding in hit.findings:
                found.append(EvidenceLine(f"probe:{finding.probe}", None, finding.summary))
            for line in sorted(hit.lines, key=lambda line: rank is not None and line.origin.rank != rank)[:3]:
                key = (line.origin.source, line.origin.line)
                if key not in seen:
                    seen.add(key)
                    found.append(
                        EvidenceLine(
                            line.origin.source,
                            line.origin.line,
                            line.text[:600],
                            line.origin.rank,
                            line.origin.host,
                            None if line.origin.time_s is None else _clock(line.origin.time_s),
                        )
                    )
    return found[:MAX_EVIDENCE]


def _clock(time_s: float) -> str:
    """HH:MM:SS as the log had it (logs name no time zone, often no date)."""
    day = int(time_s) % 86400
    return f"{day // 3600:02d}:{day // 60 % 60:02d}:{day % 60:02d}"
