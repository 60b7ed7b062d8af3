"""What only some releases of an engine or of Dynamo take, where an image, a pinned package or a comment tells which it is."""

from __future__ import annotations

import re
from collections.abc import Iterator

from diag.diagnose.plans.case import Case, absent, judged, where
from diag.diagnose.plans.memory import version_of
from diag.diagnose.plans.settings import boolean, engine_of, integer, setting_of, text_of
from diag.model import Finding, Status
from diag.model.launch import Service
from diag.observe.plans.programs import options_of, versions_of

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""vLLM config/lora.py: MaxLoRARanks (1 since 2025)."""
CHUNKED_FROM = (0, 8)
"""vLLM: the engine that always prefills in chunks."""
LONG_PROMPT = 32768
"""vLLM before: chunked prefill was switched on by itself above this max-model-len."""


def judge_lora_rank(case: Case) -> Iterator[Finding]:
    """A rank of adapters that vLLM has no kernels for."""
    for service in case.engines:
        rank = integer(service, "max-lora-rank")
        if engine_of(service) != "vllm" or rank is None or rank in LORA_RANKS:
            continue
        above = next((each for each in LORA_RANKS if each > rank), LORA_RANKS[-1])
        yield judged(
            "invalid-launch-argument",
            service,
            Status.FAIL,
            f"{service.name}: max-lora-rank {rank} is none of {', '.join(map(str, LORA_RANKS))}",
            setting=where(service, "max-lora-rank"),
            do=f"Set max-lora-rank: {above}, which also takes adapters of rank {rank}"
            if above > rank
            else f"Set max-lora-rank: {above}",
            settings={"max-lora-rank": above},
        )


def judge_whole_prompts(case: Case) -> Iterator[Finding]:
    """vLLM before 0.8: without chunked prefill one step must hold the longest prompt."""
    for service in case.engines:
        version = version_of(service)
        length, budget = integer(service, "max-model-len"), integer(service, "max-num-batched-tokens")
        if engine_of(service) != "vllm" or version is None or version >= CHUNKED_FROM or absent(service):
            continue
        chunked = boolean(service, "enable-chunked-prefill")
        if (
            not length
            or not budget
            or budget >= length
            or chunked
            or (chunked is None and length > LONG_PROMPT)
        ):
            continue
        yield judged(
            "invalid-launch-argument",
            service,
            Status.FAIL,
            f"{service.name}: max-num-batched-tokens {budget} is below max-model-len {length}, and vLLM "
            f"{'.'.join(map(str, version))} prefills whole prompts unless chunked prefill is on: it refuses",
            setting=where(service, "max-num-batched-tokens"),
            do=f"Set max-num-batched-tokens: {length}, or switch chunked prefill on",
            settings={"max-num-batched-tokens": length},
        )


def _release(service: Service) -> tuple[int, ...] | None:
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", text_of(service, "dynamo.version") or "")
    return tuple(int(part or 0) for part in found.groups()) if found else None


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def judge_dynamo_options(case: Case) -> Iterator[Finding]:
    """Options of Dynamo's workers that the release in the image no longer has."""
    for service in case.services:
        release, program = _release(service), str(getattr(service, "program", ""))
        if release is None or program not in ("dynamo.vllm", "dynamo.sglang", "dynamo.trtllm"):
            continue
        known = versions_of(program)
        for name, setting in service.options.items():
            flag = setting.key.lstrip("-").replace("_", "-")
            entry = options_of((program,)).get(flag) if setting.key.startswith("--") else None
            if entry is None:
                continue
            gone = next((each for each in known if _key(each) > _key(entry[3])), None)
            if gone is None or release < _key(gone):
                continue  # (recipes of the development branch name images of the release before)
            sentence = f"no longer has --{flag} (last seen in {entry[3]}, gone in {gone})"
            role = re.fullmatch(r"is-(prefill|decode)-worker", flag)
            yield judged(
                "invalid-launch-argument",
                service,
                Status.FAIL,
                f"{service.name}: {program} of Dynamo {'.'.join(map(str, release))} {sentence}",
                setting=setting,
                option=name,
                do=f"Write --disaggregation-mode {role[1]}"
                if role
                else "Take it out, or use a release that has it",
                remove=None if role else setting.key,
            )


NEEDS_CONNECTOR = (1, 0)
"""Dynamo: from here on dynamo.vllm has no connector of its own (components/src/dynamo/vllm/args.py)."""


def judge_connector(case: Case) -> Iterator[Finding]:
    """A side of a disaggregated Dynamo launch that names no connector, where the release has no default."""
    for service in case.engines:
        release = _release(service)
        if release is None or release < NEEDS_CONNECTOR or getattr(service, "program", "") != "dynamo.vllm":
            continue
        mode = text_of(service, "disaggregation-mode")
        named = setting_of(service, "kv-transfer-config", "connector", "config", "kv-connector")
        if mode == "prefill" and named is None and "open" not in getattr(service, "notes", {}):
            yield judged(
                "invalid-launch-argument",
                service,
                Status.FAIL,
                f"{service.name}: --disaggregation-mode prefill without --kv-transfer-config; Dynamo {'.'.join(map(str, release))} has no default connector and refuses",
                setting=where(service, "disaggregation-mode"),
                do="""Add --kv-transfer-config '{"kv_connector":"NixlConnector","kv_role":"kv_both"}' on both sides""",
                settings={"kv-transfer-config": '{"kv_connector":"NixlConnector","kv_role":"kv_both"}'},
            )


def judge_text_sizes(case: Case) -> Iterator[Finding]:
    """DynamoGraphDeployment v1alpha1: `resources.limits.gpu` is text; the API server refuses a number."""
    if case.plan.kind != "dgd-v1alpha1":
        return
    for service in case.services:
        setting = setting_of(service, "resources.gpu")
        if setting is None or isinstance(setting.value, str) or not isinstance(setting.value, int):
            continue
        yield judged(
            "invalid-launch-argument",
            service,
            Status.FAIL,
            f"{service.name}: resources.limits.gpu is the number {setting.value}; v1alpha1 takes text there, and the API server refuses the object",
            setting=setting,
            do=f'Write gpu: "{setting.value}"',
        )


JUDGES = (judge_lora_rank, judge_whole_prompts, judge_dynamo_options, judge_connector, judge_text_sizes)
