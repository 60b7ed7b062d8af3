"""Megatron's own sizes: heads over tensor ranks, layers over stages, samples over replicas."""

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
                    "launcher-layout",
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
