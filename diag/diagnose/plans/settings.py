"""A service's options asked by name, several names for one thing."""

from __future__ import annotations

from typing import Any

from diag.model.launch import Service, Setting

ENGINES = ("vllm", "sglang", "trtllm")


def setting_of(service: Service, *names: str) -> Setting | None:
    """The first of these options that is set."""
    return next(
        (
            service.options[name]
            for name in names
            if name in service.options and service.options[name].value is not None
        ),
        None,
    )


def text_of(service: Service, *names: str) -> str | None:
    """An option as text."""
    setting = setting_of(service, *names)
    return None if setting is None else str(setting.value).strip()


def integer(service: Service, *names: str) -> int | None:
    """An option as a whole number; None if unset or no number. Knows vLLM's `32k`."""
    setting = setting_of(service, *names)
    return None if setting is None else as_int(setting.value)


def as_int(value: Any) -> int | None:
    """A whole number from a number or its text."""
    if isinstance(value, bool):
        return None
    try:
        return int(value)
    except (TypeError, ValueError):
        pass
    text = str(value).strip()
    scale = {"k": 1000, "K": 1024, "m": 10**6, "M": 1 << 20}.get(text[-1:], 0)
    try:
        return int(float(text[:-1]) * scale) if scale else int(float(text))
    except (ValueError, OverflowError):
        return None


def number(service: Service, *names: str) -> float | None:
    """An option as a number."""
    setting = setting_of(service, *names)
    try:
        return None if setting is None or isinstance(setting.value, bool) else float(setting.value)
    except (TypeError, ValueError):
        return None


def boolean(service: Service, *names: str) -> bool | None:
    """A switch: True, False, or None where the plan does not set it."""
    setting = setting_of(service, *names)
    if setting is None:
        return None
    if isinstance(setting.value, bool):
        return setting.value
    return str(setting.value).strip().lower() in ("true", "1", "yes", "on", "")


def engine_of(service: Service) -> str | None:
    """vllm, sglang or trtllm; None for what loads no model."""
    return service.framework if service.framework in ENGINES else None


def tp_of(service: Service) -> int:
    """The tensor-parallel size, 1 where the plan leaves the default."""
    return max(1, service.tensor_parallel_size or 1)


def attention_tp_of(service: Service) -> int:
    """Over how many ranks attention is split: with data-parallel attention only the ranks of one replica of it."""
    tp = tp_of(service)
    if service.framework == "sglang" and boolean(service, "enable-dp-attention"):
        return max(1, tp // max(1, service.data_parallel_size or 1))
    if service.framework == "trtllm" and boolean(service, "enable-attention-dp"):
        return 1
    return tp


def pp_of(service: Service) -> int:
    """The pipeline-parallel size, 1 where the plan leaves the default."""
    return max(1, service.pipeline_parallel_size or 1)


ELSEWHERE = (
    "extra-engine-args",
    "config",
    "trtllm-config",
    "extra-llm-api-options",
    "engine-config",
    "override-engine-args",
    "stage-configs-path",
    "omni",
)
"""Options that name a further file (or hold a further text) with settings."""
SIZE_OPTIONS = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")


def sizes_elsewhere(service: Service) -> bool:
    """True where a further file, or words that only the shell knows, may hold the parallel sizes."""
    if dict(getattr(service, "notes", {})).get("files") == "read":
        return False
    return any(name in service.options for name in ELSEWHERE) or "open" in getattr(service, "notes", {})


def sizes_unknown(service: Service) -> bool:
    """True where a parallel size is set to something that cannot be known, or may be set elsewhere."""
    unread = any(
        name in service.options and as_int(service.options[name].value) is None for name in SIZE_OPTIONS
    )
    return unread or (service.tensor_parallel_size is None and sizes_elsewhere(service))


def exclusive(one: Service, other: Service) -> bool:
    """True for two services in different alternatives of one `if` or `case`: they never both run."""
    first, second = (_branches(service) for service in (one, other))
    return any(first[block] != second[block] for block in first.keys() & second.keys())


def _branches(service: Service) -> dict[str, str]:
    text = str(dict(getattr(service, "notes", {})).get("branch") or "")
    return dict(part.split(".", 1) for part in text.split(",") if "." in part)
