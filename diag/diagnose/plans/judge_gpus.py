"""GPUs wanted against GPUs there, and parallel sizes against the GPUs of a worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diag.diagnose.plans.case import Case, absent, gpus_wanted, judged, ranks_of, where
from diag.diagnose.plans.judge_environment import host_devices
from diag.diagnose.plans.layout import ONE_NODE, alternatives, sentence, settings_of, solve
from diag.diagnose.plans.settings import (
    as_int,
    exclusive,
    integer,
    pp_of,
    setting_of,
    sizes_unknown,
    text_of,
    tp_of,
)
from diag.model import Finding, Status
from diag.model.launch import Service


def wanted(case: Case) -> list[tuple[Service, int, int]]:
    """(service, replicas, GPUs per replica and node) of everything that takes GPUs."""
    rows = []
    for service in case.services:
        gpus = gpus_wanted(service)
        if service.gpus_per_replica is None and case.plan.kind == "dynamo-2025" and service in case.engines:
            gpus = max(gpus, 1)
        if gpus and not absent(service):
            rows.append((service, service.replicas if service.replicas is not None else 1, gpus))
    return rows


def judge_count(case: Case) -> Iterator[Finding]:
    """Sum of replicas × GPUs against the node's GPUs, or the cluster's."""
    there = case.hardware.gpus_per_node if case.hardware is not None else None
    if there is None:
        return
    rows = _at_once([row for row in wanted(case) if _here_at_once(case, row[0])])
    nodes = case.hardware.nodes if case.hardware is not None else None
    for service, _, gpus in rows:
        if gpus > there:
            yield from _beyond_a_node(service, gpus, there, nodes or case.plan.nodes)
    if any(gpus > there for _, _, gpus in rows) or not rows:
        return
    total = sum(replicas * gpus * max(1, service.nodes_per_replica or 1) for service, replicas, gpus in rows)
    several = any((service.nodes_per_replica or 1) > 1 for service, _, _ in rows)
    if nodes is None and case.plan.nodes is None and (several or not case.plan.kind.startswith(ONE_NODE)):
        return
    all_there = there * (nodes or case.plan.nodes or 1)
    if total <= all_there or (case.plan.kind.startswith(ONE_NODE) and _shares_devices(rows, all_there)):
        return
    sums = " + ".join(f"{service.name} {replicas} × {gpus}" for service, replicas, gpus in rows)
    first = max(rows, key=lambda row: row[1] * row[2])[0]
    place = (
        f"{all_there}"
        if (nodes or case.plan.nodes or 1) == 1
        else f"{all_there} ({nodes or case.plan.nodes} nodes of {there})"
    )
    yield judged(
        "gpu-count-exceeded",
        first,
        Status.FAIL,
        f"{total} GPUs wanted ({sums}), {place} there",
        setting=where(first, "service.workers", "resources.gpu", "replicas", "tensor-parallel-size"),
        wanted=total,
        there=all_there,
        services={service.name: replicas * gpus for service, replicas, gpus in rows},
        **_smaller(case, total, there, all_there),
    )


def _smaller(case: Case, total: int, there: int, all_there: int) -> dict[str, Any]:
    """The layout that fits, and the other ways."""
    layout = solve(case)
    nodes = f"{_ceil(total, there)} nodes of {there} GPUs for the plan as it is"
    if layout is None:
        return {
            "do": f"No layout of these services fits {all_there} of these GPUs",
            "settings": {},
            "alternatives": [*alternatives(case, None), nodes],
        }
    settings = {
        f"{place.service.name}.{name}": value
        for place in layout.places
        for name, value in settings_of(place).items()
    }
    return {
        "do": sentence(layout),
        "settings": settings,
        "alternatives": [*alternatives(case, layout), nodes],
    }


def _here_at_once(case: Case, service: Service) -> bool:
    """False for a script's command that waits for the one before to end, and for an engine's file whose nodes are said elsewhere."""
    notes = getattr(service, "notes", {})
    if notes.get("part") in ("worker", "ray") or service.role == "trainer":
        return False
    if "host" in notes and (integer(service, "node-rank") or 0) > 0:
        return False  # another node's line of a launch that is counted already
    if case.plan.kind == "engine-config":
        return service.nodes_per_replica is not None
    if case.plan.kind not in ("shell", "slurm"):
        return True
    together = [each for each in case.services if getattr(each, "notes", {}).get("background")]
    return service in together or service is case.services[-1]


def _at_once(rows: list[tuple[Service, int, int]]) -> list[tuple[Service, int, int]]:
    """Of services in different branches of a script only the largest counts."""
    kept: list[tuple[Service, int, int]] = []
    for row in sorted(rows, key=lambda each: each[1] * each[2], reverse=True):
        if not any(exclusive(row[0], other[0]) for other in kept):
            kept.append(row)
    return [row for row in rows if row in kept]


def _shares_devices(rows: list[tuple[Service, int, int]], there: int) -> bool:
    """True where the plan itself puts several services onto the same devices by hand, all of them devices that are there."""
    lists = [host_devices(service) or [] for service, _, _ in rows]
    named = {each for devices in lists for each in devices}
    exist = len(named) <= there and all((as_int(each) or 0) < there for each in named)
    return all(lists) and exist and len(named) < sum(map(len, lists))


def _ceil(number: int, unit: int) -> int:
    return -(-number // unit)


def judge_ranks(case: Case) -> Iterator[Finding]:
    """Tensor × pipeline × data parallel ranks against the GPUs a worker sees."""
    for service in case.engines:
        if service.gpus_per_replica is None or absent(service):
            continue
        nodes = max(1, service.nodes_per_replica or 1)
        seen, ranks = service.gpus_per_replica * nodes, ranks_of(service)
        asked = setting_of(service, "nnodes")
        if asked is not None and as_int(asked.value) is None and nodes == 1:
            continue  # over how many nodes is not known
        if ranks > seen > 0:
            yield _too_many(service, ranks, seen, nodes)
        elif (
            nodes > 1
            and asked is not None
            and as_int(asked.value) == nodes
            and ranks * 2 <= seen
            and not sizes_unknown(service)
        ):
            yield _idle(service, ranks, seen, nodes)
        elif (
            case.plan.kind.startswith(("dynamo", "dgd"))
            and ranks < seen
            and service.tensor_parallel_size is None
            and not sizes_unknown(service)
        ):
            yield _tp_missing(case, service, ranks, seen)
        elif (
            ranks < seen
            and not sizes_unknown(service)
            and _alone(case, service)
            and case.plan.kind != "slurm"
        ):
            if seen % ranks:
                yield _uneven(service, ranks, seen)
            elif service.tensor_parallel_size is None and ranks == 1:
                yield _tp_missing(case, service, ranks, seen)


def _idle(service: Service, ranks: int, seen: int, nodes: int) -> Finding:
    tp = seen // pp_of(service)
    return judged(
        "launcher-layout",
        service,
        Status.WARN,
        f"{service.name} starts {ranks} ranks ({_formula(service, ranks)}) on {seen} GPUs ({nodes} nodes of {seen // nodes}): half of them or more stay idle",
        setting=where(service, "tensor-parallel-size", "resources.gpu"),
        certain=False,
        wanted=ranks,
        there=seen,
        do=f"Set tensor-parallel-size: {tp}, or take fewer nodes",
        settings={"tensor-parallel-size": tp},
    )


def _alone(case: Case, service: Service) -> bool:
    """True where nothing else of the plan can use the container's GPUs."""
    notes = dict(getattr(service, "notes", {}))
    return notes.get("kubernetes") == "true" and not any(
        other is not service and dict(getattr(other, "notes", {})).get("pod") == notes.get("pod")
        for other in case.engines
    )


