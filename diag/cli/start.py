"""The entry point. `diag explain FILES` starts without typer, whose import takes longer than reading most logs.

Anything else, and every option that is not in `FLAGS`, goes to the full command line (`diag.cli.main`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

FLAGS = {"--json": "as_json", "--raw": "raw", "--quiet": "quiet", "-q": "quiet"}


def plain_explain(argv: Sequence[str]) -> tuple[list[str], set[str]] | None:
    """(paths, names of the flags) of a plain `explain`; None for any other command line."""
    if argv[:1] != ["explain"] or "_DIAG_COMPLETE" in os.environ:
        return None
    paths = [word for word in argv[1:] if not word.startswith("-") or word == "-"]
    flags = {FLAGS.get(word) for word in argv[1:] if word.startswith("-") and word != "-"}
    if not paths or None in flags:
        return None
    return paths, {flag for flag in flags if flag}


def run() -> int:
    """Run the command line and return its exit code."""
    plain = plain_explain(sys.argv[1:])
    if plain is None:
        from diag.cli.main import run as run_all

        return run_all()
    from diag.cli.errors import code_of, forget_stdout, spare_collections

    spare_collections()
    paths, flags = plain

    def work() -> int:
        from diag.cli.commands import explain_paths
        from diag.cli.output import sink

        to = sink(None, "as_json" in flags, None, "raw" in flags, "quiet" in flags)
        return explain_paths(to, paths, [])

    code = code_of(work)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        forget_stdout()
    return code


if __name__ == "__main__":
    sys.exit(run())
