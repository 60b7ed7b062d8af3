"""Writes `families.json`: what a config.json leaves out, as transformers' configuration classes fill it in.

Usage: python collect_defaults.py (in an environment with transformers; no torch, no network, nothing is downloaded)

A saved config.json omits what equals its class's default, often the vocabulary, the number of heads or whether the
embeddings are tied. Only families that engines serve are kept, and only the keys that diag counts with.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

FAMILIES = (
    *(
        "llama",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "qwen3_next",
        "qwen3_5_text",
    ),
    *("qwen3_5_moe_text", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "qwen3_vl_moe_text", "gemma"),
    *(
        "gemma2",
        "gemma3_text",
        "gemma4_text",
        "phi",
        "phi3",
        "phimoe",
        "deepseek_v2",
        "deepseek_v3",
        "deepseek_v32",
    ),
    *(
        "deepseek_v4",
        "gpt_oss",
        "glm",
        "glm4",
        "glm4_moe",
        "glm4_moe_lite",
        "glm_moe_dsa",
        "cohere",
        "cohere2",
    ),
    *(
        "falcon",
        "falcon_h1",
        "granite",
        "granitemoe",
        "granitemoehybrid",
        "starcoder2",
        "olmo",
        "olmo2",
        "olmo3",
    ),
    *(
        "olmoe",
        "opt",
        "gpt2",
        "gpt_neox",
        "gptj",
        "bloom",
        "mpt",
        "stablelm",
        "smollm3",
        "exaone4",
        "ernie4_5",
    ),
    *(
        "ernie4_5_moe",
        "minimax",
        "minimax_m2",
        "nemotron",
        "nemotron_h",
        "jamba",
        "mamba",
        "mamba2",
        "bamba",
        "dbrx",
    ),
    *(
        "llama4_text",
        "mllama_text_model",
        "seed_oss",
        "hunyuan_v1_dense",
        "hunyuan_v1_moe",
        "lfm2",
        "arcee",
        "apertus",
    ),
    *("persimmon", "internlm3", "minicpm3", "xverse", "ministral", "ministral3", "mistral4"),
)
KEYS = (
    *(
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
    ),
    *(
        "intermediate_size",
        "max_position_embeddings",
        "tie_word_embeddings",
        "sliding_window",
        "num_local_experts",
    ),
    *("num_experts", "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts"),
    *(
        "shared_expert_intermediate_size",
        "first_k_dense_replace",
        "kv_lora_rank",
        "q_lora_rank",
        "qk_rope_head_dim",
    ),
    *(
        "qk_nope_head_dim",
        "v_head_dim",
        "intermediate_size_mlp",
        "interleave_moe_layer_step",
        "attention_chunk_size",
    ),
    *("decoder_sparse_step", "full_attention_interval", "linear_num_value_heads", "linear_num_key_heads"),
    *(
        "linear_key_head_dim",
        "linear_value_head_dim",
        "linear_conv_kernel_dim",
        "multi_query",
        "n_embd",
        "n_layer",
    ),
    *(
        "n_head",
        "n_inner",
        "n_positions",
        "new_decoder_architecture",
        "attn_layer_period",
        "expert_layer_period",
    ),
    *("mamba_d_state", "mamba_expand", "mamba_n_heads", "mamba_d_head", "mamba_num_heads", "mamba_head_dim"),
    *("ssm_state_size", "ffn_dim", "word_embed_proj_dim", "do_layer_norm_before", "index_head_dim"),
)


def collect() -> dict[str, dict[str, Any]]:
    """model_type -> the defaults that are plain numbers and truth values."""
    mapping = import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING

    found: dict[str, dict[str, Any]] = {}
    for family in FAMILIES:
        try:
            made = mapping[family]().to_dict()
        except Exception as error:  # noqa: BLE001  # a class that wants more is left out, and said
            sys.stderr.write(f"{family}: {error}\n")
            continue
        values = {key: made.get(key) for key in KEYS}
        heads = values.get("num_attention_heads") or 1
        if values.get("head_dim") == (values.get("hidden_size") or 0) // heads:
            del values["head_dim"]  # reckoned from the others, also where those are given
        if values.get("num_key_value_heads") == heads:
            del values["num_key_value_heads"]
        found[family] = {
            key: value
            for key, value in values.items()
            if isinstance(value, (bool, int, float)) and value is not None
        }
    return found


def main() -> None:
    """Write the file beside this script, one family a line."""
    rows = collect()
    lines = [f'  "{family}": {json.dumps(values, sort_keys=True)}' for family, values in sorted(rows.items())]
    about = "defaults of transformers' configuration classes; made by collect_defaults.py"
    target = Path(__file__).with_name("families.json")
    target.write_text(
        f'{{"about": "{about}", "transformers": "{import_module("transformers").__version__}", "families": {{\n'
        + ",\n".join(lines)
        + "\n}}\n",
        "utf-8",
    )


if __name__ == "__main__":
    main()
