"""What vLLM's ages and the GPUs take beside weights and cache: fitted on printed start-ups (benchmarks/memory_model.md)."""

from __future__ import annotations

from dataclasses import dataclass

from diag.diagnose.plans.hardware import GIB, GpuSpec
from diag.diagnose.plans.model_facts import ModelFacts

UNIFIED = ("GB10",)
"""GPUs that share the host's memory: what other processes touch during the profiling counts, about 2.4 GiB.

With ranks on several of them the transport's buffers and the files' pages count, too: about 8 GiB in all.
"""
DYNAMIC_VISION = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5")
"""Families whose largest picture is 16,384 tokens, four patches each: the tower is profiled with it."""
PATCH_BYTES = 40_288
"""Ten rows of 1152 and two of 4304 elements a patch, in 16 bit: the towers of Qwen3-VL and SigLIP alike."""
CAPTURED = 51
"""Batch sizes that are captured by default, up to 512."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What an engine's version allocates beside weights and cache. See the module's benchmark for the evidence."""

    sampler_copies: float
    """Float32 copies of the logits of all sequences at the profiling peak."""
    non_torch_bytes: int
    graphs_counted: bool
    """The estimate of graph memory is taken off the cache."""
    assumed: bool = False
    vision_adds: bool = False
    """The tower's peak comes on top of the sampler's, not instead of it."""


def profile_of(version: tuple[int, ...] | None, ranks: int, spec: GpuSpec | None, *, lean: bool) -> Profile:
    """The profile of one version on one GPU of so many ranks."""
    many = ranks > 1
    if version is None:
        # Unknown: the hungrier of the two ages, unless a lean reckoning is asked for to prove a failure.
        return (
            Profile(4.0, int((2.1 if many else 0.25) * GIB), False, True)
            if lean
            else Profile(9.6, int((0.6 if many else 0.2) * GIB), False, True)
        )
    unified = spec is not None and spec.name in UNIFIED
    shared = (7.5 if many else 2.1) if unified else 0.0
    if version < (0, 8):
        return Profile(1.3, int((0.25 + shared) * GIB), False)
    if version < (0, 17):
        apart = 2.3 if ranks >= 8 else 0.6 if many else 0.14
        return Profile(9.6, int((apart + shared) * GIB), False, vision_adds=True)
    # Buffers of the all-reduce kernels for NVLink and multicast; GPUs of desks and workstations have none.
    server = spec is None or spec.capability is None or spec.capability in (9.0, 10.0, 10.3)
    apart = (2.1 if server else 0.5) if many else 0.27
    return Profile(4.0 if version < (0, 20) else 3.0, int((apart + shared) * GIB), version >= (0, 21))


def vision_peak(model: ModelFacts, batch: int, tp: int, profile: Profile) -> int:
    """Peak of a vision tower in the profiling run, which puts the largest pictures of one step through it."""
    if model.family.startswith(DYNAMIC_VISION) and (model.counts.get("vision") or "vl" in model.family):
        return int(65_536 * PATCH_BYTES / tp)
    if model.family.startswith("gemma3") and profile.vision_adds and model.counts.get("vision"):
        return int(batch * 16 * PATCH_BYTES / tp)  # 4096 patches make 256 tokens
    return 0


def counted_graphs(model: ModelFacts, sequences: int, drafted: int, pp: int) -> int:
    """The estimate of graph memory that vLLM takes off the cache from 0.21 on: by the layers and the sizes captured."""
    largest = min(512, 2 * sequences * (1 + drafted))
    sizes = min(CAPTURED, 3 + largest // 8 if largest <= 256 else 35 + (largest - 256) // 16)
    return int(0.013 * model.layers / pp * sizes / CAPTURED * GIB)
