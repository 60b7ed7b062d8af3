"""Collects which values engines' options accept from the Python sources inside their wheels, and writes `choices.json`.

Usage: python collect_choices.py FOLDER_OF_WHEELS...
Needs wheels of vllm, sglang and ai-dynamo; nothing in them is imported or run, their sources are parsed. The values of all
versions are joined. An option is open where a version takes other texts, too (plug-ins, or it names no values at
all). Programs of which the folders have no wheel keep what the file says of them.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from diag.observe.plans.data.collect_options import declared

FILES = {
    # program -> (its wheel, the sources that define its options, the sources that define lists of names)
    "vllm": (
        "vllm",
        r"vllm/(engine/arg_utils|entrypoints/openai/cli_args)\.py$",
        r"vllm/(config(/\w+)?|engine/arg_utils|model_executor/layers/quantization/__init__|model_executor/model_loader/__init__|(v1/)?attention/backends/registry)\.py$",
    ),
    "sglang": (
        "sglang",
        r"sglang/srt/(server_args|arg_groups/fields/\w+)\.py$",
        r"sglang/srt/(server_args|disaggregation/utils|arg_groups/choices|arg_groups/fields/\w+)\.py$",
    ),
    "dynamo.vllm": (
        "ai_dynamo",
        r"dynamo/(vllm/(args|backend_args)|common/configuration/groups/\w+)\.py$",
        r"dynamo/(vllm/\w+|common/.*)\.py$",
    ),
    "dynamo.sglang": (
        "ai_dynamo",
        r"dynamo/(sglang/(args|backend_args)|common/configuration/groups/\w+)\.py$",
        r"dynamo/(sglang/\w+|common/.*)\.py$",
    ),
    "dynamo.trtllm": (
        "ai_dynamo",
        r"dynamo/(trtllm/(args|backend_args|utils/trtllm_utils)|common/configuration/groups/\w+)\.py$",
        r"dynamo/(trtllm/.*|common/.*)\.py$",
    ),
}
CONNECTORS = r"vllm/distributed/kv_transfer/kv_connector/factory\.py$"


@dataclass
class Names:
    """What a wheel's sources call by a name: lists of values, and the fields of its classes."""

    lists: dict[str, list[ast.expr]] = field(default_factory=dict)
    members: dict[str, list[str]] = field(default_factory=dict)
    fields: dict[tuple[str, str], ast.expr] = field(default_factory=dict)
    sources_of: dict[str, str] = field(default_factory=dict)
    """`cache_kwargs` -> the class whose fields it holds."""


