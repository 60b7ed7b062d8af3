"""Kubernetes manifests: Deployments, Jobs, LeaderWorkerSets, Ray, PyTorch and MPI jobs, and any object with pod templates.

Pods are found by their shape (a mapping with a list of `containers`), not by a list of kinds, so a custom resource that
wraps a pod template is read as well. Replicas are the nearest above the pod; a LeaderWorkerSet's size is its nodes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from diag.model.launch import LaunchPlan
from diag.observe.plans.config_maps import files_of_documents, files_of_script, with_files
from diag.observe.plans.interface import PlacedService, Reader
from diag.observe.plans.manifests import services_of_pod
from diag.observe.plans.pods import Pod
from diag.observe.plans.ray_serve import services_of_serve_config
from diag.observe.plans.values import as_int
from diag.observe.plans.workloads import with_group
from diag.observe.plans.yaml_tree import Node, parse_documents

KIND = "kubernetes"
_SNIFF = re.compile(r"^(?:-\s+)?[\"']?apiVersion[\"']?\s*:", re.MULTILINE)
REPLICA_KEYS = ("replicas", "parallelism", "completions", "numWorkers")


def sniff(text: str, path: str) -> bool:
    """Any document with an `apiVersion`."""
    return (not text.startswith("#!") and bool(_SNIFF.search(text))) or (
        text.lstrip()[:1] == "{" and '"apiVersion"' in text[:4000]
    )


def read(text: str, path: str) -> LaunchPlan:
    """All pods of all documents as one plan."""
    services: list[PlacedService] = []
    problems: list[str] = []
    entries = [entry for document in parse_documents(text, path) for entry in _objects(document)]
    for entry in entries:
        problems += entry.doubled
        services += services_of_object(entry, text, path)
    services = with_files(services, {**files_of_script(text), **files_of_documents(entries)}, text, path)
    return LaunchPlan(KIND, path, tuple(unique_names(services)), problems=tuple(problems))


def _objects(document: Node) -> list[Node]:
    if document.plain("kind") == "List" and document.get("items") is not None:
        return [item for item in document.value["items"].items if item.is_map]
    return [document] if document.is_map else [item for item in document.items if item.is_map]


API_VERSIONS = {
    # what a kind's version is corrected to
    "LeaderWorkerSet": "leaderworkerset.x-k8s.io/v1",
    "RayCluster": "ray.io/v1",
    "RayService": "ray.io/v1",
    "RayJob": "ray.io/v1",
    "JobSet": "jobset.x-k8s.io/v1alpha2",
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "Job": "batch/v1",
    "PyTorchJob": "kubeflow.org/v1",
    "MPIJob": "kubeflow.org/v2beta1",
}


def with_api(service: PlacedService, entry: Node, shape: str = "") -> PlacedService:
    """The object's kind and API version with its services, and the change that sets the version right."""
    node, kind = entry.get("apiVersion"), str(entry.plain("kind") or "")
    if node is None:
        return service
    notes = {**service.notes, "api": str(node.value), "api.line": str(node.line), "workload": kind}
    cures = dict(service.cures)
    right = API_VERSIONS.get(kind)
    if shape:
        notes["shape"] = shape
        right = f"nvidia.com/{'v1beta1' if shape == 'components' else 'v1alpha1'}"
    if right is not None and node.start >= 0:
        cures["api"] = ((node.start, node.end, right),)
    return replace(service, notes=notes, cures=cures)


def services_of_object(entry: Node, text: str, path: str) -> Iterator[PlacedService]:
    """The services of one object, with what the object itself says."""
    pods = list(_pods(entry.get("spec") or entry, _name_of(entry), ()))
    for service in _of_object(entry, text, path):
        yield with_group(with_api(service, entry), entry, pods, path)


def _name_of(entry: Node) -> str:
    name = entry.plain("metadata", "name") or entry.plain("metadata", "generateName")
    return str(name or entry.plain("kind") or "")


