"""The one object every command ends in and every format draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diag.model.diagnosis import Diagnosis
from diag.model.evidence import Finding, Gap, InputFile
from diag.model.status import Verdict

SCHEMA = "diag.report/1"


@dataclass(frozen=True, slots=True)
class Redaction:
    """What was taken out. `applied` is False only for the owner's `--raw`."""

    applied: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unexplained:
    """What is known where no playbook fits."""

    first_failures: tuple[str, ...] = ()
    """Each rank's first fatal event with its place, ready to print."""
    odd_rank: str | None = None
    phase: str | None = None
    next_steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about one node or one job. See `diag.report.json` for the JSON form."""

    command: str
    """run, explain or check."""
    verdict: Verdict
    created: str
    """UTC, ISO 8601."""
    version: str
    diagnoses: tuple[Diagnosis, ...] = ()
    findings: tuple[Finding, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """launch, hardware, software, network: nested plain values, ready for JSON."""
    gaps: tuple[Gap, ...] = ()
    inputs: tuple[InputFile, ...] = ()
    redaction: Redaction = field(default_factory=Redaction)
    unexplained: Unexplained | None = None
    notes: tuple[str, ...] = ()
    """Sentences that are neither cause nor finding: other runs in the file, versions that differ."""
    exit_code: int = 0
