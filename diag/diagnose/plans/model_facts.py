"""What a model is, as far as memory and parallelism go: counted from its config.json, never by loading it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from diag.diagnose.plans.model_shape import NO_STATE, Shape, State, first_number

MULTIMODAL = (
    *("mistral3", "pixtral", "llava", "_vl", "gemma3", "gemma4", "mllama", "internvl", "granite", "llama4"),
    *("qwen3_5", "kimi_k25", "step3p7", "omni", "glm4v", "phi4mm", "aya_vision", "molmo", "minicpmv"),
)
"""Families where parameters beyond the language model's are a vision tower."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Figures of one model. `certain` is False where only a name's size was known.

    Parameter counts are of elements: `embedding` (table and head), `attention_q` (query and output projections),
    `attention_kv`, `dense` (MLP and whatever else is split by tensor parallelism), `experts`, `vision`, `replicated`.
    """

    name: str = ""
    source: str = ""
    """config, files, table, given or name."""
    certain: bool = False
    family: str = ""
    hidden: int = 0
    layers: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_size: int = 0
    intermediate: int = 0
    vocabulary: int = 0
    max_position: int | None = None
    dtype: str | None = None
    experts: int = 0
    experts_per_token: int = 0
    expert_intermediate: int = 0
    shared_intermediate: int = 0
    latent: int = 0
    """Width in which the experts work, where it is not the model's."""
    kv_lora_rank: int = 0
    rope_head: int = 0
    value_head: int = 0
    index_head: int = 0
    compress_ratios: tuple[int, ...] = ()
    """Tokens that one record of the cache stands for, by the layer; 0 for a window only."""
    attention_layers: int = 0
    """Layers that keep keys and values."""
    sliding_layers: int = 0
    """Those of them that keep only a window."""
    window: int = 0
    state_layers: int = 0
    state: State = NO_STATE
    """One sequence's recurrent state in one state layer."""
    pooling: bool = False
    """It makes embeddings: no head over the vocabulary, no sampler."""
    chunked: bool = False
    """The window is a chunk that starts anew at its end (Llama 4)."""
    cross_layers: int = 0
    """Decoder layers that keep the encoder's states, too (Whisper, BART)."""
    cross_tokens: int = 0
    index_layers: int = 0
    """Layers with a sparse indexer's key beside keys and values (MiniMax-M3)."""
    rope_cache_bytes: int = 0
    method: str | None = None
    """The quantization of the files, as `quant_method` names it."""
    bits: float | None = None
    group: int | None = None
    cache_bits: int = 0
    """Bits of a cache element for which the files bring scales; 0 where they bring none."""
    total: float = 0.0
    counts: Mapping[str, float] = field(default_factory=dict)
    plain: tuple[str, ...] = ()
    """Kinds of weights that the files' quantization leaves in 16 bit: attention, dense."""
    long_context: bool = False
    """Its positions are scaled (YaRN and the like), so the configuration's number is not the limit."""
    full_kv_elements: int = 0
    """Elements of one token in a layer with full attention, all heads, where they differ from the window's layers."""
    file_bytes: int | None = None
    """Sum of the weight files, where they were seen."""

    @property
    def known(self) -> bool:
        """True if the number of parameters is known at all."""
        return self.total > 0

    @property
    def shaped(self) -> bool:
        """True if layers and heads are known, so that KV cache and divisibility can be reckoned."""
        return self.layers > 0 and self.heads > 0


