"""Values that an option does not accept, texts that are no JSON, and another engine's names for options."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from diag.diagnose.plans.case import Case, judged
from diag.diagnose.plans.judge_options import TABLES
from diag.diagnose.plans.settings import as_int, engine_of, integer, setting_of, text_of
from diag.model import Finding, Status
from diag.model.launch import Service, Setting
from diag.observe.plans.programs import choices_of, connectors, is_known

OTHER_SPELLINGS = {
    # what people write -> what the engines call it
    "fp16": "float16",
    "bf16": "bfloat16",
    "fp32": "float32",
    "multiprocessing": "mp",
    "fp8": "fp8_e4m3",
    "flash_attention": "FLASH_ATTN",
    "flashattention": "FLASH_ATTN",
}
CLOSED = (
    # closed sets that no plug-in widens
    "dtype",
    "kv-cache-dtype",
    "disaggregation-mode",
    "disaggregation-transfer-backend",
    "distributed-executor-backend",
)
DYNAMO_MODES = ("agg", "aggregated", "encode", "pd", "prefill_and_decode")
"""Roles that Dynamo's workers have beside the engine's (dynamo/sglang/backend_args.py)."""
JSON_OPTIONS = (
    "kv-transfer-config",
    "kv-events-config",
    "speculative-config",
    "compilation-config",
    "hf-overrides",
    "ec-transfer-config",
    "model-loader-extra-config",
    "additional-config",
    "override-generation-config",
    "limit-mm-per-prompt",
)


def judge_values(case: Case) -> Iterator[Finding]:
    """A value that none of the known versions accepts."""
    for service in case.services:
        tables = TABLES.get(str(getattr(service, "program", "")), ())
        for name, setting in service.options.items() if tables else ():
            value = setting.value
            if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z][\w-]*", value):
                continue
            known, loose = choices_of(tables, _flag(name, setting))
            if name == "disaggregation-mode" and len(tables) > 1 and known:
                known = (*known, *DYNAMO_MODES)
            if not known or _same(value) in {_same(each) for each in known}:
                continue
            yield _refused(service, name, setting, known, loose)


def _flag(name: str, setting: Setting) -> str:
    written = setting.key.lstrip("-").replace("_", "-")
    return written if setting.key.startswith("--") else name


def _same(word: str) -> str:
    return word.lower().replace("-", "_")


def _refused(service: Service, name: str, setting: Setting, known: tuple[str, ...], loose: bool) -> Finding:
    value = str(setting.value)
    meant = _meant(value, known)
    sure = meant is not None or name in CLOSED or _of_known_version(service, name)
    shown = ", ".join(known) if len(known) <= 12 else f"{', '.join(known[:12])} and {len(known) - 12} more"
    fix: dict[str, Any] = {"settings": {name: meant}} if meant else {"remove": setting.key}
    return judged(
        "invalid-launch-argument",
        service,
        Status.FAIL if sure else Status.OK,
        f"{service.name}: {name} {value!r} is no value that {service.framework} knows"
        + (f"; did you mean {meant}?" if meant else f" ({shown})"),
        setting=setting,
        certain=sure and not loose,
        note=not sure,
        option=name,
        known=list(known),
        do=f"Write {meant}" if meant else "Use one of these, or leave the option out",
        **fix,
    )


def _meant(value: str, known: tuple[str, ...]) -> str | None:
    """The value that was probably meant: another spelling, a letter or two away."""
    lowered = {_same(each): each for each in known}
    other = OTHER_SPELLINGS.get(_same(value), "").lower()
    if other in lowered:
        return lowered[other]
    word = _same(value)
    if len(word) <= 4:
        same = [
            each for each in lowered if re.sub(r"\d", "0", each) == re.sub(r"\d", "0", word)
        ]  # fp7 for fp8
        return lowered[same[0]] if same else None
    close = difflib.get_close_matches(word, lowered, 1, 0.85)
    # a number in it is no slip of the pen: deepseek_v3 and deepseek_v4 are two things
    return lowered[close[0]] if close and re.findall(r"\d", close[0]) == re.findall(r"\d", word) else None


def _of_known_version(service: Service, name: str) -> bool:
    """True where the image tells a version that the table of values was made from, or an older one."""
    version = text_of(service, "engine.version")
    return (
        version is not None
        and not name.endswith("-parser")  # registries that grow with every release
        and not getattr(service, "program", "").startswith("dynamo")
        and is_known(str(service.framework), version)
    )


def judge_broken_lines(case: Case) -> Iterator[Finding]:
    """A command whose line ends too early, so that the options below it are a command of their own."""
    for service in case.services:
        notes = dict(getattr(service, "notes", {}))
        how, line = notes.get("broken"), as_int(notes.get("broken.line"))
        if how is None:
            continue
        found = judged(
            "invalid-launch-argument",
            service,
            Status.FAIL,
            f"{service.name}: {how} at the end of line {line}: the command ends there, and the options on the next line are not its own",
            cure="broken",
            do="End the line with a backslash and nothing behind it",
        )
        yield replace(found, data={**found.data, "line": line})


def judge_json(case: Case) -> Iterator[Finding]:
    """Options whose value must be JSON, and connectors that vLLM does not have."""
    for service in case.services:
        if service.framework != "vllm":
            continue
        for name in JSON_OPTIONS:
            setting = service.options.get(name)
            text = (
                str(setting.value).strip() if setting is not None and isinstance(setting.value, str) else ""
            )
            if (
                setting is None
                or not text.startswith(("{", "["))
                or len(text) < 3
                or re.search(r"\$|\{\{|<\w", text)
            ):
                continue
            try:
                json.loads(text)
            except ValueError as error:
                problem = getattr(error, "msg", str(error))
                yield judged(
                    "invalid-launch-argument",
                    service,
                    Status.FAIL,
                    f"{service.name}: the value of {name} is no JSON ({problem} at character {getattr(error, 'pos', 0) + 1} of {len(text)})",
                    setting=setting,
                    option=name,
                    do="Write it as JSON: names and texts in double quotes, every brace closed",
                    **_closed(name, text),
                )
                continue
            if name == "kv-transfer-config":
                yield from _connector(service, setting, text)


def _closed(name: str, text: str) -> dict[str, Any]:
    """The text with the braces it lacks at its end, if that makes it JSON."""
    for tail in ("}", "}}", "]}", "}}}"):
        try:
            json.loads(text + tail)
        except ValueError:
            continue
        return {"settings": {name: text + tail}}
    return {}


ROLES = ("kv_producer", "kv_consumer", "kv_both")


def _connector(service: Service, setting: Setting, text: str) -> Iterator[Finding]:
    for role in re.findall(r"\"kv_role\"\s*:\s*\"(\w+)\"", text):
        if role not in ROLES:
            close = difflib.get_close_matches(role, ROLES, 1, 0.7)
            yield judged(
                "invalid-launch-argument",
                service,
                Status.FAIL,
                f"{service.name}: kv_role {role} is none of {', '.join(ROLES)}",
                setting=setting,
                do=f"Write {close[0] if close else 'one of these'}",
                settings={"kv-transfer-config": text.replace(f'"{role}"', f'"{close[0]}"')}
                if close
                else None,
            )
    if "module_path" in text:
        return  # somebody's own
    for name in re.findall(r"\"kv_connector\"\s*:\s*\"(\w+)\"", text):
        if name in connectors():
            continue
        close = difflib.get_close_matches(name, connectors(), 1, 0.9)
        yield judged(
            "invalid-launch-argument",
            service,
            Status.FAIL if close else Status.OK,
            f"{service.name}: vLLM has no KV connector {name}"
            + (f"; did you mean {close[0]}?" if close else ""),
            setting=setting,
            certain=bool(close),
            note=not close,
            do=f"Write {close[0]}"
            if close
            else "Name a connector that vLLM registers, or its kv_connector_module_path",
            settings={"kv-transfer-config": text.replace(f'"{name}"', f'"{close[0]}"')} if close else None,
        )


def judge_sizes_together(case: Case) -> Iterator[Finding]:
    """Sizes that the engine refuses together, or a block size no kernel has."""
    for service in case.engines:
        if engine_of(service) == "vllm":
            batch, sequences = integer(service, "max-num-batched-tokens"), integer(service, "max-num-seqs")
            if batch is not None and sequences is not None and 0 < batch < sequences:
                yield judged(
                    "invalid-launch-argument",
                    service,
                    Status.FAIL,
                    f"{service.name}: max-num-batched-tokens {batch} is below max-num-seqs {sequences}, and vLLM refuses it",
                    setting=setting_of(service, "max-num-batched-tokens"),
                    do=f"Set max-num-seqs: {batch}, or more tokens a batch",
                    settings={"max-num-seqs": batch},
                )
            block = integer(service, "block-size")
            if block is not None and block > 8 and block % 16:
                yield judged(
                    "invalid-launch-argument",
                    service,
                    Status.FAIL,
                    f"{service.name}: block-size {block} is no multiple of 16, which the attention kernels need",
                    setting=setting_of(service, "block-size"),
                    do="Set block-size: 16",
                    settings={"block-size": 16},
                )


JUDGES = (judge_values, judge_broken_lines, judge_json, judge_sizes_together)
