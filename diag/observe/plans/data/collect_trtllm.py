"""Collects TensorRT-LLM's options and keys from its sources, and writes `options_trtllm.json` and `trtllm_keys.json`.

Usage: python collect_trtllm.py FOLDER
FOLDER holds checkouts named TensorRT-LLM-VERSION, whole or in part. Of each are read, where they are there: the click
options of commands/ and bench/, the classes of llmapi/, and the project's own lists of what users may write
(usage/llm_args_golden_manifest.json, tests/unittest/api_stability/references). Nothing is imported or run.

A key carries its kind, the first and last version that has it, and its closed set of values. The manifest leaves out
keys that hold any text, so a key that is missing there is not taken for one that is gone; llm.yaml is complete.
The tables here come from whole checkouts of 0.15 and 0.17, and from single files (names, kinds and values of what they
define) of 1.0 (000a01de, fcd3f316), 1.2 (ea35fd67, 3e53e4ad, 1f719075), 1.3 (9584b66a) and 1.4 (00043967, 029e223d, 0228a712).
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

PROGRAMS = {
    # the function that a click command decorates -> program (None: the options belong to all commands of the file)
    "serve": "trtllm-serve",
    "disaggregated": "trtllm-serve disaggregated",
    "disaggregated_mpi_worker": "trtllm-serve disaggregated_mpi_worker",
    "mm_embedding_serve": "trtllm-serve mm_embedding_serve",
}
BENCH = ("throughput_command", "latency_command", "build_command", "bench_command")
ROOTS = ("BaseLlmArgs", "TorchLlmArgs", "TrtLlmArgs", "LlmArgs")
UNIONS = {"DecodingBaseConfig": r"DecodingConfig$", "BaseSparseAttentionConfig": r"SparseAttentionConfig$"}
"""A field of the base class takes any of these."""
DISAGGREGATED = ("extract_disagg_cfg", "extract_ctx_gen_cfgs")
DISAGGREGATED_BLOCKS = {
    "router": "RouterConfig",
    "conditional_disagg_config": "ConditionalDisaggConfig",
    "disagg_cluster": "DisaggClusterConfig",
    "otlp_config": "OtlpConfig",
}


@dataclass
class Table:
    """Names -> kind, short names, versions and values, joined over the versions."""

    versions: list[str] = field(default_factory=list)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, version: str, name: str, kind: str, values: list[str], short: tuple[str, ...] = ()) -> None:
        """One sight of a name in a version."""
        if version not in self.versions:
            self.versions.append(version)
        row = self.rows.setdefault(name, {"kind": kind, "first": version, "short": set(), "values": []})
        row["last"] = version
        row["kind"] = kind if row["kind"] in ("any", kind) or kind in ("choice", "text") else row["kind"]
        row["short"] |= set(short)
        row["values"] += [each for each in values if each not in row["values"]]


def kind_of(annotation: str) -> tuple[str, list[str]]:
    """(bool, int, float, list, choice, text or any; the closed set of values) of a type as it is written."""
    text = annotation.replace("typing.", "")
    literal = re.search(r"Literal\[([^\]]*)\]", text)
    if literal:
        words = re.findall(r"['\"]([^'\"]+)['\"]", literal.group(1))
        plain = re.sub(r"Literal\[[^\]]*\]", "", text)
        if re.match(r"List\[|list\[", text):
            return "list", words
        return ("any" if re.search(r"\b(?:bool|str|int)\b", plain) else "choice"), words
    if re.search(r"\b(?:List|list|Set|set|Sequence)\[", text):
        return "list", []
    if re.search(r"\b(?:[dD]ict|Any|object|Path)\b", text) or re.search(
        r"[a-z]\w*\.\w|[A-Z]\w+(?:Config|Type|Policy)", text
    ):
        return "any", []
    for name, kind in (("str", "text"), ("float", "float"), ("bool", "bool"), ("int", "int")):
        if re.search(rf"\b{name}\b|(?:Positive|NonNegative){name.title()}\b", text):
            return kind, []
    return "any", []


def _trees(folder: Path, pattern: str) -> Iterator[ast.Module]:
    for path in sorted(folder.glob(pattern)):
        yield ast.parse(path.read_text("utf-8", "replace"))


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for child in node.body:
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            text = ast.unparse(child.annotation)
            if not child.target.id.startswith("_") and not text.startswith("ClassVar"):
                yield child.target.id, text


def keys_of_classes(folder: Path) -> Iterator[tuple[str, str, list[str]]]:
    """(key with its blocks, kind, values) from the classes of llmapi/, walked from LlmArgs down."""
    classes = {
        node.name: node
        for tree in _trees(folder, "tensorrt_llm/llmapi/*.py")
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    for root in ROOTS:
        if root in classes:
            yield from _walk(classes, root, "", ())


def _walk(
    classes: dict[str, ast.ClassDef], name: str, prefix: str, above: tuple[str, ...]
) -> Iterator[tuple[str, str, list[str]]]:
    bases = [base.id for base in classes[name].bases if isinstance(base, ast.Name) and base.id in classes]
    wanted = UNIONS.get(name)
    also = [each for each in classes if wanted and re.search(wanted, each) and each != name]
    for each in [name, *bases, *also]:
        for key, text in _fields(classes[each]):
            yield f"{prefix}{key}", *kind_of(text)
            for inner in re.findall(r"\w+", text):
                if inner in classes and inner not in (*above, name) and _is_block(classes[inner]):
                    yield from _walk(classes, inner, f"{prefix}{key}.", (*above, name))


def _is_block(node: ast.ClassDef) -> bool:
    return not any("Enum" in ast.unparse(base) for base in node.bases) and any(True for _ in _fields(node))


def keys_of_disaggregated(folder: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Keys of a disaggregated file: the arguments that its reader takes, and the classes of its blocks."""
    for tree in _trees(folder, "tensorrt_llm/llmapi/disagg_utils.py"):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name in DISAGGREGATED:
                for argument in node.args.args:
                    text = ast.unparse(argument.annotation) if argument.annotation else ""
                    if argument.arg != "type":
                        yield argument.arg, *kind_of(text)
            elif isinstance(node, ast.ClassDef) and node.name in DISAGGREGATED_BLOCKS.values():
                block = next(key for key, each in DISAGGREGATED_BLOCKS.items() if each == node.name)
                for key, text in _fields(node):
                    yield f"{block}.{key}", *kind_of(text)
    yield "router", "any", []


