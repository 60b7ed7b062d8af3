"""What moves on standard error while something takes long; nothing where nobody watches."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diag.observe.probes.runner import ProbeEvent


WORTH_A_BAR_S = 0.4
"""What is read faster than this needs no bar that flickers by."""


class Reading:
    """Progress of reading: bytes done of bytes in all (None: not known)."""

    def __call__(self, done: int, total: int | None) -> None:
        """Take note; draws nothing here."""


class Probing:
    """Progress of probes."""

    def __call__(self, event: ProbeEvent) -> None:
        """Take note; draws nothing here."""


def watched(quiet: bool) -> bool:
    """Return whether somebody sits at standard error."""
    return not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def reading(quiet: bool) -> Iterator[Reading]:
    """A bar for bytes read."""
    if not watched(quiet):
        yield Reading()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task("reading", total=None)
    begin = time.monotonic()

    class Drawn(Reading):
        def __call__(self, done: int, total: int | None) -> None:
            if not bar.live.is_started and time.monotonic() - begin > WORTH_A_BAR_S:
                bar.start()
            bar.update(task, completed=done, total=total)

    try:
        yield Drawn()
    finally:
        bar.stop()


@contextmanager
def probing(quiet: bool) -> Iterator[Probing]:
    """A bar for probes done, with the names of those still running."""
    if not watched(quiet):
        yield Probing()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("looking"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        running: dict[str, None] = {}

        class Drawn(Probing):
            def __call__(self, event: ProbeEvent) -> None:
                if event.kind == "started":
                    running[event.probe] = None
                else:
                    running.pop(event.probe, None)
                names = list(running)
                more = f" and {len(names) - 2} more" if len(names) > 2 else ""
                bar.update(
                    task, completed=event.done, total=event.total, description=", ".join(names[:2]) + more
                )

        yield Drawn()
