"""One engine's file of settings as options by their long names, nested blocks of TensorRT-LLM included."""

from __future__ import annotations

from diag.model.launch import Setting
from diag.observe.plans.interface import PlacedSetting
from diag.observe.plans.programs import kind_of
from diag.observe.plans.trtllm_keys import leaves, unknown_keys
from diag.observe.plans.values import long_name
from diag.observe.plans.yaml_tree import Node, to_plain

NESTED = (
    # option -> where TensorRT-LLM keeps it: tensorrt_llm/llmapi/llm_args.py
    ("free-gpu-memory-fraction", ("kv_cache_config", "free_gpu_memory_fraction")),
    ("kv-cache-dtype", ("kv_cache_config", "dtype")),
    ("block-size", ("kv_cache_config", "tokens_per_block")),
    ("max-cache-tokens", ("kv_cache_config", "max_tokens")),
    ("transfer-backend", ("cache_transceiver_config", "backend")),
    ("moe-backend", ("moe_config", "backend")),
    ("draft-model", ("speculative_config", "speculative_model_dir")),
)


def settings_of_tree(root: Node, framework: str, path: str) -> dict[str, Setting]:
    """Every key of the file's mapping, by its long name; unknown keys keep their own."""
    options: dict[str, Setting] = {}
    for key, node in root.pairs:
        full = kind_of((framework,), key)[1] if framework in ("vllm", "sglang", "trtllm") else key
        options[long_name(full)] = _placed(node, key, path)
    if framework == "trtllm":
        for name, steps in NESTED:
            found = root.get(*steps)
            if found is not None and found.value is not None:
                options[name] = _placed(found, ".".join(steps), path)
        for key, node in leaves(root):
            options[key] = _placed(node, key, path)
    return options


def _placed(node: Node, key: str, path: str) -> PlacedSetting:
    return PlacedSetting(to_plain(node), path, node.line, key, node.start, node.end)


def unknown_keys_of(root: Node, framework: str) -> dict[str, Node]:
    """Keys that the engine does not have -> where they stand; those inside TensorRT-LLM's blocks as `block.key`."""
    if framework == "trtllm":
        return unknown_keys(root)
    if framework not in ("vllm", "sglang"):
        return {}
    return {
        key: root.keys[key]
        for key, _ in root.pairs
        if key in root.keys and kind_of((framework,), key)[0] is None
    }
