"""Containers: GPUs they are given, ports that are published, mounts, and what the pods of one group share."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from diag.diagnose.plans.case import Case, judged, notes_of
from diag.diagnose.plans.settings import as_int, setting_of, text_of
from diag.model import Finding, Status

NOT_NVIDIA = re.compile(r"(?i)cpu|rocm|tpu|neuron|xpu|npu|ascend|gaudi|hpu|intel|arm64")


def judge_container_gpus(case: Case) -> Iterator[Finding]:
    """A docker or compose container whose engine sees no GPU, or one GPU twice."""
    for service in case.engines:
        notes = notes_of(service)
        if not notes.get("docker") or getattr(service, "program", "") not in (
            "vllm",
            "sglang",
            "trtllm-serve",
        ):
            continue
        ids = notes.get("devices", "").split(",")
        twice = sorted({each for each in ids if each and ids.count(each) > 1})
        if twice:
            yield judged(
                "duplicate-gpu",
                service,
                Status.FAIL,
                f"{service.name}: device_ids names GPU {', '.join(twice)} twice",
                do="Name every GPU once",
            )
        none = notes.get("gpu.none")
        about = f"{notes.get('image', '')} {text_of(service, 'device') or ''} {service.path}"
        if (
            none is None
            or NOT_NVIDIA.search(about)
            or "NVIDIA_VISIBLE_DEVICES" in service.env
            or notes.get("privileged")
        ):
            continue
        what = (
            "its reserved device has no capability gpu"
            if none == "capabilities"
            else "its container is given no GPU"
        )
        how = "capabilities: [gpu]" if case.plan.kind == "compose" else "--gpus all"
        yield judged(
            "gpu-not-visible",
            service,
            Status.FAIL,
            f"{service.name}: {what}, so the engine finds no device",
            certain=False,
            do=f"Give it {how}",
            cure="gpus",
        )


def judge_sif(case: Case) -> Iterator[Finding]:
    """Apptainer and Singularity hand a container no GPU unless they are told to (or their administrator has set it)."""
    for service in case.services:
        notes = notes_of(service)
        if "sif" not in notes or case.hardware is None or not (case.hardware.gpus_per_node or 0):
            continue
        if service not in case.engines and service.role != "trainer":
            continue
        yield judged(
            "gpu-not-visible",
            service,
            Status.FAIL,
            f"{service.name}: apptainer exec without --nv (line {notes['sif.line']}), so the container sees no GPU",
            certain=False,
            do="Write apptainer exec --nv",
        )


def judge_published(case: Case) -> Iterator[Finding]:
    """A published port behind which nobody listens."""
    for service in case.engines:
        notes, port = notes_of(service), setting_of(service, "port")
        listens = as_int(port.value) if port is not None else None
        inner = [
            each.strip("'\" ").split("/")[0].rsplit(":", 1)[-1]
            for each in notes.get("publish", "").split(",")
            if ":" in each
        ]
        numbers = [as_int(each) for each in inner]
        if (
            case.plan.kind == "compose"
            and listens
            and len(numbers) == 1
            and numbers[0] not in (None, listens)
        ):
            yield judged(
                "network-unreachable",
                service,
                Status.WARN,
                f"{service.name}: port {numbers[0]} of the container is published, but the server listens on {listens}",
                setting=port,
                certain=False,
                do=f"Publish {listens}, or set --port {numbers[0]}",
                settings={"port": numbers[0]},
            )


LWS = ("LWS_LEADER_ADDRESS", "LWS_GROUP_SIZE", "LWS_WORKER_INDEX")
"""What the LeaderWorkerSet's controller sets (its docs, concepts: environment variables)."""


def judge_group(case: Case) -> Iterator[Finding]:
    """A LeaderWorkerSet's pods: variables that the controller does not set, one node rank for all of them."""
    for service in case.services:
        if notes_of(service).get("workload") != "LeaderWorkerSet":
            continue
        for name, setting in service.options.items():
            for variable in re.findall(r"\$[({]?(LWS_\w+)", str(setting.value)):
                if variable in LWS or variable in service.env:
                    continue
                right = difflib.get_close_matches(variable, LWS, 1, 0.5)
                yield judged(
                    "invalid-launch-argument",
                    service,
                    Status.FAIL,
                    f"{service.name}: {name} uses {variable}, which nobody sets"
                    + (f"; did you mean {right[0]}?" if right else ""),
                    setting=setting,
                    do=f"Write {right[0] if right else ' or '.join(LWS)}",
                    settings={name: str(setting.value).replace(variable, right[0])} if right else None,
                )
        rank = setting_of(service, "node-rank")
        nodes = service.nodes_per_replica or 1
        only = "worker" not in notes_of(service).get("part", "") and not any(
            other is not service and notes_of(other).get("part") == "worker" for other in case.services
        )
        if rank is not None and as_int(rank.value) is not None and nodes > 1 and only:
            yield judged(
                "launcher-layout",
                service,
                Status.FAIL,
                f"{service.name}: all {nodes} pods of the group have node-rank {rank.value}",
                setting=rank,
                do="Take the pod's own index: $(LWS_WORKER_INDEX)",
                settings={"node-rank": "$(LWS_WORKER_INDEX)"},
            )


def judge_mounts(case: Case) -> Iterator[Finding]:
    """A mount of a volume that the pod does not have."""
    for service in case.services:
        for name in filter(None, notes_of(service).get("volumes.missing", "").split(",")):
            yield judged(
                "invalid-launch-argument",
                service,
                Status.FAIL,
                f"{service.name}: its container mounts a volume {name}, and the pod has none of that name; Kubernetes refuses the pod",
                key=f"volumeMounts.{name}",
                do="Write the volume's name as it stands under volumes",
                cure="volume-name",
            )


JUDGES = (judge_sif, judge_container_gpus, judge_published, judge_group, judge_mounts)
