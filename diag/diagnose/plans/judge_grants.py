"""What a container is given against what its engine takes: the model's files, access to them, main memory, processors."""

from __future__ import annotations

import re
from collections.abc import Iterator

from diag.diagnose.plans.case import Case, absent, judged, notes_of, ranks_of, where
from diag.diagnose.plans.hardware import GIB
from diag.diagnose.plans.settings import engine_of, integer, number, setting_of, sizes_unknown
from diag.model import Finding, Status
from diag.model.launch import Service
from diag.observe.plans.values import as_bytes

STOCK = re.compile(r"\A(?:docker\.io/)?(?:vllm/vllm-openai|lmsysorg/sglang)(?::|@|\Z)")
"""The engines' own images: they hold no models."""
PLAIN = ("Deployment", "StatefulSet", "Job", "Pod", "DaemonSet", "ReplicaSet", "LeaderWorkerSet", "JobSet")
"""Objects whose pods are what they say; other controllers mount models and hand in tokens of their own."""
GATED = re.compile(
    r"\A(?:meta-llama/(?:(?:Meta-)?Llama-[2-9]|CodeLlama|Llama-Guard)|google/gemma-[0-9])", re.IGNORECASE
)
ACCESS = re.compile(r"\A(?:HF_|HUGG|TRANSFORMERS_|MODELSCOPE|VLLM_USE_MODELSCOPE|SGLANG_USE_MODELSCOPE)")
CACHES = re.compile(
    r"(?i)hugg|hf|cache|model|token|secret|/root\b|/home|/mnt|/data|weights|/workspace|\$|nfs|ckpt"
)


def mounts_of(service: Service) -> list[tuple[str, str]]:
    """(path in the container, what is behind it) of every mount but shared memory."""
    pairs = (line.partition("=")[::2] for line in notes_of(service).get("mounts", "").splitlines())
    return [(path.rstrip("/") or "/", source) for path, source in pairs if path.rstrip("/") != "/dev/shm"]


def _bare(case: Case, service: Service) -> bool:
    """An engine's own image that starts the engine and nothing before it, in an object that adds nothing."""
    notes = notes_of(service)
    return (
        bool(STOCK.match(notes.get("image", "")))
        and notes.get("commands") == "1"
        and not absent(service)
        and (bool(notes.get("docker")) or notes.get("workload") in PLAIN)
    )


def judge_model_path(case: Case) -> Iterator[Finding]:
    """A model's absolute path where nothing is mounted."""
    for service in case.engines:
        model, mounts = service.model or "", mounts_of(service)
        if not model.startswith("/") or "$" in model or not _bare(case, service):
            continue
        if any("$" in path or path == "/" or f"{model}/".startswith(f"{path}/") for path, _ in mounts):
            continue
        name = model.rstrip("/").rsplit("/", 1)[-1]
        listed = ", ".join(path for path, _ in mounts)
        near = next(
            (path for path, source in mounts if re.search(r"(?i)model|weight|ckpt", path + source)), None
        )
        yield judged(
            "model-path-missing",
            service,
            Status.FAIL if mounts else Status.WARN,
            f"{service.name} reads {model}, and nothing is mounted there"
            + (f" (mounted: {listed})" if mounts else ""),
            setting=where(service, "model", "model-path"),
            certain=bool(mounts),
            do=f"Write {near}/{name}, or mount the volume above {model}"
            if near
            else f"Mount the model's volume above {model}",
            settings={"model-path" if "model-path" in service.options else "model": f"{near}/{name}"}
            if near and where(service, "model", "model-path")
            else None,
        )


def judge_gated(case: Case) -> Iterator[Finding]:
    """A model that is only given to those who have accepted its licence, and nothing to show that one has."""
    for service in case.engines:
        notes = notes_of(service)
        if not GATED.match(service.model or "") or not _bare(case, service) or "env.from" in notes:
            continue
        if any(ACCESS.match(name) for name in service.env) or any(
            CACHES.search(path + source) for path, source in mounts_of(service)
        ):
            continue
        if setting_of(service, "hf-token", "download-dir", "load-format", "model-loader-extra-config"):
            continue
        yield judged(
            "model-access-denied",
            service,
            Status.WARN,
            f"{service.name}: {service.model} is gated, and the container has neither HF_TOKEN nor a mounted cache: the download is refused (401)",
            setting=where(service, "model", "model-path"),
            certain=False,
            do="Give HF_TOKEN from a secret, of an account that has accepted the licence",
        )


PER_RANK = ("cpu-offload-gb", "hicache-size")
"""Options in GB of main memory that every rank takes (vLLM's and SGLang's arguments)."""


def judge_offload(case: Case) -> Iterator[Finding]:
    """Main memory that ranks are told to fill against the container's limit."""
    for service in case.engines:
        notes = notes_of(service)
        limit = as_bytes(notes.get("memory", ""), binary=bool(notes.get("docker")))
        name = next((each for each in PER_RANK if number(service, each)), None)
        if limit is None or name is None or absent(service) or sizes_unknown(service):
            continue
        ranks = max(1, ranks_of(service) // max(1, service.nodes_per_replica or 1))
        each = number(service, name) or 0
        if each * ranks * GIB < limit:
            continue
        yield judged(
            "host-oom-killed",
            service,
            Status.FAIL,
            f"{service.name}: --{name} {each:g} is for each GPU: {ranks} × {each:g} GiB = {ranks * each:g} GiB of main memory in a container limited to {notes['memory']}",
            setting=where(service, name),
            limit_bytes=limit,
            do=f"Raise the memory limit to {int(ranks * each * 1.25) + 16}Gi at least, or lower --{name}",
            cure="memory",
        )


def _cores(text: str) -> float | None:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(m?)", text.strip("'\" "))
    return float(match.group(1)) / (1000 if match.group(2) else 1) if match else None


def judge_processors(case: Case) -> Iterator[Finding]:
    """A processor limit of which several ranks get less than half a core each."""
    for service in case.services:
        cores = _cores(notes_of(service).get("cpu", ""))
        if cores is None or absent(service) or sizes_unknown(service):
            continue
        if "accelerator" in notes_of(service):
            continue
        ranks = (
            ranks_of(service) // max(1, service.nodes_per_replica or 1)
            if engine_of(service)
            else integer(service, "nproc-per-node") or 1
        )
        if ranks < 2 or cores * 2 > ranks:
            continue
        engine = " beside the engine's own and the server's" if engine_of(service) else ""
        yield judged(
            "numa-cpu-starvation",
            service,
            Status.WARN,
            f"{service.name}: {ranks} ranks{engine} share {cores:g} processor core{'s' if cores != 1 else ''}; each rank keeps one busy",
            certain=False,
            key="resources.limits.cpu",
            do=f"Raise the limit to {4 * ranks} cores, {ranks + 2} at the very least",
        )


JUDGES = (judge_model_path, judge_gated, judge_offload, judge_processors)
