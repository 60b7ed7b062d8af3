"""Engine files that a manifest brings along in a ConfigMap: their settings belong to the service that names the file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from diag.model.launch import Setting
from diag.observe.plans.build import value_of
from diag.observe.plans.engine_files import settings_of_tree
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
        settings = _settings(node, service.framework or "vllm", text, path)
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
    return replace(service, options=options, notes={**service.notes, "files": "read"}, **sizes)


def _settings(node: Node, framework: str, text: str, path: str) -> dict[str, Setting]:
    inner, places = shell_text(node, text) if node.style in ("|", ">") else (node.value, [])
    documents = parse_documents(inner, path)
    if not documents or not documents[0].is_map:
        return {}
    found: dict[str, Setting] = {}
    for key, setting in settings_of_tree(documents[0], framework, path).items():
        start = end = -1
        line = node.line + (setting.line or 1)
        if places and isinstance(setting, PlacedSetting) and setting.start >= 0:
            here, there = max((place for place in places if place[0] <= setting.start), default=places[0])
            start = there + setting.start - here
            end = start + setting.end - setting.start
            line = text.count("\n", 0, start) + 1
        found[key] = PlacedSetting(setting.value, path, line, setting.key, start, end)
    return found
