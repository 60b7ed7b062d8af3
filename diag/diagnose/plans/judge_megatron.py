"""Megatron's own sizes: heads over tensor ranks, layers over stages, samples over replicas, positions."""

from __future__ import annotations

from collections.abc import Iterator

from diag.diagnose.plans.case import Case, judged, where
from diag.diagnose.plans.settings import integer
from diag.model import Finding, Status
from diag.model.launch import Service
from diag.observe.plans.arguments import MEGATRON_SIZES, MEGATRON_WORDS


def judge_megatron(case: Case) -> Iterator[Finding]:
    """Megatron: heads over tensor ranks, layers over stages, samples over micro-batches and replicas."""
    for service in case.services:
        size = {name: integer(service, f"script.{name}") for name in MEGATRON_SIZES}
        tp, pp = size["tensor-model-parallel-size"] or 1, size["pipeline-model-parallel-size"] or 1
        heads, layers = size["num-attention-heads"], size["num-layers"]
        if heads and heads % tp:
            below = max(each for each in range(1, tp + 1) if heads % each == 0)
            yield _uneven(
                service,
                "tensor-model-parallel-size",
                f"{heads} attention heads over {tp} tensor ranks",
                below,
                "tp-not-divisible",
            )
        uneven = any(f"script.{name}" in service.options for name in MEGATRON_WORDS)
        if layers and layers > 0 and layers % pp and not uneven:
            below = max(each for each in range(1, pp + 1) if layers % each == 0)
            yield _uneven(
                service,
                "pipeline-model-parallel-size",
                f"{layers} layers over {pp} pipeline stages",
                below,
                "launcher-layout",
            )
        per_node, nodes = integer(service, "nproc-per-node"), integer(service, "nnodes")
        model = tp * pp * (size["context-parallel-size"] or 1)
        micro, whole = size["micro-batch-size"], size["global-batch-size"]
        if per_node and nodes and micro and whole and (per_node * nodes) % model == 0:
            step = micro * (per_node * nodes // model)
            if whole % step:
                yield _uneven(
                    service,
                    "global-batch-size",
                    f"{whole} samples over {step // micro} replicas of {micro} a micro-batch",
                    max(step, whole // step * step),
                    "invalid-launch-argument",
                )
        yield from _argument_check(service, tp)


def _argument_check(service: Service, tp: int) -> Iterator[Finding]:
    """What Megatron's `validate_args` and its transformer configuration assert."""
    length, positions = (
        integer(service, f"script.{name}") for name in ("seq-length", "max-position-embeddings")
    )
    if length and positions and length > positions:
        yield judged(
            "invalid-launch-argument",
            service,
            Status.FAIL,
            f"{service.name}: --seq-length {length} is above --max-position-embeddings {positions}; Megatron asserts the opposite",
            setting=where(service, "script.seq-length"),
            do=f"Set --max-position-embeddings {length}",
            settings={"script.max-position-embeddings": length},
        )
    groups = integer(service, "script.num-query-groups")
    grouped = "script.group-query-attention" in service.options
    if grouped and groups and groups % tp and tp % groups:
        yield judged(
            "tp-not-divisible",
            service,
            Status.FAIL,
            f"{service.name}: {groups} query groups over {tp} tensor ranks do not come out even; Megatron refuses it",
            setting=where(service, "script.num-query-groups"),
            do="Use a tensor-model-parallel-size that divides the query groups",
        )
    context = integer(service, "script.context-parallel-size") or 1
    if length and context > 1 and length % (2 * context):
        yield judged(
            "invalid-launch-argument",
            service,
            Status.FAIL,
            f"{service.name}: --seq-length {length} is no multiple of 2 × context-parallel-size {context}; Megatron refuses it",
            setting=where(service, "script.seq-length"),
            do=f"Use a multiple of {2 * context}",
        )


def _uneven(service: Service, name: str, what: str, right: int, cause: str) -> Finding:
    return judged(
        cause,
        service,
        Status.FAIL,
        f"{service.name}: {what} do not come out even ({name}); Megatron refuses it",
        setting=where(service, f"script.{name}"),
        do=f"Use {name} {right}",
        settings={f"script.{name}": right},
    )


JUDGES = (judge_megatron,)
