"""The commands for jobs that hang: attach and watch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diag.cli.errors import guarded
from diag.cli.options import FormatOption, JsonOption, OutputOption, PlaybooksOption, QuietOption, RawOption


def attach_command(
    *,
    pids: Annotated[
        list[int] | None,
        typer.Argument(
            metavar="[PID...]", help="These processes and all below them; by default every launch here."
        ),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds", metavar="SECONDS", min=1.0, help="Look at most this long whether anything moves."
        ),
    ] = 6.0,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout", metavar="SECONDS", min=2.0, help="For the whole look, hung reads included."
        ),
    ] = 25.0,
    log: Annotated[
        list[str] | None,
        typer.Option(
            "--log", metavar="PATH", help="Explain this log with what was seen; may be given again."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder for report.json, report.md and report.html."),
    ] = None,
    fmt: FormatOption = None,
    as_json: JsonOption = False,
    output: OutputOption = None,
    raw: RawOption = False,
    playbooks: PlaybooksOption = None,
    quiet: QuietOption = False,
) -> None:
    """Look at a job that hangs right now on this node, without disturbing it."""

    def work() -> int:
        from diag.cli.commands import attach_here
        from diag.cli.output import sink

        return attach_here(
            sink(fmt, as_json, output, raw, quiet), pids or [], span_s=seconds, timeout_s=timeout, logs=log or [], out=out,
            playbook_dirs=playbooks or [],
        )  # fmt: skip

    guarded(work)


def watch_command(
    *,
    command: Annotated[
        list[str],
        typer.Argument(metavar="-- COMMAND...", help="The launch, as it would be started without diag."),
    ],
    silence: Annotated[
        float,
        typer.Option(
            "--silence",
            metavar="SECONDS",
            min=1.0,
            help="Without output for this long, look whether it moves.",
        ),
    ] = 120.0,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder for report.json, report.md and report.html."),
    ] = None,
    fmt: FormatOption = None,
    as_json: JsonOption = False,
    output: OutputOption = None,
    raw: RawOption = False,
    playbooks: PlaybooksOption = None,
    quiet: QuietOption = False,
) -> None:
    """Run a launch, notice that it hangs or dies, collect everything, explain; its exit code is kept."""

    def work() -> int:
        from diag.cli.commands import watch_launch
        from diag.cli.output import sink

        return watch_launch(
            sink(fmt, as_json, output, raw, quiet),
            command,
            silence_s=silence,
            out=out,
            playbook_dirs=playbooks or [],
        )

    guarded(work)
