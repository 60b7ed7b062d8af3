"""YAML as a tree that remembers where everything stands.

The file is composed, never constructed: no object of any class is made from it, an alias is a second
reference and not a copy, and a tree larger than the limits is refused. Places are character offsets, so a
change can be spliced into the text and nothing else moves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from diag.system import UserError

MAX_TEXT_CHARACTERS = 4 << 20
"""A launch plan is a few kilobytes; Kubernetes itself refuses objects above about 1.5 MB (etcd's limit)."""
MAX_NODES = 200_000
"""Nodes reached by walking the tree with its aliases followed: an anchor bomb multiplies here."""
MAX_DEPTH = 100

_TEMPLATE = re.compile(r"\{\{-?[^}\n]{0,400}\}\}|<%.{0,200}%>|\{%-?.{0,200}%\}")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)\Z")
_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*)?\.?[0-9]+(?:[eE][-+]?[0-9]+)?\Z")
_WORDS: dict[str, Any] = {
    # YAML 1.1's words, as PyYAML (BentoML, Dynamo) and Kubernetes read them.
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}


@dataclass(slots=True)
class Node:
    """One value of a YAML file. `value` is a dict of Nodes by key, a list of Nodes, or a plain value."""

    value: Any
    line: int
    """1-based."""
    start: int
    """Offset of the first character of the value."""
    end: int
    column: int
    style: str = ""
    """'' plain, ' or " quoted, | or > block; for collections 'flow' or 'block'."""
    keys: dict[str, Node] = field(default_factory=dict)
    """For a mapping: where each key stands."""
    raw: str = ""
    """For a scalar: its text, unquoted, before it became a number or a truth value."""
    doubled: list[str] = field(default_factory=list)
    """For a mapping: keys that stand there twice, in sentences."""

    def get(self, *path: str | int) -> Node | None:
        """The node below `path`, or None if any step is missing or of another shape."""
        node: Node | None = self
        for step in path:
            if node is None:
                return None
            if isinstance(step, int):
                items = node.items
                node = items[step] if -len(items) <= step < len(items) else None
            else:
                node = node.value.get(step) if isinstance(node.value, dict) else None
        return node

    def plain(self, *path: str | int) -> Any:
        """The value below `path` as plain Python data; None where it is missing."""
        node = self.get(*path)
        return None if node is None else to_plain(node)

    @property
    def items(self) -> list[Node]:
        """The items of a sequence; empty for anything else."""
        return self.value if isinstance(self.value, list) else []

    @property
    def pairs(self) -> list[tuple[str, Node]]:
        """The entries of a mapping in the file's order; empty for anything else."""
        return list(self.value.items()) if isinstance(self.value, dict) else []

    @property
    def is_map(self) -> bool:
        """True for a mapping."""
        return isinstance(self.value, dict)