def _uneven(service: Service, ranks: int, seen: int) -> Finding:
    return judged(
        "launcher-layout",
        service,
        Status.WARN,
        f"{service.name} starts {ranks} ranks ({_formula(service, ranks)}) on {seen} GPUs, which are no multiple of that",
        setting=where(service, "tensor-parallel-size", "pipeline-parallel-size", "resources.gpu"),
        certain=False,
        wanted=ranks,
        there=seen,
        do=f"Set tensor-parallel-size: {seen}, or grant {ranks} GPUs",
        settings={"tensor-parallel-size": seen},
        alternatives=[f"resources.gpu: {ranks}"],
    )


def _beyond_a_node(service: Service, gpus: int, there: int, nodes: int | None) -> Iterator[Finding]:
    """One replica is larger than a node. Ray spreads it over the nodes of its cluster, however many these are."""
    spread = text_of(service, "distributed-executor-backend") == "ray" and service.gpus_per_replica is None
    if spread and nodes is not None and gpus <= there * nodes:
        return
    size = "resources.gpu" if service.gpus_per_replica else "tensor-parallel-size"
    if spread and nodes is None:
        cluster = f"a Ray cluster of {_ceil(gpus, there)} such nodes is needed"
        status, said, settings = Status.WARN, f"{gpus} GPUs, a node has {there}: {cluster}", {}
    else:
        status, said, settings = Status.FAIL, f"{gpus} GPUs on one node that has {there}", {size: there}
    yield judged(
        "gpu-count-exceeded",
        service,
        status,
        f"{service.name} asks for {said}",
        setting=where(service, "resources.gpu", "tensor-parallel-size"),
        certain=status is Status.FAIL,
        wanted=gpus,
        there=there,
        do=f"Give {service.name} at most {there} GPUs on a node",
        settings=settings,
    )


