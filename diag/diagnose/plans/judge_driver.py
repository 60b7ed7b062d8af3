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


def judge_length(case: Case) -> Iterator[Finding]:
    """A max-model-len above what the model's own configuration allows; vLLM refuses it."""
    for service in case.engines:
        facts, asked = case.facts(service), integer(service, "max-model-len")
        if (
            engine_of(service) != "vllm"
            or facts.source != "config"
            or not facts.max_position
            or asked is None
            or asked <= facts.max_position
            or "VLLM_ALLOW_LONG_MAX_MODEL_LEN" in service.env
            or setting_of(service, "rope-scaling", "hf-overrides") is not None
            or facts.long_context
        ):
            continue
        yield judged(
            "invalid-launch-argument",
            service,
            Status.FAIL,
            f"{service.name}: max-model-len {asked:,} is above the model's {facts.max_position:,} positions, and vLLM refuses it",
            setting=where(service, "max-model-len"),
            do=f"Set max-model-len: {facts.max_position}",
            settings={"max-model-len": facts.max_position},
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
