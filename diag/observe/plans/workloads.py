"""What an object says of its pods as a group: how many there are, by which names they find each other, which images they run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from diag.model.launch import Setting
from diag.observe.plans.interface import PlacedService, PlacedSetting
from diag.observe.plans.pods import Pod
from diag.observe.plans.values import as_int
from diag.observe.plans.yaml_tree import Node

REPLICAS = {"PyTorchJob": "pytorchReplicaSpecs", "MPIJob": "mpiReplicaSpecs"}


def with_group(
    service: PlacedService, entry: Node, pods: list[tuple[Pod, tuple[str, ...]]], path: str
) -> PlacedService:
    """The service with what its object says of the group that its pod belongs to."""
    facts = {**_counts(entry), **_names(entry)}
    images = "\n".join(_images(pods))
    if images:
        facts["group.images"] = images
    if not facts:
        return service
    cures = dict(service.cures)
    if facts.get("job.indexed") == "false":
        cures["indexed"] = _indexed(entry)
    options = {**service.options, **_mpi(entry, path)}
    return replace(service, notes={**service.notes, **facts}, cures=cures, options=options)


def _counts(entry: Node) -> dict[str, str]:
    """How many pods run at once, where the object says it."""
    kind = entry.plain("kind")
    if kind == "Job" and str(entry.plain("apiVersion")).startswith("batch/v"):  # Volcano has a Job of its own
        spec = entry.get("spec")
        parallel, wanted = (as_int(entry.plain("spec", key)) for key in ("parallelism", "completions"))
        if spec is None or (parallel is None and "parallelism" in spec.value):
            return {}
        together = min(1 if parallel is None else parallel, 10**9 if wanted is None else wanted)
        indexed = str(entry.plain("spec", "completionMode") == "Indexed").lower()
        return {"pods": str(together), "job.indexed": indexed}
    if kind in REPLICAS:
        roles = entry.get("spec", REPLICAS[kind])
        if entry.get("spec", "elasticPolicy") is not None:
            return {}  # their number changes
        counts = [as_int(role.plain("replicas")) for _, role in (roles.pairs if roles is not None else [])]
        present = [1 if each is None else each for each in counts]
        return {"pods": str(sum(present))} if present else {}
    if kind == "StatefulSet":
        count = as_int(entry.plain("spec", "replicas"))
        return {"pods": str(count)} if count is not None else {}
    if kind == "JobSet":
        jobs = entry.get("spec", "replicatedJobs")
        numbers = [
            (as_int(job.plain("replicas")) or 1) * (as_int(job.plain("template", "spec", "parallelism")) or 1)
            for job in (jobs.items if jobs is not None else [])
        ]
        return {"pods": str(sum(numbers))} if numbers else {}
    return {}


def _names(entry: Node) -> dict[str, str]:
    """`HOST-PREFIX.SUBDOMAIN` of the pods: notes `dns.hosts` (comma-separated) and `dns.subdomain`."""
    kind, name = entry.plain("kind"), entry.plain("metadata", "name")
    if not isinstance(name, str):
        return {}
    if kind == "JobSet":
        jobs = entry.get("spec", "replicatedJobs")
        hosts = [f"{name}-{job.plain('name')}" for job in (jobs.items if jobs is not None else [])]
        return {
            "dns.hosts": ",".join(hosts),
            "dns.subdomain": str(entry.plain("spec", "network", "subdomain") or name),
        }
    if kind == "Job" and entry.plain("spec", "completionMode") == "Indexed":
        domain = entry.plain("spec", "template", "spec", "subdomain")
        return {"dns.hosts": name, "dns.subdomain": str(domain or "")}
    if kind == "StatefulSet":
        return {"dns.hosts": name, "dns.subdomain": str(entry.plain("spec", "serviceName") or "")}
    return {}


def _images(pods: list[tuple[Pod, tuple[str, ...]]]) -> Iterator[str]:
    """`ROLE LINE IMAGE` of the first container of every pod."""
    for pod, trail in pods:
        containers = pod.spec.get("containers")
        first = containers.items[0] if containers is not None and containers.items else None
        image = first.get("image") if first is not None else None
        if image is not None and isinstance(image.value, str):
            yield f"{trail[-3] if len(trail) > 2 else pod.name} {image.line} {image.value}"


def _indexed(entry: Node) -> tuple[tuple[int, int, str], ...]:
    """`completionMode: Indexed` as the first key of the job's spec, or in the place of another mode."""
    mode, spec = entry.get("spec", "completionMode"), entry.get("spec")
    if mode is not None and mode.start >= 0:
        return ((mode.start, mode.end, "Indexed"),)
    if spec is None or spec.style != "block" or not spec.keys:
        return ()
    first = min(spec.keys.values(), key=lambda key: key.start)
    return ((first.start, first.start, f"completionMode: Indexed\n{' ' * first.column}"),)


def _mpi(entry: Node, path: str) -> Mapping[str, Setting]:
    """An MPIJob's ranks and slots, for the services of its workers."""
    if entry.plain("kind") != "MPIJob":
        return {}
    found: dict[str, Setting] = {}
    slots = entry.get("spec", "slotsPerWorker")
    if slots is not None and as_int(slots.value) is not None:
        found["mpi.slots"] = PlacedSetting(
            slots.value, path, slots.line, "slotsPerWorker", slots.start, slots.end
        )
    launcher = entry.get("spec", "mpiReplicaSpecs", "Launcher", "template", "spec", "containers", 0)
    words = [
        item
        for key in ("command", "args")
        if launcher is not None and (node := launcher.get(key)) is not None
        for item in node.items
    ]
    if entry.plain("spec", "runLauncherAsWorker") is True:
        found["mpi.launcher-as-worker"] = Setting(True, path, entry.line, "runLauncherAsWorker")
    ranks = _ranks(words)
    if ranks is not None:
        found["mpi.ranks"] = PlacedSetting(
            as_int(ranks.raw), path, ranks.line, "-np", ranks.start, ranks.end, "yaml-item"
        )
    return found


def _ranks(words: list[Node]) -> Node | None:
    """The number behind `-np` of an mpirun that is not told otherwise where its ranks go."""
    texts = [word.raw for word in words]
    if not any(re.search(r"(?:^|/)mpi(?:run|exec)\Z", text) for text in texts):
        return None
    if any(re.search(r"(?i)oversubscribe|\A--?H\Z|\A--?host|^-ppn|npernode|\$", text) for text in texts):
        return None
    return next(
        (
            words[index + 1]
            for index, text in enumerate(texts[:-1])
            if text in ("-n", "-np", "--np") and as_int(texts[index + 1]) is not None
        ),
        None,
    )