def _formula(service: Service, ranks: int) -> str:
    tp, pp = tp_of(service), pp_of(service)
    parts = [f"tensor-parallel-size {tp}"] + ([f"pipeline-parallel-size {pp}"] if pp > 1 else [])
    if ranks > tp * pp:
        parts.append(f"data-parallel-size {ranks // (tp * pp)}")
    return " × ".join(parts) + (f" = {ranks}" if len(parts) > 1 else "")


def _too_many(service: Service, ranks: int, seen: int, nodes: int) -> Finding:
    place = f"{seen} GPUs" if nodes == 1 else f"{seen} GPUs ({nodes} nodes of {seen // nodes})"
    ray = (
        str(getattr(setting_of(service, "distributed-executor-backend"), "value", "")) == "ray"
    )  # its GPUs may be in other pods
    return judged(
        "gpu-count-exceeded",
        service,
        Status.WARN if ray else Status.FAIL,
        f"{service.name} starts {ranks} ranks ({_formula(service, ranks)}) but is given {place}",
        setting=where(service, "tensor-parallel-size", "pipeline-parallel-size", "resources.gpu"),
        certain=not ray,
        wanted=ranks,
        there=seen,
        do=f"Give {service.name} as many GPUs as ranks, or split the model over {seen}",
        settings=_over(service, seen),
        alternatives=[f"resources.gpu: {ranks}"],
    )


def _over(service: Service, seen: int) -> dict[str, Any]:
    """Sizes whose product is the GPUs there: fewer pipeline stages first, they cost least."""
    tp, pp = tp_of(service), pp_of(service)
    if pp > 1 and seen % tp == 0:
        return {"pipeline-parallel-size": seen // tp}
    return {"tensor-parallel-size": seen // pp if pp > 1 and seen % pp == 0 else seen}


def _tp_missing(case: Case, service: Service, ranks: int, seen: int) -> Finding:
    peer = next(
        (
            second if first is service else first
            for first, second in case.pairs()
            if service in (first, second)
        ),
        None,
    )
    cause = (
        "tp-mismatch-disagg"
        if peer is not None and peer.tensor_parallel_size is not None
        else "launcher-layout"
    )
    sibling = (
        f"; {peer.name} has {peer.tensor_parallel_size}"
        if peer is not None and peer.tensor_parallel_size is not None
        else ""
    )
    return judged(
        cause,
        service,
        Status.FAIL if cause == "tp-mismatch-disagg" else Status.WARN,
        f"{service.name} is given {seen} GPUs but no tensor-parallel-size, so the default of 1 puts the whole model on one of them{sibling}",
        setting=where(service, "resources.gpu"),
        missing="tensor-parallel-size",
        gpus=seen,
        ranks=ranks,
        do=f"Set tensor-parallel-size: {seen} for {service.name}",
        settings={"tensor-parallel-size": seen},
        alternatives=[f"resources.gpu: {ranks}, if the model fits on one GPU"],
    )


JUDGES = (judge_count, judge_ranks)
