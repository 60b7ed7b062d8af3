"""Launchers: ranks per node, node ranks, world sizes; torchrun, srun, accelerate, deepspeed, Megatron's sizes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from math import prod
from typing import Any

from diag.diagnose.plans.case import Case, judged, ranks_of, where
from diag.diagnose.plans.settings import engine_of, integer, setting_of, text_of
from diag.model import Finding, Status
from diag.model.launch import Service

MEGATRON = (
    "script.tensor-model-parallel-size",
    "script.pipeline-model-parallel-size",
    "script.context-parallel-size",
)


def judge_processes(case: Case) -> Iterator[Finding]:
    """Ranks per node against the GPUs of a node."""
    there = case.hardware.gpus_per_node if case.hardware is not None else None
    for service in case.services:
        if (
            service.role != "trainer"
            or any(name.startswith("NEURON_") for name in service.env)
            or "neuron" in str(text_of(service, "script"))
            or "cpu" in f"{text_of(service, 'slurm.partition')} {text_of(service, 'slurm.account')}".lower()
        ):
            continue  # Trainium's cores are no GPUs, nor are a processor partition's
        per_node = integer(service, "nproc-per-node")
        granted = integer(service, "slurm.gpus-per-node") or service.gpus_per_replica
        for limit, what in ((granted, "granted on a node"), (there, "on a node")):
            if per_node and limit and per_node > limit:
                yield judged(
                    "gpu-count-exceeded",
                    service,
                    Status.FAIL,
                    f"{service.name} starts {per_node} ranks a node with {limit} GPUs {what}",
                    setting=where(service, "nproc-per-node"),
                    wanted=per_node,
                    there=limit,
                    do=f"Set nproc-per-node {limit}",
                    settings={"nproc-per-node": limit},
                )
                break
        yield from _accelerate(service, there)
        yield from _megatron(service, per_node)


def _accelerate(service: Service, there: int | None) -> Iterator[Finding]:
    total, machines = integer(service, "num-processes"), integer(service, "nnodes") or 1
    if service.framework != "accelerate" or not total:
        return
    if total % machines:
        yield judged(
            "launcher-layout",
            service,
            Status.FAIL,
            f"{service.name}: num_processes {total} is no multiple of num_machines {machines}",
            setting=where(service, "num-processes"),
            do="num_processes counts all ranks of all machines",
            settings={"num-processes": min(-(-total // machines), there or total) * machines},
        )
    elif machines > 1 and total < machines:
        yield judged(
            "launcher-layout",
            service,
            Status.FAIL,
            f"{service.name}: num_processes {total} for {machines} machines",
            setting=where(service, "num-processes"),
            do="num_processes counts all ranks of all machines",
        )
    elif there and total // machines > there:
        yield judged(
            "gpu-count-exceeded",
            service,
            Status.FAIL,
            f"{service.name}: num_processes {total} over {machines} machines is {total // machines} a node, which has {there} GPUs",
            setting=where(service, "num-processes"),
            wanted=total // machines,
            there=there,
            do=f"Set num_processes {there * machines}",
            settings={"num-processes": there * machines},
        )


def _megatron(service: Service, per_node: int | None) -> Iterator[Finding]:
    sizes = {
        name.removeprefix("script."): integer(service, name) for name in MEGATRON if integer(service, name)
    }
    nodes = integer(service, "nnodes")
    if not sizes or not per_node or not nodes:
        return
    model = prod(value or 1 for value in sizes.values())
    world = per_node * nodes
    if world % model:
        product = " × ".join(f"{name} {value}" for name, value in sizes.items())
        yield judged(
            "launcher-layout",
            service,
            Status.FAIL,
            f"{service.name}: {nodes} × {per_node} = {world} ranks is no multiple of {product} = {model}",
            setting=where(service, *MEGATRON),
            world=world,
            model_parallel=model,
            do="Make the world size a multiple of the model-parallel size",
            settings=_dividing(sizes, world),
        )


def _dividing(sizes: dict[str, int | None], world: int) -> dict[str, Any]:
    """The largest smaller pipeline (or else tensor) size with which the product divides the world."""
    for name in ("pipeline-model-parallel-size", "tensor-model-parallel-size"):
        now = sizes.get(name)
        rest = prod(value or 1 for key, value in sizes.items() if key != name)
        for size in range((now or 1) - 1, 0, -1):
            if world % (rest * size) == 0:
                return {f"script.{name}": size}
    return {}


def judge_slurm(case: Case) -> Iterator[Finding]:
    """What sbatch reserves against what the launcher starts."""
    for service in case.services:
        nodes = integer(service, "slurm.nodes")
        asked = integer(service, "nnodes")
        if asked and nodes and asked != nodes and service.role == "trainer":
            yield judged(
                "launcher-layout",
                service,
                Status.FAIL,
                f"{service.name} waits for {asked} nodes, sbatch reserves {nodes}",
                setting=where(service, "nnodes"),
                do=f"Set nnodes to {nodes} (or $SLURM_NNODES)",
                settings={"nnodes": nodes},
                wanted=asked,
                there=nodes,
            )
        if engine_of(service) and service.gpus_per_replica is None:
            granted = integer(service, "slurm.gpus-per-node")
            ranks = ranks_of(service)
            if granted and nodes and ranks > granted * nodes:
                yield judged(
                    "gpu-count-exceeded",
                    service,
                    Status.FAIL,
                    f"{service.name} starts {ranks} ranks, sbatch reserves {nodes} × {granted} GPUs",
                    setting=where(service, "tensor-parallel-size"),
                    wanted=ranks,
                    there=granted * nodes,
                    do="Reserve more GPUs or split the model over fewer",
                )


def judge_node_ranks(case: Case) -> Iterator[Finding]:
    """Node ranks that do not exist; and the lines of one launch against each other."""
    groups: dict[tuple[str, str], list[Service]] = defaultdict(list)
    for service in case.services:
        nodes, rank = integer(service, "nnodes"), integer(service, "node-rank")
        if nodes and rank is not None and rank >= nodes:
            yield judged(
                "launcher-layout",
                service,
                Status.FAIL,
                f"{service.name}: node-rank {rank} with nnodes {nodes}; ranks go from 0 to {nodes - 1}",
                setting=where(service, "node-rank"),
                do=f"Number the nodes 0 to {nodes - 1}",
                settings=_free_rank(case.services, service, nodes),
            )
        if (
            nodes
            and nodes > 1
            and rank is None
            and service.framework == "sglang"
            and engine_of(service)
            and setting_of(service, "node-rank") is None
            and getattr(service, "program", "") == "sglang"
            and case.plan.kind != "engine-config"
        ):
            yield judged(
                "launcher-layout",
                service,
                Status.WARN,
                f"{service.name}: nnodes {nodes} without --node-rank, so every node takes itself for node 0",
                setting=where(service, "nnodes"),
                certain=False,
                do="Give each node its own --node-rank",
            )
        if nodes and nodes > 1 and rank is not None and (engine_of(service) or service.role == "trainer"):
            address = text_of(service, "dist-init-addr", "master-addr", "rdzv-endpoint") or ""
            groups[str(service.framework), address].append(service)
    for group in groups.values():
        yield from _lines_of_one_launch(group)
    yield from _meeting_points(case, [service for group in groups.values() for service in group])
    for service in case.engines:
        yield from _nodes_divide(service)


MEETING = ("dist-init-addr", "nccl-init-addr", "master-addr", "rdzv-endpoint", "rdzv-id", "rdzv-conf")


def _meeting_points(case: Case, lines: list[Service]) -> Iterator[Finding]:
    """The lines of one launch that look for the first node at different places; or nowhere."""
    by_launch: dict[tuple[str, int], list[Service]] = defaultdict(list)
    for service in lines:
        by_launch[str(service.framework), integer(service, "nnodes") or 0].append(service)
    for (_, nodes), group in by_launch.items():
        ranks = [integer(each, "node-rank") for each in group]
        said = [text_of(each, "dist-init-addr", "master-addr", "rdzv-endpoint") for each in group]
        if sorted(rank or 0 for rank in ranks) == list(range(nodes)) and len(set(said)) > 1 and all(said):
            odd = next(each for each, address in zip(group, said, strict=True) if said.count(address) == 1)
            first = said[ranks.index(0)]
            name = next(name for name in MEETING if name in odd.options)
            yield judged(
                "launcher-layout",
                odd,
                Status.FAIL,
                "the nodes' lines look for the first node at different places: "
                + ", ".join(f"node {rank}: {address}" for rank, address in zip(ranks, said, strict=True)),
                setting=where(odd, name),
                do=f"Use {first} on all nodes",
                settings={name: first},
                alike=True,
            )
    for service in case.services:
        nodes = integer(service, "nnodes") or 1
        launcher = service.framework in ("sglang", "torchrun") and (
            engine_of(service) or service.role == "trainer"
        )
        if (
            nodes < 2
            or not launcher
            or case.plan.kind in ("engine-config", "log")
            or "open" in getattr(service, "notes", {})
        ):
            continue
        if any(
            name in service.options
            for name in (*MEETING, "rdzv_endpoint", "master_addr", "standalone", "config")
        ):
            continue
        if service.framework == "torchrun" and case.plan.kind == "kubernetes":
            continue  # the training operator tells it through PET_ variables
        if service.framework == "torchrun" and not str(text_of(service, "script") or "").endswith(".py"):
            continue
        address = "dist-init-addr" if service.framework == "sglang" else "rdzv-endpoint"
        yield judged(
            "launcher-layout",
            service,
            Status.FAIL,
            f"{service.name}: {nodes} nodes and no --{address}: each node waits for the others on itself",
            setting=where(service, "nnodes"),
            do=f"Give --{address} with the first node's address and a port",
        )


def _nodes_divide(service: Service) -> Iterator[Finding]:
    """SGLang starts the same number of ranks on every node."""
    nodes, tp, pp = (
        integer(service, "nnodes"),
        service.tensor_parallel_size,
        service.pipeline_parallel_size or 1,
    )
    if engine_of(service) == "sglang" and nodes and tp and nodes > 1 and (tp * pp) % nodes:
        yield judged(
            "launcher-layout",
            service,
            Status.FAIL,
            f"{service.name}: tensor-parallel-size {tp} cannot be dealt out evenly to {nodes} nodes",
            setting=where(service, "tensor-parallel-size"),
            do=f"Use a multiple of {nodes}",
            settings={"tensor-parallel-size": max(nodes, (tp + nodes - 1) // nodes * nodes)},
        )


def _free_rank(services: Iterable[Service], service: Service, nodes: int) -> dict[str, Any]:
    """The first rank that no other line of the same launch has."""
    taken = {
        integer(each, "node-rank")
        for each in services
        if each is not service and each.framework == service.framework
    }
    free = next((rank for rank in range(nodes) if rank not in taken), None)
    return {} if free is None else {"node-rank": free}


def _lines_of_one_launch(group: list[Service]) -> Iterator[Finding]:
    if len(group) < 2:
        return
    ranks = [integer(service, "node-rank") for service in group]
    for name in (
        "nnodes",
        "tensor-parallel-size",
        "pipeline-parallel-size",
        "data-parallel-size",
        "nproc-per-node",
        "model",
        "model-path",
        "dtype",
        "quantization",
        "max-model-len",
        "context-length",
        "kv-cache-dtype",
    ):
        values = {text_of(service, name) for service in group}
        if len(values) > 1 and len(set(ranks)) == len(ranks):
            odd = group[-1]
            said = ", ".join(
                f"node {rank}: {text_of(service, name) or 'not set'}"
                for rank, service in zip(ranks, group, strict=True)
            )
            yield judged(
                "launcher-layout",
                odd,
                Status.FAIL,
                f"the nodes' lines disagree on {name}: {said}",
                setting=where(odd, name),
                do=f"Use the same {name} on all nodes",
                settings={name: group[0].options[name].value} if name in group[0].options else {},
                alike=True,
            )
    doubled = {rank for rank in ranks if ranks.count(rank) > 1}
    same = {text_of(service, "nnodes") for service in group}
    if doubled and len(group) == integer(group[0], "nnodes") and len(same) == 1:
        yield judged(
            "launcher-layout",
            group[-1],
            Status.FAIL,
            f"node-rank {min(rank for rank in doubled if rank is not None)} is given to {max(ranks.count(rank) for rank in doubled)} nodes",
            setting=where(group[-1], "node-rank"),
            do="Number the nodes from 0 without gaps",
            settings=_free_rank(group, group[-1], len(group)),
        )


JUDGES = (judge_processes, judge_slurm, judge_node_ranks)
