"""Collects the options of engines from the Python sources inside their wheels, and writes `options.json`.

Usage: python collect_options.py FOLDER_OF_WHEELS
       (collect_trtllm.py does the same for TensorRT-LLM.)
Needs wheels of vllm, sglang and ai-dynamo (`pip download --no-deps vllm==0.19.0`); nothing in them is imported or
run, their sources are parsed. Every option carries its kind and the first and last of the versions that have it.
Programs of which the folder has no wheel keep what the file says of them.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

FILES = {
    # program -> sources inside the wheel that define its options
    "vllm": r"vllm/(engine/arg_utils|entrypoints/openai/cli_args|entrypoints/common/cli_args|entrypoints/serve/.*cli_args|entrypoints/cli/(serve|main|openai|launch)|config|config/\w+)\.py$",
    "sglang": r"sglang/(srt/server_args|srt/arg_groups/fields/\w+|launch_server|cli/\w+)\.py$",
    "dynamo.vllm": r"dynamo/(vllm/(args|backend_args)|common/configuration/groups/\w+|common/configuration/\w+)\.py$",
    "dynamo.sglang": r"dynamo/(sglang/(args|backend_args)|common/configuration/groups/\w+)\.py$",
    "dynamo.trtllm": r"dynamo/(trtllm/(args|backend_args|utils/trtllm_utils)|common/configuration/groups/\w+)\.py$",
    "dynamo.frontend": r"dynamo/(frontend/(main|frontend_args)|common/configuration/groups/\w+)\.py$",
    "dynamo.router": r"dynamo/(router/(args|__main__)|common/configuration/groups/\w+)\.py$",
    "dynamo.mocker": r"dynamo/(mocker/(args|main)|common/configuration/groups/\w+)\.py$",
}
ENV_FILES = {"vllm": r"vllm/envs\.py$", "sglang": r"sglang/srt/environ\.py$"}
FLAGS = ("store_true", "store_false", "store_const", "help", "version", "count")


def version_key(version: str) -> tuple[int, ...]:
    """0.8.5.post1 as numbers."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _version(wheel: Path) -> str:
    return wheel.name.split("-")[1]


def sources(wheel: Path, pattern: str) -> Iterator[ast.Module]:
    """The parsed files of a wheel whose names match."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if re.match(pattern, name) and "/tests/" not in name:
                yield ast.parse(archive.read(name).decode("utf-8", "replace"))


def options_of(wheel: Path, pattern: str) -> dict[str, tuple[str, list[str]]]:
    """name -> (flag, value, list or optional; short names) of one wheel."""
    trees = list(sources(wheel, pattern))
    fields = dict(pair for tree in trees for pair in _annotated(tree))
    found: dict[str, tuple[str, list[str]]] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                names = _flag_names(node)
                if names:
                    kind = _kind(node, fields)
                    for name in (each for each in names if each.startswith("--")):
                        found[name[2:]] = (
                            kind,
                            [each.lstrip("-") for each in names if not each.startswith("--")],
                        )
            elif isinstance(node, ast.ClassDef) and node.name in ("FrontendArgs", "BaseFrontendArgs"):
                for name, kind in _annotated(node):
                    found.setdefault(name.replace("_", "-"), (kind, []))
            elif isinstance(node, ast.AnnAssign):
                found.update(declared(node))
    return found


def declared(node: ast.AnnAssign) -> dict[str, tuple[str, list[str]]]:
    """Options of a field `tp_size: A[int, Arg(help=..., aliases=[...])]`, as SGLang declares them since 0.5.14."""
    annotation = node.annotation
    if not (
        isinstance(annotation, ast.Subscript)
        and ast.unparse(annotation.value) == "A"
        and isinstance(annotation.slice, ast.Tuple)
        and isinstance(node.target, ast.Name)
    ):
        return {}
    type_, told = ast.unparse(annotation.slice.elts[0]), annotation.slice.elts[1]
    given = {key.arg: key.value for key in told.keywords} if isinstance(told, ast.Call) else {}
    if "no_cli" in given or (isinstance(told, ast.Call) and ast.unparse(told.func) != "Arg"):
        return {}
    kind = "value" if "type_parser" in given else _kind_of_type(type_)
    if isinstance(told, ast.Call) and {"action", "nargs"} & set(given):
        kind = _kind(told, {})
    names = [f"--{node.target.id.replace('_', '-')}"]
    if isinstance(given.get("cli_name"), ast.Constant):
        names = [str(ast.literal_eval(given["cli_name"]))]
    if "aliases" in given:
        names += [str(one) for one in ast.literal_eval(given["aliases"])]
    short = [name.lstrip("-") for name in names if not name.startswith("--")]
    return {name[2:]: (kind, short) for name in names if name.startswith("--")}


def _annotated(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(field, kind) of annotated class attributes: how vLLM and SGLang derive options from dataclasses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, _kind_of_type(ast.unparse(node.annotation))


def _kind_of_type(text: str) -> str:
    """flag, list or value, by a field's type as it is written."""
    if re.search(r"\bbool\b", text):
        return "flag"
    return "list" if re.match(r"(Optional\[)?(list|List|set|tuple)\b", text) else "value"


