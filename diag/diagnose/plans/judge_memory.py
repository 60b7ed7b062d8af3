"""Weights, KV cache and the rest against one GPU's memory, with the sum written out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from diag.diagnose.plans.case import Case, absent, gib, judged, where
from diag.diagnose.plans.fitting import fitting, share_option, shares
from diag.diagnose.plans.hardware import GIB
from diag.diagnose.plans.memory import MemoryEstimate, estimate
from diag.diagnose.plans.settings import engine_of, pp_of, sizes_unknown, text_of, tp_of
from diag.diagnose.plans.variants import with_options
from diag.diagnose.plans.weights import quantization_of
from diag.model import Finding, Reason, Status
from diag.model.launch import Service

CAUSES = {
    "weights": "gpu-oom-weights",
    "kv-cache": "gpu-oom-kv-cache",
    "context": "gpu-oom-kv-cache",
    "runtime": "gpu-oom-runtime",
    "free": "gpu-memory-in-use",
}


def judge_memory(case: Case) -> Iterator[Finding]:
    """One finding a service: what fails first, or that it fits and with what margin."""
    seen: set[tuple[object, ...]] = set()
    for service in case.engines:
        if absent(service) or "ec_producer" in (text_of(service, "ec-transfer-config") or ""):
            continue  # an encoder keeps no KV cache
        found = case.estimate(service)
        if (found.utilization or 0) > 1:
            yield _unknown(service, "its share of the memory is none", "give a share between 0 and 1")
        elif sizes_unknown(service):
            yield _unknown(service, "the parallel sizes are not in the plan", "give the engine's own file")
        elif found.weights_bytes_per_gpu is None:
            yield _unknown(service, "the model's size is not known", "give --params or --config")
        elif found.total_bytes is None:
            key = (service.model, tp_of(service))
            if key not in seen:
                yield _unknown(
                    service,
                    f"{gib(found.weights_bytes_per_gpu)} of weights a GPU, but the GPU is not known",
                    "give --gpus",
                )
            seen.add(key)
        elif found.fits:
            yield judged(
                "gpu-memory",
                service,
                Status.OK,
                f"{service.name}: {_sum(service, found)}: fits, {gib(found.margin_bytes)} to spare",
                certain=found.certain,
                **found.facts(),
            )
        else:
            yield _failing(case, service, found)


def _unknown(service: Service, what: str, remedy: str) -> Finding:
    return judged(
        "gpu-memory",
        service,
        Status.SKIP,
        f"{service.name}: memory not reckoned, {what} ({remedy})",
        reason=Reason.NOT_APPLICABLE,
    )


def _sum(service: Service, found: MemoryEstimate) -> str:
    tokens = f" = {found.kv_cache_tokens:,} tokens" if found.kv_cache_tokens is not None else ""
    return (
        f"{gib(found.weights_bytes_per_gpu)} weights + {gib(found.activation_bytes)} activation + {gib(found.other_bytes)} other leaves "
        f"{gib(found.kv_cache_bytes_per_gpu)} for the KV cache{tokens} of {gib(found.total_bytes)} × {found.utilization:g}"
    )


def _failing(case: Case, service: Service, found: MemoryEstimate) -> Finding:
    lean = case.estimate(service, lean=True)
    certain = found.certain and case.memory_certain and lean.fits is False
    slack = found.stage == "weights" and (found.weights_bytes_per_gpu or 0) > 1.15 * (found.total_bytes or 0)
    status = Status.FAIL if certain or (lean.fits is False and (slack or not _tight(lean))) else Status.WARN
    cause = CAUSES[found.stage or "weights"]
    setting = (
        where(service, "tensor-parallel-size", "resources.gpu")
        if found.stage == "weights"
        else where(service, "max-model-len", "context-length")
        if found.stage == "context"
        else where(service, "gpu-memory-utilization", "mem-fraction-static", "max-num-batched-tokens")
    )
    extra: dict[str, Any] = (
        {"missing": "tensor-parallel-size"}
        if service.tensor_parallel_size is None and found.stage == "weights"
        else {}
    )
    return judged(
        cause,
        service,
        status,
        _sentence(case, service, found),
        setting=setting,
        certain=certain,
        stage=found.stage,
        total_bytes=found.total_bytes,
        parameters=case.facts(service).total,
        model_facts=case.facts(service).source,
        tensor_parallel_size=tp_of(service),
        needed_tokens=found.needed_tokens,
        **found.facts(),
        **extra,
        **_fix(case, service, found),
    )


def _tight(found: MemoryEstimate) -> bool:
    return (found.margin_bytes or 0) > -int(1.5 * GIB)


def _sentence(case: Case, service: Service, found: MemoryEstimate) -> str:
    facts, total = case.facts(service), gib(found.total_bytes)
    if found.stage == "weights":
        method, bits = quantization_of(service, facts)
        width = (
            f"{bits:g}-bit weights ({method})"
            if method and bits
            else "16-bit weights"
            if text_of(service, "dtype") not in ("float32", "float")
            else "32-bit weights"
        )
        split = f" ÷ TP {tp_of(service)}" + (f" ÷ PP {pp_of(service)}" if pp_of(service) > 1 else "")
        missing = (
            " (tensor-parallel-size is not set, so it is 1)"
            if service.tensor_parallel_size is None and engine_of(service) == "vllm"
            else ""
        )
        about = "" if facts.certain else "about "
        return f"{service.name}: {about}{facts.total / 1e9:.3g}B parameters in {width}{split} = {gib(found.weights_bytes_per_gpu)} a GPU, which has {total}{missing}"
    if found.stage == "context":
        return f"{service.name}: {_sum(service, found)}, and one sequence of {found.needed_tokens:,} tokens needs {found.needed_tokens:,}"
    if found.stage == "kv-cache":
        return f"{service.name}: {_sum(service, found)}: nothing is left for the KV cache"
    return f"{service.name}: {_sum(service, found)}, and the warm-up lacks {gib(-(found.margin_bytes or 0))} after that"


def _fix(case: Case, service: Service, found: MemoryEstimate) -> dict[str, Any]:
    ways = list(ways_to_fit(case, service))
    if not ways:
        need = (found.weights_bytes_per_gpu or 0) * tp_of(service) * pp_of(service)
        return {
            "do": f"No setting makes it fit here: {gib(need)} of weights alone; take larger GPUs or more of them, or a smaller or quantized model",
            "settings": {},
        }
    return {"do": ways[0][0], "settings": ways[0][1], "alternatives": [each[0] for each in ways[1:4]]}


def ways_to_fit(case: Case, service: Service) -> Iterator[tuple[str, dict[str, object]]]:
    """Changes of one kind each after which the service fits, the gentlest first."""
    for do, settings, changed in _candidates(case, service):
        found = replace_estimate(case, changed)
        if found.fits and (found.margin_bytes or 0) > 0:
            yield do, settings


Candidate = tuple[str, dict[str, object], Service]


def _candidates(case: Case, service: Service) -> Iterator[Candidate]:
    found = case.estimate(service)
    if found.stage in ("kv-cache", "context"):
        name = share_option(service)
        for share in shares(case, service, found):
            yield f"Raise {name} to {share:g}", {name: share}, with_options(service, {name: share})
    yield from _splits(case, service)
    if found.stage != "weights":
        yield from _smaller(service, found)


def _splits(case: Case, service: Service) -> Iterator[Candidate]:
    """More GPUs a worker, first those it has been granted already."""
    seen = service.gpus_per_replica or 0
    there = (
        case.hardware.gpus_per_node
        if case.hardware is not None and case.hardware.gpus_per_node
        else max(8, seen)
    )
    sizes = [
        (tp, settings) for tp, settings in fitting(case, service) if tp_of(service) < tp <= max(seen, there)
    ]
    for tp, settings in sorted(sizes, key=lambda size: (size[0] != seen, size[0])):
        changes: dict[str, object] = {
            "tensor-parallel-size": tp,
            **({"resources.gpu": tp} if seen and tp != seen else {}),
            **settings,
        }
        further = "".join(f", {name}: {value}" for name, value in settings.items())
        granted = f"its {seen} GPUs are already granted" if tp == seen else f"over {tp} GPUs"
        yield f"Set tensor-parallel-size: {tp}{further} ({granted})", changes, with_options(service, changes)


def _smaller(service: Service, found: MemoryEstimate) -> Iterator[Candidate]:
    """A shorter context, a smaller batch, fewer sequences, less of the GPU."""
    tries: list[tuple[str, dict[str, object]]] = []
    fit = (found.kv_cache_tokens or 0) // 1024 * 1024
    if found.stage == "context" and 2048 <= fit < (found.needed_tokens or 0):
        tries.append((f"Shorten max-model-len to {fit}", {"max-model-len": fit}))
    for batch in (8192, 4096, 2048):
        if (found.inputs.get("max_num_batched_tokens") or 0) > batch and engine_of(service) == "vllm":
            tries.append(
                (
                    f"Cut max-num-batched-tokens to {batch} with chunked prefill",
                    {"max-num-batched-tokens": batch, "enable-chunked-prefill": True},
                )
            )
    for sequences in (256, 64):
        if (found.inputs.get("max_num_seqs") or 0) > sequences and engine_of(service) == "vllm":
            tries.append((f"Cut max-num-seqs to {sequences}", {"max-num-seqs": sequences}))
    if found.stage == "runtime":
        name = share_option(service)
        tries += [
            (f"Lower {name} to {share}", {name: share})
            for share in (0.9, 0.85)
            if share < (found.utilization or 0)
        ]
    for do, settings in tries:
        yield do, settings, with_options(service, settings)


def replace_estimate(case: Case, service: Service) -> MemoryEstimate:
    """The estimate of a changed service, with the facts that the unchanged one had."""
    return estimate(service, case.hardware, replace(case.facts(service)))


JUDGES = (judge_memory,)
