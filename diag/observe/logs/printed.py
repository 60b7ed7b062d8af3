"""Arguments and configurations that programs print at start, as mappings.

vLLM prints `non-default args: {...}` or `args: Namespace(...)`, SGLang `server_args=ServerArgs(...)`, Dynamo
`Running dynamo serve with [service] config(s) {...}`. Values that are no literals (enums, classes) stay text.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Any

from diag.system.lazy import lazily

MAX_TEXT = 64 << 10

PRINTED: tuple[tuple[str, str], ...] = (
    ("vllm", r"non-default args: (?P<arguments>\{.*\})"),
    ("vllm", r"args: (?P<arguments>Namespace\(.*\))"),
    ("sglang", r"server_args=(?P<arguments>ServerArgs\(.*\))"),
    ("dynamo-2025", r"Running dynamo serve with.{0,200}?config\(?s?\)? ?:?\s*(?P<arguments>\{.*\})"),
)
"""(who prints it, expression)."""


@dataclass(frozen=True, slots=True)
class PrintedArguments:
    """A configuration as printed, with its place."""

    program: str
    values: dict[str, Any]
    source: str
    line: int


def parse_printed(text: str) -> dict[str, Any] | None:
    """A printed dict, Namespace or dataclass as a mapping; None for what cannot be read."""
    text = text.strip()[:MAX_TEXT]
    try:
        tree = ast.parse(_quoted(text), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _by_pairs(text)
    value = _value(tree)
    return value if isinstance(value, dict) else None


def _value(node: ast.expr) -> Any:
    """Literals only: nothing is evaluated."""
    if isinstance(node, ast.Call):
        return {keyword.arg: _value(keyword.value) for keyword in node.keywords if keyword.arg}
    if isinstance(node, ast.Dict):
        return {
            str(_value(key)): _value(value)
            for key, value in zip(node.keys, node.values, strict=True)
            if key is not None
        }
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return [_value(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return ast.unparse(node)


def _quoted(text: str) -> str:
    """`<Enum.X: 1>` and `<class 'y'>` are no Python: make them strings."""
    return re.sub(r"<[^<>]{1,200}>", lambda match: repr(match.group(0)), text)


_PAIR = lazily(
    r"['\"]?(?P<name>[A-Za-z_][\w-]*)['\"]?\s*[=:]\s*(?P<value>'[^']*'|\"[^\"]*\"|-?[\d.]+|True|False|None)"
)


def _by_pairs(text: str) -> dict[str, Any] | None:
    found: dict[str, Any] = {}
    for match in _PAIR.finditer(text):
        try:
            found[match["name"]] = ast.literal_eval(match["value"])
        except (ValueError, SyntaxError):
            continue
    return found or None
