"""Small words of launch plans made into numbers, and option names made into one spelling."""

from __future__ import annotations

import re
from typing import Any

CANONICAL: dict[str, str] = {
    # One name for the sizes that every judgement needs; everything else keeps its program's own name.
    # Sources: vLLM arg_utils.py, SGLang server_args.py, TensorRT-LLM commands/serve.py, Dynamo's trtllm backend.
    "tp": "tensor-parallel-size",
    "tp-size": "tensor-parallel-size",
    "tp_size": "tensor-parallel-size",
    "pp": "pipeline-parallel-size",
    "pp-size": "pipeline-parallel-size",
    "pipeline-parallel": "pipeline-parallel-size",
    "dp": "data-parallel-size",
    "dp-size": "data-parallel-size",
    "ep": "expert-parallel-size",
    "ep-size": "expert-parallel-size",
    "moe-expert-parallel-size": "expert-parallel-size",
    "kv-cache-free-gpu-memory-fraction": "free-gpu-memory-fraction",
    "cp-size": "context-parallel-size",
    "dcp": "decode-context-parallel-size",
    "pcp": "prefill-context-parallel-size",
    "dpr": "data-parallel-rank",
    "dpn": "data-parallel-rank",
    "dpl": "data-parallel-size-local",
    "dpa": "data-parallel-address",
    "dpp": "data-parallel-rpc-port",
    "dpb": "data-parallel-backend",
    "dph": "data-parallel-hybrid-lb",
    "dpe": "data-parallel-external-lb",
    "O": "optimization-level",
    "cc": "compilation-config",
    "ac": "attention-config",
    "q": "quantization",
    "r": "node-rank",
    "n": "nnodes",
}


def as_int(value: Any) -> int | None:
    """A whole number from 4, "4", 4.0 or "8Gi"-free text; None for anything else (also True)."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value == int(value) else None
    text = str(value).strip().strip("'\"").replace("_", "").replace(",", "")
    if re.fullmatch(r"[-+]?\d{1,18}", text):
        return int(text)
    match = re.fullmatch(
        r"(\d{1,9}(?:\.\d{1,6})?)([kKmMgG])", text
    )  # vLLM: --max-model-len 32k is 32,000 and 32K is 32,768
    if match:
        scale = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}[match.group(2)]
        return int(float(match.group(1)) * scale)
    return None


def as_bool(value: Any) -> bool | None:
    """True or False from the words that YAML, JSON, Python and shells use; None for anything else."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().strip("'\"").lower()
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0", "none", "null"):
        return False
    return None


_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)(b?)\Z", re.IGNORECASE)


def as_bytes(value: Any, *, binary: bool = False) -> int | None:
    """Bytes from a Kubernetes quantity (`64Gi`, `500M`) or, with `binary`, docker's (`16g` is 16 GiB)."""
    match = _BYTES.match(str(value).strip().strip("'\""))
    if not match:
        return None
    number, unit, binary_unit, _ = match.groups()
    base = 1024 if binary_unit or binary else 1000
    return int(float(number) * base ** " kmgtp".index(unit.lower() or " "))


def long_name(option: str) -> str:
    """`--tensor_parallel_size`, `-tp` and `tp-size` as `tensor-parallel-size`."""
    name = option.lstrip("-")
    if name in CANONICAL:
        return CANONICAL[name]
    name = name.replace("_", "-")
    return CANONICAL.get(name, name)
