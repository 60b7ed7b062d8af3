"""Bytes of the weights on one GPU, from what is split how and how wide each kind is stored."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace

from diag.diagnose.plans.hardware import GIB
from diag.diagnose.plans.model_facts import ModelFacts
from diag.diagnose.plans.models import facts_of_model, quantization_of_name
from diag.diagnose.plans.settings import (
    attention_tp_of,
    boolean,
    engine_of,
    integer,
    number,
    pp_of,
    setting_of,
    text_of,
    tp_of,
)
from diag.model.launch import Service

SCALES = 2.5
"""Bytes of scale and zero point of one group (16-bit scale, 4-bit zero), AWQ and GPTQ."""
METHOD_BITS = {
    # bits of a linear weight, without scales: the methods' own definitions
    "fp8": 8.0,
    "fbgemm_fp8": 8.0,
    "ptpc_fp8": 8.0,
    "awq": 4.0,
    "awq_marlin": 4.0,
    "gptq": 4.0,
    "gptq_marlin": 4.0,
    "compressed-tensors": 8.0,
    "bitsandbytes": 4.0,
    "mxfp4": 4.0,
    "nvfp4": 4.0,
    "modelopt": 8.0,
    "modelopt_fp4": 4.0,
    "modelopt_fp8": 8.0,
    "gguf": 4.85,
    "w8a8_int8": 8.0,
    "w8a8_fp8": 8.0,
    "int8": 8.0,
    "experts_int8": 8.0,
    "quark": 8.0,
    "torchao": 8.0,
    "auto-round": 4.0,
    "inc": 4.0,
    "deepspeedfp": 8.0,
    "moe_wna16": 4.0,
    "hqq": 4.0,
    "qoq": 4.0,
}
MXFP4_PADDING = {1: 1.085, 2: 1.11, 4: 1.132}
"""gpt-oss's matrices of 2880 columns are padded for the kernels, the more the finer they are cut (13.64, 7.01 and 3.63 GiB printed)."""
VISION_ON_EVERY_RANK = ("mistral3", "pixtral")
"""Families whose vision tower vLLM does not split: Mistral-Small-3.1 at TP 2 and 4, printed."""
_ELEMENT = {"float32": 4, "float": 4, "fp32": 4, "float64": 8}


def quantization_of(service: Service, model: ModelFacts) -> tuple[str | None, float | None]:
    """(method, bits of a linear weight): the files' own first, then the plan's option, then the name."""
    option = text_of(service, "quantization", "quantize")
    option = option.lower() if option and option.lower() not in ("none", "null", "") else None
    method = model.method or option
    if method is None:
        return None, None
    bits = model.bits
    if bits is None and method == "compressed-tensors":
        bits = quantization_of_name(service.model or "")[1]
    return method, bits or METHOD_BITS.get(method, 8.0)


def linear_bytes(service: Service, model: ModelFacts) -> float:
    """Bytes of one element of a quantizable matrix, scales included."""
    method, bits = quantization_of(service, model)
    if method is None or bits is None:
        return float(element_bytes(service, model))
    if bits >= 8:
        return bits / 8 * 1.001
    if method == "gguf":
        return bits / 8
    if method in ("mxfp4", "nvfp4", "modelopt_fp4"):
        return bits / 8 + 1 / (32 if method == "mxfp4" else 16)  # one byte of scale per block of 32 or 16
    return bits / 8 + SCALES / (model.group or 128)


def element_bytes(service: Service, model: ModelFacts) -> int:
    """Bytes of an element that is not quantized."""
    dtype = (text_of(service, "dtype") or "auto").lower()
    return _ELEMENT.get(dtype, 2)


def kv_element_bytes(service: Service, model: ModelFacts) -> float:
    """Bytes of an element of the KV cache."""
    dtype = (text_of(service, "kv-cache-dtype") or "auto").lower()
    if dtype.startswith(("fp8", "int8")):
        return 1.0
    if dtype == "auto" and model.cache_bits == 8 and engine_of(service) == "vllm":
        return 1.0  # the files bring scales for an FP8 cache
    return 0.5625 if dtype.startswith(("nvfp4", "fp4", "mxfp4")) else float(element_bytes(service, model))


