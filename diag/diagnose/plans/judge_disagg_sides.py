"""Pairs of which one side is missing: all workers prefill, all decode, or nobody takes what is handed over."""

from __future__ import annotations

import re
from collections.abc import Iterator

from diag.diagnose.plans.case import Case, absent, judged, where
from diag.diagnose.plans.judge_disagg import elsewhere
from diag.diagnose.plans.settings import setting_of, text_of
from diag.model import Finding, Status
from diag.model.launch import Service


def judge_one_sided(case: Case) -> Iterator[Finding]:
    """Workers that all prefill, or all decode: nobody takes what they hand over, or nobody gives it."""
    workers = [each for each in case.engines if not absent(each) and _role_said(each)]
    roles = {_role_said(each) for each in workers}
    together = {dict(getattr(each, "notes", {})).get("pod") for each in workers}
    others = [each for each in case.engines if each not in workers]
    yield from _untaken(workers, roles, others)
    if (
        len(workers) < 2
        or len(roles) > 1
        or others
        or any(elsewhere(each) for each in workers)
        or _apart(case, together)
    ):
        return
    role = roles.pop()
    names = {_named_for(each) for each in workers}
    other = "decode" if role == "prefill" else "prefill"
    odd = next((each for each in workers if _named_for(each) == other), None)
    notes = [dict(getattr(each, "notes", {})) for each in workers]
    at_once = all("background" in each or each.get("workload") == "LLMInferenceService" for each in notes)
    if odd is None and len(names - {""}) < 2 and not case.plan.kind.startswith("dgd") and not at_once:
        return  # two files of one side may be two launches of the same kind
    odd = odd or workers[-1]
    setting = where(odd, "disaggregation-mode", "kv-transfer-config")
    value = text_of(odd, "kv-transfer-config") or ""
    is_mode = setting_of(odd, "disaggregation-mode") is not None
    swapped = (
        value.replace("kv_producer", "?").replace("kv_consumer", "kv_producer").replace("?", "kv_consumer")
    )
    yield judged(
        "disagg-prefill-not-enabled",
        odd,
        Status.FAIL,
        f"{' and '.join(each.name for each in workers)} are all {role} workers: no {other} worker is left to {'take' if role == 'prefill' else 'give'} the KV cache",
        setting=setting,
        do=f"Make {odd.name} the {other} side",
        settings={"disaggregation-mode": other} if is_mode else {"kv-transfer-config": swapped},
    )


def _untaken(workers: list[Service], roles: set[str], others: list[Service]) -> Iterator[Finding]:
    """vLLM: one side hands its cache over, the other servers have no transfer at all."""
    name = "kv-transfer-config"
    plain = [each for each in others if getattr(each, "program", "") == "vllm" and not elsewhere(each)]
    if (
        len(roles) != 1
        or not plain
        or len(plain) != len(others)
        or any(name in each.options for each in plain)
    ):
        return
    if any(each.model != workers[0].model or "function" in getattr(each, "notes", {}) for each in plain):
        return
    if any(setting_of(each, name) is None for each in workers):
        return
    role, odd = roles.pop(), plain[0]
    other = ("kv_consumer", "decode") if role == "prefill" else ("kv_producer", "prefill")
    value = re.sub(r"kv_(?:producer|consumer)", other[0], str(workers[0].options[name].value))
    yield judged(
        "disagg-prefill-not-enabled",
        odd,
        Status.FAIL,
        f"{workers[0].name} is a {role} worker, but {odd.name} has no {name}, so nothing is handed over and it serves whole requests",
        setting=where(odd, "model"),
        do=f"Give {odd.name} the same connector with kv_role {other[0]}",
        settings={name: value},
    )


def _role_said(service: Service) -> str:
    mode = (text_of(service, "disaggregation-mode") or "").lower()
    kv_role = re.search(
        r"kv_role\W+(kv_producer|kv_consumer)\b", text_of(service, "kv-transfer-config") or ""
    )
    if mode in ("prefill", "decode"):
        return mode
    return "" if kv_role is None else "prefill" if kv_role.group(1) == "kv_producer" else "decode"


def _named_for(service: Service) -> str:
    """What a worker's name, or its component's declared role, says it is for."""
    text = f"{service.name} {text_of(service, 'declared-role') or ''} {dict(getattr(service, 'notes', {})).get('container', '')}".lower()
    found = {word for word in ("prefill", "decode") if word in text}
    return found.pop() if len(found) == 1 else ""


def _apart(case: Case, pods: set[str | None]) -> bool:
    """True for workers of several graphs in one file, or of a script whose sides run elsewhere."""
    return case.plan.kind.startswith("dgd") and len(pods) > 1


def judge_two_roles(case: Case) -> Iterator[Finding]:
    """A worker whose mode and whose transfer configuration say different roles."""
    for service in case.engines:
        mode = (text_of(service, "disaggregation-mode") or "").lower()
        value = text_of(service, "kv-transfer-config") or ""
        found = re.search(r"kv_role\W+(kv_producer|kv_consumer)\b", value)
        fitting = {"prefill": "kv_producer", "decode": "kv_consumer"}.get(mode)
        if found is None or fitting is None or found.group(1) == fitting or value.count("kv_role") > 1:
            continue
        yield judged(
            "disagg-prefill-not-enabled",
            service,
            Status.FAIL,
            f"{service.name}: disaggregation-mode {mode}, but its transfer has kv_role {found.group(1)}",
            setting=where(service, "kv-transfer-config"),
            do=f"Set kv_role {fitting} (or kv_both)",
            settings={"kv-transfer-config": value.replace(found.group(1), fitting)},
        )


JUDGES = (judge_one_sided, judge_two_roles)
