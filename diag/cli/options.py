"""The options that mean the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diag.cli.format import Format

FormatOption = Annotated[
    Format | None,
    typer.Option(
        "--format", help="How to write the result; by default as text, or as the ending of -o says."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Short for --format json.")]
OutputOption = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="FILE_OR_DIR", help="Where the result goes instead of standard output."
    ),
]
RawOption = Annotated[
    bool, typer.Option("--raw", help="Do not redact. The result then holds names, addresses and secrets.")
]
PlaybooksOption = Annotated[
    list[Path] | None,
    typer.Option("--playbooks", metavar="DIR", help="A folder with more playbooks; may be given again."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]
