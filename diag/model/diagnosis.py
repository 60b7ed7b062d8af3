"""A named cause with its evidence and its cure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from diag.model.status import Role, Strength


@dataclass(frozen=True, slots=True)
class Culprit:
    """Who did it. Unknown members are None."""

    rank: int | None = None
    host: str | None = None
    process: str | None = None
    component: str | None = None
    gpu: int | None = None
    link: tuple[str, str] | None = None
    phase: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """A line (or a probe's sentence) that carries the diagnosis."""

    source: str
    line: int | None
    text: str
    rank: int | None = None
    host: str | None = None
    time: str | None = None


@dataclass(frozen=True, slots=True)
class Fix:
    """One concrete change."""

    do: str
    settings: Mapping[str, str] = field(default_factory=dict)
    command: str | None = None
    patch: str | None = None
    risk: str = "restarts-job"
    """none, restarts-job, needs-root or touches-others."""
    verify: str | None = None
    undo: str | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One cause."""

    id: str
    title: str
    strength: Strength
    role: Role
    summary: str
    culprit: Culprit = field(default_factory=Culprit)
    evidence: tuple[Evidence, ...] = ()
    echoes: tuple[str, ...] = ()
    fixes: tuple[Fix, ...] = ()
    confirm: tuple[str, ...] = ()
    explanation: str = ""
    severity: str = "error"
    """error, warning or note; only errors make a verdict fail."""
    guessed: bool = False
    """No playbook fits; the failure's messages merely resemble this cause's."""
