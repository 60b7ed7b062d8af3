"""Which model a plan names: from files beside it, from the table, or from the size in its name."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from diag.diagnose.plans.model_facts import ModelFacts, facts_of_config
from diag.system import UserError

_QUANTIZED: tuple[tuple[str, str, float], ...] = (
    # what a name ends in -> (method, bits of a weight); sizes per weight as the formats define them
    (r"nvfp4|fp4\b", "nvfp4", 4.0),
    (r"mxfp4", "mxfp4", 4.0),
    (r"w4a16|g128|autoround|int4-awq", "compressed-tensors", 4.0),
    (r"awq|int4-inc", "awq", 4.0),
    (r"gptq[-_.]*int8|gptq-8bit", "gptq", 8.0),
    (r"gptq|int4\b|4bit|w4a8", "gptq", 4.0),
    (r"bnb|nf4", "bitsandbytes", 4.0),
    (r"w8a8|int8|w8a16|8bit", "compressed-tensors", 8.0),
    (r"fp8", "fp8", 8.0),
    (r"q2_k", "gguf", 2.63),
    (r"q3_k", "gguf", 3.9),
    (r"q4_k|q4_0|iq4", "gguf", 4.85),
    (r"q5_k|q5_0", "gguf", 5.7),
    (r"q6_k", "gguf", 6.56),
    (r"q8_0", "gguf", 8.5),
    (r"gguf", "gguf", 4.85),
)
_SIZE = re.compile(r"(?<![A-Za-z0-9.])(?:(\d{1,3})x)?(\d{1,4}(?:\.\d{1,3})?)b(?![a-z0-9])", re.IGNORECASE)
_CUT_DOWN = re.compile(
    r"(?<![a-z0-9])(?:\d{1,2}-?layers?|tiny-random|dummy|mini-random|eagle-?\d?|draft|medusa|dflash|dspark|speculator)(?![a-z])"
)
"""Models named after a large one with a few layers of it: made for tests, or to draft for it."""
_PLAIN = re.compile(r"[-.](?:bf16|bfloat16|fp16)\Z")
"""Copies written out in 16 bit of a model that is published quantized (DeepSeek-V3-bf16, gpt-oss-120b-BF16)."""
_ACTIVE = re.compile(r"(?<![A-Za-z0-9])a(\d{1,3}(?:\.\d{1,2})?)b(?![a-z0-9])", re.IGNORECASE)


@cache
def _table() -> tuple[tuple[re.Pattern[str], Mapping[str, Any], float | None], ...]:
    rows = json.loads(files("diag.diagnose.plans").joinpath("data/models.json").read_text("utf-8"))["models"]
    return tuple((re.compile(row["match"]), row["config"], row.get("params_b")) for row in rows)


@cache
def facts_of_name(name: str) -> ModelFacts:
    """Facts of a model known by name only; `known` is False where the name says nothing.

    The table first (`certain`), then the size in the name with a shape typical of that size (not certain).
    """
    base = _base_name(name)
    method, bits = quantization_of_name(name)
    if _CUT_DOWN.search(base):
        return ModelFacts(name=name, method=method, bits=bits)
    for pattern, config, billions in _table():
        if pattern.search(base):
            plain = _PLAIN.search(base) is not None and not method
            shape = {k: v for k, v in config.items() if not plain or k != "quantization_config"}
            facts = facts_of_config(
                shape, name=name, source="table", total=billions * 1e9 if billions else None
            )
            return replace(facts, method=method, bits=bits) if method else facts
    size = size_of_name(base)
    return (
        facts_of_size(size, name, source="name", method=method, bits=bits)
        if size
        else ModelFacts(name=name, method=method, bits=bits)
    )


def _base_name(name: str) -> str:
    path = name.rstrip("/").lower().replace("--", "/")
    snapshot = re.search(r"models/([^/]+)/([^/]+)/snapshots", path)
    if snapshot:
        return snapshot.group(2)
    base = path.rsplit("/", 1)[-1]
    if base in ("weights", "model", "models", "snapshots", "hf", "checkpoint") or re.fullmatch(
        r"[0-9a-f]{40}", base
    ):
        base = path.rsplit("/", 2)[-2] if path.count("/") else base
    return base.replace("meta-llama", "llama").replace("_", "-")


def quantization_of_name(name: str) -> tuple[str | None, float | None]:
    """(method, bits) that a model's name announces, or (None, None)."""
    lowered = name.lower()
    for pattern, method, bits in _QUANTIZED:
        if re.search(rf"(?<![a-z0-9])(?:{pattern})", lowered):
            return method, bits
    return None, None


