"""The bodies of `diag playbook ...`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diag.cli.errors import OK, WRONG, talk
from diag.cli.output import Sink, emit_text, screen_width, wants_color, write_stdout
from diag.report.formats import SUFFIXES


def list_all(to: Sink, playbook_dirs: Sequence[Path]) -> int:
    """Print every playbook's head; return the exit code."""
    from diag.diagnose.knowledge import list_playbooks
    from diag.report.card import draw_list

    heads = [as_dict(one) for one in list_playbooks(playbook_dirs)]
    text = dump(heads) if to.fmt == "json" else draw_list(heads, to.fmt, width=screen_width())
    emit_text(text, to, f"playbooks.{SUFFIXES[to.fmt]}")
    return OK


def show(to: Sink, name: str, playbook_dirs: Sequence[Path]) -> int:
    """Print one playbook; return the exit code."""
    from diag.diagnose.knowledge import show_playbook
    from diag.report.card import draw_card

    card = as_dict(show_playbook(name, playbook_dirs))
    plain = to.output is None
    text = (
        dump(card)
        if to.fmt == "json"
        else draw_card(card, to.fmt, width=screen_width(), color=plain and wants_color())
    )
    emit_text(text, to, f"{name}.{SUFFIXES[to.fmt]}")
    return OK


def lint(path: Path | None, playbook_dirs: Sequence[Path], quiet: bool) -> int:
    """Print every problem; return 1 where there are any."""
    from diag.diagnose.knowledge import lint_playbooks

    problems = lint_playbooks(path, playbook_dirs)
    for problem in problems:
        write_stdout(f"{problem}\n")
    if not quiet:
        talk(f"{len(problems)} problems" if len(problems) != 1 else "1 problem")
    return WRONG if problems else OK


def draft(to: Sink, line: str, name: str) -> int:
    """Print a new playbook's draft; return the exit code."""
    from diag.diagnose.draft import draft_playbook

    text = draft_playbook(line, name)
    emit_text(text if text.endswith("\n") else text + "\n", to, f"{name}.yaml")
    return OK


def as_dict(one: object) -> dict[str, Any]:
    """Return a playbook as plain values, whether it comes as a dataclass or as its YAML's mapping."""
    if dataclasses.is_dataclass(one) and not isinstance(one, type):
        return dataclasses.asdict(one)
    if isinstance(one, dict):
        return one
    raise TypeError(f"a playbook expected, found {type(one).__name__}")


def dump(value: object) -> str:
    """Return JSON text."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"
