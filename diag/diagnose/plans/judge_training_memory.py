"""Memory that training keeps on every GPU: weights, gradients and Adam's states, by how they are sharded.

Bytes of a parameter: 2 for a bf16 weight, 2 for its gradient, 12 for the 32-bit copy and Adam's two moments (ZeRO's paper,
arXiv:1910.02054, section 3.1). Megatron keeps gradients in 32 bit beside bf16 weights (its docs, distributed optimizer).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from diag.diagnose.plans.case import Case, gib, judged, named_file, where
from diag.diagnose.plans.judge_accelerate import MODEL, launch_of
from diag.diagnose.plans.judge_deepspeed import config_of, world_of
from diag.diagnose.plans.models import facts_of_model
from diag.diagnose.plans.settings import boolean, integer, text_of
from diag.model import Finding, Status
from diag.model.launch import Service, Setting

WEIGHT, GRADIENT, STATES = 2, 2, 12
_SMALLER = re.compile(
    r"lora|peft|adapter|4bit|8bit|bits|quant|galore|adafactor|lomo|badam|freez|offload|8-bit|4-bit|optim|distill|reward|layers"
)
"""Words of a script's options with which fewer bytes, or fewer parameters, are trained."""
_QUANTIZED = re.compile(r"4bit|8bit|4-bit|8-bit|bits|quant|layers|offload")
_MEGATRON_SMALLER = re.compile(
    r"offload|fsdp|sharding|precision-aware|main-params|main-grads|exp-avg|fp8-param|freeze|lora|grad-reduce-in-bf16|num-experts|moe|script\.optimizer\Z"
)


def judge_zero(cases: Sequence[Case]) -> Iterator[Finding]:
    """A `deepspeed` launch whose model is known, by its ZeRO stage."""
    for case in cases:
        memory = case.hardware.gpu_memory_bytes if case.hardware is not None else None
        for service in case.services:
            config = config_of(cases, service) if service.role == "trainer" else None
            stage = integer(config, "zero_optimization.stage") if config is not None else None
            if config is None or memory is None or not case.memory_certain:
                continue
            hostfile = named_file(cases, text_of(service, "hostfile", "H"), "deepspeed-hostfile")
            world = world_of(case, service, hostfile) if service.framework == "deepspeed" else None
            kept = {
                name: text_of(config, f"zero_optimization.offload_{name}.device") not in (None, "none")
                for name in ("optimizer", "param")
            }
            if boolean(config, "zero_optimization.cpu_offload"):
                kept["optimizer"] = True
            yield from _judged(
                service, config, "zero_optimization.stage", stage or 0, world, memory, offload=kept
            )


def judge_accelerate_sharding(cases: Sequence[Case]) -> Iterator[Finding]:
    """An accelerate launch whose model is known: plain copies, or FSDP."""
    for case, service, config in launch_of(cases):
        memory = case.hardware.gpu_memory_bytes if case.hardware is not None else None
        kind = str(text_of(service, "distributed-type")).upper()
        strategy = str(text_of(service, "fsdp-config.fsdp-sharding-strategy") or "").upper()
        stages = {"MULTI_GPU": 0, "FULL_SHARD": 3, "1": 3, "SHARD_GRAD_OP": 2, "2": 2, "NO_SHARD": 0, "3": 0}
        stage = stages.get(kind if kind == "MULTI_GPU" else strategy)
        if memory is None or config is None or stage is None or not case.memory_certain:
            continue
        offload = bool(boolean(service, "fsdp-config.fsdp-offload-params"))
        key = "distributed-type" if kind == "MULTI_GPU" else "fsdp-config.fsdp-sharding-strategy"
        yield from _judged(
            service,
            config,
            key,
            stage,
            integer(service, "num-processes"),
            memory,
            offload={"optimizer": offload, "param": offload},
        )


