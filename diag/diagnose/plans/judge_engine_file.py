"""The engine's own file: keys that it does not have, keys that its version no longer has, values that it refuses."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from diag.diagnose.plans.case import Case, judged
from diag.diagnose.plans.judge_options import CLOSE
from diag.diagnose.plans.settings import number, text_of
from diag.model import Finding, Status
from diag.model.launch import Service, Setting
from diag.observe.plans.programs import options_of
from diag.observe.plans.trtllm_keys import Key, keys, names_in, refused, versions

ONE_LETTER = 0.945
"""difflib's ratio of two names of nine letters that differ by one left out."""


def judge_keys(case: Case) -> Iterator[Finding]:
    """A key of the file that is nearly one that the engine has; its models forbid others."""
    for service in case.services:
        for key in getattr(service, "unknown_keys", ()):
            meant = _meant_key(service, key)
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


def _meant_key(service: Service, key: str) -> str | None:
    """The key of the same block that was probably meant, or one that stands in another block (`block.key`)."""
    block, _, name = key.rpartition(".")
    if service.framework != "trtllm":
        known: tuple[str, ...] = tuple(options_of((service.framework or "",)))
    else:
        known = names_in(block, str(getattr(service, "program", "")).endswith("disaggregated"))
    close = difflib.get_close_matches(name, known, 1, CLOSE if len(name) > 9 else 0.8)
    return close[0] if close and _slip(name, close[0]) else None


def _slip(written: str, meant: str) -> bool:
    """True where the words differ as typing errors do; another word in one place is another, newer key."""
    ratio = difflib.SequenceMatcher(None, written, meant).ratio()
    if sorted(written) == sorted(meant) or (len(written) != len(meant) and ratio >= ONE_LETTER):
        return True  # letters swapped or left out; one put for another may be another name (dsa, nsa)
    one, other = (name.replace("-", "_").split("_") for name in (written, meant))
    if len(one) != len(other):
        return "".join(one) == "".join(other)
    return all(
        a == b or (a[:1] == b[:1] and abs(len(a) - len(b)) < 4) for a, b in zip(one, other, strict=True)
    )


def judge_values(case: Case) -> Iterator[Finding]:
    """TensorRT-LLM: the share of the free memory, and values that its models refuse."""
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
        for option, setting, key in _of_the_file(service):
            expected = refused(key, setting.value)
            if expected is not None:
                yield _refused(service, option, setting, key, expected)
            elif _gone(service, key):
                yield _no_longer(service, setting, key)


def _of_the_file(service: Service) -> Iterator[tuple[str, Setting, Key]]:
    """(option, setting, what is known) of everything that the file sets, each key once."""
    seen: set[str] = set()
    for option, setting in service.options.items():
        key = keys().get(setting.key)
        if key is not None and setting.key not in seen:
            seen.add(setting.key)
            yield option, setting, key


def _refused(service: Service, option: str, setting: Setting, key: Key, expected: str) -> Finding:
    lowered = {each.lower(): each for each in key.values}
    text = str(setting.value)
    close = difflib.get_close_matches(text.lower(), lowered, 1, 0.6) if key.kind == "choice" else []
    meant = lowered[close[0]] if close else None
    # A closed set may have grown since; a kind (number, truth value, list) has not.
    sure = meant is not None or key.kind != "choice"
    return judged(
        "invalid-launch-argument",
        service,
        Status.FAIL if sure else Status.OK,
        f"{service.name}: {setting.key} {text!r} is not {expected}"
        + (f"; did you mean {meant}?" if meant else ""),
        setting=setting,
        certain=sure,
        note=not sure,
        option=setting.key,
        do=f"Write {meant}" if meant else f"Give {setting.key} {expected}",
        settings={option: meant} if meant else None,
    )


def _gone(service: Service, key: Key) -> bool:
    """True where the image's version is one after the last that has the key; the TensorRT engine keeps its own."""
    version = text_of(service, "engine.version")
    after = next((each for each in versions() if _numbers(each) > _numbers(key.last)), None)
    if not version or after is None or (text_of(service, "backend") or "pytorch") != "pytorch":
        return False
    return _numbers(version) >= _numbers(after)


def _no_longer(service: Service, setting: Setting, key: Key) -> Finding:
    after = next(each for each in versions() if _numbers(each) > _numbers(key.last))
    return judged(
        "invalid-launch-argument",
        service,
        Status.FAIL,
        f"{service.name}: TensorRT-LLM {text_of(service, 'engine.version')} no longer has the key {setting.key} "
        f"(last seen in {key.last}, gone in {after})",
        setting=setting,
        option=setting.key,
        do="Take it out, or use a version that has it",
        remove=setting.key,
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


JUDGES = (judge_keys, judge_values)
