"""MPI ranks against the engine's sizes, and a Ray cluster's GPUs against what is to be placed there."""

from __future__ import annotations

from collections.abc import Iterator

from diag.diagnose.plans.case import Case, absent, judged, notes_of, ranks_of, where
from diag.diagnose.plans.hardware import gpu_spec
from diag.diagnose.plans.settings import as_int, engine_of, integer, setting_of, sizes_unknown
from diag.model import Finding, Status
from diag.model.launch import Service, Setting


def judge_mpi(case: Case) -> Iterator[Finding]:
    """TensorRT-LLM under mpirun or srun: as many ranks as tensor × pipeline × context parallel."""
    for service in case.engines:
        if engine_of(service) != "trtllm" or sizes_unknown(service) or absent(service):
            continue
        ranks = ranks_of(service) * (integer(service, "context-parallel-size") or 1)
        started, setting = _started(service)
        if started is None or setting is None or started in (1, ranks):
            continue
        yield judged(
            "mpi-world-size-mismatch",
            service,
            Status.FAIL,
            f"{service.name}: {setting} starts {started} MPI ranks, tensor × pipeline parallel needs {ranks}",
            setting=where(service, "mpi.ranks", "slurm.ntasks", "slurm.ntasks-per-node"),
            wanted=ranks,
            there=started,
            do=f"Start {ranks} ranks",
            settings={"mpi.ranks": ranks} if setting_of(service, "mpi.ranks") else {},
        )


def _started(service: Service) -> tuple[int | None, str | None]:
    ranks = integer(service, "mpi.ranks")
    if ranks is not None:
        return ranks, "mpirun"
    tasks = integer(service, "slurm.ntasks")
    nodes, per_node = integer(service, "slurm.nodes"), integer(service, "slurm.ntasks-per-node")
    if tasks is None and nodes is not None and per_node is not None:
        tasks = nodes * per_node
    command = str(getattr(service, "program", ""))
    return (tasks, "srun") if tasks is not None and command.startswith("trtllm") else (None, None)


def judge_ray(case: Case) -> Iterator[Finding]:
    """What Ray is to place against the GPUs of all its worker groups."""
    asked = [each for each in case.services if notes_of(each).get("part") == "ray" and not absent(each)]
    groups = [each for each in case.services if notes_of(each).get("ray")]
    there = sum((_offered(each)) * (each.replicas if each.replicas is not None else 1) for each in groups)
    wanted = {each.name: (each.replicas or 1) * _per_replica(each) for each in asked}
    total = sum(wanted.values())
    none = any(
        notes_of(each).get("ray.cluster") for each in asked
    )  # a cluster in the same object, without any GPU
    if not asked or not (groups or none) or total <= there:
        return
    first = max(asked, key=lambda each: wanted[each.name])
    sums = " + ".join(f"{name} {gpus}" for name, gpus in wanted.items() if gpus)
    fewer = [each for each in groups if _offered(each) < (each.gpus_per_replica or 0)]
    why = "".join(
        f" ({each.name} starts Ray with num-gpus {_offered(each)}, its pods have {each.gpus_per_replica})"
        for each in fewer
    )
    yield judged(
        "ray-resources-pending",
        first,
        Status.FAIL,
        f"{total} GPUs are to be placed ({sums}), and the cluster's groups offer {there}{why}: the rest stays pending",
        setting=Setting(
            _offered(fewer[0]), fewer[0].path, as_int(notes_of(fewer[0]).get("ray.num-gpus.line")), "num-gpus"
        )
        if fewer
        else where(first, "tensor-parallel-size", "ray.num-gpus"),
        wanted=total,
        there=there,
        do="Take num-gpus out of rayStartParams; Ray counts the pods' GPUs itself"
        if fewer
        else f"Raise the worker groups' replicas to {total} GPUs in all, or ask for fewer",
    )


def _per_replica(service: Service) -> int:
    direct = integer(service, "ray.num-gpus")
    return direct if direct is not None else ranks_of(service)


def _offered(service: Service) -> int:
    """GPUs of a pod that Ray is told of: what `rayStartParams` claim, else the container's own."""
    claimed = as_int(notes_of(service).get("ray.num-gpus"))
    return claimed if claimed is not None else service.gpus_per_replica or 0


def judge_accelerator_type(case: Case) -> Iterator[Finding]:
    """A replica bound to a kind of GPU that is not the one there."""
    if case.spec is None:
        return
    for service in case.services:
        setting = setting_of(service, "ray.accelerator-type")
        asked = gpu_spec(str(setting.value).replace("-", " ")) if setting is not None else None
        if setting is None or asked is None or asked.name == case.spec.name:
            continue
        yield judged(
            "ray-resources-pending",
            service,
            Status.FAIL,
            f"{service.name} asks for accelerator_type {setting.value}; these nodes are {case.spec.name}, so no node offers it and the replica stays pending",
            setting=setting,
            do=f"Write accelerator_type: {case.spec.name}, or take it out",
            settings={"ray.accelerator-type": case.spec.name},
        )


JUDGES = (judge_mpi, judge_ray, judge_accelerator_type)
