"""Counts a model's parameters, cache layers and states from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
    "nemotron_h",
    "gpt_bigcode",
)
"""Families whose MLP has two matrices, not three (transformers' modeling files)."""


STATES_IN_32_BIT = ("qwen3_5", "nemotron_h")
"""Families whose recurrent states are float32 where the configuration does not say."""


@dataclass(frozen=True, slots=True)
class State:
    """A recurrent state: the matrix in bytes, the convolution's window in elements of 16 bit."""

    matrix: int = 0
    width: int = 0
    columns: int = 0
    drafted: bool = True
    """The window grows by a column for every speculated token."""

    def bytes_of(self, ranks: int, drafted: int = 0) -> float:
        """Bytes on one of `ranks` GPUs."""
        columns = self.columns + (drafted if self.drafted else 0)
        return (self.matrix + 2 * self.width * columns) / ranks


NO_STATE = State()

GATED_ATTENTION = ("qwen3_next", "qwen3_5")
"""Families whose query projection also makes a gate, so it is twice as wide."""


def _pattern(config: Mapping[str, Any]) -> str:
    """Nemotron-H's layers, one letter each: attention *, Mamba M, dense -, experts E."""
    pattern = str(config.get("hybrid_override_pattern") or "")
    kinds = config.get("layers_block_type")
    if not pattern and isinstance(kinds, list) and str(config.get("model_type")) == "nemotron_h":
        letters = {"mamba": "M", "attention": "*", "moe": "E", "mlp": "-"}
        pattern = "".join(letters.get(str(kind), "-") for kind in kinds)
    return pattern.replace("|", "")


def first_number(config: Mapping[str, Any], *names: str, default: int = 0) -> int:
    """The first of these keys that holds a number (the largest where it holds one a layer)."""
    for name in names:
        value = config.get(name)
        if isinstance(value, (list, tuple)) and value:
            value = max((each for each in value if isinstance(each, (int, float))), default=None)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return int(value)
    return default


class Shape:
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
            first_number(
                config,
                *("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim", "hidden_dim", "d_ff"),
                "decoder_ffn_dim",
            )
            or 4 * hidden
        )
        self.vocabulary = first_number(config, "vocab_size", "padded_vocab_size")
        self.experts = first_number(
            config, "n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts"
        )
        self.expert_size = first_number(config, "moe_intermediate_size", "expert_ffn_hidden_size") or (
            self.intermediate if self.experts else 0
        )
        shared = first_number(config, "shared_expert_intermediate_size", "shared_intermediate_size")
        self.shared_size = (
            shared
            or first_number(config, "n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
            * self.expert_size
        )
        self.encoder_layers = first_number(config, "encoder_layers")
        self.decoder_layers = first_number(config, "decoder_layers")
        self.matrices = 2 if family in UNGATED or self.encoder_layers else 3
        self.pattern = _pattern(config)
        self.dense_size = self.intermediate
        if family.startswith("llama4"):
            # Llama 4 calls its experts' size intermediate_size, its dense layers' intermediate_size_mlp.
            self.expert_size = self.intermediate if self.experts else 0
            self.shared_size = self.expert_size
            self.dense_size = first_number(config, "intermediate_size_mlp") or self.intermediate
        self.shared_size = first_number(config, "moe_shared_expert_intermediate_size") or self.shared_size

    def counts(self) -> dict[str, float]:
        """Elements by how they are split."""
        attention_layers, _, _, state_layers = self.cache_layers()
        q, kv, replicated = self._attention()
        dense_layers, expert_layers = self._split_layers()
        hidden = self.hidden
        embedding = self.vocabulary * hidden * (1 if self.config.get("tie_word_embeddings") else 2)
        dense: float = (
            dense_layers * self.matrices * hidden * self.dense_size
            + expert_layers * self.matrices * hidden * self.shared_size
        )
        dense += state_layers * self._state_parameters()
        if self.encoder_layers:  # a stack of its own, and a second attention in every decoder layer
            inner = first_number(self.config, "encoder_ffn_dim") or self.dense_size
            dense += self.encoder_layers * (4 * hidden * hidden + 2 * hidden * inner)
            dense += self.decoder_layers * 4 * hidden * hidden
        latent = first_number(
            self.config, "moe_latent_size"
        )  # experts behind a projection to a smaller width
        experts = expert_layers * self.experts * self.matrices * (latent or hidden) * self.expert_size
        dense += expert_layers * 2 * hidden * latent
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
        rank = first_number(config, "kv_lora_rank")
        out_rank = first_number(config, "o_lora_rank")
        if (
            out_rank and not rank
        ):  # DeepSeek-V4: both ends of the attention behind small ranks, one shared key
            q_rank, groups = first_number(config, "q_lora_rank"), first_number(config, "o_groups", default=1)
            width = heads * self.head
            split = q_rank * width + width * out_rank + groups * out_rank * hidden
            return float(split), 0.0, float(hidden * (q_rank + self.head))
        if not rank:
            gate = 3.0 if config.get("attn_output_gate") or self.family.startswith(GATED_ATTENTION) else 2.0
            return gate * hidden * heads * self.head, 2.0 * hidden * self.kv_heads * self.head, 0.0
        nope, rope, value = (
            first_number(config, key) for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
        )
        q_rank = first_number(config, "q_lora_rank")
        query = q_rank * heads * (nope + rope) if q_rank else hidden * heads * (nope + rope)
        split = query + rank * heads * (nope + value) + heads * value * hidden
        return float(split), 0.0, float(hidden * (rank + rope) + hidden * q_rank)

    def _split_layers(self) -> tuple[int, int]:
        """(dense MLP layers, expert layers)."""
        config = self.config
        if self.pattern:
            return self.pattern.count("-"), self.pattern.count("E")
        mlp_layers = (
            self.layers
            if self.family not in ("nemotron_h",)
            else self.layers - first_number(config, "attention_layers") - first_number(config, "mamba_layers")
        )
        if not self.experts:
            return mlp_layers, 0
        step = (
            first_number(
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
        dense = min(first_number(config, "first_k_dense_replace", "moe_layer_start_index"), mlp_layers)
        listed = config.get("mlp_only_layers")
        dense += len(listed) if isinstance(listed, list) else 0
        sparse = (mlp_layers - dense) // step
        return mlp_layers - sparse, sparse

    def cache_layers(self) -> tuple[int, int, int, int]:
        """(layers with keys and values, those with a window, the window, layers with a recurrent state)."""
        config = self.config
        if self.pattern:
            return self.pattern.count("*"), 0, 0, self.pattern.count("M")
        kinds = config.get("layer_types") or config.get("layers_block_type")
        linear = config.get("linear_attn_config")
        if isinstance(
            linear, Mapping
        ):  # Kimi Linear and K3: numbers of the layers of each kind, counted from 1
            full, states = (linear.get(key) or () for key in ("full_attn_layers", "kda_layers"))
            return len(full), 0, 0, len(states)
        if self.family.startswith("falcon_h1"):  # attention and Mamba side by side in every layer
            return self.layers, 0, 0, self.layers
        shared = first_number(config, "num_kv_shared_layers")
        if shared and isinstance(kinds, list):
            kinds = kinds[
                :-shared
            ]  # the last layers read the cache of earlier ones (Gemma 3n, Gemma 4 E2B and E4B)
        window = first_number(config, "sliding_window", "sliding_window_size", "attention_chunk_size")
        if isinstance(kinds, list) and kinds:
            attention = sum("attention" in str(kind) and "linear" not in str(kind) for kind in kinds)
            sliding = sum("sliding" in str(kind) or "chunked" in str(kind) for kind in kinds)
            return (
                attention,
                sliding if window else 0,
                window,
                sum("linear" in str(kind) or "mamba" in str(kind) for kind in kinds),
            )
        interval = first_number(config, "full_attention_interval", "attn_layer_period")
        if interval > 1:
            full = self.layers // interval
            return full, 0, 0, self.layers - full
        if first_number(config, "attention_layers"):
            return first_number(config, "attention_layers"), 0, 0, first_number(config, "mamba_layers")
        pattern_size = first_number(config, "sliding_window_pattern") or (
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
        value_heads = first_number(config, "linear_num_value_heads")
        if value_heads:
            key = first_number(config, "linear_num_key_heads") * first_number(config, "linear_key_head_dim")
            value = value_heads * first_number(config, "linear_value_head_dim")
            return float(hidden * (2 * key + 2 * value + 2 * value_heads) + value * hidden)
        heads = first_number(config, "mamba_n_heads", "mamba_num_heads")
        inner = heads * first_number(config, "mamba_d_head", "mamba_head_dim") or 2 * hidden
        groups = first_number(config, "mamba_n_groups", "n_groups", default=1)
        state = groups * first_number(config, "mamba_d_state", "ssm_state_size", default=128)
        return float(hidden * (2 * inner + 2 * state + heads) + inner * hidden)

    def state(self) -> State:
        """One sequence's recurrent state in one layer, all ranks together (vLLM mamba_utils.py)."""
        config = self.config
        exact = str(config.get("mamba_ssm_dtype") or config.get("mamba_ssm_cache_dtype") or "")
        wide = exact == "float32" or (not exact and self.family.startswith(STATES_IN_32_BIT))
        size = 4 if wide else 2
        linear = config.get("linear_attn_config")
        if isinstance(linear, Mapping):
            heads, width = first_number(linear, "num_heads"), first_number(linear, "head_dim")
            columns = first_number(linear, "short_conv_kernel_size", default=4) - 1
            return State(heads * width * width * 4, 3 * heads * width, columns, drafted=False)
        value_heads = first_number(config, "linear_num_value_heads")
        if value_heads:
            key, value = (
                first_number(config, "linear_key_head_dim"),
                first_number(config, "linear_value_head_dim"),
            )
            width = 2 * first_number(config, "linear_num_key_heads") * key + value_heads * value
            columns = first_number(config, "linear_conv_kernel_dim", default=4) - 1
            return State(value_heads * key * value * size, width, columns)
        heads, width = (
            first_number(config, "mamba_n_heads", "mamba_num_heads"),
            first_number(config, "mamba_d_head", "mamba_head_dim"),
        )
        columns = first_number(config, "mamba_d_conv", "conv_kernel", default=4) - 1
        inner = heads * width or first_number(config, "mamba_expand", "expand", default=2) * self.hidden
        if not heads:  # Mamba 1
            return State(inner * first_number(config, "mamba_d_state", default=16) * 2, inner, columns)
        depth = first_number(config, "mamba_d_state", "ssm_state_size", default=128)
        groups = first_number(config, "mamba_n_groups", "n_groups", default=1)
        return State(inner * depth * size, inner + 2 * groups * depth, columns)