def keys_of_references(folder: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Keys from the manifest of telemetry, with the values of those that have a closed set."""
    manifest = folder / "tensorrt_llm/usage/llm_args_golden_manifest.json"
    if manifest.is_file():
        for row in json.loads(manifest.read_text("utf-8"))["TorchLlmArgs"]:
            kind, _ = kind_of(row["annotation"])
            closed = row["kind"] == "categorical" and row["converter"] != "allowlist"
            closed = closed and row["path"] != "backend"  # each backend has a class of its own
            values = [str(each) for each in row["allowed_values"]]
            kind = "choice" if closed else "text" if kind == "choice" else kind
            yield row["path"], kind, values if closed or kind == "list" else []


def keys_of_signature(folder: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Keys from the signature of LLM, which the project keeps whole in two files."""
    for name in ("references", "references_committed"):
        file = folder / f"tests/unittest/api_stability/{name}/llm.yaml"
        if file.is_file():
            loaded = YAML(typ="safe").load(file.read_text("utf-8"))
            for key, entry in loaded["methods"]["__init__"]["parameters"].items():
                yield key, *kind_of(str(entry["annotation"]))


def options_of(folder: Path) -> Iterator[tuple[str, str, str, list[str], tuple[str, ...]]]:
    """(program, option, kind, values, short names) of the click commands, and of the list of them."""
    for pattern in ("tensorrt_llm/commands/*.py", "tensorrt_llm/bench/**/*.py"):
        for tree in _trees(folder, pattern):
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef):
                    yield from _decorated(node)
    file = folder / "tests/unittest/api_stability/references/trtllm_serve_cli.yaml"
    if not file.is_file():
        return
    for command, block in YAML(typ="safe").load(file.read_text("utf-8"))["commands"].items():
        for entry in block["options"].values():
            choice = re.search(r"Choice\(\[(.*)\]\)", entry["type"])
            values = re.findall(r"'([^']+)'", choice.group(1)) if choice else []
            kind = "flag" if entry["is_flag"] else "list" if entry["multiple"] else "value"
            yield from _named(PROGRAMS[command], entry["flags"], kind, values)


def _decorated(node: ast.FunctionDef) -> Iterator[tuple[str, str, str, list[str], tuple[str, ...]]]:
    calls = [each for each in node.decorator_list if isinstance(each, ast.Call)]
    options = [call for call in calls if ast.unparse(call.func).rsplit(".", 1)[-1] == "option"]
    program = PROGRAMS.get(node.name) or ("trtllm-bench" if node.name in BENCH else None)
    if program is None and node.name in ("main", "eval_command"):
        names = " ".join(ast.unparse(call) for call in calls)
        program = (
            "trtllm-serve" if "--host" in names else "trtllm-bench" if "workspace" in names else "trtllm-eval"
        )
    for call in options if program else []:
        texts = [str(each.value) for each in call.args if isinstance(each, ast.Constant)]
        words = {key.arg: ast.unparse(key.value) for key in call.keywords}
        choice = re.search(r"Choice\w*\((\[.*)\)", words.get("type", ""))
        kind = "flag" if "is_flag" in words else "list" if words.get("multiple") == "True" else "value"
        yield from _named(
            program or "", texts, kind, re.findall(r"'([^']+)'", choice.group(1)) if choice else []
        )


