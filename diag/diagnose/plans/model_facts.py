"""What a model is, as far as memory and parallelism go: counted from its config.json, never by loading it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MULTIMODAL = ("mistral3", "pixtral", "llava", "_vl", "gemma3", "mllama", "internvl", "granite", "llama4")
"""Families where parameters beyond the language model's are a vision tower."""
UNGATED = (
    "opt",
    "gpt2",
    "falcon",
    "phi",
    "starcoder2",
    "bloom",
    "gpt_neox",
    "gptj",
    "mpt",
    "nemotron",
    "gpt_bigcode",
)
"""Families whose MLP has two matrices, not three (transformers' modeling files)."""


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
    kv_lora_rank: int = 0
    rope_head: int = 0
    value_head: int = 0
    index_head: int = 0
    attention_layers: int = 0
    """Layers that keep keys and values."""
    sliding_layers: int = 0
    """Those of them that keep only a window."""
    window: int = 0
    state_layers: int = 0
    state_bytes: int = 0
    """Bytes of one sequence's recurrent state per state layer, all ranks together."""
    rope_cache_bytes: int = 0
    method: str | None = None
    """The quantization of the files, as `quant_method` names it."""
    bits: float | None = None
    group: int | None = None
    total: float = 0.0
    counts: Mapping[str, float] = field(default_factory=dict)
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


