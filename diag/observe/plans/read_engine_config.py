"""Configuration files of one engine: `vllm serve --config`, `sglang.launch_server --config`, TensorRT-LLM's llmapi options."""

from __future__ import annotations

import re
from dataclasses import replace

from diag.model.launch import LaunchPlan
from diag.observe.plans.build import build_service
from diag.observe.plans.engine_files import settings_of_tree, unknown_keys_of
from diag.observe.plans.interface import Insertion, PlacedService, PlacedSetting, Reader
from diag.observe.plans.programs import kind_of
from diag.observe.plans.trtllm_keys import SIDES, unknown_keys
from diag.observe.plans.values import as_int
from diag.observe.plans.yaml_tree import Node, parse_documents

_KEYS = re.compile(
    r"^(?:model|model[-_]path|tensor[-_]parallel[-_]size|tp[-_]size|tp|served[-_]model[-_]name|max[-_]model[-_]len|gpu[-_]memory[-_]utilization|mem[-_]fraction[-_]static|kv_cache_config|cuda_graph_config|moe_config|pipeline[-_]parallel[-_]size|moe_expert_parallel_size|max_batch_size|max_num_tokens|trust[-_]remote[-_]code|context_servers|generation_servers|kv-transfer-config|enforce-eager|quantization|dtype|max-num-seqs)\s*:",
    re.MULTILINE,
)
_OTHER = re.compile(
    r"^(?:_target_|apiVersion|services|kind|image|jobs|on|version|name|stages|defaults|trainer|data|training_args|dataset|compute_environment|distributed_type|base_model|model_name_or_path|optimizer|learning_rate|train_batch_size)\s*:",
    re.MULTILINE,
)


def sniff(text: str, path: str) -> bool:
    """Two of the engines' own keys at the margin, none of other formats'."""
    return len(set(_KEYS.findall(text))) >= 2 and not _OTHER.search(text)


def read(text: str, path: str) -> LaunchPlan:
    """One service with the file's keys as options; a disaggregated TensorRT-LLM file has one for each side."""
    documents = parse_documents(text, path)
    root = documents[0] if documents else None
    if root is None or not root.is_map:
        return LaunchPlan("engine-config", path)
    if root.get("context_servers") is not None or root.get("generation_servers") is not None:
        return _disaggregated(root, path)
    framework = _framework(root)
    options = settings_of_tree(root, framework, path)
    unknown = (
        [key for key, _ in root.pairs if kind_of((framework,), key)[0] is None]
        if framework in ("vllm", "sglang", "trtllm")
        else []
    )
    nested = {key: node for key, node in unknown_keys_of(root, framework).items() if "." in key}
    insertion = (
        Insertion(text.rfind("\n", 0, root.end) + 1 if root.end < len(text) else len(text), "yaml-key")
        if root.style == "block" and text.endswith("\n")
        else None
    )
    service = build_service(
        framework,
        options,
        role="worker",
        framework=framework,
        path=path,
        line=root.line,
        insertion=insertion,
        program=framework,
        unknown=tuple(unknown),
        flags={key: (node.start, node.end) for key, node in {**root.keys, **nested}.items()},
        nodes=as_int(root.plain("nnodes")),
    )
    service = replace(service, unknown_keys=tuple(nested))
    return LaunchPlan("engine-config", path, (service,), problems=tuple(root.doubled))


def _framework(root: Node) -> str:
    keys = {key.replace("_", "-") for key in root.value}
    if keys & {
        "kv-cache-config",
        "cuda-graph-config",
        "moe-config",
        "moe-expert-parallel-size",
        "max-batch-size",
        "max-num-tokens",
        "pytorch-backend-config",
        "cache-transceiver-config",
    }:
        return "trtllm"
    return (
        "sglang"
        if keys
        & {
            "model-path",
            "mem-fraction-static",
            "tp-size",
            "dist-init-addr",
            "context-length",
            "chunked-prefill-size",
            "attention-backend",
        }
        and "gpu-memory-utilization" not in keys
        else "vllm"
    )


def _disaggregated(root: Node, path: str) -> LaunchPlan:
    services: list[PlacedService] = []
    wrong = unknown_keys(root, disaggregated=True)
    for key, role in zip(SIDES, ("prefill", "decode"), strict=True):
        node = root.get(key)
        if node is None or not node.is_map:
            continue
        options = settings_of_tree(node, "trtllm", path)
        model = root.get("model")
        if model is not None:
            options.setdefault(
                "model", PlacedSetting(model.value, path, model.line, "model", model.start, model.end)
            )
        own = {name.removeprefix(f"{key}."): at for name, at in wrong.items() if name.startswith(f"{key}.")}
        if not services:  # keys of the file itself are said once
            own |= {name: at for name, at in wrong.items() if not name.startswith(SIDES)}
        service = build_service(
            key,
            options,
            role=role,
            framework="trtllm",
            replicas=as_int(node.plain("num_instances")),
            path=path,
            line=node.line,
            program="trtllm-serve disaggregated",
            flags={name: (at.start, at.end) for name, at in own.items()},
        )
        services.append(replace(service, unknown_keys=tuple(own)))
    return LaunchPlan("trtllm-disaggregated", path, tuple(services))


READER = Reader("engine-config", sniff, read, order=70)