def _flag_names(node: ast.Call) -> list[str]:
    name = (
        node.func.attr
        if isinstance(node.func, ast.Attribute)
        else node.func.id
        if isinstance(node.func, ast.Name)
        else ""
    )
    if name != "option" and (
        not name.startswith("add_") or "arg" not in name
    ):  # click's decorator, argparse's call
        return []
    values = [
        argument.value
        for argument in node.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    ]
    values += [
        key.value.value
        for key in node.keywords
        if key.arg in ("flag_name", "obsolete_flag")
        and isinstance(key.value, ast.Constant)
        and isinstance(key.value.value, str)
    ]
    return [value for value in values if re.fullmatch(r"--?[A-Za-z][\w.-]*", value)]


def _kind(node: ast.Call, fields: dict[str, str]) -> str:
    """flag, value, list (any number of words) or optional (a value may follow)."""
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if "bool" in called:
        return "flag"
    for keyword in node.keywords:
        text = ast.unparse(keyword.value)
        if keyword.arg == "action":
            return "flag" if text.strip("'\"") in FLAGS or "Boolean" in text or "True" in text else "value"
        if keyword.arg == "is_flag" and text == "True":
            return "flag"
        if keyword.arg == "nargs":
            return "optional" if "?" in text else "list" if text.strip("'\"") in ("+", "*") else "value"
        if keyword.arg is None:
            inner = re.search(r"\[['\"](\w+)['\"]\]", text)
            if inner and inner.group(1) in fields:
                return fields[inner.group(1)]
    return "value"


def variables_of(wheel: Path, pattern: str) -> set[str]:
    """Names of environment variables that a wheel reads."""
    found: set[str] = set()
    for tree in sources(wheel, pattern):
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and re.fullmatch(r"(VLLM|SGLANG|SGL)_[A-Z0-9_]+", node.value)
            ):
                found.add(node.value)
            elif isinstance(node, ast.Name) and re.fullmatch(r"(VLLM|SGLANG|SGL)_[A-Z0-9_]+", node.id):
                found.add(node.id)
    return found


def collect(folder: Path, files: dict[str, str]) -> dict[str, dict[str, object]]:
    """Everything, over all wheels in the folder."""
    programs: dict[str, dict[str, object]] = {}
    for program, pattern in files.items():
        package = "ai_dynamo" if program.startswith("dynamo") else program
        wheels = sorted(folder.glob(f"{package}-*.whl"), key=lambda wheel: version_key(_version(wheel)))
        merged: dict[str, list[object]] = {}
        variables: dict[str, list[str]] = {}
        for wheel in wheels:
            version = _version(wheel)
            for name, (kind, short) in options_of(wheel, pattern).items():
                first = merged[name][2] if name in merged else version
                merged[name] = [kind, sorted(set(short)), first, version]
            for variable in variables_of(wheel, ENV_FILES[program]) if program in ENV_FILES else ():
                variables[variable] = [variables[variable][0] if variable in variables else version, version]
        programs[program] = {
            "versions": [_version(wheel) for wheel in wheels],
            "options": dict(sorted(merged.items())),
            "variables": dict(sorted(variables.items())),
        }
    return programs


def main(folder: str) -> None:
    """Write the file beside this script, one option a line."""
    target = Path(__file__).with_name("options.json")
    collected = collect(Path(folder), FILES)
    known = json.loads(target.read_text("utf-8"))["programs"] if target.is_file() else {}
    programs = {name: one if one["versions"] else known.get(name, one) for name, one in collected.items()}
    text = json.dumps(
        {
            "about": "name: [kind, short names, first version, last version]; made by collect_options.py from the wheels",
            "programs": programs,
        },
        indent=1,
    )
    text = re.sub(
        r"\[\s+([^\[\]]*?)\s+\]", lambda match: "[" + re.sub(r"\s+", " ", match.group(1)) + "]", text
    )
    text = re.sub(
        r"\[\s*((?:\"[^\"]*\"|\[[^\]]*\]|,|\s)*?)\s*\]",
        lambda match: "[" + re.sub(r"\s+", " ", match.group(1)) + "]",
        text,
    )
    target.write_text(text + "\n", "utf-8")
    sys.stdout.write(f"{target}: {len(text.splitlines())} lines\n")


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else sys.exit("usage: python collect_options.py FOLDER")
