"""What was seen, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diag.model.status import Phase, Reason, Status


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an observation comes from. Unknown members are None."""

    source: str = ""
    """File name as given, `-` for standard input, `probe:<id>`, `plan:<path>`."""
    line: int | None = None
    """1-based."""
    host: str | None = None
    rank: int | None = None
    process: str | None = None
    """A process as the launcher names it: `Worker_TP3 pid=4711`, `VllmWorker:1`."""
    time_s: float | None = None
    """Seconds since the epoch; where the log has no date, seconds since an arbitrary midnight."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One thing seen.

    kind: `log` (a signal of a playbook met a line), `exception` (a whole traceback), `phase`,
    `finding`, `fact`, `stack`, `collective`.
    """

    kind: str
    name: str
    """`<playbook id>/<signal>` for log observations, otherwise the kind's own name."""
    origin: Origin
    text: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    phase: Phase | None = None
    order: int = 0
    """Rank in reading order over all inputs; compares only where times do not."""
    note: bool = False
    """The logger that wrote the line calls it a warning or less."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One probe's, link test's or plan check's answer, also when it could not look."""

    probe: str
    """Dotted id of the check: `host.shm`, `gpu.memory`, `plan.gpu-count`."""
    subject: str
    """What was looked at: `/dev/shm`, `GPU 3`, `VllmWorker`; empty for the node as a whole."""
    status: Status
    summary: str
    reason: Reason | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    duration_s: float | None = None

    def __post_init__(self) -> None:
        """Keep measured and unmeasured apart."""
        if self.status.measured == (self.reason is not None):
            raise ValueError(f"{self.probe}: a reason goes with skip and unknown, and only with them")


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that could not be seen, and what would let us see it."""

    what: str
    reason: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class InputFile:
    """One thing that was read."""

    path: str
    kind: str
    bytes: int
    lines: int | None = None