def size_of_name(text: str) -> float | None:
    """Parameters from `32B`, `8x7B`, `30B-A3B`, `0.5b`; None if the name says none."""
    found = _SIZE.search(_ACTIVE.sub("", text))
    if not found:
        return None
    count, size = found.groups()
    billions = float(size)
    if count:
        # Experts share attention and embeddings: 8x7B is 46.7 and 8x22B is 141, 0.83 and 0.80 of the product.
        billions *= int(count) * 0.82
    return billions * 1e9 if 0.01 <= billions <= 5000 else None


_TYPICAL = (
    # Parameters in billions -> (hidden, layers, heads, KV heads, intermediate), typical of dense models of 2024 and 2025.
    (0.7, 1024, 24, 16, 8, 3072),
    (2, 2048, 28, 16, 8, 6144),
    (5, 2560, 36, 32, 8, 9728),
    (10, 4096, 34, 32, 8, 13000),
    (18, 5120, 44, 40, 8, 14500),
    (40, 5120, 64, 40, 8, 27648),
    (90, 8192, 80, 64, 8, 29000),
    (1e9, 16384, 120, 128, 8, 53248),
)


def facts_of_size(
    parameters: float,
    name: str = "",
    *,
    source: str = "given",
    method: str | None = None,
    bits: float | None = None,
) -> ModelFacts:
    """Facts of a model of which only the number of parameters is known: a shape typical of that size, not certain."""
    row = next(each for each in _TYPICAL if parameters / 1e9 <= each[0])
    _, hidden, layers, heads, kv_heads, inner = row
    config = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inner,
        "vocab_size": 128000,
    }
    facts = facts_of_config(config, name=name, source=source, total=parameters)
    return replace(facts, certain=False, method=method, bits=bits)


def parse_parameters(text: str) -> float:
    """`--params 32B`, `8x7B`, `7e9`. Raises UserError for anything else."""
    size = size_of_name(text.strip())
    if size:
        return size
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if value < 1e6:
        raise UserError(
            f"{text!r} is no number of parameters", "--params", "write 32B, 8x7B or 0.5B", "bad-params"
        )
    return value


def _with_modelopt(config: Mapping[str, Any], base: Path) -> Mapping[str, Any]:
    """The configuration with what ModelOpt says of its quantization in a file of its own, where it says nothing itself."""
    file = base / "hf_quant_config.json"
    if config.get("quantization_config") or not file.is_file():
        return config
    block = _json(file).get("quantization")
    if not isinstance(block, Mapping) or not block.get("quant_algo"):
        return config
    return {**config, "quantization_config": {**block, "quant_method": "modelopt"}}


def facts_of_folder(folder: str) -> ModelFacts:
    """Facts from a model's folder (or its config.json, params.json or .gguf): configuration and file sizes only."""
    path = Path(folder)
    base = path if path.is_dir() else path.parent
    if path.suffix == ".gguf":
        return _facts_of_gguf(path)
    for name in [path.name] if not path.is_dir() else ["config.json", "params.json"]:
        file = base / name
        if file.is_file():
            return facts_of_config(
                _with_modelopt(_json(file), base),
                name=str(folder),
                source="config",
                file_bytes=_weight_bytes(base),
                total=_indexed_parameters(base),
            )
    gguf = sorted(base.glob("*.gguf")) if path.is_dir() else []
    if gguf:
        return _facts_of_gguf(gguf[0])
    raise UserError(
        "no config.json, params.json or .gguf file",
        str(folder),
        "give the folder that holds the model",
        "no-model-config",
    )


def _json(file: Path) -> Mapping[str, Any]:
    try:
        if file.stat().st_size > 64 << 20:
            raise UserError("too large for a model's configuration", str(file), code="bad-model-config")
        value = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", str(file), code="bad-model-config") from None
    except (ValueError, RecursionError):
        raise UserError("not sound JSON", str(file), code="bad-model-config") from None
    if not isinstance(value, Mapping):
        raise UserError("no JSON object", str(file), code="bad-model-config")
    return value


