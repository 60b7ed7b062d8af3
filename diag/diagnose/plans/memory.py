"""What a launch needs of each GPU, reckoned as the engines reckon it.

    KV cache = total × utilization − weights − activation peak − non-torch memory (− CUDA graphs, vLLM from 0.21)

Constants come from start-ups of vLLM 0.6 to 0.25 and SGLang whose printed figures are public; `benchmarks/memory_model.py`
holds predicted against printed. Everything is bytes of one GPU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diag.diagnose.plans.cache_bytes import Cache
from diag.diagnose.plans.engine_defaults import sglang_share, vllm_share, vllm_sizes
from diag.diagnose.plans.hardware import GIB, GpuSpec, spec_of
from diag.diagnose.plans.model_facts import ModelFacts
from diag.diagnose.plans.profiles import Profile, counted_graphs, profile_of, vision_peak
from diag.diagnose.plans.settings import boolean, engine_of, integer, number, text_of
from diag.diagnose.plans.weights import adapters_per_gpu, draft_per_gpu, drafted_tokens, weights_per_gpu
from diag.model.launch import Hardware, Service
from diag.observe.plans.values import as_bytes

CONTEXT_BYTES = int(0.51 * GIB)
"""CUDA context of one process before the engine starts: total less free at start, TP 1, H100."""
CONTEXT_TP_BYTES = int(1.53 * GIB)
"""The same with communicators at TP 2 and more."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """The reckoning for one GPU of one service. None: not known."""

    weights_bytes_per_gpu: int | None = None
    kv_cache_bytes_per_gpu: int | None = None
    """What is left for the cache; negative where nothing is."""
    kv_cache_tokens: int | None = None
    activation_bytes: int | None = None
    other_bytes: int | None = None
    """Non-torch memory and CUDA graphs."""
    margin_bytes: int | None = None
    """Left on the GPU when everything stands; negative: missing."""
    fits: bool | None = None
    stage: str | None = None
    """Where it fails: weights, kv-cache, context, runtime; None where it fits or is not known."""
    certain: bool = False
    """True where the model's figures are its own and the failure does not hang on an assumption."""
    total_bytes: int | None = None
    budget_bytes: int | None = None
    utilization: float | None = None
    needed_tokens: int | None = None
    """Tokens of one longest sequence, where the plan says so."""
    token_bytes: float | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """The contract's keys, for report.facts."""
        return {
            key: getattr(self, key)
            for key in (
                "weights_bytes_per_gpu",
                "kv_cache_bytes_per_gpu",
                "kv_cache_tokens",
                "activation_bytes",
                "other_bytes",
                "margin_bytes",
                "fits",
            )
        }


def version_of(service: Service) -> tuple[int, ...] | None:
    """(major, minor, patch) of the engine, from `engine.version` (a log, an image's tag); None if nothing says."""
    if engine_of(service) == "trtllm":
        return None  # the ages of the profiles are vLLM's and SGLang's
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", str(text_of(service, "engine.version") or ""))
    return tuple(int(part or 0) for part in found.groups()) if found else None


