"""Drivers that are known to hang, and contexts that a model does not have."""

from __future__ import annotations

import re
from collections.abc import Iterator

from diag.diagnose.plans.case import Case, absent, judged, where
from diag.diagnose.plans.judge_network import nodes_of
from diag.diagnose.plans.settings import boolean, engine_of, integer, setting_of
from diag.model import Finding, Status

HANGS = "550.90.07"
"""Hangs in CUDA-graph capture over several nodes; 550.127.05 cures it (playbook driver-cudagraph-bug)."""
EAGER = {"vllm": "enforce-eager", "sglang": "disable-cuda-graph"}


def judge_driver(case: Case) -> Iterator[Finding]:
    """CUDA graphs on several nodes with the driver that hangs there."""
    if case.hardware is None or case.hardware.driver_version != HANGS:
        return
    for service in case.engines:
        option = EAGER.get(engine_of(service) or "")
        if option is None or absent(service) or nodes_of(case, service) < 2 or boolean(service, option):
            continue
        yield judged(
            "driver-cudagraph-bug",
            service,
            Status.FAIL,
            f"{service.name} captures CUDA graphs over {nodes_of(case, service)} nodes with driver {HANGS}, which hangs there",
            setting=where(service, "nnodes", "tensor-parallel-size"),
            missing=option,
            do=f"Upgrade the driver to 550.127.05 or later; until then set {option}",
            settings={option: True},
        )


LONGEST = 16 * (1 << 20)
"""No model has as many positions; Llama 4 Scout's ten million are the most."""
ALLOWED_LONG = ("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN")


_UNSCALED = re.compile(r"(?:Qwen/Qwen(?:2\.5|3)|meta-llama/|mistralai/)[\w.-]+")
"""Hub names of families whose own configuration scales no positions beyond what it states."""


def judge_length(case: Case) -> Iterator[Finding]:
    """A length above what the model's own configuration allows; vLLM and SGLang refuse it."""
    for service in case.engines:
        engine = engine_of(service)
        name = {"vllm": "max-model-len", "sglang": "context-length"}.get(engine or "", "")
        facts, asked = case.facts(service), integer(service, name) if name else None
        if asked is None or any(each in service.env for each in ALLOWED_LONG):
            continue
        named = facts.source == "table" and facts.certain and _UNSCALED.fullmatch(service.model or "")
        limit = facts.max_position if facts.source == "config" or named else None
        scaled = setting_of(service, "rope-scaling", "hf-overrides", "json-model-override-args") is not None
        if asked <= LONGEST and (limit is None or asked <= limit or scaled or facts.long_context):
            continue
        limit = limit or 131072
        yield judged(
            "invalid-launch-argument",
            service,
            Status.FAIL,
            f"{service.name}: {name} {asked:,} is above "
            + (f"the model's {limit:,} positions" if facts.max_position else "what any model has")
            + f", and {'vLLM' if engine == 'vllm' else 'SGLang'} refuses it",
            setting=where(service, name),
            do=f"Set {name}: {limit}",
            settings={name: limit},
        )


_LITERAL = re.compile(r"[0-9a-fA-F]*:[0-9a-fA-F:.]*:[0-9a-fA-F.]*\Z")


def judge_literals(case: Case) -> Iterator[Finding]:
    """An IPv6 address before a port without its brackets: nobody can tell where the port begins."""
    for service in case.services:
        for name in ("dist-init-addr", "rdzv-endpoint", "nccl-init-addr"):
            setting = setting_of(service, name)
            if setting is None:
                continue
            text = str(setting.value).removeprefix("tcp://")
            if _LITERAL.match(text):
                yield judged(
                    "host-ip-wrong",
                    service,
                    Status.FAIL,
                    f"{service.name}: {name} {text} is an IPv6 address without brackets, so its port cannot be told from it",
                    setting=setting,
                    do="Write [ADDRESS]:PORT",
                    settings={name: "[{}]:{}".format(*text.rsplit(":", 1))},
                )


JUDGES = (judge_driver, judge_length, judge_literals)