def _named(
    program: str, flags: list[str], kind: str, values: list[str]
) -> Iterator[tuple[str, str, str, list[str], tuple[str, ...]]]:
    short = tuple(flag[1:] for flag in flags if re.fullmatch(r"-\w", flag))
    for flag in flags:
        if flag.startswith("--"):
            yield program, flag[2:].split("/")[0], kind, values, short


def collect(folder: Path) -> tuple[dict[str, Table], Table, Table]:
    """(programs' options, keys of the engine's file, keys of the disaggregated file), over all checkouts."""
    programs: dict[str, Table] = {}
    keys, sides = Table(), Table()
    signed: dict[str, set[str]] = {}
    checkouts = sorted(folder.glob("TensorRT-LLM-*"), key=lambda each: _key(each.name))
    for checkout in checkouts:
        version = checkout.name.removeprefix("TensorRT-LLM-").removeprefix("v")
        for program, name, kind, values, short in options_of(checkout):
            programs.setdefault(program, Table()).add(version, name, kind, values, short)
        for source in (keys_of_classes, keys_of_references, keys_of_signature):
            for name, kind, values in source(checkout):
                keys.add(version, name, kind, values)
                if source is keys_of_signature:
                    signed.setdefault(version, set()).add(name)
        for name, kind, values in keys_of_disaggregated(checkout):
            sides.add(version, name, kind, values)
    for table in (keys, sides):
        for name, row in table.rows.items():
            row["last"] = _last(name, signed, table.versions[-1])
    return programs, keys, sides


def _last(name: str, signed: dict[str, set[str]], newest: str) -> str:
    """The last version with this key: it is gone only where one whole signature has it and a later one has not."""
    holding = [version for version, names in signed.items() if name in names]
    later = holding and [version for version in signed if _key(version) > _key(holding[-1])]
    return holding[-1] if later else newest


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _write(name: str, data: dict[str, Any]) -> None:
    text = json.dumps(data, indent=1)
    text = re.sub(
        r"\[\s+((?:\"[^\"]*\"|[\s,]|\[[^\[\]]*\])*?)\s+\]",
        lambda found: re.sub(r"\s+", " ", found.group(0)),
        text,
    )
    text = text.replace("[ ", "[").replace(" ]", "]")
    target = Path(__file__).with_name(name)
    target.write_text(text + "\n", "utf-8")
    sys.stdout.write(f"{target.name}: {len(text.splitlines())} lines\n")


def main(folder: str) -> None:
    """Write both files beside this script, one name a line."""
    programs, keys, sides = collect(Path(folder))
    tops = Table(
        keys.versions, {name: row for name, row in {**sides.rows, **keys.rows}.items() if "." not in name}
    )
    options = {
        **{name: (table, "value") for name, table in sorted(programs.items())},
        "trtllm": (tops, "value"),
    }
    _write(
        "options_trtllm.json",
        {
            "about": "name: [kind, short names, first version, last version]; made by collect_trtllm.py",
            "programs": {
                program: {
                    "versions": table.versions,
                    "options": {
                        name: [
                            kind if program == "trtllm" else row["kind"],
                            sorted(row["short"]),
                            row["first"],
                            row["last"],
                        ]
                        for name, row in sorted(table.rows.items())
                    },
                    "variables": {},
                }
                for program, (table, kind) in options.items()
            },
        },
    )
    _write(
        "trtllm_keys.json",
        {
            "about": "key: [kind, first version, last version, closed set of values]; made by collect_trtllm.py",
            "versions": keys.versions,
            "keys": {name: _row(row) for name, row in sorted(keys.rows.items())},
            "disaggregated": {name: _row(row) for name, row in sorted(sides.rows.items())},
            "choices": {
                program: {name: row["values"] for name, row in sorted(table.rows.items()) if row["values"]}
                for program, table in sorted(programs.items())
            },
        },
    )


def _row(row: dict[str, Any]) -> list[Any]:
    return [row["kind"], row["first"], row["last"], row["values"]]


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else sys.exit("usage: python collect_trtllm.py FOLDER")
