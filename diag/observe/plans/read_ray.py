"""Ray's own cluster YAML (`ray up cluster.yaml`): node types with their GPUs and how many of each."""

from __future__ import annotations

import re

from diag.model.launch import LaunchPlan, Setting
from diag.observe.plans.build import build_service
from diag.observe.plans.interface import PlacedSetting, Reader
from diag.observe.plans.values import as_int
from diag.observe.plans.yaml_tree import Node, parse_documents

_SNIFF = re.compile(r"^cluster_name\s*:", re.MULTILINE)
_MORE = re.compile(
    r"^(?:available_node_types|head_node_type|head_start_ray_commands|provider)\s*:", re.MULTILINE
)


def sniff(text: str, path: str) -> bool:
    """`cluster_name` at the margin, and another key of these files."""
    return bool(_SNIFF.search(text)) and bool(_MORE.search(text))


def read(text: str, path: str) -> LaunchPlan:
    """One service a node type; its GPUs are what Ray is told a node has."""
    documents = parse_documents(text, path)
    root = documents[0] if documents else None
    if root is None or not root.is_map:
        return LaunchPlan("ray-cluster", path)
    head = root.plain("head_node_type")
    types = root.get("available_node_types")
    services = []
    problems = list(root.doubled)
    for name, node in types.pairs if types is not None else []:
        gpu = node.get("resources", "GPU")
        low, high = as_int(node.plain("min_workers")), as_int(node.plain("max_workers"))
        if low is not None and high is not None and low > high:
            problems.append(f"line {node.line}: {name} has min_workers {low} above max_workers {high}")
        options: dict[str, Setting] = {}
        if gpu is not None:
            options["resources.gpu"] = _placed(gpu, f"{name}.resources.GPU", path)
        services.append(
            build_service(
                name,
                options,
                role="other",
                framework="ray",
                replicas=1 if name == head else (low or 0),
                gpus=as_int(gpu.value) if gpu is not None else None,
                path=path,
                line=node.line,
                program="ray node",
            )
        )
    return LaunchPlan("ray-cluster", path, tuple(services), problems=tuple(problems))


def _placed(node: Node, key: str, path: str) -> PlacedSetting:
    return PlacedSetting(node.value, path, node.line, key, node.start, node.end)


READER = Reader("ray-cluster", sniff, read, order=35)
