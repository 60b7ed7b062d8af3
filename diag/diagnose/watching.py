"""`diag watch`: a launch runs, dies or stands still; then everything is collected and explained."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from diag.diagnose import pipeline
from diag.diagnose.attaching import attach
from diag.model import Report
from diag.system.launches import Watched, follow, start

QUIET_S = 120.0
"""Silence after which the launch is looked at: healthy launches are silent for minutes, so silence alone says nothing."""
AGAIN = 2.0
"""After a look that found it working, the next silence must be so much longer."""


@dataclass(slots=True)
class Outcome:
    """How the launch went."""

    exit_code: int
    """The launch's own, 128 + N for signal N, like a shell."""
    report: Report | None = None
    """None where there was nothing to explain."""
    hung: bool = False
    looks: int = 0


@dataclass(slots=True)
class _Hang:
    """Looks at the launch whenever it has been silent for long enough, and says once when it stands still."""

    quiet_s: float
    logs: Path
    talk: Callable[[str], None]
    on_report: Callable[[Report], None]
    playbook_dirs: Sequence[Path]
    patience: float = 0.0
    report: Report | None = None
    told_at: float = 0.0
    looks: int = 0
    dumps: list[str] = field(default_factory=list)

    def tick(self, watched: Watched) -> None:
        """Called every second."""
        silent = time.monotonic() - watched.last_output
        patience = self.patience or self.quiet_s
        if silent < patience:
            if watched.last_output > self.told_at:
                self.patience = 0.0
            return
        if self.report is not None and watched.last_output < self.told_at:
            return  # the same silence has been explained
        self.looks += 1
        report = attach(
            [watched.pid], logs=_logs(self.logs), playbook_dirs=self.playbook_dirs, command="watch"
        )
        if not stands_still(report):
            self.patience = patience * AGAIN
            self.talk(
                f"diag: no output for {silent:.0f} s, but the launch works; looking again after {self.patience:.0f} s of silence"
            )
            return
        self.report = replace(
            report, notes=(*report.notes, f"the launch had printed nothing for {silent:.0f} s")
        )
        self.told_at = time.monotonic()
        self.talk(f"diag: no output for {silent:.0f} s and the launch stands still; it is left running")
        self.on_report(self.report)


def stands_still(report: Report) -> bool:
    """True if a process was seen to stand still, or to wait for one that does."""
    return bool(report.diagnoses) or any(
        one.probe == "attach.verdict" and (one.data.get("unexplained") or one.data.get("cause"))
        for one in report.findings
    )


def watch(
    command: Sequence[str],
    *,
    quiet_s: float = QUIET_S,
    talk: Callable[[str], None] = lambda text: None,
    on_report: Callable[[Report], None] = lambda report: None,
    playbook_dirs: Sequence[Path] = (),
) -> Outcome:
    """Run the launch to its end and return how it went. Raises UserError where it cannot be started."""
    with tempfile.TemporaryDirectory(prefix="diag-watch-") as folder:
        log = Path(folder) / "launch.log"
        watched = start(command, log)
        hang = _Hang(quiet_s, log, talk, on_report, playbook_dirs)
        status = follow(watched, hang.tick)
        code = status if status >= 0 else 128 - status
        failed = status != 0 and not watched.interrupted
        report = hang.report
        if failed:
            report = _explain_death(log, code, playbook_dirs)
            on_report(report)
        return Outcome(code, report, hang.report is not None, hang.looks)


def _logs(log: Path) -> list[str]:
    return [str(log)] if log.exists() and log.stat().st_size else []


def _explain_death(log: Path, code: int, playbook_dirs: Sequence[Path]) -> Report:
    """What the launch printed, with what the node itself shows now."""
    report = pipeline.run_node(
        only=("kernel.xid", "gpu.inventory", "host.memory", "host.disk", "host.shm"), timeout_s=8.0,
        logs=_logs(log), playbook_dirs=playbook_dirs,
    )  # fmt: skip
    ended = f"with code {code}" if code < 128 else f"by signal {code - 128}"
    return replace(
        report,
        command="watch",
        notes=(*report.notes, f"the launch ended {ended}; this node is {os.uname().nodename}"),
    )
