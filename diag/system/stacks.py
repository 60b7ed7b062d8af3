"""Python stacks of a process as plain values, whoever has read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from diag.model import Reason


@dataclass(frozen=True, slots=True)
class Frame:
    """One Python call."""

    function: str
    file: str
    line: int
    numbers: Mapping[str, int] = field(default_factory=dict)
    """Whole numbers among its local variables, where they were asked for; nothing else of them is kept."""


@dataclass(frozen=True, slots=True)
class ThreadStack:
    """One thread, innermost call first."""

    name: str
    os_thread_id: int | None
    active: bool
    """True while it uses a CPU; a thread that waits is not active."""
    owns_gil: bool
    frames: tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class Stacks:
    """What a stack reader said about one process: threads, or the reason why not."""

    pid: int
    threads: tuple[ThreadStack, ...] = ()
    reason: Reason | None = None
    message: str = ""
