"""With which tensor-parallel sizes, and what else, a service fits its GPUs."""

from __future__ import annotations

from collections.abc import Iterator

from diag.diagnose.plans.case import Case
from diag.diagnose.plans.memory import MemoryEstimate, estimate
from diag.diagnose.plans.model_facts import ModelFacts
from diag.diagnose.plans.settings import engine_of, number
from diag.diagnose.plans.variants import with_options
from diag.model.launch import Hardware, Service


def legal_tp(case: Case, service: Service) -> list[int]:
    """Tensor-parallel sizes that the model's heads allow, up to 64."""
    facts = case.facts(service)
    sizes = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64)
    if not facts.shaped or not facts.certain:
        return [size for size in sizes if size & (size - 1) == 0]
    legal = [
        size
        for size in sizes
        if facts.heads % size == 0 and (facts.kv_heads % size == 0 or size % facts.kv_heads == 0)
    ]
    return [size for size in legal if size & (size - 1) == 0] or legal


def share_option(service: Service) -> str:
    """What the engine calls its share of the GPU's memory."""
    return {"sglang": "mem-fraction-static", "trtllm": "free-gpu-memory-fraction"}.get(
        engine_of(service) or "", "gpu-memory-utilization"
    )


def shares(case: Case, service: Service, found: MemoryEstimate) -> list[float]:
    """Higher shares to try: the one its peers use first, then in steps of 0.05 up to 0.95."""
    now = found.utilization or 0.9
    peers = [
        value
        for peer in case.engines
        if peer is not service and (value := number(peer, share_option(service))) is not None and value > now
    ]
    return list(dict.fromkeys([*peers, *(step / 20 for step in range(10, 20) if step / 20 > now)]))


def fitting(
    case: Case, service: Service, hardware: Hardware | None = None, facts: ModelFacts | None = None
) -> Iterator[tuple[int, dict[str, object]]]:
    """(TP, further settings) with which one worker fits, the smallest TP first.

    Further settings only where they are needed: another share of the memory, a smaller batch.
    """
    facts = facts or case.facts(service)
    hardware = hardware or case.hardware
    for tp in legal_tp(case, service):
        if hardware is not None and hardware.gpus_per_node and tp > hardware.gpus_per_node:
            return
        plain = with_options(service, {"tensor-parallel-size": tp})
        first = estimate(plain, hardware, facts)
        for settings in _tries(case, service, first):
            found = estimate(with_options(plain, settings), hardware, facts) if settings else first
            if found.fits:
                yield tp, settings
                break


def _tries(case: Case, service: Service, first: MemoryEstimate) -> Iterator[dict[str, object]]:
    """Nothing; then another utilization, up for the cache and down for the warm-up; then a smaller batch."""
    yield {}
    if first.fits or first.stage == "weights":
        return
    share = share_option(service)
    now = first.utilization or 0.9
    steps = (
        shares(case, service, first)
        if first.stage != "runtime"
        else [step / 20 for step in range(19, 14, -1) if step / 20 < now]
    )
    for step in steps:
        yield {share: step}
    if (first.inputs.get("max_num_batched_tokens") or 0) > 4096 and engine_of(service) == "vllm":
        smaller: dict[str, object] = {"max-num-batched-tokens": 4096, "enable-chunked-prefill": True}
        yield smaller
        yield from ({**smaller, share: step} for step in steps)
