"""What surrounds a container: its pod, and the facts of its manifest as notes for the judges."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diag.observe.plans.pod_edits import missing_volumes
from diag.observe.plans.shell_words import Word
from diag.observe.plans.yaml_tree import Node

GPU_RESOURCES = re.compile(r"\A(nvidia\.com/(gpu|mig-.*)|amd\.com/gpu|gpu)\Z")


NEARLY_GPU = re.compile(
    r"\A(?:nvidia\.com/(?:gpus|GPU|gup|gpu-count)|nvidia\.gpu|nvdia\.com/gpu|nvidia/gpu|gpus|nvidia\.io/gpu)\Z"
)
"""What people write for `nvidia.com/gpu`; no device plugin offers these."""


@dataclass(slots=True)
class Pod:
    """What surrounds a container."""

    name: str
    spec: Node
    replicas: int | None = None
    nodes: int | None = None
    role: str | None = None
    gpus: Node | None = None
    """Where the GPUs stand, if not with the container (DynamoGraphDeployment v1alpha1)."""
    extra_env: Mapping[str, Word] = field(default_factory=dict)
    replicas_at: Node | None = None
    group: str = ""
    lws: bool = False
    """Of a LeaderWorkerSet."""
    bare: bool = False
    """Containers that run nothing we know, but take GPUs, count too."""


def gpu_node(container: Node) -> Node | None:
    """Where a container's GPU limit stands."""
    for kind in ("limits", "requests"):
        for key, node in (
            (container.get("resources", kind) or container).pairs
            if container.get("resources", kind) is not None
            else []
        ):
            if GPU_RESOURCES.match(key):
                return node
    return None


def container_notes(container: Node, pod: Pod, gpu: Node | None) -> dict[str, str]:
    """Facts for the judges of host settings, as text: shm, host network, probes, privileges, container."""
    notes: dict[str, str] = {
        "container": str(container.plain("name") or ""),
        "pod": pod.group or pod.name,
        "pod.at": str(pod.spec.start),
        "kubernetes": "true",
    }
    shm = _shm(container, pod.spec)
    notes["shm"] = shm if shm is not None else "64Mi"
    for flag in ("hostNetwork", "hostIPC"):
        if pod.spec.plain(flag) is True:
            notes[flag] = "true"
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        node = container.get(probe)
        if node is not None and node.is_map:
            notes[probe] = (
                ",".join(
                    f"{key}={node.plain(key)}"
                    for key in ("initialDelaySeconds", "periodSeconds", "failureThreshold", "timeoutSeconds")
                    if node.plain(key) is not None
                )
                or "default"
            )
            notes[f"{probe}.line"] = str(node.line)
            for action in ("httpGet", "tcpSocket", "grpc"):
                if node.get(action) is not None:
                    notes[f"{probe}.at"] = (
                        f"{node.plain(action, 'port')} {node.plain(action, 'path') or ''}".strip()
                    )
    capabilities = container.plain("securityContext", "capabilities", "add")
    notes["capabilities"] = ",".join(map(str, capabilities)) if isinstance(capabilities, list) else ""
    if container.plain("securityContext", "privileged") is True:
        notes["privileged"] = "true"
    resources: Any = container.plain("resources", "limits")
    if isinstance(resources, dict) and any(
        "rdma" in key or "efa" in key or key.endswith("/ib") for key in map(str, resources)
    ):
        notes["rdma"] = "true"
    if (
        gpu is None
        and isinstance(resources, dict)
        and any("." in str(key) and "/" in str(key) for key in resources)
    ):
        notes["accelerator"] = "other"
    if gpu is None and isinstance(resources, dict) and container.plain("resources", "claims"):
        notes["claims"] = "true"
    notes |= _resources(container) | container_facts(container, pod.spec)
    missing, _ = missing_volumes(container, pod.spec)
    if missing and pod.bare:
        notes["volumes.missing"] = ",".join(missing)
    ports = container.get("ports")
    notes["ports"] = ",".join(
        f"{item.plain('name') or ''}={item.plain('containerPort')}"
        for item in (ports.items if ports is not None else [])
    )
    if any(pod.spec.plain(key) for key in ("runtimeClassName", "resourceClaims")):
        notes["claims"] = "true"
    return notes


def _resources(container: Node) -> dict[str, str]:
    """GPUs asked for beside the limit, a key that is nearly the GPU's, the memory limit."""
    found: dict[str, str] = {}
    for kind in ("limits", "requests"):
        node = container.get("resources", kind)
        for key, value in node.pairs if node is not None and node.is_map else []:
            if GPU_RESOURCES.match(key):
                found[f"gpu.{kind}"] = str(value.value)
            elif NEARLY_GPU.match(key):
                found["gpu.misspelt"], found["gpu.misspelt.line"] = key, str(value.line)
    memory = container.plain("resources", "limits", "memory")
    if memory is not None:
        found["memory"] = str(memory)
    image = str(container.plain("image") or "")
    if re.search(
        r"vllm-openai|vllm/vllm|lmsysorg/sglang|vllm-runtime|sglang-runtime|tensorrtllm", image
    ) and not re.search(r"(?i)cpu|rocm|tpu|neuron|xpu|npu|ascend|gaudi|hpu", image):
        found["image.gpu"] = "true"
    return found


def _shm(container: Node, spec: Node) -> str | None:
    """The size behind /dev/shm: a quantity, `unlimited`, or None where nothing is mounted there."""
    if spec.plain("hostIPC") is True:
        return "unlimited"
    mounts = container.get("volumeMounts")
    name = (
        next(
            (
                item.plain("name")
                for item in mounts.items
                if str(item.plain("mountPath") or "").rstrip("/") == "/dev/shm"
            ),
            None,
        )
        if mounts is not None
        else None
    )
    if name is None:
        return None
    volumes = spec.get("volumes")
    for item in volumes.items if volumes is not None else []:
        if item.plain("name") == name:
            directory = item.get("emptyDir")
            if directory is None:
                return "unlimited"
            limit = directory.plain("sizeLimit") if directory.is_map else None
            return str(limit) if limit is not None else "unlimited"
    return "unlimited"


def container_facts(container: Node, spec: Node) -> dict[str, str]:
    """Notes on one container: its image, processors, mounts, and whether variables come from elsewhere."""
    notes = {"image": str(container.plain("image") or "")}
    if container.get("envFrom") is not None:
        notes["env.from"] = "true"
    cpu = container.plain("resources", "limits", "cpu")
    if cpu is not None:
        notes["cpu"] = str(cpu)
    node = spec.get("volumes")
    volumes = {
        str(item.plain("name")): next((key for key, _ in item.pairs if key != "name"), "")
        for item in (node.items if node is not None else [])
        if item.is_map
    }
    mounts = container.get("volumeMounts")
    found = [
        f"{item.plain('mountPath')}={volumes.get(str(item.plain('name')), '')}:{item.plain('name')}"
        for item in (mounts.items if mounts is not None else [])
        if item.is_map
    ]
    notes["mounts"] = "\n".join(found)
    return notes
