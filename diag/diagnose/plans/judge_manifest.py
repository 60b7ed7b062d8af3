"""What a Kubernetes manifest says around the engine: GPUs asked for, the probes' target, memory, API versions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from diag.diagnose.plans.case import Case, absent, gib, judged, notes_of, ranks_of
from diag.diagnose.plans.hardware import GIB
from diag.diagnose.plans.judge_network import HTTP_DEFAULT
from diag.diagnose.plans.settings import as_int, setting_of, sizes_unknown
from diag.model import Finding, Status
from diag.model.launch import Service
from diag.observe.plans.values import as_bytes

PATHS = {
    # program -> what answers GET without a request of its own (entrypoints/openai/api_server.py, http_server.py)
    "vllm": (
        "/",
        "/health",
        "/ping",
        "/v1/models",
        "/version",
        "/load",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/is_sleeping",
        "/readyz",
        "/livez",
    ),
    "sglang": (
        "/",
        "/health",
        "/health_generate",
        "/v1/models",
        "/get_model_info",
        "/model_info",
        "/get_server_info",
        "/server_info",
        "/metrics",
        "/ping",
        "/docs",
    ),
}
HOST_MEMORY = 3 * GIB
"""Of one rank: Python, torch and the CUDA libraries alone take 2.5 to 4 GB of main memory before any weight is read."""


def _at(found: Finding, line: int | None) -> Finding:
    return found if line is None else replace(found, data={**found.data, "line": line})


def judge_granted(case: Case) -> Iterator[Finding]:
    """A container of a GPU image that is granted no GPU, or not the same as it asks for."""
    for service in case.services:
        notes = notes_of(service)
        if notes.get("kubernetes") != "true" or absent(service):
            continue
        wrong = notes.get("gpu.misspelt")
        if wrong is not None:
            found = judged(
                "gpu-not-visible",
                service,
                Status.FAIL,
                f"{service.name}: no device plugin offers a resource {wrong}; the name is nvidia.com/gpu, and without it the container sees no GPU",
                key=wrong,
                do="Write nvidia.com/gpu",
                cure="gpu-name",
            )
            yield _at(found, as_int(notes.get("gpu.misspelt.line")))
            continue
        limit, asked = notes.get("gpu.limits"), notes.get("gpu.requests")
        if (
            limit is not None
            and asked is not None
            and limit != asked
            and as_int(limit) is not None
            and as_int(asked) is not None
        ):
            yield judged(
                "pod-unschedulable",
                service,
                Status.FAIL,
                f"{service.name}: {asked} GPUs requested and {limit} as the limit; Kubernetes refuses the pod unless both are the same",
                setting=setting_of(service, "resources.gpu"),
                do=f"Set both to {limit}",
                cure="gpu-requests",
            )
        if limit is None and asked is None and _needs_gpu(case, service, notes):
            yield judged(
                "gpu-not-visible",
                service,
                Status.FAIL,
                f"{service.name}: its container is granted no GPU (no nvidia.com/gpu among its limits), so the engine finds no device",
                certain=False,
                do=f"Grant it nvidia.com/gpu: {ranks_of(service)}",
            )


def _needs_gpu(case: Case, service: Service, notes: dict[str, str]) -> bool:
    """An engine in an image that is made for GPUs, in a plain workload that says nothing of other devices."""
    return (
        case.plan.kind in ("kubernetes", "dgd-v1beta1", "dgd-v1alpha1")
        and service in case.engines
        and service.gpus_per_replica is None
        and getattr(service, "program", "")
        in ("vllm", "sglang", "trtllm-serve", "dynamo.vllm", "dynamo.sglang", "dynamo.trtllm")
        and notes.get("image.gpu") == "true"
        and not ({"accelerator", "claims", "privileged"} & notes.keys())
        and notes.get("workload")
        in ("Deployment", "StatefulSet", "Job", "Pod", "DaemonSet", "ReplicaSet", "DynamoGraphDeployment")
        and "NVIDIA_VISIBLE_DEVICES" not in service.env
        and str(getattr(setting_of(service, "device"), "value", "")) in ("", "auto", "cuda")
    )


def judge_probe_target(case: Case) -> Iterator[Finding]:
    """A probe that asks where nobody listens, or for a page that the server does not have."""
    for service in case.engines:
        notes, program = notes_of(service), str(getattr(service, "program", ""))
        if program not in PATHS or absent(service) or not _alone(case, service):
            continue
        port = setting_of(service, "port")
        listens = as_int(port.value) if port is not None else HTTP_DEFAULT[program]
        names = dict(each.split("=", 1) for each in notes.get("ports", "").split(",") if "=" in each)
        for kind in ("livenessProbe", "startupProbe", "readinessProbe"):
            target, _, page = notes.get(f"{kind}.at", "").partition(" ")
            asked = as_int(names.get(target, target)) if target else None
            if asked is None or listens is None or listens > 65535:
                continue
            line = as_int(notes.get(f"{kind}.line"))
            other = str(asked) in names.values() and (port is None or len(set(names.values())) > 1)
            if asked != listens and not other:
                yield _at(
                    _unanswered(
                        service,
                        kind,
                        f"asks port {asked}, but the server listens on {listens}",
                        f"Ask port {listens}",
                    ),
                    line,
                )
            elif (
                asked == listens
                and page
                and page.split("?")[0] not in PATHS[program]
                and not page.startswith("/v1/")
            ) and setting_of(service, "root-path") is None:
                yield _at(
                    _unanswered(
                        service,
                        kind,
                        f"asks for {page}, which {service.framework}'s server does not have (it has /health)",
                        "Ask for /health",
                    ),
                    line,
                )


def _unanswered(service: Service, kind: str, what: str, do: str) -> Finding:
    serious = kind != "readinessProbe"
    then = "the container is restarted again and again" if serious else "the pod never becomes ready"
    return judged(
        "probe-killed",
        service,
        Status.FAIL if serious else Status.WARN,
        f"{service.name}: its {kind} {what}: {then}",
        certain=serious,
        do=do,
        cure=f"{kind}.at",
    )


def _alone(case: Case, service: Service) -> bool:
    """True where the container starts nothing else that may listen."""
    mine = (notes_of(service).get("pod"), notes_of(service).get("container"))
    return notes_of(service).get("commands") == "1" and not any(
        other is not service and (notes_of(other).get("pod"), notes_of(other).get("container")) == mine
        for other in case.services
    )


def judge_host_memory(case: Case) -> Iterator[Finding]:
    """A memory limit below what the processes take before any weight is there."""
    for service in case.engines:
        notes = notes_of(service)
        limit = as_bytes(notes.get("memory", ""))
        if (
            limit is None
            or absent(service)
            or sizes_unknown(service)
            or "image.gpu" not in notes
            or "Runtime" in notes.get("workload", "")
        ):
            continue
        ranks = max(1, ranks_of(service) // max(1, service.nodes_per_replica or 1))
        if limit >= HOST_MEMORY * ranks:
            continue
        yield judged(
            "host-oom-killed",
            service,
            Status.WARN,
            f"{service.name}: a memory limit of {notes['memory']} for {ranks} rank{'s' if ranks > 1 else ''}; Python, torch and CUDA take about {gib(HOST_MEMORY)} each before any weight is read",
            certain=False,
            limit_bytes=limit,
            do=f"Raise the memory limit to at least {int(8 * ranks)}Gi",
            cure="memory",
        )


VERSIONS = {
    # (API group, kind) -> versions that exist; of a Dynamo graph the shape of its spec decides
    ("leaderworkerset.x-k8s.io", "LeaderWorkerSet"): ("v1",),
    ("ray.io", "RayCluster"): ("v1", "v1alpha1"),
    ("ray.io", "RayService"): ("v1", "v1alpha1"),
    ("ray.io", "RayJob"): ("v1", "v1alpha1"),
    ("jobset.x-k8s.io", "JobSet"): ("v1alpha1", "v1alpha2"),
    ("kubeflow.org", "PyTorchJob"): ("v1", "v1beta2", "v1beta1"),
    ("kubeflow.org", "MPIJob"): ("v1", "v1alpha1", "v1alpha2", "v2beta1"),
    ("apps", "Deployment"): ("v1",),
    ("apps", "StatefulSet"): ("v1",),
    ("batch", "Job"): ("v1",),
}
SHAPES = {"v1alpha1": "services", "v1beta1": "components"}


def judge_api(case: Case) -> Iterator[Finding]:
    """An API version that does not exist, or whose objects look different."""
    seen: set[str] = set()
    for service in case.services:
        notes = notes_of(service)
        api, kind, line = notes.get("api", ""), notes.get("workload", ""), as_int(notes.get("api.line"))
        group, _, version = api.rpartition("/")
        if not version or f"{api} {kind} {line}" in seen:
            continue
        seen.add(f"{api} {kind} {line}")
        shape = notes.get("shape")
        known = VERSIONS.get((group, kind))
        if known is not None and version not in known:
            right, why = (
                known[0],
                f"{kind} has no version {api}; there is {' and '.join(f'{group}/{each}' for each in known)}",
            )
        elif kind == "DynamoGraphDeployment" and shape and version in SHAPES and SHAPES[version] != shape:
            right = next(each for each, word in SHAPES.items() if word == shape)
            why = f"{api} has its parts under spec.{SHAPES[version]}; this object has spec.{shape}, which is {group}/{right}"
        else:
            continue
        yield _at(
            judged(
                "invalid-launch-argument",
                service,
                Status.FAIL,
                why,
                api=api,
                do=f"Write apiVersion: {group}/{right}",
                cure="api",
            ),
            line,
        )


JUDGES = (judge_granted, judge_probe_target, judge_host_memory, judge_api)
