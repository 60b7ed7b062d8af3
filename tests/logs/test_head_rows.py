"""The table of heads names the characters that each form can begin with; a forgotten one would hide the form."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest

from diag.observe.logs.heads import ROWS, parse_head

if sys.version_info >= (3, 11):
    from re import _parser as sre_parse  # type: ignore[attr-defined]
else:
    import sre_parse

ASCII = [chr(code) for code in range(128)]


def first(sequence: Any) -> tuple[set[str], bool]:
    """(ASCII characters that a parsed expression can begin with, whether it can be empty)."""
    found: set[str] = set()
    for op, arg in sequence:
        name = str(op)
        if name == "LITERAL":
            return found | {chr(arg)}, False
        if name == "IN":
            return found | {char for char in ASCII if _in(arg, char)}, False
        if name == "SUBPATTERN":
            chars, empty = first(arg[-1])
        elif name == "BRANCH":
            parts = [first(branch) for branch in arg[1]]
            chars, empty = set().union(*(part[0] for part in parts)), any(part[1] for part in parts)
        elif name in ("MAX_REPEAT", "MIN_REPEAT"):
            chars, empty = first(arg[2])
            empty = empty or arg[0] == 0
        elif name in ("ASSERT", "ASSERT_NOT", "AT"):
            chars, empty = set(), True
        else:
            raise AssertionError(f"teach this test what {name} begins with")
        found |= chars
        if not empty:
            return found, False
    return found, True


def _in(members: Any, char: str) -> bool:
    classes = {"CATEGORY_DIGIT": r"\d", "CATEGORY_WORD": r"\w", "CATEGORY_SPACE": r"\s"}
    for op, arg in members:
        if str(op) == "LITERAL" and chr(arg) == char:
            return True
        if str(op) == "RANGE" and arg[0] <= ord(char) <= arg[1]:
            return True
        if str(op) == "CATEGORY" and re.match(classes[str(arg)], char):
            return True
        assert str(op) != "NEGATE", "a form that begins with anything but ... belongs to every character"
    return False


@pytest.mark.parametrize("row", ROWS, ids=[row[1][:30] for row in ROWS])
def test_the_characters_are_those_that_the_form_begins_with(row: tuple[str, str]) -> None:
    chars, empty = first(sre_parse.parse(row[1]))
    assert not empty
    assert set(row[0]) == {char for char in chars if char.isascii()}


def test_other_characters_may_begin_any_form() -> None:
    assert parse_head("┃ RuntimeError").text == "RuntimeError"
    assert parse_head("").text == ""
