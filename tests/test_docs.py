"""What the README promises is what the command line has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from diag.cli import errors
from diag.cli.main import app

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def every_option() -> list[tuple[str, str]]:
    """(command, option) of the whole command line."""
    found = []

    def walk(command: object, name: str) -> None:
        for parameter in getattr(command, "params", ()):
            found.extend((name, option) for option in parameter.opts if option.startswith("--"))
        for child, inner in getattr(command, "commands", {}).items():
            walk(inner, f"{name} {child}")

    walk(typer.main.get_command(app), "diag")
    return found


def test_there_are_options() -> None:
    assert len(every_option()) > 40


@pytest.mark.parametrize("option", sorted({option for _, option in every_option()}))
def test_every_option_is_documented(option: str) -> None:
    assert re.search(rf"{option}(?![\w-])", README)


def test_every_command_is_documented() -> None:
    commands = getattr(typer.main.get_command(app), "commands")  # noqa: B009 - typer's own class, whatever it is built on
    for name in commands:
        assert f"diag {name}" in README


@pytest.mark.parametrize(
    "code", [errors.OK, errors.WRONG, errors.USAGE, errors.UNKNOWN, errors.BUG, errors.INTERRUPTED]
)
def test_every_exit_code_is_documented(code: int) -> None:
    assert re.search(rf"(?m)^\| {code} \|", README)
