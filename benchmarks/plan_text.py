"""What plan texts say, read with plain expressions and without diag's own readers: for the mutations of real plans."""

from __future__ import annotations

import re

from diag.diagnose.plans.models import size_of_name

TP = r"(--?(?:tensor[-_]parallel[-_]size|tp[-_]size|tp)(?:[= ]+[\"']?|[\"']?,?[ \t]*\n\s*-\s*[\"']?|[\"']\s*,\s*[\"']))(\d+)\b"
"""A tensor-parallel size on a command line: as words, with `=`, or as two items of a YAML list."""


def plain_lines(text: str) -> str:
    """The text with comment lines blanked, places kept, so that nothing is broken inside a comment."""
    return re.sub(r"(?m)^\s*#(?!SBATCH|!).*$", lambda match: " " * len(match.group()), text)


ENGINE = re.compile(
    r"vllm serve|vllm\.entrypoints|sglang\.launch_server|dynamo\.(?:vllm|sglang|trtllm)\b|trtllm-serve|\bserve\b[\s\S]{0,40}--|vllm-openai"
)
ELSEWHERE = re.compile(
    r"extra.engine.args|extra_llm_api|--config\b|trtllm-config|Neuron|neuron|TPU|tpu|npu|Ascend|ascend|xpu"
)
"""Sizes in files that stand above the command line; accelerators that are no GPUs."""


def launches(text: str) -> bool:
    """True for a plan that starts an engine itself, with all its options in sight."""
    plain = plain_lines(text)
    return bool(ENGINE.search(plain)) and not ELSEWHERE.search(plain) and "megatron" not in text.lower()


def in_command(text: str, match: re.Match[str]) -> bool:
    """False for a match inside an assignment, a message, or another program's arguments."""
    line = text[text.rfind("\n", 0, match.start()) + 1 : match.end()]
    return (
        not re.match(r"\s*(?:export\s+)?\w+\+?=|\s*(?:echo|printf|local|#)", line)
        and "huggingfaceserver" not in text
    )


def one_service(text: str) -> bool:
    """True where exactly one place sets a tensor-parallel size."""
    return len(re.findall(TP, plain_lines(text))) == 1


def billions(text: str) -> float:
    """Parameters of the largest model that the text names, 0 if none says."""
    named = r"(?:--model(?:-path)?[=\s\"',-]+|serve\s+[\"']?|MODEL\w*=[\"']?|value:\s*[\"']?)([\w.-]+/[\w.-]*\d+(?:\.\d+)?[bB][\w.-]*)"
    names = re.findall(named, plain_lines(text))
    return max(
        (size / 1e9 for name in names if (size := size_of_name(name.lower().split("/")[-1]))), default=0.0
    )


def width(text: str) -> float:
    """Bytes of a weight, by the names' own words."""
    lowered = text.lower()
    if re.search(r"fp4|int4|awq|gptq|w4a16|4bit|kimi-k2\.|gpt-oss", lowered):
        return 0.55
    return 1.0 if re.search(r"fp8|w8a8|int8|deepseek-(?:r1|v3)", lowered) else 2.0
