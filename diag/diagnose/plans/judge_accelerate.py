"""accelerate: the configurations of several machines, the layer class that FSDP wraps, FP8 on GPUs without it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from diag.diagnose.plans.case import Case, judged, named_file, where
from diag.diagnose.plans.models import facts_of_model
from diag.diagnose.plans.settings import integer, setting_of, text_of
from diag.model import Finding, Status
from diag.model.launch import Service

KIND = "accelerate"
ALIKE = (
    # what every machine's configuration has to say alike
    ("nnodes", "num_machines"),
    ("num-processes", "num_processes"),
    ("main-process-ip", "main_process_ip"),
    ("main-process-port", "main_process_port"),
    ("rdzv-backend", "rdzv_backend"),
    ("distributed-type", "distributed_type"),
    ("mixed-precision", "mixed_precision"),
)
LAYERS = {
    # model_type -> the class of its layers in transformers (modeling_*.py)
    "llama": "LlamaDecoderLayer",
    "mistral": "MistralDecoderLayer",
    "mixtral": "MixtralDecoderLayer",
    "qwen2": "Qwen2DecoderLayer",
    "qwen2_moe": "Qwen2MoeDecoderLayer",
    "qwen3": "Qwen3DecoderLayer",
    "qwen3_moe": "Qwen3MoeDecoderLayer",
    "gemma": "GemmaDecoderLayer",
    "gemma2": "Gemma2DecoderLayer",
    "gemma3": "Gemma3DecoderLayer",
    "phi": "PhiDecoderLayer",
    "phi3": "Phi3DecoderLayer",
    "gpt2": "GPT2Block",
    "gptj": "GPTJBlock",
    "gpt_neox": "GPTNeoXLayer",
    "gpt_bigcode": "GPTBigCodeBlock",
    "falcon": "FalconDecoderLayer",
    "opt": "OPTDecoderLayer",
    "bloom": "BloomBlock",
    "olmo": "OlmoDecoderLayer",
    "olmo2": "Olmo2DecoderLayer",
    "starcoder2": "Starcoder2DecoderLayer",
    "cohere": "CohereDecoderLayer",
    "granite": "GraniteDecoderLayer",
    "deepseek_v3": "DeepseekV3DecoderLayer",
}
WRAPPED = (
    "fsdp-config.fsdp-transformer-layer-cls-to-wrap",
    "fsdp-config.transformer-layer-cls-to-wrap",
    "fsdp-transformer-layer-cls-to-wrap",
)
MODEL = (
    "script.model-name-or-path",
    "script.model-name",
    "script.pretrained-model-name-or-path",
    "script.base-model",
    "script.model-path",
    "script.model-id",
    "script.model",
)
"""What training scripts call the model that they start from."""


def launch_of(cases: Sequence[Case]) -> Iterator[tuple[Case, Service, Service | None]]:
    """(case, the launcher's line with its configuration's settings, the configuration) of every accelerate launch."""
    for case in cases:
        for service in case.services:
            if service.framework == KIND and case.plan.kind != KIND:
                config = named_file(cases, text_of(service, "config-file"), KIND)
                options = {**(config.options if config is not None else {}), **service.options}
                yield case, replace(service, options=options), config


def judge_wrapped_class(cases: Sequence[Case]) -> Iterator[Finding]:
    """FSDP's layer class against the model that the script is given."""
    for _, service, _ in launch_of(cases):
        setting, facts = setting_of(service, *WRAPPED), facts_of_model(text_of(service, *MODEL))
        right = LAYERS.get(facts.family) if facts.certain else None
        if setting is None or right is None:
            continue
        foreign = [
            each
            for each in re.split(r"[\s,]+", str(setting.value))
            if each in LAYERS.values() and each != right
        ]
        if foreign:
            yield judged(
                "invalid-launch-argument",
                service,
                Status.FAIL,
                f"FSDP is to wrap {foreign[0]}, but {facts.name} is made of {right}; accelerate stops when it does not find the class in the model",
                setting=setting,
                do=f"Write {right}",
                settings={setting.key: right},
            )


def judge_machines(cases: Sequence[Case]) -> Iterator[Finding]:
    """The configurations of one launch's machines: files of one folder whose names differ in a number."""
    groups: dict[str, list[Service]] = defaultdict(list)
    for case in cases:
        if case.plan.kind == KIND and case.plan.services and (case.plan.nodes or 1) > 1:
            groups[re.sub(r"\d+", "#", case.plan.source)].append(case.plan.services[0])
    for files in groups.values():
        group = sorted(files, key=lambda each: integer(each, "node-rank") or 0)
        nodes = max(integer(each, "nnodes") or 1 for each in group)
        ranks = [integer(each, "node-rank") for each in group]
        if len(group) != nodes or None in ranks:
            continue
        for name, key in ALIKE:
            said = [text_of(each, name) for each in group]
            if len(set(said)) > 1:
                odd = next(each for each, value in zip(group, said, strict=True) if value != said[0])
                listed = ", ".join(f"machine {rank}: {value}" for rank, value in enumerate(said))
                yield judged(
                    "launcher-layout",
                    odd,
                    Status.FAIL,
                    f"the machines' configurations disagree on {key}: {listed}"
                    + ("; it counts the ranks of all machines" if name == "num-processes" else ""),
                    setting=where(odd, name),
                    do=f"Write the same {key} for all machines ({said[0]} for machine 0)",
                    settings={name: said[0]},
                )
        if len(set(ranks)) < len(ranks):
            odd = group[-1]
            yield judged(
                "launcher-layout",
                odd,
                Status.FAIL,
                f"machine_rank {integer(odd, 'node-rank')} stands in the configurations of two of {nodes} machines",
                setting=where(odd, "node-rank"),
                do="Number the machines from 0 without gaps",
            )


def judge_fp8(case: Case) -> Iterator[Finding]:
    """Training in FP8 on GPUs whose tensor cores do not have it."""
    if case.spec is None or case.spec.fp8 or case.spec.capability is None:
        return
    for service in case.services:
        if service.role != "trainer":
            continue
        setting = setting_of(service, "script.fp8-format", "script.fp8-recipe", "script.fp8-hybrid")
        asked = setting_of(service, "mixed-precision")
        if asked is not None and str(asked.value).lower() == "fp8":
            setting = asked
        if setting is None or str(setting.value).lower() in ("none", "false"):
            continue
        yield judged(
            "dtype-unsupported",
            service,
            Status.FAIL,
            f"{service.name}: training in FP8 ({setting.key}) needs compute capability 8.9 (Ada, Hopper) or later; {case.spec.name} has {case.spec.capability}",
            setting=setting,
            do="Use bf16",
            settings={"mixed-precision": "bf16"} if setting is asked else {},
        )


JUDGES = (judge_fp8,)
TOGETHER = (judge_machines, judge_wrapped_class)
