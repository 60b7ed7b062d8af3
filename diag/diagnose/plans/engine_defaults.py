"""What engines choose by themselves where a plan says nothing: batch sizes and shares of the memory."""

from __future__ import annotations

from diag.diagnose.plans.hardware import GIB, GpuSpec
from diag.diagnose.plans.settings import boolean, integer, text_of
from diag.model.launch import Service

MIB = 1 << 20


def sglang_sizes(total: int, tp: int) -> tuple[int, int]:
    """(chunked prefill size, largest CUDA graph batch) by the GPU's memory: SGLang's server_args.py of 0.5.x."""
    megabytes = total / MIB
    small = tp < 4
    for below, chunk, graphs in (
        (20, 2048, 8),
        (35, 2048, 24 if small else 80),
        (60, 4096, 32 if small else 160),
        (160, 8192, 256 if small else 512),
    ):
        if megabytes < below * 1024:
            return chunk, graphs
    return 16384, 512


OLD_SHARES = {1: 0.88, 2: 0.87, 4: 0.85, 8: 0.81}
"""SGLang up to 0.4.6: the default share by tensor-parallel size."""


def sglang_share(service: Service, total: int, tp: int, pp: int, version: tuple[int, ...] | None) -> float:
    """mem_fraction_static where the plan does not set it."""
    if version is not None and version < (0, 4, 7):
        return OLD_SHARES.get(tp, 0.79 if tp > 8 else 0.85)
    if version is not None and version < (0, 5):
        gibibytes = total * 1.006 / GIB
        apart = 2.8 + tp * pp / 10 if gibibytes < 35 else (9.5 if gibibytes < 90 else 12) + tp * pp / 2
        apart = 32 if gibibytes >= 160 else apart
        apart += 2 * (text_of(service, "speculative-algorithm") is not None)
        apart += 4 * bool(boolean(service, "enable-dp-attention"))
        return round(1 - apart / gibibytes, 3)
    chunk, graphs = sglang_sizes(total, tp)
    stated = integer(service, "chunked-prefill-size")
    if stated is not None:
        chunk = stated if stated > 0 else integer(service, "max-prefill-tokens") or 16384
    graphs = integer(service, "cuda-graph-max-bs") or graphs
    # The driver's total is about 1 % below NVML's, which SGLang asks.
    memory = total * 1.006 / MIB
    reserved = 512 + max(chunk, 2048) * 1.5 + graphs * 2 + tp * pp / 8 * 1024
    if boolean(service, "enable-dp-attention"):
        data = integer(service, "data-parallel-size") or 1
        reserved += graphs * data * (4.5 if graphs > 300 else 3)
    if memory > 60 * 1024:
        reserved = max(reserved, 10 * 1024)
    algorithm = (text_of(service, "speculative-algorithm") or "").upper()
    if algorithm and algorithm != "NGRAM":
        reserved += (6 if algorithm == "STANDALONE" else 2) * 1024
    return round((memory - reserved) / memory, 3)


def vllm_share(version: tuple[int, ...] | None) -> float:
    """gpu_memory_utilization where the plan does not set it: 0.92 from vLLM 0.20 on (vllm/config/cache.py)."""
    return 0.92 if version is not None and version >= (0, 20) else 0.9


def vllm_sizes(spec: GpuSpec | None, total: int, version: tuple[int, ...] | None) -> tuple[int, int]:
    """(sequences, batched tokens) of `vllm serve` by the GPU: arg_utils.py, get_batch_defaults."""
    large = spec.many_sequences if spec is not None else total >= 70 * GIB
    if not large or (version is not None and version < (0, 8)):
        return 256, 2048
    widest = total >= 160 * GIB and (version is None or version >= (0, 24))
    return 1024, 16384 if widest else 8192