def weights_per_gpu(service: Service, model: ModelFacts) -> int | None:
    """Bytes of weights on the fullest GPU of one replica; None if the model's size is not known."""
    if not model.known:
        return None
    tp, pp = tp_of(service), pp_of(service)
    element, linear = float(element_bytes(service, model)), linear_bytes(service, model)
    counts = dict(model.counts)
    method = quantization_of(service, model)[0]
    only_experts = method in ("mxfp4", "experts_int8") or model.plain == ("attention", "dense")
    attention = element if only_experts or "attention" in model.plain else linear
    other = element if only_experts or "dense" in model.plain else linear
    if model.family == "deepseek_v4" and only_experts:
        attention = other = 1.0  # its files keep FP4 experts beside FP8 for the rest
    experts = (
        counts["experts"]
        * linear
        * (MXFP4_PADDING.get(tp, 1.138) if method == "mxfp4" and model.family == "gpt_oss" else 1)
    )
    embedding = counts["embedding"] * (linear if method == "gguf" else element)
    alone = attention_tp_of(service)
    kv_copies = max(1.0, alone / model.kv_heads) if model.kv_heads else 1.0
    own = counts["attention_q"] * attention + counts.get("absorbed", 0.0) * 2
    own += counts["attention_kv"] * attention * min(kv_copies, alone)
    # With data-parallel attention whole heads stand on fewer ranks, and the table of the vocabulary (half of the
    # embedding's elements, the other half is the head) on each of them.
    table = 1.0 if alone == tp else (1 + tp) / 2
    split = embedding * table + counts["dense"] * other + own * tp / alone
    vision = counts.get("vision", 0.0) * element
    everywhere = (
        model.family in VISION_ON_EVERY_RANK and method is None
    )  # quantized files go through a class that splits it
    split += 0.0 if everywhere else vision
    per_stage = split / tp + experts / expert_ranks(service) + counts["replicated"] * element
    per_stage += vision if everywhere else 0.0
    if pp > 1 and model.layers:
        # The fullest stage: layers rounded up, and the embedding or the head on the first or last.
        body = per_stage - embedding / tp
        per_stage = body * math.ceil(model.layers / pp) / model.layers + embedding / tp * 0.5
    overhead = 0.03 * GIB + 0.0015 * math.log2(tp) * per_stage
    weights = per_stage + model.rope_cache_bytes + overhead
    if model.file_bytes and method and not boolean(service, "load-in-4bit"):
        # The files tell more than any reckoning of a quantization, as long as they are loaded as they are.
        whole = (
            embedding
            + counts["attention_q"] * attention
            + counts["dense"] * other
            + counts["attention_kv"] * attention
            + experts
            + counts["replicated"] * element
        )
        weights *= min(1.6, max(0.6, model.file_bytes / whole)) if whole else 1
    offloaded = (number(service, "cpu-offload-gb") or 0.0) * GIB
    return int(max(0.0, weights - offloaded))


def adapters_per_gpu(service: Service, model: ModelFacts) -> int:
    """Bytes of the slots for LoRA adapters that vLLM sets aside at start: rank × inputs and outputs of every projection.

    The first matrices of column-wise projections and the second ones of row-wise are not split (vllm/lora/layers).
    """
    if engine_of(service) != "vllm" or not boolean(service, "enable-lora") or not model.shaped:
        return 0
    rank = integer(service, "max-lora-rank") or 16
    slots = max(1, integer(service, "max-loras") or 1)
    tp, hidden = tp_of(service), model.hidden
    whole = tp if boolean(service, "fully-sharded-loras") else 1
    query = model.heads * model.head_size / tp
    keys = max(1, model.kv_heads // tp) * model.head_size
    inner = 0.0 if model.experts else model.intermediate / tp
    elements = 3 * hidden / whole + query + 2 * keys + query + hidden / whole
    elements += (2 * hidden / whole + 2 * inner + inner + hidden / whole) if inner else 0.0
    layers = math.ceil(model.layers / pp_of(service))
    return int(slots * rank * elements * layers * element_bytes(service, model))


def draft_per_gpu(service: Service, model: ModelFacts) -> int:
    """Bytes of a draft model or of the model's own prediction layer; 0 where nothing is speculated, or its size is not known."""
    name, method = draft_of(service)
    if name:
        facts = facts_of_model(name)
        if facts.known:
            return weights_per_gpu(replace(service, model=name), facts) or 0
    if method and "mtp" in method and model.layers:
        bits = quantization_of(service, model)[1]
        if bits is not None and bits < 8:
            return int(_prediction_layer(model) * 2 / tp_of(service))  # left in 16 bit beside 4-bit layers
        whole = weights_per_gpu(service, model) or 0
        return int(whole / model.layers)
    return 0


def _prediction_layer(model: ModelFacts) -> float:
    """Elements of a prediction layer: one layer with attention and experts (or MLP), and the projection of two hidden states."""
    attention = (model.counts["attention_q"] + model.counts["attention_kv"]) / max(1, model.attention_layers)
    inner = model.counts["dense"] / model.layers
    if model.experts:
        inner = model.experts * 3 * (model.latent or model.hidden) * model.expert_intermediate
        inner += 3 * model.hidden * model.shared_intermediate
    return attention + inner + 2 * model.hidden**2


def drafted_tokens(service: Service) -> int:
    """Tokens that are speculated at once."""
    found = setting_of(service, "speculative-config")
    value = found.value if found is not None else None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    stated = value.get("num_speculative_tokens") if isinstance(value, Mapping) else None
    if isinstance(stated, int) and not isinstance(stated, bool):
        return max(0, stated)
    return max(0, integer(service, "num-speculative-tokens", "speculative-num-draft-tokens") or 0)


def draft_of(service: Service) -> tuple[str | None, str | None]:
    """(draft model, method) of speculative decoding as vLLM and SGLang spell it."""
    found = setting_of(service, "speculative-config")
    value = found.value if found is not None else None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if isinstance(value, Mapping):
        return (str(value["model"]) if value.get("model") else None), str(value.get("method") or "").lower()
    name = text_of(service, "speculative-draft-model-path", "speculative-model", "draft-model")
    algorithm = (text_of(service, "speculative-algorithm") or "").lower()
    own = algorithm in ("eagle", "nextn") and name is None  # SGLang: the model's own prediction layer
    return name, "mtp" if own else algorithm or None


def expert_ranks(service: Service) -> int:
    """GPUs over which the experts are spread: vLLM joins the data-parallel ranks, SGLang's TP holds them already."""
    ranks = tp_of(service)
    if engine_of(service) == "vllm":
        ranks *= max(1, service.data_parallel_size or 1)
    return ranks
