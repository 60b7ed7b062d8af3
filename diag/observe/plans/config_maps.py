"""Engine files that a manifest brings along in a ConfigMap: their settings belong to the service that names the file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from diag.model.launch import Setting
from diag.observe.plans.build import value_of
from diag.observe.plans.engine_files import settings_of_tree, unknown_keys_of
from diag.observe.plans.interface import PlacedService, PlacedSetting
from diag.observe.plans.values import as_int
from diag.observe.plans.yaml_tree import Node, parse_documents, shell_text
from diag.system import UserError

FILE_OPTIONS = ("extra-engine-args", "config", "trtllm-config", "extra-llm-api-options", "engine-config")


def files_of_documents(documents: Iterable[Node]) -> dict[str, Node]:
    """File name -> its text's place, of every ConfigMap."""
    found: dict[str, Node] = {}
    for document in documents:
        if document.plain("kind") != "ConfigMap":
            continue
        data = document.get("data")
        for name, node in data.pairs if data is not None else []:
            if isinstance(node.value, str):
                found[name] = node
    return found


_HERE = re.compile(
    r"^[ \t]*(?:sudo )?(?:cat|tee)\b[^\n]*?(?:>\s*|tee\s+)?(?P<one>[\"']?[\w./${}-]+\.ya?ml[\"']?)?[^\n<]*<<-?\s*[\"']?(?P<end>\w+)[\"']?"
    r"(?:\s*>\s*(?P<two>[\"']?[\w./${}-]+\.ya?ml[\"']?))?[^\n]*\n(?P<body>.*?)^[ \t]*(?P=end)[ \t]*$",
    re.MULTILINE | re.DOTALL,
)


def files_of_script(text: str) -> dict[str, Node]:
    """File name -> its text's place, of every YAML file that a script writes with a here-document."""
    found: dict[str, Node] = {}
    for match in _HERE.finditer(text) if "<<" in text else ():
        name = (match.group("two") or match.group("one") or "").strip("\"'").rsplit("/", 1)[-1]
        body = match.group("body")
        if name and "$" not in name and "$" not in body:
            start = match.start("body")
            found[name] = Node(body, text.count("\n", 0, start) + 1, start, match.end("body"), 0, HERE)
    return found


HERE = "here-document"


def with_files(
    services: Sequence[PlacedService], files: dict[str, Node], text: str, path: str
) -> list[PlacedService]:
    """The services, each with the settings of the file that its command names."""
    return [_with_file(service, files, text, path) for service in services] if files else list(services)


def _with_file(service: PlacedService, files: dict[str, Node], text: str, path: str) -> PlacedService:
    named = str(value_of(service.options, *FILE_OPTIONS) or "").rsplit("/", 1)[-1]
    node = files.get(named)
    if node is None:
        return service
    try:
        settings, unknown = _settings(node, service.framework or "vllm", text, path)
    except UserError:
        return service
    # TensorRT-LLM's file stands above the command line, vLLM's and SGLang's below it.
    options: dict[str, Setting] = (
        {**service.options, **settings} if service.framework == "trtllm" else {**settings, **service.options}
    )
    sizes: dict[str, Any] = {
        field: as_int(value_of(options, option))
        for field, option in (
            ("tensor_parallel_size", "tensor-parallel-size"),
            ("pipeline_parallel_size", "pipeline-parallel-size"),
            ("data_parallel_size", "data-parallel-size"),
        )
    }
    flags = {**service.flags, **{key: place for key, place in unknown.items() if place[0] >= 0}}
    notes = {**service.notes, "files": "read"}
    return replace(service, options=options, notes=notes, unknown_keys=tuple(unknown), flags=flags, **sizes)


def _settings(
    node: Node, framework: str, text: str, path: str
) -> tuple[dict[str, Setting], dict[str, tuple[int, int]]]:
    inner, places = _inner(node, text)
    documents = parse_documents(inner, path)
    if not documents or not documents[0].is_map:
        return {}, {}
    found: dict[str, Setting] = {}
    unknown = {
        key: (_there(places, at.start), _there(places, at.start) + at.end - at.start) if places else (-1, -1)
        for key, at in unknown_keys_of(documents[0], framework).items()
    }
    for key, setting in settings_of_tree(documents[0], framework, path).items():
        start = end = -1
        line = node.line + (setting.line or 1)
        if places and isinstance(setting, PlacedSetting) and setting.start >= 0:
            start = _there(places, setting.start)
            end = start + setting.end - setting.start
            line = text.count("\n", 0, start) + 1
        found[key] = PlacedSetting(setting.value, path, line, setting.key, start, end)
    return found, unknown


def _inner(node: Node, text: str) -> tuple[str, list[tuple[int, int]]]:
    """A file's own text, and the map from its offsets to those of the file around it."""
    if node.style in ("|", ">"):
        return shell_text(node, text)
    if node.style != HERE:
        return node.value, []
    lines = node.value.splitlines(keepends=True)
    indent = min((len(line) - len(line.lstrip(" ")) for line in lines if line.strip()), default=0)
    out, places, here, there = [], [], 0, node.start
    for line in lines:
        kept = line[indent:] if line.strip() else "\n"
        places.append((here, there + (indent if line.strip() else 0)))
        out.append(kept)
        here, there = here + len(kept), there + len(line)
    return "".join(out), places


def _there(places: list[tuple[int, int]], offset: int) -> int:
    here, there = max((place for place in places if place[0] <= offset), default=places[0])
    return there + offset - here