def estimate(
    service: Service,
    hardware: Hardware | None,
    model: ModelFacts,
    *,
    lean: bool = False,
    free_bytes: int | None = None,
) -> MemoryEstimate:
    """Reckon one GPU of `service`. `free_bytes`: what is free there before the start, where that was measured."""
    spec = spec_of(hardware)
    total = (hardware.gpu_memory_bytes if hardware is not None else None) or (
        spec.memory_bytes if spec is not None else None
    )
    engine = engine_of(service)
    weights = weights_per_gpu(service, model)
    if weights is None:
        return MemoryEstimate(total_bytes=total, inputs={"model": model.name})
    weights += draft_per_gpu(service, model) + adapters_per_gpu(service, model)
    if total is None or engine is None:
        return MemoryEstimate(weights_bytes_per_gpu=weights, total_bytes=total, certain=False)
    ranks = (service.tensor_parallel_size or 1) * (service.pipeline_parallel_size or 1)
    shape = _Run(service, model, spec, total, version_of(service), lean=lean)
    profile = profile_of(version_of(service), ranks, spec, lean=lean)
    activation = shape.activation(profile)
    graphs = shape.graphs()
    counted = shape.counted_graphs() if profile.graphs_counted else 0
    if engine == "vllm":
        share = number(service, "gpu-memory-utilization") or vllm_share(version_of(service))
        budget = int(total * share)
        cache = budget - weights - activation - profile.non_torch_bytes - counted
        context = CONTEXT_TP_BYTES if ranks > 1 and shape.large else CONTEXT_BYTES
        left = total - budget - context + activation - (graphs - counted)
        other = profile.non_torch_bytes + graphs
        needed = shape.sampler(4.0) if (profile.sampler_copies >= 4 and not lean) else 0
        needed += shape.expert_workspace()
        stated = as_bytes(text_of(service, "kv-cache-memory-bytes"))
        if stated:  # the cache as it is told, whatever the share of the memory
            cache, needed = stated, 0
            left = total - context - weights - activation - stated - graphs
    else:
        share = shape.static_fraction(engine)
        free = total - int((1.4 if ranks > 1 else 0.7) * GIB)
        budget = int(free * share)
        cache = budget - weights if engine == "sglang" else int((free - weights - activation) * share)
        pool, cache = cache, shape.cache.without_states(cache)
        left = total - weights - max(pool, 0) - graphs - int(0.7 * GIB)
        other, needed = total - free + graphs, activation if engine == "sglang" and lean else 0
    return _verdict(
        shape,
        service,
        model,
        lean,
        weights=weights,
        cache=cache,
        activation=activation,
        other=other,
        margin=left - needed,
        total=total,
        budget=budget,
        share=share,
        free=free_bytes,
    )


def _verdict(
    shape: _Run,
    service: Service,
    model: ModelFacts,
    lean: bool,
    *,
    weights: int,
    cache: int,
    activation: int,
    other: int,
    margin: int,
    total: int,
    budget: int,
    share: float,
    free: int | None,
) -> MemoryEstimate:
    token = shape.cache.token_bytes()
    tokens = shape.cache.tokens(max(cache, 0))
    needed, stated = shape.longest()
    request = (token or 0) * (needed or 0) / shape.cache.context
    stage = None
    if weights > total - CONTEXT_BYTES:
        stage, margin = "weights", total - CONTEXT_BYTES - weights
    elif free is not None and free < budget:
        stage, margin = "free", free - budget
    elif cache <= 0:
        stage, margin = "kv-cache", cache
    elif tokens is not None and cache < request and stated:
        stage, margin = "context", int(cache - request)
    elif margin < 0:
        stage = "runtime"
    certain = model.certain and (stage != "runtime")
    return MemoryEstimate(
        weights,
        cache,
        tokens,
        activation,
        other,
        margin,
        stage is None,
        stage,
        certain,
        total,
        budget,
        share,
        needed,
        token,
        inputs={
            "parameters": model.total,
            "method": model.method,
            "max_num_seqs": shape.sequences,
            "max_num_batched_tokens": shape.batch,
        },
    )