def facts_of_config(
    config: Mapping[str, Any],
    *,
    name: str = "",
    source: str = "config",
    total: float | None = None,
    file_bytes: int | None = None,
) -> ModelFacts:
    """Facts from a config.json (any family that follows Hugging Face's names; Mistral's params.json too).

    With `total`, the known number of parameters, the count is adjusted by putting the difference (vision towers,
    biases) where it is split by tensor parallelism.
    """
    outer = config
    inner = next(
        (
            config[key]
            for key in ("text_config", "llm_config", "language_config", "thinker_config")
            if isinstance(config.get(key), Mapping)
        ),
        None,
    )
    config = {**config, **inner} if inner is not None else config
    pooling = bool(
        re.search(r"embedding|embed-|-embed\b|\bbge-|\bgte-|\be5-", name.lower().rsplit("/", 1)[-1])
    )
    if pooling and not config.get("tie_word_embeddings"):
        config = {**config, "tie_word_embeddings": True}  # the head is left out
        total = (
            total - first_number(config, "vocab_size") * first_number(config, "hidden_size")
            if total
            else None
        )
    if isinstance(config.get("text_config"), Mapping):
        config = {**config, **config["text_config"]}
    if source == "config":
        config = with_defaults(config, outer)
    hidden = first_number(config, "hidden_size", "n_embd", "d_model", "dim")
    layers = first_number(config, "decoder_layers", "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    heads = first_number(config, "num_attention_heads", "n_head", "n_heads", "decoder_attention_heads")
    family = str(outer.get("model_type") or config.get("model_type") or "").lower()
    kv_heads = _kv_heads(config, heads, family)
    head = first_number(config, "head_dim") or (hidden // heads if heads else 0)
    shape = Shape(
        config, hidden=hidden, layers=layers, heads=heads, kv_heads=kv_heads, head=head, family=family
    )
    counts = shape.counts()
    counted = sum(counts.values())
    vision = _vision(outer)
    if total is not None and counted:
        rest = total - counted
        seeing = bool(vision) or any(word in family for word in MULTIMODAL)
        if rest < -0.2 * counts["dense"]:
            counts = {key: value * total / counted for key, value in counts.items()}
        elif seeing and rest > 0:
            vision = float(rest)
        else:
            counts["dense"] += rest
    counts["vision"] = vision
    # vLLM and SGLang keep the absorbed projections of MLA beside the original, in 16 bit.
    counts["absorbed"] = float(
        layers
        * first_number(config, "kv_lora_rank")
        * heads
        * (first_number(config, "qk_nope_head_dim") + first_number(config, "v_head_dim"))
    )
    attention, sliding, window, state = shape.cache_layers()
    method, bits, group, plain = quantization_of_block(
        outer.get("quantization_config")
        or config.get("quantization_config")
        or outer.get("compression_config")
    )
    return ModelFacts(
        name=name,
        source=source,
        certain=True,
        family=family,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head,
        intermediate=shape.intermediate,
        vocabulary=shape.vocabulary,
        max_position=first_number(
            config, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length"
        )
        or None,
        dtype=_dtype(outer, config),
        experts=shape.experts,
        experts_per_token=first_number(config, "num_experts_per_tok", "moe_k", "top_k_experts"),
        expert_intermediate=shape.expert_size,
        shared_intermediate=shape.shared_size,
        latent=first_number(config, "moe_latent_size", "routed_expert_hidden_size"),
        kv_lora_rank=first_number(config, "kv_lora_rank"),
        rope_head=first_number(config, "qk_rope_head_dim"),
        value_head=first_number(config, "v_head_dim"),
        index_head=first_number(config, "index_head_dim", "sparse_index_dim")
        or (128 if family.startswith("minimax_m3") else 0),
        compress_ratios=tuple(
            int(each) for each in config.get("compress_ratios") or () if isinstance(each, int)
        )[:layers],
        attention_layers=attention,
        sliding_layers=sliding,
        window=window,
        state_layers=state,
        state=shape.state() if state else NO_STATE,
        pooling=pooling,
        chunked=bool(sliding) and not first_number(config, "sliding_window", "sliding_window_size"),
        cross_layers=shape.decoder_layers if shape.encoder_layers else 0,
        cross_tokens=first_number(config, "max_source_positions"),
        index_layers=_index_layers(config, layers, family),
        rope_cache_bytes=_rope_cache(config, head, family),
        method=method,
        bits=bits,
        group=group,
        plain=plain,
        cache_bits=_cache_bits(outer.get("quantization_config") or config.get("quantization_config")),
        long_context=bool(config.get("rope_scaling") or config.get("rope_parameters")),
        full_kv_elements=2
        * first_number(config, "num_global_key_value_heads")
        * first_number(config, "global_head_dim"),
        total=total if total is not None else sum(counts.values()) - counts["absorbed"],
        counts=counts,
        file_bytes=file_bytes,
    )


def _cache_bits(block: Any) -> int:
    if not isinstance(block, Mapping):
        return 0
    scheme = block.get("kv_cache_scheme")
    bits = scheme.get("num_bits") if isinstance(scheme, Mapping) else None
    if str(scheme or "").upper() == "FP8" or str(block.get("kv_cache_quant_algo") or "").upper() == "FP8":
        bits = 8
    return bits if isinstance(bits, int) else 0


def _index_layers(config: Mapping[str, Any], layers: int, family: str) -> int:
    """MiniMax-M3: the layers behind its dense ones choose what they attend to by keys of their own."""
    if not family.startswith("minimax_m3"):
        return 0
    sparse = config.get("sparse_attention_config")
    listed = sparse.get("sparse_attention_freq") if isinstance(sparse, Mapping) else None
    if isinstance(listed, list):
        return sum(bool(each) for each in listed)
    return layers - first_number(config, "first_k_dense_replace")


def _kv_heads(config: Mapping[str, Any], heads: int, family: str) -> int:
    if (
        config.get("multi_query")
        and family in ("falcon", "gpt_bigcode")
        and not config.get("new_decoder_architecture")
    ):
        return first_number(config, "num_key_value_heads", default=1)
    if family == "chatglm" or config.get("multi_query_group_num"):
        return first_number(config, "multi_query_group_num", "num_key_value_heads", default=heads)
    return first_number(
        config, "num_key_value_heads", "n_kv_heads", "num_kv_heads", "n_head_kv", default=heads
    )


def _dtype(outer: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    value = outer.get("torch_dtype") or outer.get("dtype") or config.get("torch_dtype") or config.get("dtype")
    return str(value).replace("torch.", "") if value else None


def _rope_cache(config: Mapping[str, Any], head: int, family: str) -> int:
    """vLLM keeps cosines and sines for every position; linear scaling multiplies the positions (rotary_embedding)."""
    positions = first_number(config, "max_position_embeddings")
    raw = config.get("rope_scaling") or {}
    kind = str(raw.get("rope_type") or raw.get("type") or "") if isinstance(raw, Mapping) else ""
    factor = float(raw.get("factor") or 1) if kind == "linear" and isinstance(raw, Mapping) else 1.0
    width = first_number(config, "qk_rope_head_dim") or head
    tables = factor + (1 if family.startswith("gemma3") else 0)  # Gemma 3 has one table a kind of layer
    return int(positions * width * 2 * tables)


def _vision(config: Mapping[str, Any]) -> float:
    """Parameters of a vision tower: its layers, and the merger that joins its patches to the language model's width."""
    vision = config.get("vision_config")
    if not isinstance(vision, Mapping):
        return 0.0
    width = first_number(vision, "embed_dim") or first_number(vision, "hidden_size", "width")
    depth = first_number(vision, "num_hidden_layers", "depth", "layers")
    ratio = vision.get("mlp_ratio")
    inner = first_number(vision, "intermediate_size") or int(
        width * (ratio if isinstance(ratio, (int, float)) else 4)
    )
    matrices = 3 if str(config.get("model_type")) in ("qwen2_5_vl", "mistral3", "pixtral") else 2
    side = first_number(vision, "spatial_merge_size")
    joined = side * side * width
    out = first_number(vision, "out_hidden_size") or first_number(vision, "hidden_size")
    deep = vision.get("deepstack_visual_indexes")
    mergers = (1 + (len(deep) if isinstance(deep, list) else 0)) * joined * (joined + out)
    return float(depth * (4 * width * width + matrices * width * inner) + mergers)


@cache
def _families() -> Mapping[str, Mapping[str, Any]]:
    loaded = json.loads(files("diag.diagnose.plans").joinpath("data/families.json").read_text("utf-8"))
    return dict(loaded["families"])


def with_defaults(config: Mapping[str, Any], outer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration with what its family's class fills in where the file says nothing."""
    names = [str(config.get("model_type") or ""), str(outer.get("model_type") or "")]
    for name in [*names, *(f"{each}_text" for each in names)]:
        if name in _families():
            return {**_families()[name], **config}
    return config


def quantization_of_block(block: Any) -> tuple[str | None, float | None, int | None, tuple[str, ...]]:
    """(method, bits, group, kinds left in 16 bit) of a `quantization_config`."""
    if not isinstance(block, Mapping):
        return None, None, None, ()
    method = str(block.get("quant_method") or "").lower() or None
    algorithm = str(block.get("quant_algo") or "").lower()
    bits = (
        block.get("bits")
        or block.get("w_bit")
        or (4 if block.get("load_in_4bit") else 8 if block.get("load_in_8bit") else None)
    )
    group = block.get("group_size") or block.get("q_group_size")
    groups = block.get("config_groups")
    for entry in groups.values() if isinstance(groups, Mapping) else ():
        weights = entry.get("weights") if isinstance(entry, Mapping) else None
        if isinstance(weights, Mapping):
            bits, group = weights.get("num_bits", bits), weights.get("group_size", group)
    if "nvfp4" in algorithm or (method == "modelopt" and bits == 4):
        method, bits, group = "nvfp4", 4, 16
    elif method in (None, "modelopt") and "fp8" in algorithm:
        method, bits = "modelopt", 8
    ignored = " ".join(
        map(
            str,
            block.get("ignore") or block.get("exclude_modules") or block.get("modules_to_not_convert") or (),
        )
    )
    plain = tuple(
        kind
        for kind, mark in (
            ("attention", r"self_attn(?!.*(?:norm|kv_b))|attention\b"),
            ("dense", r"shared_expert|mlp\.(?:gate|up|gate_up|down|\()"),
        )
        if re.search(mark, ignored) and (method or "") not in ("fp8",)
    )
    return (
        method,
        float(bits) if isinstance(bits, (int, float)) else None,
        int(group) if isinstance(group, int) and group > 0 else None,
        plain,
    )
