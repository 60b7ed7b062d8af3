"""Heads, vocabulary and quantization groups against the tensor-parallel size."""

from __future__ import annotations

from collections.abc import Iterator

from diag.diagnose.plans.case import Case, absent, judged, where
from diag.diagnose.plans.settings import boolean, engine_of, integer, setting_of, sizes_unknown, tp_of
from diag.model import Finding, Status
from diag.model.launch import Service


def judge_divisible(case: Case) -> Iterator[Finding]:
    """TP must divide the attention heads, and divide or be a multiple of the KV heads."""
    for service in case.engines:
        facts, tp = case.facts(service), tp_of(service)
        if tp == 1 or absent(service) or not facts.shaped or not facts.certain:
            continue
        if setting_uses_dp_attention(service.options):
            continue
        legal = [
            size
            for size in range(1, facts.heads + 1)
            if facts.heads % size == 0 and (facts.kv_heads % size == 0 or size % facts.kv_heads == 0)
        ]
        problem = None
        if facts.heads % tp:
            problem = f"{facts.heads} attention heads"
        elif facts.kv_heads % tp and tp % facts.kv_heads and not facts.kv_lora_rank:
            problem = f"{facts.kv_heads} KV heads"
        elif facts.intermediate % tp and not facts.experts:
            problem = f"intermediate size {facts.intermediate}"
        elif facts.vocabulary and -(-facts.vocabulary // 64) * 64 % tp:  # engines pad the vocabulary to 64
            problem = f"vocabulary of {facts.vocabulary} (padded to 64)"
        if problem is None:
            continue
        below = max((size for size in legal if size < tp), default=1)
        yield judged(
            "tp-not-divisible",
            service,
            Status.FAIL,
            f"{service.name}: tensor-parallel-size {tp} does not divide the model's {problem}; legal sizes: {', '.join(map(str, legal[:12]))}",
            setting=where(service, "tensor-parallel-size"),
            heads=facts.heads,
            kv_heads=facts.kv_heads,
            legal=legal[:24],
            do=f"Use tensor-parallel-size {below}"
            + (
                f" (or {next((size for size in legal if size > tp), below)})"
                if any(size > tp for size in legal)
                else ""
            ),
            settings={"tensor-parallel-size": below},
        )


def setting_uses_dp_attention(options: object) -> bool:
    """SGLang's data-parallel attention splits heads over a part of the ranks only."""
    return isinstance(options, dict) and "enable-dp-attention" in options


def judge_ranks_divide(case: Case) -> Iterator[Finding]:
    """SGLang and TensorRT-LLM: attention replicas and expert groups must divide the tensor-parallel ranks."""
    for service in case.engines:
        tp = service.tensor_parallel_size or 1
        if engine_of(service) not in ("sglang", "trtllm") or sizes_unknown(service) or absent(service):
            continue
        data, expert = service.data_parallel_size, integer(service, "expert-parallel-size")
        for size, name, what in (
            (
                data if boolean(service, "enable-dp-attention") else None,
                "data-parallel-size",
                "attention replicas",
            ),
            (expert, "expert-parallel-size", "expert groups"),
        ):
            if size is None or size < 1 or tp % size == 0:
                continue
            below = max(each for each in range(1, min(size, tp) + 1) if tp % each == 0)
            yield judged(
                "invalid-launch-argument",
                service,
                Status.FAIL,
                f"{service.name}: {size} {what} ({name}) do not divide the {tp} ranks of tensor-parallel-size {tp}",
                setting=where(service, name),
                do=f"Use {name} {below}",
                settings={name: below},
            )


def judge_groups(case: Case) -> Iterator[Finding]:
    """A group of quantized weights may not straddle two ranks."""
    for service in case.engines:
        facts, tp = case.facts(service), tp_of(service)
        if (
            engine_of(service) != "vllm"
            or tp == 1
            or facts.source != "config"
            or not facts.group
            or not facts.intermediate
            or facts.experts
        ):
            continue
        if (facts.intermediate // tp) % facts.group:
            legal = [
                size
                for size in (1, 2, 4, 8, 16)
                if (facts.intermediate // size) % facts.group == 0 and facts.heads % size == 0
            ]
            yield judged(
                "quantization-unsupported",
                service,
                Status.FAIL,
                f"{service.name}: {facts.intermediate} ÷ TP {tp} = {facts.intermediate / tp:g} is no multiple of the quantization's group of {facts.group}; sizes that work: {', '.join(map(str, legal))}",
                setting=where(service, "tensor-parallel-size"),
                do=f"Use tensor-parallel-size {max(legal, default=1)}",
                settings={"tensor-parallel-size": max(legal, default=1)},
            )


def judge_experts(case: Case) -> Iterator[Finding]:
    """Experts whose slices are cut finer than their quantization's blocks, where tensor parallelism cuts them."""
    for service in case.engines:
        facts, tp = case.facts(service), tp_of(service)
        block = BLOCK_FP8.get(facts.family)
        if (
            block is None
            or facts.method != "fp8"
            or not facts.certain
            or tp == 1
            or service.expert_parallel
            or absent(service)
            or engine_of(service) not in ("vllm", "sglang")
            or setting_uses_dp_attention(service.options)
            or not facts.expert_intermediate
            or "dynamic" in (service.model or "").lower()
            or setting_of(service, "expert-parallel-size", "moe-a2a-backend", "moe-dense-tp-size") is not None
        ):
            continue
        if facts.expert_intermediate % (tp * block):
            yield _cut_experts(service, facts.expert_intermediate, tp, block)


def _cut_experts(service: Service, width: int, tp: int, block: int) -> Finding:
    legal = [size for size in (1, 2, 4, 8, 16, 32) if width % (size * block) == 0]
    option = "enable-expert-parallel" if engine_of(service) == "vllm" else "expert-parallel-size"
    return judged(
        "quantization-unsupported",
        service,
        Status.FAIL,
        f"{service.name}: the experts' {width} ÷ TP {tp} = {width / tp:g} is no multiple of the FP8 block of {block}; TP sizes that work: {', '.join(map(str, legal))}",
        setting=where(service, "tensor-parallel-size"),
        do=f"Split the experts whole ({option}), or use tensor-parallel-size {max(legal, default=1)}",
        settings={option: True if option.startswith("enable") else tp},
        alternatives=[f"tensor-parallel-size: {max(legal, default=1)}"],
    )


BLOCK_FP8 = {
    # families whose own FP8 files are quantized in blocks of 128 x 128 (weight_block_size in their config.json)
    "qwen3_moe": 128,
    "qwen3_next": 128,
    "deepseek_v3": 128,
    "deepseek_v32": 128,
    "minimax_m2": 128,
}

JUDGES = (judge_divisible, judge_ranks_divide, judge_groups, judge_experts)
