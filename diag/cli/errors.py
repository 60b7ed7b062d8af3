"""The one place where something that went wrong becomes words and an exit code."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

import diag

OK, WRONG, USAGE, UNKNOWN, BUG, INTERRUPTED = 0, 1, 2, 3, 70, 130
"""0 looked, nothing wrong; 1 something named; 2 wrong usage or input; 3 wrong or unmeasured, and unknown; 70 ours;
130 is the shell's number for Ctrl-C before there was anything to print."""

ISSUES = "the project's issue tracker"


def talk(text: str) -> None:
    """Say one line on standard error."""
    from diag.report.wording import clean

    try:
        sys.stderr.write(clean(text) + "\n")
        sys.stderr.flush()
    except OSError:
        return  # nobody listens any more


def guarded(work: Callable[[], int]) -> NoReturn:
    """Run a command's body and end with its exit code, whatever happens."""
    import typer

    raise typer.Exit(code_of(work))


def code_of(work: Callable[[], int]) -> int:
    """Run a command's body and return its exit code, whatever happens."""
    from diag.system.errors import UserError

    try:
        return work()
    except UserError as error:
        talk(f"diag: {error}")
        return USAGE
    except KeyboardInterrupt:
        talk("diag: interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        forget_stdout()
        return OK
    except Exception as error:
        if type(error).__name__ in ("Exit", "Abort"):  # typer's own way to end
            raise
        return _bug(error)  # the last net: no traceback ever reaches the screen


def spare_collections() -> None:
    """A short life makes little garbage; looking for it took a tenth of the time."""
    gc.set_threshold(100_000, 50, 50)


def forget_stdout() -> None:
    """Whoever read standard output has gone; do not complain when Python flushes it at exit."""
    try:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
    except (OSError, ValueError):
        return


def _bug(error: Exception) -> int:
    from diag.report.redact import RedactionError
    from diag.report.secrets import hide_secrets

    if isinstance(error, RedactionError):
        talk(f"diag: nothing was written, because {error}. --raw writes it unredacted, for your own eyes.")
    else:
        talk(f"diag: a bug of ours: {type(error).__name__} in {_place(error)}.")
    import tempfile

    text, _ = hide_secrets("".join(traceback.format_exception(error)))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="diag-bug-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(f"diag {diag.__version__}, Python {sys.version.split()[0]}, {sys.platform}\n{text}")
        talk(f"Please report it at {ISSUES} with {file.name} (look it through first: it names paths).")
    except OSError:
        talk(f"Please report it at {ISSUES} with the command that you ran.")
    return BUG


def _place(error: Exception) -> str:
    """Return module and line of our innermost frame."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if f"{os.sep}diag{os.sep}" in frame.filename
    ]
    if not frames:
        return "a library"
    return f"{frames[-1].filename.rsplit(os.sep + 'diag' + os.sep, 1)[-1]}:{frames[-1].lineno}"
