"""DeepSpeed's own configuration (`ds_config.json`): batch sizes, number formats, ZeRO."""

from __future__ import annotations

import re
from collections.abc import Iterator

from diag.model.launch import LaunchPlan, Setting
from diag.observe.plans.build import build_service
from diag.observe.plans.interface import PlacedSetting, Reader
from diag.observe.plans.yaml_tree import Node, parse_documents, to_plain

KIND = "deepspeed-config"
_KEYS = re.compile(
    r'"(zero_optimization|train_micro_batch_size_per_gpu|train_batch_size|gradient_accumulation_steps)"\s*:'
)


def sniff(text: str, path: str) -> bool:
    """A JSON object with ZeRO's block, or with two of the batch sizes."""
    if text.lstrip()[:1] != "{":
        return False
    found = {match.group(1) for match in _KEYS.finditer(text[:20_000])}
    return "zero_optimization" in found or len(found) > 1


def read(text: str, path: str) -> LaunchPlan:
    """One service that holds the settings, those of a block as `block.key`."""
    documents = parse_documents(text.replace("\t", " "), path)  # JSON may be indented with tabs, YAML not
    root = documents[0]
    service = build_service(
        "deepspeed config",
        dict(_settings(root, "", path)),
        role="other",
        framework="deepspeed",
        path=path,
        line=root.line,
        program=KIND,
    )
    return LaunchPlan(KIND, path, (service,), problems=tuple(root.doubled))


def _settings(node: Node, prefix: str, path: str) -> Iterator[tuple[str, Setting]]:
    for key, child in node.pairs:
        name = f"{prefix}{key}"
        if child.is_map:
            yield from _settings(child, f"{name}.", path)
        else:
            yield name, PlacedSetting(to_plain(child), path, child.line, name, child.start, child.end)


READER = Reader(KIND, sniff, read, order=45)
