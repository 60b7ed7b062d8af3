"""Which strings must occur in a line before a pattern can match it.

A multi-pattern engine looks for these strings; the regular expression is tried only where one was found. They
are derived from the parsed expression, so that nobody can forget to update them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

if sys.version_info >= (3, 11):
    from re import _parser as sre_parse  # type: ignore[attr-defined]
else:
    import sre_parse

MIN_LITERAL = 3
"""In bytes of UTF-8. Shorter strings occur everywhere and would make every line a candidate."""

MAX_CHOICES = 40

_UNBOUNDED = sre_parse.MAXREPEAT


class PatternError(ValueError):
    """A pattern that the base refuses."""


def required_literals(pattern: str) -> tuple[str, ...]:
    """Return strings of which at least one occurs in every match of `pattern`.

    Raises PatternError where there is none of useful length or the pattern is not plain and linear.
    """
    best = _best(check_linear(pattern))
    if not best or min(len(text.encode()) for text in best) < MIN_LITERAL:
        raise PatternError(f"no literal of {MIN_LITERAL} or more characters must occur in {pattern!r}")
    if len(best) > MAX_CHOICES:
        raise PatternError("too many alternatives: split the pattern")
    return tuple(sorted(best))


def check_linear(pattern: str) -> Any:
    """Parse a pattern and refuse what is not plain and linear. Returns the parsed form."""
    try:
        tree = sre_parse.parse(pattern)
    except re.error as error:
        raise PatternError(f"not a regular expression: {error}") from None
    if tree.state.flags & ~re.UNICODE.value:
        raise PatternError("flags such as (?i) are not allowed: spell the cases out")
    _refuse_costly(tree, depth=0)
    return tree


def _score(choice: Iterable[str]) -> tuple[int, int]:
    texts = list(choice)
    return (min(12, *map(len, texts)), -len(texts))


def _best(sequence: Any) -> set[str] | None:
    candidates: list[set[str]] = []
    run = ""
    for op, arg in [*sequence, (None, None)]:
        if op is sre_parse.LITERAL:
            run += chr(arg)
            continue
        if op is sre_parse.IN and len(arg) == 1 and arg[0][0] is sre_parse.LITERAL:
            run += chr(arg[0][1])
            continue
        if run:
            candidates.append({run})
        run = ""
        inner = _inside(op, arg)
        if inner:
            candidates.append(inner)
    return max(candidates, key=_score) if candidates else None


def _inside(op: Any, arg: Any) -> set[str] | None:
    if op is sre_parse.SUBPATTERN:
        return _best(arg[-1])
    if op is sre_parse.BRANCH:
        union: set[str] = set()
        for branch in arg[1]:
            found = _best(branch)
            if not found:
                return None
            union |= found
        return union
    if op in (sre_parse.MAX_REPEAT, sre_parse.MIN_REPEAT) and arg[0] >= 1:
        return _best(arg[2])
    return None


def _refuse_costly(sequence: Any, depth: int) -> None:
    """Refuse what backtracks badly: repeats inside unbounded repeats, look-around, back-references."""
    for op, arg in sequence:
        if op in (sre_parse.ASSERT, sre_parse.ASSERT_NOT, sre_parse.GROUPREF, sre_parse.GROUPREF_EXISTS):
            raise PatternError("look-around and back-references are not allowed (not linear-time)")
        if op in (sre_parse.MAX_REPEAT, sre_parse.MIN_REPEAT):
            unbounded = arg[1] is _UNBOUNDED or arg[1] > 100
            if unbounded and depth and _is_loop(arg[2]):
                raise PatternError("an unbounded repeat inside a repeat is not linear-time")
            _refuse_costly(arg[2], depth + (1 if unbounded else 0))
        elif op is sre_parse.SUBPATTERN:
            _refuse_costly(arg[-1], depth)
        elif op is sre_parse.BRANCH:
            for branch in arg[1]:
                _refuse_costly(branch, depth)


def _is_loop(sequence: Any) -> bool:
    return len(sequence) > 0


def split_alternatives(expression: str) -> list[str]:
    """Top-level alternatives one by one: each has better literals than the union."""
    parts, depth, start = [], 0, 0
    escaped = in_class = False
    for position, char in enumerate(expression):
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == "[" and not in_class:
            in_class = True
        elif char == "]" and in_class:
            in_class = False
        elif in_class:
            continue
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
        elif char == "|" and depth == 0:
            parts.append(expression[start:position])
            start = position + 1
    return [*parts, expression[start:]]


def all_literals(patterns: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """`required_literals` of each pattern."""
    return tuple(required_literals(pattern) for pattern in patterns)