def _first(config: Mapping[str, Any], *names: str, default: int = 0) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, (list, tuple)) and value:
            value = max((each for each in value if isinstance(each, (int, float))), default=None)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return int(value)
    return default


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
    if isinstance(config.get("text_config"), Mapping):
        config = {**config, **config["text_config"]}
    hidden = _first(config, "hidden_size", "n_embd", "d_model", "dim")
    layers = _first(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    heads = _first(config, "num_attention_heads", "n_head", "n_heads")
    family = str(outer.get("model_type") or config.get("model_type") or "").lower()
    kv_heads = _kv_heads(config, heads, family)
    head = _first(config, "head_dim") or (hidden // heads if heads else 0)
    shape = _Shape(
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
        * _first(config, "kv_lora_rank")
        * heads
        * (_first(config, "qk_nope_head_dim") + _first(config, "v_head_dim"))
    )
    attention, sliding, window, state = shape.cache_layers()
    method, bits, group = _quantization(outer, config)
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
        max_position=_first(
            config, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length"
        )
        or None,
        dtype=_dtype(outer, config),
        experts=shape.experts,
        experts_per_token=_first(config, "num_experts_per_tok", "moe_k", "top_k_experts"),
        expert_intermediate=shape.expert_size,
        shared_intermediate=shape.shared_size,
        kv_lora_rank=_first(config, "kv_lora_rank"),
        rope_head=_first(config, "qk_rope_head_dim"),
        value_head=_first(config, "v_head_dim"),
        index_head=_first(config, "index_head_dim"),
        attention_layers=attention,
        sliding_layers=sliding,
        window=window,
        state_layers=state,
        state_bytes=shape.state_bytes() if state else 0,
        rope_cache_bytes=_rope_cache(config, head, family),
        method=method,
        bits=bits,
        group=group,
        total=total if total is not None else sum(counts.values()) - counts["absorbed"],
        counts=counts,
        file_bytes=file_bytes,
    )


def _kv_heads(config: Mapping[str, Any], heads: int, family: str) -> int:
    if (
        config.get("multi_query")
        and family in ("falcon", "gpt_bigcode")
        and not config.get("new_decoder_architecture")
    ):
        return _first(config, "num_key_value_heads", default=1)
    if family == "chatglm" or config.get("multi_query_group_num"):
        return _first(config, "multi_query_group_num", "num_key_value_heads", default=heads)
    return _first(config, "num_key_value_heads", "n_kv_heads", "num_kv_heads", "n_head_kv", default=heads)


def _dtype(outer: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    value = outer.get("torch_dtype") or outer.get("dtype") or config.get("torch_dtype") or config.get("dtype")
    return str(value).replace("torch.", "") if value else None


def _rope_cache(config: Mapping[str, Any], head: int, family: str) -> int:
    """vLLM keeps cosines and sines for every position; linear scaling multiplies the positions (rotary_embedding)."""
    positions = _first(config, "max_position_embeddings")
    raw = config.get("rope_scaling") or {}
    kind = str(raw.get("rope_type") or raw.get("type") or "") if isinstance(raw, Mapping) else ""
    factor = float(raw.get("factor") or 1) if kind == "linear" and isinstance(raw, Mapping) else 1.0
    width = _first(config, "qk_rope_head_dim") or head
    tables = factor + (1 if family.startswith("gemma3") else 0)  # Gemma 3 has one table a kind of layer
    return int(positions * width * 2 * tables) if positions <= 4 << 20 else 0


def _vision(config: Mapping[str, Any]) -> float:
    vision = config.get("vision_config")
    if not isinstance(vision, Mapping):
        return 0.0
    width = _first(vision, "hidden_size", "embed_dim", "width")
    depth = _first(vision, "num_hidden_layers", "depth", "layers")
    inner = _first(vision, "intermediate_size") or 4 * width
    return float(depth * (4 * width * width + 2 * width * inner))


def _quantization(
    outer: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[str | None, float | None, int | None]:
    block = (
        outer.get("quantization_config")
        or config.get("quantization_config")
        or outer.get("compression_config")
    )
    if not isinstance(block, Mapping):
        return None, None, None
    method = str(block.get("quant_method") or block.get("quant_algo") or "").lower() or None
    bits = (
        block.get("bits")
        or block.get("w_bit")
        or (4 if block.get("load_in_4bit") else 8 if block.get("load_in_8bit") else None)
    )
    group = block.get("group_size") or block.get("q_group_size")
    for entry in (
        (block.get("config_groups") or {}).values() if isinstance(block.get("config_groups"), Mapping) else ()
    ):
        weights = entry.get("weights") if isinstance(entry, Mapping) else None
        if isinstance(weights, Mapping):
            bits, group = weights.get("num_bits", bits), weights.get("group_size", group)
    return (
        method,
        float(bits) if isinstance(bits, (int, float)) else None,
        int(group) if isinstance(group, int) and group > 0 else None,
    )


class _Shape:
    """Counts a model's parameters from its configuration."""

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        hidden: int,
        layers: int,
        heads: int,
        kv_heads: int,
        head: int,
        family: str,
    ) -> None:
        self.config, self.hidden, self.layers, self.heads = config, hidden, layers, heads
        self.kv_heads, self.head, self.family = kv_heads, head, family
        self.intermediate = (
            _first(config, "intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim", "hidden_dim", "d_ff")
            or 4 * hidden
        )
        self.vocabulary = _first(config, "vocab_size", "padded_vocab_size")
        self.experts = _first(
            config, "n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts"
        )
        self.expert_size = _first(config, "moe_intermediate_size", "expert_ffn_hidden_size") or (
            self.intermediate if self.experts else 0
        )
        shared = _first(config, "shared_expert_intermediate_size", "shared_intermediate_size")
        self.shared_size = (
            shared
            or _first(config, "n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
            * self.expert_size
        )
        self.matrices = 2 if family in UNGATED else 3

    def counts(self) -> dict[str, float]:
        """Elements by how they are split."""
        attention_layers, _, _, state_layers = self.cache_layers()
        q, kv, replicated = self._attention()
        dense_layers, expert_layers = self._split_layers()
        hidden = self.hidden
        embedding = self.vocabulary * hidden * (1 if self.config.get("tie_word_embeddings") else 2)
        dense: float = (
            dense_layers * self.matrices * hidden * self.intermediate
            + expert_layers * self.matrices * hidden * self.shared_size
        )
        dense += state_layers * self._state_parameters()
        experts = expert_layers * self.experts * self.matrices * hidden * self.expert_size
        gates = expert_layers * hidden * self.experts
        return {
            "embedding": float(embedding),
            "attention_q": float(attention_layers * q),
            "attention_kv": float(attention_layers * kv),
            "dense": float(dense),
            "experts": float(experts),
            "replicated": float(attention_layers * replicated + gates + self.layers * 2 * hidden + hidden),
        }

    def _attention(self) -> tuple[float, float, float]:
        """(query and output, keys and values, replicated) of one layer."""
        config, hidden, heads = self.config, self.hidden, self.heads
        rank = _first(config, "kv_lora_rank")
        if not rank:
            return 2.0 * hidden * heads * self.head, 2.0 * hidden * self.kv_heads * self.head, 0.0
        nope, rope, value = (
            _first(config, key) for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
        )
        q_rank = _first(config, "q_lora_rank")
        query = q_rank * heads * (nope + rope) if q_rank else hidden * heads * (nope + rope)
        split = query + rank * heads * (nope + value) + heads * value * hidden
        return float(split), 0.0, float(hidden * (rank + rope) + hidden * q_rank)

    def _split_layers(self) -> tuple[int, int]:
        """(dense MLP layers, expert layers)."""
        config = self.config
        mlp_layers = (
            self.layers
            if self.family not in ("nemotron_h",)
            else self.layers - _first(config, "attention_layers") - _first(config, "mamba_layers")
        )
        if not self.experts:
            return mlp_layers, 0
        step = (
            _first(
                config,
                "interleave_moe_layer_step",
                "moe_every",
                "decoder_sparse_step",
                "expert_layer_period",
                "moe_layer_interval",
                default=1,
            )
            or 1
        )
        dense = min(_first(config, "first_k_dense_replace", "moe_layer_start_index"), mlp_layers)
        listed = config.get("mlp_only_layers")
        dense += len(listed) if isinstance(listed, list) else 0
        sparse = (mlp_layers - dense) // step
        return mlp_layers - sparse, sparse

    def cache_layers(self) -> tuple[int, int, int, int]:
        """(layers with keys and values, those with a window, the window, layers with a recurrent state)."""
        config = self.config
        kinds = config.get("layer_types") or config.get("layers_block_type")
        window = _first(config, "sliding_window", "sliding_window_size", "attention_chunk_size")
        if isinstance(kinds, list) and kinds:
            attention = sum("attention" in str(kind) and "linear" not in str(kind) for kind in kinds)
            sliding = sum("sliding" in str(kind) or "chunked" in str(kind) for kind in kinds)
            return (
                attention,
                sliding if window else 0,
                window,
                sum("linear" in str(kind) or "mamba" in str(kind) for kind in kinds),
            )
        interval = _first(config, "full_attention_interval", "attn_layer_period")
        if interval > 1:
            full = self.layers // interval
            return full, 0, 0, self.layers - full
        if config.get("hybrid_override_pattern"):
            pattern = str(config["hybrid_override_pattern"])
            return pattern.count("*"), 0, 0, pattern.count("M")
        if _first(config, "attention_layers"):
            return _first(config, "attention_layers"), 0, 0, _first(config, "mamba_layers")
        pattern_size = _first(config, "sliding_window_pattern") or (
            6 if self.family.startswith("gemma3") else 2 if self.family in ("gemma2", "gpt_oss") else 0
        )
        if window and pattern_size > 1:
            return self.layers, self.layers - self.layers // pattern_size, window, 0
        everywhere = (
            window
            and self.family in ("mistral", "mixtral", "phi3", "starcoder2")
            and config.get("use_sliding_window") is not False
        )
        return self.layers, self.layers if everywhere else 0, window if everywhere else 0, 0

    def _state_parameters(self) -> float:
        config, hidden = self.config, self.hidden
        value_heads = _first(config, "linear_num_value_heads")
        if value_heads:
            key = _first(config, "linear_num_key_heads") * _first(config, "linear_key_head_dim")
            value = value_heads * _first(config, "linear_value_head_dim")
            return float(hidden * (2 * key + 2 * value + 2 * value_heads) + value * hidden)
        inner = (
            _first(config, "mamba_n_heads", "mamba_num_heads")
            * _first(config, "mamba_d_head", "mamba_head_dim")
            or 2 * hidden
        )
        return float(
            hidden * (2 * inner + 2 * _first(config, "mamba_d_state", "ssm_state_size", default=128))
            + inner * hidden
        )

    def state_bytes(self) -> int:
        """One sequence's recurrent state in one layer: the matrix state in float32 halves, the convolution in 16 bit."""
        config = self.config
        value_heads = _first(config, "linear_num_value_heads")
        if value_heads:
            key, value = _first(config, "linear_key_head_dim"), _first(config, "linear_value_head_dim")
            convolution = (2 * _first(config, "linear_num_key_heads") * key + value_heads * value) * (
                _first(config, "linear_conv_kernel_dim", default=4) - 1
            )
            return 2 * (value_heads * key * value + convolution)
        heads, size = (
            _first(config, "mamba_n_heads", "mamba_num_heads"),
            _first(config, "mamba_d_head", "mamba_head_dim"),
        )
        state = _first(config, "mamba_d_state", "ssm_state_size", default=128)
        return 2 * (heads * size * state + (heads * size + 2 * state) * 3)