def to_plain(node: Node) -> Any:
    """Dicts, lists and scalars without places."""
    if isinstance(node.value, dict):
        return {key: to_plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [to_plain(child) for child in node.value]
    return node.value


def template_at(text: str) -> tuple[int, str] | None:
    """Line and text of the first template expression (Helm, Jinja) outside comments and shell code."""
    for match in _TEMPLATE.finditer(text):
        begin = text.rfind("\n", 0, match.start()) + 1
        if "#" not in text[begin : match.start()]:
            return text.count("\n", 0, match.start()) + 1, match.group()[:60]
    return None


def parse_documents(text: str, source: str) -> list[Node]:
    """Every non-empty document of `text`. Raises UserError, with the line, for what is not sound YAML."""
    if len(text) > MAX_TEXT_CHARACTERS:
        raise UserError(
            f"{len(text):,} characters are no launch plan",
            source,
            f"the limit is {MAX_TEXT_CHARACTERS:,}",
            "plan-too-large",
        )
    return list(_documents(text, source))


def _documents(text: str, source: str) -> Iterator[Node]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        budget = [MAX_NODES]
        for composed in YAML(typ="safe", pure=True).compose_all(text):
            if composed is not None:
                yield _convert(composed, source, budget, 0)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else None
        found = template_at(text)
        if found is not None:
            raise _templated(source, *found) from None
        raise UserError(
            f"not sound YAML: {error.problem or error.context}",
            f"{source}:{line}" if line else source,
            code="yaml-unsound",
        ) from None
    except (YAMLError, ValueError, RecursionError) as error:
        reason = (
            "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0][:160]
        )
        raise UserError(f"not sound YAML: {reason}", source, code="yaml-unsound") from None


def _templated(source: str, line: int, found: str) -> UserError:
    return UserError(
        f"a template, not a plan: {found}",
        f"{source}:{line}",
        "render it first, for Helm with `helm template`, and check what comes out",
        "yaml-templated",
    )


def _convert(composed: Any, source: str, budget: list[int], depth: int) -> Node:
    budget[0] -= 1
    line = composed.start_mark.line + 1
    if budget[0] < 0:
        raise UserError(
            f"more than {MAX_NODES:,} values once its aliases are followed",
            f"{source}:{line}",
            "an anchor refers to itself many times over",
            "yaml-bomb",
        )
    if depth > MAX_DEPTH:
        raise UserError(f"nested deeper than {MAX_DEPTH} levels", f"{source}:{line}", code="yaml-too-deep")
    start, end, column = composed.start_mark.index, composed.end_mark.index, composed.start_mark.column
    kind = composed.id
    if kind == "scalar":
        text = str(composed.value)
        return Node(
            _scalar(text, composed.style, composed.tag),
            line,
            start,
            end,
            column,
            composed.style or "",
            raw=text,
        )
    style = "flow" if composed.flow_style else "block"
    if kind == "sequence":
        items = [_convert(child, source, budget, depth + 1) for child in composed.value]
        return Node(items, line, start, end, column, style)
    values: dict[str, Node] = {}
    keys: dict[str, Node] = {}
    own: set[str] = set()
    doubled: list[str] = []
    for key_node, value_node in composed.value:
        key = _key(key_node, source)
        value = _convert(value_node, source, budget, depth + 1)
        if key == "<<":
            _merge(value, values, keys)
            continue
        if key in own:
            doubled.append(
                f"line {key_node.start_mark.line + 1}: {key} stands there twice, first at line {keys[key].line}; the last one wins"
            )
        own.add(key)
        values[key] = value
        keys[key] = Node(
            key,
            key_node.start_mark.line + 1,
            key_node.start_mark.index,
            key_node.end_mark.index,
            key_node.start_mark.column,
        )
    return Node(values, line, start, end, column, style, keys, doubled=doubled)


def _key(key_node: Any, source: str) -> str:
    if key_node.id != "scalar":
        raise UserError(
            "a list or mapping as a key",
            f"{source}:{key_node.start_mark.line + 1}",
            "an unquoted {{ }} template reads like this",
            "yaml-templated",
        )
    return str(key_node.value)


def _merge(value: Node, values: dict[str, Node], keys: dict[str, Node]) -> None:
    for merged in value.items or [value]:
        for key, child in merged.pairs:
            values.setdefault(key, child)
            keys.setdefault(key, merged.keys[key])


def _scalar(text: str, style: str | None, tag: Any) -> Any:
    if style or (str(tag).endswith(":str") and text in ("",)):
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text) and len(text) < 40:
        return int(text.replace("_", ""))
    if _FLOAT.match(text) and len(text) < 40:
        try:
            return float(text.replace("_", ""))
        except ValueError:
            return text
    return text


def shell_text(node: Node, text: str) -> tuple[str, list[tuple[int, int]]]:
    """A scalar as it stands in the file, with a map from its offsets to the file's.

    Block scalars lose their indentation, quoted ones their quotes; folded line ends stay line ends, which a
    shell takes for the end of a command, so they become blanks. The map is a list of (offset here, offset there).
    """
    raw = text[node.start : node.end]
    if node.style in ("|", ">"):
        return _block_text(raw, node.start, folded=node.style == ">")
    flat = re.sub(r"\n(?![ \t]*\n)", " ", raw)  # lines of a plain or quoted scalar are folded into one
    if node.style in ("'", '"'):
        return flat[1:-1].replace("''", "' ") if node.style == "'" else flat[1:-1], [(0, node.start + 1)]
    return flat, [(0, node.start)]


def _block_text(raw: str, start: int, *, folded: bool) -> tuple[str, list[tuple[int, int]]]:
    head, _, body = raw.partition("\n")
    lines = body.split("\n")
    indents = [len(line) - len(line.lstrip(" ")) for line in lines if line.strip()]
    indent = min(indents, default=0)
    out: list[str] = []
    places: list[tuple[int, int]] = []
    here, there = 0, start + len(head) + 1
    for line in lines:
        kept = line[indent:]
        if kept.strip():
            places.append((here, there + indent))
        out.append(kept)
        here += len(kept) + 1
        there += len(line) + 1
    return (" " if folded else "\n").join(out), places or [(0, start)]