def _judged(
    service: Service,
    config: Service,
    key: str,
    stage: int,
    world: int | None,
    memory: int,
    *,
    offload: dict[str, bool],
) -> Iterator[Finding]:
    facts = facts_of_model(text_of(service, *MODEL))
    words = [name for name in service.options if name.startswith("script.")]
    if not facts.known or facts.method or any(_QUANTIZED.search(name) for name in words):
        return
    weights = facts.total * WEIGHT
    name = facts.name.rstrip("/").rsplit("/", 1)[-1]
    billions = f"{facts.total / 1e9:.0f} billion parameters"
    if stage < 3 and weights > memory and not offload["param"]:
        yield judged(
            "gpu-oom-weights",
            config,
            Status.FAIL if facts.certain or weights > 1.3 * memory else Status.WARN,
            f"{name}: {billions} × 2 bytes = {gib(weights)} of weights on every GPU of {gib(memory)}; ZeRO stage {stage} shards no weights"
            if key.startswith("zero")
            else f"{name}: {billions} × 2 bytes = {gib(weights)} of weights on every GPU of {gib(memory)}; {text_of(config, key)} shards no weights",
            setting=where(config, key),
            certain=facts.certain,
            weights_bytes_per_gpu=int(weights),
            do="Set stage 3 (with offloading where it is still too much)"
            if key.startswith("zero")
            else "Use FSDP with FULL_SHARD or ZeRO stage 3",
            settings={key: 3} if key.startswith("zero") else {},
        )
        return
    words += [str(text_of(service, "script")).lower()]
    if not world or any(_SMALLER.search(word) for word in words) or any(offload.values()):
        return
    shards = [world if stage >= least else 1 for least in (3, 2, 1)]
    total = sum(
        facts.total * size / shard for size, shard in zip((WEIGHT, GRADIENT, STATES), shards, strict=True)
    )
    if total > memory:
        yield judged(
            "gpu-oom-runtime",
            config,
            Status.WARN,
            f"{name}: {billions} × (2 of weights ÷ {shards[0]} + 2 of gradients ÷ {shards[1]} + 12 of Adam's states ÷ {shards[2]}) bytes = {gib(total)} on every GPU of {gib(memory)}, if all of it is trained with Adam",
            setting=where(config, key),
            certain=False,
            bytes_per_gpu=int(total),
            do="Shard more (stage 3), take more GPUs, or offload the optimizer",
        )


def judge_megatron_memory(case: Case) -> Iterator[Finding]:
    """Megatron: parameters counted from the layers' sizes, without the vocabulary."""
    memory = case.hardware.gpu_memory_bytes if case.hardware is not None else None
    if memory is None or not case.memory_certain:
        return
    for service in case.services:
        sizes = megatron_world(service)
        options = [name for name in service.options if name.startswith("script.")]
        if (
            sizes is None
            or service.role != "trainer"
            or "script.train-iters" not in options
            or any(_MEGATRON_SMALLER.search(name) for name in options)
            or "script.deepspeed" in options
        ):
            continue
        parameters, tp, pp, data = sizes
        sharded = "script.use-distributed-optimizer" in options
        gradient = 4 if "script.bf16" in options else 2
        if not {"script.bf16", "script.fp16"} & set(options):
            continue
        states = STATES / data if sharded else STATES
        total = parameters / (tp * pp) * (WEIGHT + gradient + states)
        if total <= memory:
            continue
        over = f" ÷ {data} data-parallel ranks" if sharded else ""
        yield judged(
            "gpu-oom-runtime",
            service,
            Status.FAIL,
            f"{service.name}: {parameters / 1e9:.1f} billion parameters in the layers ÷ (TP {tp} × PP {pp}) × ({WEIGHT} of weights + {gradient} of gradients + {STATES}{over} of optimizer states) bytes = {gib(total)} on a GPU of {gib(memory)}, before any activation",
            setting=_said(service),
            bytes_per_gpu=int(total),
            do=_way(parameters, tp, memory, gradient),
        )


def _said(service: Service) -> Setting | None:
    return where(
        service, "nnodes", "script.pipeline-model-parallel-size", "script.tensor-model-parallel-size"
    )


def _way(parameters: float, tp: int, memory: int, gradient: int) -> str:
    """The least number of stages with which weights, gradients and unsharded states take four fifths of a GPU."""
    stages = next(
        (
            size
            for size in (1, 2, 4, 8, 16, 32, 64, 128)
            if parameters / (tp * size) * (WEIGHT + gradient + STATES) < 0.8 * memory
        ),
        None,
    )
    if stages is None:
        return "Take more nodes and split the model over more pipeline stages"
    return f"Take at least {tp * stages} GPUs with pipeline-model-parallel-size {stages}, or more data-parallel ranks with --use-distributed-optimizer"


def megatron_world(service: Service) -> tuple[float, int, int, int] | None:
    """(parameters of the layers, tensor ranks, stages, data-parallel ranks) of a Megatron launch."""

    def size(name: str, default: int | None = None) -> Any:
        return integer(service, f"script.{name}") or default

    hidden, layers, heads = size("hidden-size"), size("num-layers"), size("num-attention-heads")
    per_node, nodes = integer(service, "nproc-per-node"), integer(service, "nnodes")
    tp, pp = size("tensor-model-parallel-size", 1), size("pipeline-model-parallel-size", 1)
    if not (hidden and layers and heads and per_node and nodes):
        return None
    head = size("kv-channels", hidden // heads)
    groups = size("num-query-groups", heads) if "script.group-query-attention" in service.options else heads
    inner = size("ffn-hidden-size", 4 * hidden)
    matrices = 3 if "script.swiglu" in service.options else 2
    layer = 2 * hidden * head * heads + 2 * hidden * head * groups + matrices * hidden * inner
    return float(layers * layer), tp, pp, max(1, per_node * nodes // (tp * pp))


JUDGES = (judge_megatron_memory,)
TOGETHER = (judge_zero, judge_accelerate_sharding)
