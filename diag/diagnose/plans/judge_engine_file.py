"""The engine's own file: keys that it does not have, shares and backends that it refuses."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from diag.diagnose.plans.case import Case, judged
from diag.diagnose.plans.judge_options import CLOSE
from diag.diagnose.plans.settings import number
from diag.model import Finding, Status
from diag.model.launch import Service
from diag.observe.plans.programs import blocks_of_trtllm, options_of


def judge_keys(case: Case) -> Iterator[Finding]:
    """A key of the file that is nearly one that the engine has; its models forbid others."""
    for service in case.services:
        for key in getattr(service, "unknown_keys", ()):
            block, _, name = key.rpartition(".")
            known = (
                blocks_of_trtllm()[block]["keys"] if block else list(options_of((service.framework or "",)))
            )
            close = difflib.get_close_matches(name, known, 1, CLOSE if len(name) > 9 else 0.8)
            meant = close[0] if close and _slip(name, close[0]) else None
            yield judged(
                "invalid-launch-argument",
                service,
                Status.FAIL if meant else Status.OK,
                f"{service.name}: the engine's file has a key {key} that {service.framework} does not have"
                + (f"; did you mean {meant}?" if meant else " in the versions that diag knows"),
                certain=meant is not None,
                note=meant is None,
                option=key,
                do=f"Write {meant}" if meant else "Take it out",
                rename=(key, meant) if meant else None,
            )


def _slip(written: str, meant: str) -> bool:
    """True where the words differ as typing errors do; another word in one place is another, newer key."""
    one, other = (name.replace("-", "_").split("_") for name in (written, meant))
    if len(one) != len(other):
        return "".join(one) == "".join(other)
    return all(
        a == b or (a[:1] == b[:1] and abs(len(a) - len(b)) < 4) for a, b in zip(one, other, strict=True)
    )


def judge_values(case: Case) -> Iterator[Finding]:
    """TensorRT-LLM: the share of the free memory, and backends with a closed set of names."""
    for service in case.services:
        if service.framework != "trtllm":
            continue
        share = number(service, "free-gpu-memory-fraction")
        if share is not None and not 0 <= share <= 1:
            right = next((share / scale for scale in (10, 100) if 0.3 <= share / scale < 1), 0.9)
            yield judged(
                "invalid-launch-argument",
                service,
                Status.FAIL,
                f"{service.name}: free_gpu_memory_fraction {share:g} is no share between 0 and 1",
                setting=service.options.get("free-gpu-memory-fraction"),
                do=f"Set free_gpu_memory_fraction: {right:g}",
                settings={"free-gpu-memory-fraction": round(right, 3)},
            )
        yield from _backend(service, "transfer-backend", "cache_transceiver_config")
        yield from _backend(service, "moe-backend", "moe_config")


def _backend(service: Service, option: str, block: str) -> Iterator[Finding]:
    setting = service.options.get(option)
    known = blocks_of_trtllm()[block]["values"]["backend"]
    text = str(setting.value) if setting is not None and setting.value is not None else ""
    if setting is None or not text or "$" in text or text.upper() in known:
        return
    close = difflib.get_close_matches(text.upper(), known, 1, 0.6)
    yield judged(
        "invalid-launch-argument",
        service,
        Status.FAIL if close else Status.OK,
        f"{service.name}: {block}.backend {text!r} is none of {', '.join(known)}",
        setting=setting,
        certain=bool(close),
        note=not close,
        do=f"Write {close[0]}" if close else "Use one of these",
        settings={option: close[0]} if close else None,
    )


JUDGES = (judge_keys, judge_values)
