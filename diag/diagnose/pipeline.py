"""observe -> diagnose -> Report. Every command is a short line through here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import diag
from diag.diagnose.engine import diagnose
from diag.diagnose.evidence import Evidence, prepare
from diag.diagnose.facts import flatten, nested_facts
from diag.diagnose.unexplained import unexplained
from diag.model import Diagnosis, Finding, Gap, InputFile, Report, Role, Status, Strength, Unexplained, Verdict
from diag.observe.logs.opening import Opening
from diag.observe.logs.reading import LogReader, LogReading, build_reader
from diag.playbooks.base import Base, load_base
from diag.system import UserError

Progress = Callable[[int, int | None], None]


def explain(paths: Sequence[str], *, playbook_dirs: Sequence[Path] = (), on_progress: Progress | None = None) -> Report:
    """Diagnose from evidence left behind: logs, folders, archives, reports, plans. Raises UserError for bad input."""
    base = load_base(playbook_dirs)
    reading = read_logs(paths, base, on_progress)
    evidence = judge_ready(reading, ())
    return conclude("explain", base, evidence, inputs=reading.inputs, gaps=_log_gaps(reading))


def read_logs(paths: Sequence[str], base: Base, on_progress: Progress | None = None) -> LogReading:
    """Read every log below the paths."""
    total = _total(paths)
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        if on_progress is not None:
            on_progress(done, total)

    reader = build_reader(base, count)
    opening = Opening(paths)
    reading = LogReading(skipped=opening.skipped)
    for source in opening:
        reading.files.append(reader.read(source))
    if not reading.files:
        what = reading.skipped[0] if reading.skipped else None
        raise UserError("holds no log that could be read" + (f" ({what.name} {what.why})" if what else ""),
                        where=", ".join(paths), code="nothing-readable")
    return reading


def evidence_of(paths: Sequence[str], reader: LogReader) -> Evidence:
    """Logs to evidence with an already compiled reader (for measuring many cases)."""
    return judge_ready(LogReading([reader.read(source) for source in Opening(paths)]), ())


def judge_ready(reading: LogReading, findings: Sequence[Finding], extra: Mapping[str, list[str]] | None = None) -> Evidence:
    """Join what logs, probes and plans say into one body of evidence."""
    facts, names = flatten(reading.files, findings, extra or {})
    return prepare(reading.files, findings, facts, names)


def conclude(
    command: str,
    base: Base,
    evidence: Evidence,
    *,
    inputs: tuple[InputFile, ...] = (),
    gaps: tuple[Gap, ...] = (),
    facts: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Diagnose and make the report with its verdict and exit code."""
    diagnoses = diagnose(base, evidence)
    open_question = unexplained(evidence) if not diagnoses and evidence.has_failure else None
    verdict, code = judge(diagnoses, evidence.findings, open_question)
    return Report(
        command=command,
        verdict=verdict,
        created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        version=diag.__version__,
        diagnoses=diagnoses,
        findings=tuple(evidence.findings),
        facts=nested_facts(evidence, facts or {}),
        gaps=gaps,
        inputs=inputs,
        unexplained=open_question,
        notes=(*notes, *_run_notes(evidence)),
        exit_code=code,
    )


def judge(diagnoses: Sequence[Diagnosis], findings: Sequence[Finding], open_question: Unexplained | None) -> tuple[Verdict, int]:
    """The verdict and the exit code (CONTRACT: 0 nothing wrong, 1 named, 3 wrong or unmeasured and unknown)."""
    roots = [one for one in diagnoses if one.role is not Role.ECHO and one.severity != "note"]
    if any(one.strength is not Strength.POSSIBLE for one in roots) or any(one.status is Status.FAIL for one in findings):
        return Verdict.FAIL, 1
    if roots:
        return Verdict.WARN, 1
    if open_question is not None:
        return Verdict.UNKNOWN, 3
    if findings and not any(one.status.measured for one in findings):
        return Verdict.UNKNOWN, 3
    if any(one.status is Status.WARN for one in findings):
        return Verdict.WARN, 0
    return Verdict.OK, 0


def _run_notes(evidence: Evidence) -> list[str]:
    return [
        f"{item.reading.name} holds {item.other_runs + 1} runs; lines {item.first_line} to "
        f"{item.last_line if item.last_line < 1 << 59 else item.reading.lines} were judged"
        for item in evidence.files if item.other_runs
    ]


def _log_gaps(reading: LogReading) -> tuple[Gap, ...]:
    gaps = [Gap(one.name, one.why) for one in reading.skipped]
    gaps += [Gap(one.name, one.problem, "copy the file again") for one in reading.files if one.problem]
    return tuple(gaps)


def _total(paths: Sequence[str]) -> int | None:
    total = 0
    for path in paths:
        place = Path(path)
        if path == "-" or not place.exists() or path.endswith((".gz", ".zst", ".tgz", ".tar")):
            return None
        if place.is_file():
            total += place.stat().st_size
        else:
            total += sum(one.stat().st_size for one in place.rglob("*") if one.is_file())
    return total
