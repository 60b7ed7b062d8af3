"""Heads, vocabulary and quantization groups against the tensor-parallel size."""

from __future__ import annotations

from collections.abc import Iterator

from diag.diagnose.plans.case import Case, absent, judged, where
from diag.diagnose.plans.settings import engine_of, tp_of
from diag.model import Finding, Status


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


JUDGES = (judge_divisible, judge_groups)