class _Run:
    """One service's sizes that its memory hangs on, defaults filled in."""

    def __init__(
        self,
        service: Service,
        model: ModelFacts,
        spec: GpuSpec | None,
        total: int,
        version: tuple[int, ...] | None,
        *,
        lean: bool = False,
    ) -> None:
        self.service, self.model, self.version, self.total = service, model, version, total
        self.tp = max(1, service.tensor_parallel_size or 1)
        self.pp = max(1, service.pipeline_parallel_size or 1)
        self.large = spec.many_sequences if spec is not None else total >= 70 * GIB
        old = version is not None and version < (0, 8)
        stated = integer(service, "max-num-seqs", "max-running-requests", "max-batch-size")
        sequences, tokens = vllm_sizes(spec, total, version) if engine_of(service) == "vllm" else (256, 8192)
        self.sequences = stated or sequences
        length, _ = self.longest()
        batch = integer(service, "max-num-batched-tokens", "chunked-prefill-size", "max-num-tokens")
        if batch is None or batch < 1:
            whole = boolean(service, "enable-chunked-prefill") is False or (old and (length or 0) <= 32768)
            batch = max(length or 2048, 2048) if whole else tokens
        self.batch = batch
        self.cache = Cache(service, model, version, length=self.longest()[0], batch=batch, lean=lean)

    def longest(self) -> tuple[int | None, bool]:
        """(tokens of the longest sequence, whether the plan itself says so)."""
        stated = integer(self.service, "max-model-len", "context-length", "max-seq-len")
        if stated is not None:
            return (stated, engine_of(self.service) == "vllm") if stated > 0 else (None, False)
        return self.model.max_position, self.model.source == "config" and engine_of(self.service) == "vllm"

    def sampler(self, copies: float) -> int:
        """Logits of every sequence, in float32, that many times over; not split by tensor parallelism."""
        return int(self.sequences * self.model.vocabulary * 4 * copies)

    def activation(self, profile: Profile) -> int:
        """Peak of the profiling run: the sampler's or the widest layer's, whichever is larger."""
        model = self.model
        width = 3 * model.intermediate / self.tp + 4 * model.hidden
        if model.experts:
            inner = 3 * model.expert_intermediate / self.tp + model.hidden
            width = (
                max(3 * model.shared_intermediate / self.tp, 0)
                + 4 * model.hidden
                + max(1, model.experts_per_token) * inner
            )
        forward = self.batch * width * 2
        extra = int(0.35 * GIB) if model.kv_lora_rank else 0  # the workspace of chunked context in MLA
        if model.pooling:
            return int(forward) + extra
        copies = profile.sampler_copies * (0.93 if model.vocabulary > 190_000 else 1)
        sampler, seen = self.sampler(copies), 0
        if engine_of(self.service) == "vllm" and not boolean(self.service, "language-model-only"):
            seen = vision_peak(model, self.batch, self.tp, profile)
        if profile.vision_adds:
            return int(max(forward, sampler)) + seen + extra
        return int(max(forward + seen, sampler)) + extra

    def counted_graphs(self) -> int:
        """What vLLM expects its graphs to take, where it takes that off the cache."""
        if boolean(self.service, "enforce-eager"):
            return 0
        return counted_graphs(self.model, self.sequences, drafted_tokens(self.service), self.pp)

    def expert_workspace(self) -> int:
        """Kernels of MXFP4 experts take more in the warm-up than in the profiling run (gpt-oss-20b: it ran out there)."""
        return int(2.0 * GIB / self.tp) if self.model.method == "mxfp4" and self.model.experts else 0

    def graphs(self) -> int:
        """CUDA graphs of all batch sizes: 0.6 GiB and up, about 0.02 GiB a layer; a further GiB for experts."""
        if boolean(self.service, "enforce-eager", "disable-cuda-graph"):
            return 0
        whole = max(0.6, 0.023 * self.model.layers / self.pp) + (1.0 if self.model.experts else 0.0)
        return int(
            whole * (1.0 if self.large else 0.5) * GIB
        )  # smaller GPUs capture half as many batch sizes by default

    def static_fraction(self, engine: str) -> float:
        """SGLang's mem_fraction_static, TensorRT-LLM's free_gpu_memory_fraction, or their defaults."""
        if engine == "trtllm":
            return (
                number(self.service, "free-gpu-memory-fraction", "kv-cache-free-gpu-memory-fraction") or 0.9
            )
        stated = number(self.service, "mem-fraction-static")
        return stated or sglang_share(self.service, self.total, self.tp, self.pp, self.version)
