"""Dynamo YAML of 2025: `dynamo serve graph:Frontend -f file.yaml`, in its three shapes.

Top-level keys are services (class names), their values the services' options without dashes. From about April
2025 a `Common` block holds shared options, which a service takes by listing their names in `common-configs`;
the vllm_v1 example (May to July 2025) names its workers VllmPrefillWorker and VllmDecodeWorker.
Source: dynamo examples/llm/configs and examples/vllm_v1/configs of those months.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from diag.model.launch import LaunchPlan, Setting
from diag.observe.plans.build import build_service
from diag.observe.plans.interface import Insertion, PlacedService, PlacedSetting, Reader
from diag.observe.plans.values import as_int, long_name
from diag.observe.plans.yaml_tree import Node, parse_documents, to_plain
from diag.system import UserError

KIND = "dynamo-2025"
SERVICE_ARGS = "ServiceArgs"
COMMON = "Common"
V0_WORKERS = ("VllmWorker", "PrefillWorker")
"""The examples with these classes ran a patched vLLM 0.7.2 to 0.8.4 with its V0 engine."""

_SERVICE = re.compile(
    r"^['\"]?(?:Common|ServiceArgs|[A-Z][A-Za-z0-9]*(?:Worker|Processor|Router|Frontend|LoadBalancer|Planner)[A-Za-z0-9]*)['\"]?\s*:",
    re.MULTILINE,
)
_MARK = re.compile(
    r"^\s+['\"]?(?:ServiceArgs|common-configs|remote-prefill|conditional-disagg|kv-transfer-config|tensor-parallel-size|served_model_name|enable_disagg)['\"]?\s*:",
    re.MULTILINE,
)


def sniff(text: str, path: str) -> bool:
    """Class names at the margin, and below one of them a key that only these files have."""
    return (
        "apiVersion:" not in text
        and bool(_SERVICE.search(text))
        and ("ServiceArgs" in text or bool(_MARK.search(text)))
    )


def read(text: str, path: str) -> LaunchPlan:
    """The plan; every option with its line, also the inherited ones (at their line in `Common`)."""
    documents = parse_documents(text, path)
    if not documents or not documents[0].is_map:
        raise UserError("no mapping of services to options", path, code="plan-empty")
    return plan_of_tree(documents[0], text, path)


def plan_of_tree(root: Node, text: str, path: str) -> LaunchPlan:
    """The plan of a composed document."""
    problems = list(root.doubled)
    common_node = root.value.get(COMMON)
    common = (
        _options(common_node, COMMON, path, inherited=True)
        if common_node is not None and common_node.is_map
        else {}
    )
    services = []
    for name, node in root.pairs:
        if name == COMMON:
            continue
        if not node.is_map:
            if node.value is not None:
                problems.append(f"line {node.line}: {name} is no mapping of options")
            continue
        problems += [f"{name}, {text}" for text in node.doubled]
        services.append(_service(name, node, common, root=root, text=text, path=path, problems=problems))
    return LaunchPlan(KIND, path, tuple(services), problems=tuple(problems))


def _options(node: Node, prefix: str, path: str, *, inherited: bool = False) -> dict[str, Setting]:
    options: dict[str, Setting] = {}
    for key, child in node.pairs:
        if key in (SERVICE_ARGS, "common-configs", "common_configs"):
            continue
        options[long_name(key)] = _setting(child, f"{prefix}.{key}", path, inherited=inherited)
    return options


def _setting(node: Node, key: str, path: str, *, inherited: bool = False) -> PlacedSetting:
    return PlacedSetting(to_plain(node), path, node.line, key, node.start, node.end, "yaml", inherited)


def _service(
    name: str,
    node: Node,
    common: Mapping[str, Setting],
    *,
    root: Node,
    text: str,
    path: str,
    problems: list[str],
) -> PlacedService:
    own = _options(node, name, path)
    options: dict[str, Setting] = {}
    wanted = node.plain("common-configs") or node.plain("common_configs") or []
    for key in wanted if isinstance(wanted, list) else [wanted]:
        inherited = common.get(long_name(str(key)))
        if inherited is None:
            problems.append(f"{name} takes {key} from Common, where it is not set")
        else:
            options[long_name(str(key))] = inherited
    options.update(own)
    arguments = node.value.get(SERVICE_ARGS)
    if name in V0_WORKERS:
        options.setdefault("engine.version", Setting("0.7", path, None, "engine.version"))
    env: dict[str, Setting] = {}
    workers: int | None = None
    gpus: int | None = None
    if arguments is not None and arguments.is_map:
        workers, gpus = _service_args(arguments, name, options=options, env=env, path=path, problems=problems)
    key_node = root.keys[name]
    return build_service(
        name,
        options,
        env=env,
        framework="vllm" if "vllm" in name.lower() or "prefill" in name.lower() else _framework_of(name),
        replicas=workers,
        gpus=gpus,
        path=path,
        line=key_node.line,
        insertion=_insertion(node, text),
        extent=_extent(root, name, text),
        program="dynamo serve",
        flags={
            key: (node.keys[key].start, node.keys[key].end) for key in node.keys if node.keys[key].start >= 0
        },
    )


def _framework_of(name: str) -> str:
    lowered = name.lower()
    return (
        "sglang"
        if "sglang" in lowered
        else "trtllm"
        if "trt" in lowered or "tensorrt" in lowered
        else "dynamo"
    )


def _service_args(
    node: Node,
    name: str,
    *,
    options: dict[str, Setting],
    env: dict[str, Setting],
    path: str,
    problems: list[str],
) -> tuple[int | None, int | None]:
    """Replicas and GPUs per replica; `service.workers` and `resources.gpu` also become settings to point at."""
    prefix = f"{name}.{SERVICE_ARGS}"
    workers = node.get("workers")
    gpu = node.get("resources", "gpu")
    if workers is not None:
        options["service.workers"] = _setting(workers, f"{prefix}.workers", path)
    if gpu is not None:
        options["resources.gpu"] = _setting(gpu, f"{prefix}.resources.gpu", path)
    for block in ("envs", "env"):
        child = node.get(block)
        for item in child.items if child is not None else []:
            variable = item.plain("name")
            value = item.get("value")
            if variable is not None and value is not None:
                env[str(variable)] = _setting(value, f"{prefix}.{block}.{variable}", path)
        for variable, value in child.pairs if child is not None else []:
            env[variable] = _setting(value, f"{prefix}.{block}.{variable}", path)
    for label, found in (("workers", workers), ("resources.gpu", gpu)):
        if found is not None and as_int(found.value) is None and found.value != "cpu_count":
            problems.append(f"line {found.line}: {prefix}.{label} is no number: {found.raw!r}")
    return (
        as_int(workers.value) if workers is not None else None,
        as_int(gpu.value) if gpu is not None else None,
    )


def _insertion(node: Node, text: str) -> Insertion | None:
    if node.start < 0:
        return None
    if node.style == "flow":
        return Insertion(node.start + 1, "yaml-key", flow=True)
    first = min(node.keys.values(), key=lambda key: key.start)
    last = max(node.keys.values(), key=lambda key: key.start)
    books = [node.keys[key] for key in ("common-configs", "common_configs", SERVICE_ARGS) if key in node.keys]
    # Before the service's own bookkeeping, where the examples keep their options.
    anchor = min(books, key=lambda key: key.start) if books else last
    line_start = text.rfind("\n", 0, anchor.start) + 1
    return Insertion(line_start, "yaml-key", first.column)


def _extent(root: Node, name: str, text: str) -> tuple[int, int] | None:
    if root.style == "flow":
        return None
    starts = sorted(key.start for key in root.keys.values())
    begin = root.keys[name].start
    later = [start for start in starts if start > begin]
    end = later[0] if later else len(text)
    # Comments right above the next service belong to it.
    body = text[begin:end].rstrip("\n").split("\n")
    while len(body) > 1 and (not body[-1].strip() or body[-1].startswith("#")):
        body.pop()
    if not later:  # the last one: nor are blank lines left at the end
        begin = len(text[:begin].rstrip("\n")) + 1 if begin else 0
        return begin, min(len(text), root.keys[name].start + len("\n".join(body)) + 1)
    return begin, min(end, begin + len("\n".join(body)) + 1)


def plan_of_mapping(mapping: Mapping[str, Any], source: str, line: int | None = None) -> LaunchPlan:
    """The same plan from the dict that Dynamo prints at start; every setting at the printed line."""
    return plan_of_tree(_node_of(mapping, line or 1), "", source)


def _node_of(value: Any, line: int) -> Node:
    if isinstance(value, Mapping):
        children = {str(key): _node_of(child, line) for key, child in value.items()}
        return Node(children, line, -1, -1, 0, "flow", {key: Node(key, line, -1, -1, 0) for key in children})
    if isinstance(value, (list, tuple)):
        return Node([_node_of(child, line) for child in value], line, -1, -1, 0, "flow")
    return Node(value, line, -1, -1, 0, raw=str(value))


READER = Reader(KIND, sniff, read, order=10)
