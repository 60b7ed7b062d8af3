"""TensorRT-LLM's file of settings: which keys and values its versions take, blocks inside blocks included."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from diag.observe.plans.yaml_tree import Node

SIDES = ("context_servers", "generation_servers")
"""Blocks of a disaggregated file that hold an engine's own keys."""
FREE = ("model_kwargs", "env_overrides", "router")
"""Blocks whose keys are the user's own, or another program's."""


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key: its kind, the versions that have it, and its values where they are a closed set."""

    kind: str
    first: str
    last: str
    values: tuple[str, ...]


@cache
def _data() -> dict[str, Any]:
    text = files("diag.observe.plans").joinpath("data/trtllm_keys.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@cache
def versions() -> tuple[str, ...]:
    """The versions that the table was made from, oldest first."""
    return tuple(_data()["versions"])


@cache
def keys(disaggregated: bool = False) -> dict[str, Key]:
    """Key with its blocks (`kv_cache_config.dtype`) -> what is known of it; with those of a disaggregated file."""
    rows = {**(_data()["disaggregated"] if disaggregated else {}), **_data()["keys"]}
    return {name: Key(kind, first, last, tuple(values)) for name, (kind, first, last, values) in rows.items()}


@cache
def names_in(block: str, disaggregated: bool = False) -> tuple[str, ...]:
    """The keys that stand directly in a block ("" for the file itself)."""
    prefix = f"{block}." if block else ""
    found = {name[len(prefix) :].split(".")[0] for name in keys(disaggregated) if name.startswith(prefix)}
    return tuple(sorted(found))


@cache
def choices(program: str, option: str) -> tuple[str, ...]:
    """The values that an option of trtllm-serve and its like takes in any of the versions; empty where any text does."""
    table = _data()["choices"].get(program, {})
    return tuple(table.get(option) or table.get(option.replace("-", "_")) or ())


def leaves(root: Node, prefix: str = "") -> Iterator[tuple[str, Node]]:
    """(key with its blocks, value) of everything inside the file's known blocks that is no mapping itself."""
    for name, node in root.pairs:
        path = f"{prefix}{name}"
        if node.is_map and path not in FREE and name not in SIDES:
            yield from leaves(node, f"{path}.")
        elif prefix and not node.is_map and path in keys():
            yield path, node


def unknown_keys(root: Node, *, disaggregated: bool = False) -> dict[str, Node]:
    """Keys that no known version has -> where they stand, those inside a block as `block.key`."""
    found: dict[str, Node] = {}
    for name, node in root.pairs:
        if disaggregated and name in SIDES and node.is_map:
            found |= {f"{name}.{key}": at for key, at in _unknown(node, "", True).items()}
    return {**_unknown(root, "", disaggregated), **found}


def _unknown(root: Node, block: str, disaggregated: bool) -> dict[str, Node]:
    known = names_in(block, disaggregated)
    found: dict[str, Node] = {}
    for name, node in root.pairs:
        path = f"{block}.{name}" if block else name
        if name not in known:
            if name in root.keys:
                found[path] = root.keys[name]
        elif node.is_map and path not in FREE and name not in SIDES and names_in(path, disaggregated):
            found |= _unknown(node, path, disaggregated)
    return found


_WORDS_OF_TRUTH = re.compile(r"(?:true|false|yes|no|on|off|[yntf]|[01])\Z", re.IGNORECASE)


def refused(key: Key, value: Any) -> str | None:
    """What TensorRT-LLM's models (pydantic) expect instead of this value; None where they take it."""
    if value is None or (isinstance(value, str) and re.search(r"[${}<>]", value)):
        return None
    if key.kind == "choice":
        return None if _among(value, key.values) else f"one of {', '.join(key.values)}"
    if key.kind == "list":
        if not isinstance(value, list):
            return "a list"
        odd = [each for each in value if key.values and not _among(each, key.values)]
        return f"a list of {', '.join(key.values)}" if odd else None
    if key.kind in ("int", "float", "bool") and isinstance(value, (list, dict)):
        return {"int": "a whole number", "float": "a number", "bool": "true or false"}[key.kind]
    text = str(value).strip()
    if key.kind == "bool":
        return None if _WORDS_OF_TRUTH.match(text) else "true or false"
    if key.kind == "int":
        return None if re.fullmatch(r"[-+]?\d+(?:\.0*)?", text.replace("_", "")) else "a whole number"
    if key.kind == "float":
        return None if re.fullmatch(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", text) else "a number"
    return None


def _among(value: Any, values: tuple[str, ...]) -> bool:
    return str(value).lower() in {each.lower() for each in values}
