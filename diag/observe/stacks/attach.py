"""The look at the launches of this node from the outside: started in a child, bounded, never in the patient's way."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diag.model import Gap, Reason
from diag.system import Root, run_command
from diag.system.pyspy import PTRACE_REMEDY, ptrace_allowed

CHILD = str(Path(__file__).with_name("child.py"))
START_S = 3.0


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of one node's launches."""

    host: str
    processes: list[dict[str, Any]] = field(default_factory=list)
    ras: list[dict[str, Any]] = field(default_factory=list)
    """What NCCL's RAS services on this node say of the job: `ras.compare` with their address; or {address, error}."""
    gaps: tuple[Gap, ...] = ()
    duration_s: float = 0.0
    taken_s: float = 0.0
    """Epoch seconds."""

    @property
    def facts(self) -> dict[str, Any]:
        """For the report."""
        return {
            "hostname": self.host,
            "duration_s": round(self.duration_s, 2),
            "taken_s": round(self.taken_s, 1),
            "processes": len(self.processes),
            "ptrace": ptrace_allowed(Root()),
        }


def look_at_launches(
    pids: Sequence[int] = (),
    *,
    span_s: float = 6.0,
    timeout_s: float = 25.0,
    stop: threading.Event | None = None,
    root: str = "/",
) -> Look:
    """Look at this node's launches, or at the given processes and all below them. Never raises for what it finds."""
    begin, taken = time.monotonic(), time.time()
    setup = json.dumps(
        {"root": root, "pids": list(pids), "span_s": min(span_s, timeout_s), "limit_s": timeout_s}
    ).encode()
    outcome = run_command(
        [sys.executable, CHILD], timeout_s=timeout_s + START_S, stdin=setup, answer_fd=True, stop=stop
    )
    processes, ras, gaps, done = [], [], [], False
    for line in outcome.answer.splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            continue  # the last line of a child that was killed
        if "process" in told:
            processes.append(told["process"])
        if "ras" in told:
            ras.append(told["ras"])
        done = done or bool(told.get("done"))
        if told.get("hidden"):
            shown = ", ".join(told["hidden"][:6])
            gaps.append(Gap(
                f"Python processes of other users ({shown}): ranks among them are not seen", Reason.PERMISSION.value,
                "run diag as root or as the user of the launch",
            ))  # fmt: skip
        if told.get("error"):
            gaps.append(Gap(f"the look at the processes failed: {told['error']}", Reason.CRASHED.value))
    if not done and not any("failed" in gap.what for gap in gaps):
        what = "the look at the processes did not end in time; those missing were not looked at"
        gaps.append(Gap(what, Reason.TIMEOUT.value, "diag attach --timeout SECONDS, or one PID alone"))
    gaps += _refused(processes)
    gaps += [
        Gap(
            f"NCCL's RAS at {one['address']} was not heard: {one['error']}",
            Reason.TIMEOUT.value,
            "ncclras -v, by hand",
        )
        for one in ras
        if "error" in one
    ]
    return Look(socket.gethostname(), processes, ras, tuple(gaps), time.monotonic() - begin, taken)


def _refused(processes: Sequence[dict[str, Any]]) -> list[Gap]:
    """Stacks that could not be read, each reason once."""
    refused: dict[tuple[str, str], list[str]] = {}
    for one in processes:
        stacks = (one["samples"][-1].get("stacks") or {}) if one["samples"] else {}
        if stacks.get("reason"):
            refused.setdefault((stacks["reason"], stacks["message"]), []).append(one["who"])
    gaps = []
    for (reason, message), who in refused.items():
        remedy = PTRACE_REMEDY if reason == Reason.PERMISSION.value else "py-spy dump --pid PID, by hand"
        shown = ", ".join(who[:6]) + (f" and {len(who) - 6} more" if len(who) > 6 else "")
        gaps.append(Gap(f"Python stacks of {shown}: {message}; judged by /proc alone", reason, remedy))
    return gaps
