"""The contract every probe file keeps. Discovery finds the files; nobody edits a list.

A probe file `diag/observe/probes/<layer>_<thing>.py` has a module docstring (why this stalls a launch) and one
module attribute `PROBE`. The runner starts a child for each probe, which calls `collect` and sends its facts
back on a private descriptor; the parent calls `judge` on them. A child that hangs is killed at its deadline and
becomes an `unknown (timeout)` finding; one that dies becomes `unknown (crashed)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diag.model import Finding, Reason, Status
from diag.system import Root

Facts = dict[str, Any]
"""What `collect` returns: plain JSON values only, units in the names (`free_bytes`, `mtu_bytes`)."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a probe may know before it looks."""

    root: Root = field(default_factory=Root)
    env: Mapping[str, str] = field(default_factory=dict)
    """The environment of whoever called diag."""
    python: str | None = None
    """The patient's interpreter, if one was given or found."""
    deep: bool = False
    launch_since_s: float | None = None
    """Epoch seconds of the launch's start, if known: older kernel messages are history."""
    models: Sequence[str] = ()
    """Models that a given plan names."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Head of a probe: declaration only.

    `judge` gets exactly what `collect` returned (after a trip through JSON) and returns at least one finding;
    every finding's `probe` is `id`. `touches_gpu` probes are left out while ranks of a job are alive on the GPUs.
    """

    id: str
    title: str
    collect: Callable[[Setup], Facts]
    judge: Callable[[Facts], list[Finding]]
    timeout_s: float = 5.0
    touches_gpu: bool = False
    section: str = "host"
    """Which part of report.facts its facts fill: hardware, software, network, host."""


def finding(
    probe: str,
    status: Status,
    summary: str,
    *,
    subject: str = "",
    reason: Reason | None = None,
    **data: Any,
) -> Finding:
    """Build a Finding without repeating field names."""
    return Finding(probe=probe, subject=subject, status=status, summary=summary, reason=reason, data=data)