def trees(wheel: Path, pattern: str) -> Iterator[ast.Module]:
    """The parsed files of a wheel whose names match."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if re.match(pattern, name):
                yield ast.parse(archive.read(name).decode("utf-8", "replace"))


def names_of(wheel: Path, pattern: str) -> Names:
    """Every list of words, enumeration and annotated field."""
    names = Names()
    for tree in trees(wheel, pattern):
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Assign)
                and len(node.targets) == 1
                and isinstance(node.targets[0], ast.Name)
            ):
                names.lists.setdefault(node.targets[0].id, []).append(node.value)
                called = node.value
                if isinstance(called, ast.Call) and ast.unparse(called.func) == "get_kwargs" and called.args:
                    names.sources_of[node.targets[0].id] = ast.unparse(called.args[0])
            elif (
                isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and node.value is not None
            ):
                names.lists.setdefault(node.target.id, []).append(node.value)
            if isinstance(node, ast.ClassDef):
                _class(node, names)
    return names


def _class(node: ast.ClassDef, names: Names) -> None:
    enumeration = any("Enum" in ast.unparse(base) for base in node.bases)
    for child in node.body:
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            names.fields[node.name, child.target.id] = child.annotation
        elif enumeration and isinstance(child, ast.Assign) and isinstance(child.targets[0], ast.Name):
            words = [child.targets[0].id]
            if isinstance(child.value, ast.Constant) and isinstance(child.value.value, str):
                words = [child.value.value] if "." not in child.value.value and child.value.value else words
            names.members.setdefault(node.name, []).extend(words)


def values_of(node: ast.expr | None, names: Names, depth: int = 0) -> set[str]:
    """The words that an expression stands for."""
    if node is None or depth > 6:
        return set()
    if isinstance(node, ast.Constant):
        return {node.value} if isinstance(node.value, str) and re.fullmatch(r"[\w.-]+", node.value) else set()
    if isinstance(node, ast.Name):
        if node.id in names.members:
            return set(names.members[node.id])
        return {word for each in names.lists.get(node.id, ()) for word in values_of(each, names, depth + 1)}
    parts: list[ast.expr | None] = []
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        parts = [*node.elts]
    elif isinstance(node, ast.Dict):
        parts = [*node.keys]
    elif isinstance(node, ast.BinOp):
        parts = [node.left, node.right]
    elif isinstance(node, ast.Starred):
        parts = [node.value]
    elif isinstance(node, ast.Subscript) and ast.unparse(node.value) in (
        "Literal",
        "Optional",
        "Union",
        "Annotated",
        "SkipValidation",
    ):
        parts = [node.slice]
    elif isinstance(node, ast.ListComp):
        parts = [node.generators[0].iter]
    elif (
        isinstance(node, ast.Call)
        and node.args
        and ast.unparse(node.func) in ("list", "tuple", "get_args", "sorted", "set")
    ):
        parts = [node.args[0]]
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("keys", "values")
    ):
        parts = [node.func.value]
    return {word for part in parts for word in values_of(part, names, depth + 1)}


def is_open(node: ast.expr) -> bool:
    """True for an annotation that takes any text, too."""
    return any(isinstance(each, ast.Name) and each.id == "str" for each in ast.walk(node))


def choices_of(wheel: Path, options: str, lists: str) -> Iterator[tuple[str, set[str], bool]]:
    """(option, values, open) of one wheel."""
    names = names_of(wheel, lists)
    for tree in trees(wheel, options):
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign):
                yield from _declared_choices(node, names)
            if not isinstance(node, ast.Call):
                continue
            flags = [each for each in _texts(node) if re.fullmatch(r"--[A-Za-z][\w.-]*", each)]
            chosen: set[str] = set()
            for keyword in node.keywords if flags else []:
                found: set[str] = set()
                loose = False
                if keyword.arg == "choices":
                    found = values_of(keyword.value, names)
                elif keyword.arg is None and isinstance(keyword.value, ast.Subscript):
                    owner = names.sources_of.get(ast.unparse(keyword.value.value), "")
                    key = ast.unparse(keyword.value.slice).strip("'\"")
                    annotation = names.fields.get((owner, key))
                    found = values_of(annotation, names)
                    loose = annotation is not None and is_open(annotation)
                for flag in flags if len(found) > 1 else []:
                    chosen.add(flag)
                    yield flag[2:], found, loose
            for flag in flags:
                if flag not in chosen:
                    yield flag[2:], set(), True


def _declared_choices(node: ast.AnnAssign, names: Names) -> Iterator[tuple[str, set[str], bool]]:
    """The same of a field `load_format: A[str, Arg(help=..., choices=[...])]`, as SGLang declares them since 0.5.14."""
    flags = list(declared(node))
    if not flags:
        return
    type_, told = node.annotation.slice.elts[:2]  # type: ignore[attr-defined]  # (declared() has looked)
    given = {key.arg: key.value for key in told.keywords} if isinstance(told, ast.Call) else {}
    found = values_of(given["choices"], names) if "choices" in given else values_of(type_, names)
    for flag in flags:
        yield (flag, found, False) if len(found) > 1 else (flag, set(), True)


def _texts(node: ast.Call) -> list[str]:
    values = [*node.args, *(key.value for key in node.keywords if key.arg in ("flag_name", "obsolete_flag"))]
    return [each.value for each in values if isinstance(each, ast.Constant) and isinstance(each.value, str)]


def connectors_of(wheel: Path) -> set[str]:
    """Names under which vLLM registers its KV connectors."""
    return {
        node.args[0].value
        for tree in trees(wheel, CONNECTORS)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("register_connector")
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    }


def main(folders: list[str]) -> None:
    """Write the file beside this script."""
    data: dict[str, dict[str, dict[str, object]]] = {}
    wheels = [wheel for folder in folders for wheel in sorted(Path(folder).glob("*.whl"))]
    versions: dict[str, list[str]] = {}
    for program, (package, options, lists) in FILES.items():
        joined: dict[str, tuple[set[str], bool]] = {}
        for wheel in wheels:
            if not wheel.name.startswith(f"{package}-"):
                continue
            versions.setdefault(package, []).append(wheel.name.split("-")[1])
            for name, values, loose in choices_of(wheel, options, lists):
                have, was = joined.get(name, (set(), False))
                joined[name] = (have | values, was or loose)
        data[program] = {
            name: {"values": sorted(values), "open": loose}
            for name, (values, loose) in sorted(joined.items())
            if values
        }
    connectors = sorted(
        {name for wheel in wheels if wheel.name.startswith("vllm-") for name in connectors_of(wheel)}
    )
    target = Path(__file__).with_name("choices.json")
    known = json.loads(target.read_text("utf-8")) if target.is_file() else {}
    for program, (package, _, _) in FILES.items():
        if package not in versions and program in known.get("programs", {}):
            data[program] = known["programs"][program]
    about = "option: the values that any of the versions accepts; open: other texts are taken, too; made by collect_choices.py from the wheels"
    found = {
        "about": about,
        "versions": known.get("versions", {}) | {name: sorted(set(each)) for name, each in versions.items()},
        "kv_connectors": connectors or known.get("kv_connectors", []),
        "programs": data,
    }
    text = json.dumps(found, indent=1)
    text = re.sub(
        r"\[\s+([^\[\]]*?)\s+\]", lambda match: "[" + re.sub(r"\s+", " ", match.group(1)) + "]", text
    )
    text = re.sub(
        r"\{\s+(\"values\": [^{}]*?)\s+\}",
        lambda match: "{" + re.sub(r"\s+", " ", match.group(1)) + "}",
        text,
    )
    target.write_text(text + "\n", "utf-8")
    sys.stdout.write(f"{target}: {len(text.splitlines())} lines\n")


if __name__ == "__main__":
    main(sys.argv[1:]) if len(sys.argv) > 1 else sys.exit("usage: python collect_choices.py FOLDER...")
