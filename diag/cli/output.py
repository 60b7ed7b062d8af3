"""Where the artefact goes: standard output or files that only their owner can read."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from diag.cli.errors import talk
from diag.cli.format import Format
from diag.model import Report
from diag.report import redact, render
from diag.report.formats import SUFFIXES
from diag.system import UserError

_BY_ENDING = {".json": "json", ".md": "markdown", ".markdown": "markdown", ".html": "html", ".htm": "html"}


@dataclass(frozen=True, slots=True)
class Sink:
    """The common options of one call."""

    fmt: str
    output: Path | None
    folder: bool
    """The output is a folder: it exists as one, or was written with a slash at its end."""
    raw: bool
    quiet: bool


def sink(fmt: Format | None, as_json: bool, output: str | None, raw: bool, quiet: bool) -> Sink:
    """Settle the common options. Raises UserError where they contradict each other."""
    if as_json and fmt not in (None, Format.JSON):
        raise UserError(f"--json and --format {fmt.value} contradict each other", code="usage")
    if as_json or fmt is not None:
        chosen = "json" if as_json or fmt is None else fmt.value
    else:
        chosen = _BY_ENDING.get(Path(output).suffix.lower(), "text") if output is not None else "text"
    if output is None:
        return Sink(chosen, None, False, raw, quiet)
    return Sink(chosen, Path(output), output.endswith(os.sep) or Path(output).is_dir(), raw, quiet)


def protect(report: Report, raw: bool, incident: str | None = None) -> Report:
    """Redact, unless the owner said --raw.

    DIAG_INCIDENT, or what nodes agreed on when they met, makes stand-ins agree between the nodes of one job.
    """
    return report if raw else redact(report, incident=os.environ.get("DIAG_INCIDENT") or incident)


def emit(report: Report, to: Sink) -> None:
    """Write the (already protected) report."""
    plain = to.output is None
    text = render(report, to.fmt, width=screen_width() if plain else None, color=plain and wants_color())
    emit_text(text, to, f"report.{SUFFIXES[to.fmt]}")


def emit_text(text: str, to: Sink, name: str) -> None:
    """Write a finished artefact; `name` is its file's name where -o is a folder."""
    if to.output is None:
        write_stdout(text)
        return
    path = to.output / name if to.folder else to.output
    try:
        if to.folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, text)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(path), code="unwritable") from error
    if not to.quiet:
        talk(f"written to {path}")


def write_stdout(text: str) -> None:
    """Write to standard output whatever its encoding can say."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all. Devices, pipes and links are written through."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        # renaming onto /dev/null as root would put a plain file in its place
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        return
    import tempfile

    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mkstemp: mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def write_folder(report: Report, out: Path | None, quiet: bool) -> None:
    """Write report.json, report.md and report.html; where that cannot be, say so and go on."""
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    folder = out if out is not None else Path(f"diag-report-{stamp}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for fmt in ("json", "markdown", "html"):
            write_private(folder / f"report.{SUFFIXES[fmt]}", render(report, fmt))
    except OSError as error:
        talk(f"diag: no report files: {folder}: {error.strerror}")
        return
    if not quiet:
        talk(f"report.json, report.md and report.html are in {folder}")


class JobFolder:
    """One node's files in a folder that may be shared by all nodes: report-node3.json and so on, and report.json.

    report.json is the job's where the master writes it; another node writes its own report there unless the folder is
    the master's too.
    """

    def __init__(self, folder: Path, node_rank: int, quiet: bool) -> None:
        self._folder, self._rank, self._quiet = folder, node_rank, quiet
        self._problem = ""

    def write(self, report: Report, *, job: bool) -> None:
        """Write (again) this node's report, or the job's; a folder that cannot be written is told once, at the end."""
        names = ["report"] if job else [f"report-node{self._rank}"]
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not job and self._rank and not (self._folder / "report-node0.json").exists():
                names.append("report")
            for fmt in ("json", "markdown", "html"):
                text = render(report, fmt)
                for name in names:
                    write_private(self._folder / f"{name}.{SUFFIXES[fmt]}", text)
        except OSError as error:
            self._problem = f"diag: no report files: {self._folder}: {error.strerror}"

    def tell(self) -> None:
        """Say where the files are."""
        if self._problem:
            talk(self._problem)
        elif not self._quiet:
            what = "the job's report.json, report.md and report.html, and" if self._rank == 0 else ""
            talk(f"{what} report-node{self._rank}.json, .md and .html are in {self._folder}".strip())


def job_folder(out: Path | None, node_rank: int, quiet: bool) -> JobFolder:
    """The folder of a run in a job; by default a dated one here."""
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return JobFolder(out if out is not None else Path(f"diag-report-{stamp}"), node_rank, quiet)


def wants_color() -> bool:
    """Return whether standard output is a terminal that is allowed colours (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _columns() -> int:
    told = os.environ.get("COLUMNS", "")
    if told.isdigit() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 100
    except (OSError, ValueError):
        return 100


def screen_width() -> int:
    """Return the columns to draw for: the terminal's, else $COLUMNS, else 100."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit():
        return _columns()
    return 100