def _weight_bytes(base: Path) -> int | None:
    index = base / "model.safetensors.index.json"
    if index.is_file():
        total = _json(index).get("metadata", {}).get("total_size")
        if isinstance(total, (int, float)):
            return int(total)
    sizes = [
        file.stat().st_size
        for pattern in ("*.safetensors", "pytorch_model*.bin")
        for file in base.glob(pattern)
        if not file.name.startswith("consolidated")
    ]
    return sum(sizes) if sum(sizes) > 1 << 20 else None


def _indexed_parameters(base: Path) -> float | None:
    index = base / "model.safetensors.index.json"
    value = _json(index).get("metadata", {}).get("total_parameters") if index.is_file() else None
    return float(value) if isinstance(value, (int, float)) and value > 1e6 else None


_GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_GGUF_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def _facts_of_gguf(path: Path) -> ModelFacts:
    """The header's key-value pairs; strings and arrays are stepped over (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            data = file.read(32 << 20)
        values = _gguf_values(data)
    except (OSError, struct.error, ValueError, IndexError):
        raise UserError("no readable GGUF header", str(path), code="bad-model-config") from None
    prefix = str(values.get("general.architecture", "llama"))
    number = {key.removeprefix(prefix + "."): value for key, value in values.items()}
    config = {
        "model_type": prefix,
        "hidden_size": number.get("embedding_length"),
        "num_hidden_layers": number.get("block_count"),
        "num_attention_heads": number.get("attention.head_count"),
        "num_key_value_heads": number.get("attention.head_count_kv"),
        "head_dim": number.get("attention.key_length"),
        "intermediate_size": number.get("feed_forward_length"),
        "max_position_embeddings": number.get("context_length"),
        "vocab_size": number.get("vocab_size") or number.get("tokenizer.ggml.tokens"),
        "num_experts": number.get("expert_count"),
        "num_experts_per_tok": number.get("expert_used_count"),
        "moe_intermediate_size": number.get("expert_feed_forward_length"),
    }
    return replace(
        facts_of_config(
            {key: value for key, value in config.items() if value},
            name=str(path),
            source="config",
            file_bytes=size,
        ),
        method="gguf",
    )


def _gguf_values(data: bytes) -> dict[str, Any]:
    if data[:4] != b"GGUF":
        raise ValueError("no GGUF")
    _, _, count = struct.unpack_from("<IQQ", data, 4)
    offset, values = 24, {}

    def text(at: int) -> tuple[str, int]:
        (length,) = struct.unpack_from("<Q", data, at)
        if length > 1 << 20:
            raise ValueError("absurd string")
        return data[at + 8 : at + 8 + length].decode("utf-8", "replace"), at + 8 + length

    for _ in range(min(count, 10_000)):
        key, offset = text(offset)
        (kind,) = struct.unpack_from("<I", data, offset)
        offset += 4
        if kind == 8:
            values[key], offset = text(offset)
        elif kind == 9:
            inner, length = struct.unpack_from("<IQ", data, offset)
            offset += 12
            values[key] = length
            if inner == 8:
                if key == "tokenizer.ggml.tokens" and length > 2_000_000:
                    raise ValueError("absurd vocabulary")
                for _ in range(length):
                    (step,) = struct.unpack_from("<Q", data, offset)
                    offset += 8 + step
            else:
                offset += _GGUF_SIZES[inner] * length
        else:
            (values[key],) = struct.unpack_from("<" + _GGUF_FORMATS[kind], data, offset)
            offset += _GGUF_SIZES[kind]
    return values


def facts_of_model(model: str | None) -> ModelFacts:
    """Facts of the model a plan names: its folder if it lies here, else by name."""
    if not model:
        return ModelFacts()
    if model.startswith(("/", "./", "../", "~")) or model.endswith(".gguf"):
        try:
            local = Path(model).expanduser()
            if (
                (local / "config.json").is_file()
                or (local / "params.json").is_file()
                or (local.suffix == ".gguf" and local.is_file())
            ):
                return facts_of_folder(str(local))
        except (OSError, UserError):
            pass  # named but not readable here: the name may still tell
    return facts_of_name(model)
