"""DynamoGraphDeployment, v1alpha1 and v1beta1.

v1alpha1: `spec.services` is a map; GPUs in `resources.limits.gpu` (a string, per node), `multinode.nodeCount`, the
container in `extraPodSpec.mainContainer`. v1beta1: `spec.components` is a list; the container is `main` in `podTemplate`.
Sources: dynamo examples/backends/vllm/deploy, docs.nvidia.com/dynamo reference/api/kubernetes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from diag.model.launch import LaunchPlan, Setting
from diag.observe.plans.build import build_service
from diag.observe.plans.config_maps import files_of_documents, files_of_script, with_files
from diag.observe.plans.interface import PlacedService, PlacedSetting, Reader
from diag.observe.plans.manifests import services_of_container
from diag.observe.plans.pods import Pod, gpu_node
from diag.observe.plans.read_kubernetes import services_of_object, unique_names, with_api
from diag.observe.plans.shell_words import Word
from diag.observe.plans.values import as_int
from diag.observe.plans.yaml_tree import Node, parse_documents

_SNIFF = re.compile(r"^[\"']?kind[\"']?\s*:\s*[\"']?DynamoGraphDeployment[\"']?\s*$", re.MULTILINE)


def sniff(text: str, path: str) -> bool:
    """The kind at the margin."""
    return not text.startswith("#!") and bool(_SNIFF.search(text))


def read(text: str, path: str) -> LaunchPlan:
    """Every graph of the file, and whatever other objects stand beside it."""
    services: list[PlacedService] = []
    problems: list[str] = []
    kind = "dgd-v1alpha1"
    documents = parse_documents(text, path)
    for document in documents:
        if not document.is_map:
            continue
        problems += document.doubled
        if document.plain("kind") != "DynamoGraphDeployment":
            services += services_of_object(document, text, path)
            continue
        beta = document.get("spec", "components") is not None
        kind = "dgd-v1beta1" if beta else kind
        found = _components(document, text, path) if beta else _services(document, text, path, problems)
        services += [with_api(each, document, "components" if beta else "services") for each in found]
    services = with_files(services, {**files_of_script(text), **files_of_documents(documents)}, text, path)
    return LaunchPlan(kind, path, tuple(unique_names(services)), problems=tuple(problems))


def _services(document: Node, text: str, path: str, problems: list[str]) -> Iterator[PlacedService]:
    spec = document.get("spec")
    shared = _env(spec.get("envs") if spec is not None else None)
    services = document.get("spec", "services")
    if services is None or not services.is_map:
        problems.append("spec.services is missing or no map")
        return
    for name, node in services.pairs:
        if not node.is_map:
            continue
        pod_spec = node.get("extraPodSpec") or Node({}, node.line, node.start, node.end, node.column)
        container = pod_spec.get("mainContainer")
        replicas = node.get("replicas")
        pod = Pod(
            name,
            pod_spec,
            as_int(replicas.value) if replicas is not None else None,
            as_int(node.plain("multinode", "nodeCount")),
            _role(node, name),
            gpus=node.get("resources", "limits", "gpu") or node.get("resources", "requests", "gpu"),
            extra_env={**shared, **_env(node.get("envs"))},
            replicas_at=replicas,
            group=str(document.plain("metadata", "name") or ""),
        )
        yield from _of_component(container, pod, node, text=text, path=path)


def _components(document: Node, text: str, path: str) -> Iterator[PlacedService]:
    components = document.get("spec", "components")
    shared = _env(document.get("spec", "env"))
    for node in components.items if components is not None else []:
        name = str(node.plain("name") or "component")
        pod_spec = node.get("podTemplate", "spec") or Node({}, node.line, node.start, node.end, node.column)
        containers = pod_spec.get("containers")
        items = containers.items if containers is not None else []
        container = next(
            (each for each in items if each.plain("name") == "main"), items[0] if items else None
        )
        replicas = node.get("replicas")
        pod = Pod(
            name,
            pod_spec,
            as_int(replicas.value) if replicas is not None else None,
            as_int(node.plain("multinode", "nodeCount")),
            _role(node, name),
            extra_env=shared,
            replicas_at=replicas,
            group=str(document.plain("metadata", "name") or ""),
        )
        yield from _of_component(container, pod, node, text=text, path=path)


def _of_component(
    container: Node | None, pod: Pod, node: Node, *, text: str, path: str
) -> Iterator[PlacedService]:
    name = pod.name
    found = list(services_of_container(container, pod, text, path)) if container is not None else []
    if found:
        declared = node.get("subComponentType") or (
            node.get("type") if node.plain("type") in ("prefill", "decode") else None
        )
        for service in found:
            if declared is not None:
                named = {
                    **service.options,
                    "declared-role": PlacedSetting(
                        declared.value, path, declared.line, f"{name}.type", declared.start, declared.end
                    ),
                }
                yield _with(service, named, node)
            else:
                yield _with(service, dict(service.options), node)
        return
    options: dict[str, Setting] = {}
    yield build_service(
        name,
        options,
        role=pod.role or "other",
        framework="dynamo",
        replicas=pod.replicas,
        gpus=_granted(container, pod),
        nodes=pod.nodes,
        path=path,
        line=node.line,
        program="dynamo",
    )


def _granted(container: Node | None, pod: Pod) -> int | None:
    """GPUs of a component that runs something we do not know."""
    node = pod.gpus or (gpu_node(container) if container is not None else None)
    return as_int(node.value) if node is not None else None


def _with(service: PlacedService, options: dict[str, Setting], node: Node) -> PlacedService:
    size = node.plain("sharedMemory", "size")
    notes = {
        **service.notes,
        **(
            {"shm": str(size)}
            if size
            else {"shm": "8Gi"}
            if node.plain("sharedMemory", "disabled") is not True
            else {}
        ),
    }
    return replace(service, options=options, notes=notes)


def _env(node: Node | None) -> dict[str, Word]:
    return {
        str(item.plain("name")): Word(value.raw, value.start, value.end, value.line, style="yaml-item")
        for item in (node.items if node is not None else [])
        if (value := item.get("value")) is not None and value.value is not None
    }


def _role(node: Node, name: str) -> str | None:
    kind = str(node.plain("componentType") or node.plain("type") or "").lower()
    sub = str(node.plain("subComponentType") or "").lower()
    for each in (sub, kind):
        if each in ("prefill", "decode", "frontend", "planner"):
            return each
    if kind == "epp":
        return "router"
    lowered = name.lower()
    return "prefill" if "prefill" in lowered else "decode" if "decode" in lowered else None


READER = Reader("dgd", sniff, read, order=20)