def _of_object(entry: Node, text: str, path: str) -> Iterator[PlacedService]:
    name = _name_of(entry)
    spec = entry.get("spec") or entry
    size = as_int(entry.plain("spec", "leaderWorkerTemplate", "size"))
    pods = list(_pods(spec, name, ()))
    leader = entry.get("spec", "leaderWorkerTemplate", "leaderTemplate") is not None
    ray = ray_nodes(entry)
    started = dict(_ray_start(spec))
    serve = entry.get("spec", "serveConfigV2")
    if serve is not None and isinstance(serve.value, str):
        for service in services_of_serve_config(serve, text, path):
            own = ray and not re.search(r"(?i)tpu|neuron|npu|xpu|amd\.com", text)
            yield replace(service, notes={**service.notes, "ray.cluster": "true"}) if own else service
    engine_at_head = False
    for pod, trail in pods:
        pod.group, pod.bare = name, True
        if size:
            pod.nodes, pod.lws = size, True
        elif ray > 1 and "headGroupSpec" in trail:
            pod.nodes = ray
        for service in services_of_pod(pod, text, path):
            engine_at_head = engine_at_head or ("headGroupSpec" in trail and service.program != "container")
            if ray and service.program == "container":
                notes = {**service.notes, "ray": "head" if "headGroupSpec" in trail else "workers"}
                notes |= started.get(pod.name, {})
                yield replace(service, notes={**notes, "part": "worker"} if engine_at_head else notes)
            elif size and leader and "workerTemplate" in trail:
                yield replace(
                    service, name=f"{service.name} (worker)", notes={**service.notes, "part": "worker"}
                )
            else:
                yield service


def ray_nodes(entry: Node) -> int:
    """Pods of a Ray cluster, the head included; 0 where there is none."""
    spec = entry.get("spec")
    for steps in ((), ("rayClusterConfig",), ("rayClusterSpec",), ("template", "spec")):
        groups = spec.get(*steps, "workerGroupSpecs") if spec is not None else None
        if groups is not None:
            return 1 + sum(as_int(group.plain("replicas")) or 1 for group in groups.items)
    return 0


def _ray_start(spec: Node) -> Iterator[tuple[str, dict[str, str]]]:
    """Worker group -> the GPUs that its `rayStartParams` claim, where they do."""
    for steps in ((), ("rayClusterConfig",), ("rayClusterSpec",), ("template", "spec")):
        groups = spec.get(*steps, "workerGroupSpecs")
        for group in groups.items if groups is not None else []:
            claimed = group.get("rayStartParams", "num-gpus")
            if claimed is not None and as_int(claimed.raw) is not None:
                yield (
                    str(group.plain("groupName")),
                    {"ray.num-gpus": claimed.raw, "ray.num-gpus.line": str(claimed.line)},
                )


def _pods(
    node: Node, name: str, trail: tuple[str, ...], replicas: Node | None = None
) -> Iterator[tuple[Pod, tuple[str, ...]]]:
    if not node.is_map:
        for index, item in enumerate(node.items):
            yield from _pods(
                item,
                str(item.plain("name") or item.plain("groupName") or f"{name}[{index}]")
                if item.is_map
                else name,
                trail,
                replicas,
            )
        return
    containers, runner = node.get("containers"), node.get("runner")
    if (containers is not None and containers.items and containers.items[0].is_map) or (
        runner is not None and runner.is_map and runner.get("image") is not None
    ):
        count = as_int(replicas.value) if replicas is not None else None
        yield Pod(name, node, count, replicas_at=replicas), trail
        return
    own = next(
        (
            node.value[key]
            for key in REPLICA_KEYS
            if key in node.value and as_int(node.value[key].value) is not None
        ),
        replicas,
    )
    if "completionMode" in node.value or "completions" in node.value:
        own = node.value.get("parallelism", own)
    for key, child in node.pairs:
        if key in ("Master", "Worker", "Launcher"):  # the training operator's roles
            yield from _pods(child, f"{name}-{key.lower()}", (*trail, key), own)
        elif isinstance(child.value, (dict, list)) and key not in ("metadata", "status", "volumes", "env"):
            label = f"{name}-head" if key == "headGroupSpec" else name
            yield from _pods(child, label, (*trail, key), None if key in ("headGroupSpec",) else own)


def unique_names(services: list[PlacedService]) -> Iterator[PlacedService]:
    """Two services of one name get their program or a number beside it."""
    seen: dict[str, int] = {}
    for service in services:
        count = seen.get(service.name, 0)
        seen[service.name] = count + 1
        yield service if not count else replace(service, name=f"{service.name} #{count + 1}")


READER = Reader(KIND, sniff, read, order=40)
