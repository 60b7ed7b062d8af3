"""Faults as people make them in launch plans: named with the right cause, and gone after the correction."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diag.diagnose.plans import check_plans, facts_of_folder, parse_gpus
from diag.diagnose.plans.correcting import correct_text
from diag.model import Finding, Status
from diag.observe.plans import read_plan_text, read_plans
from diag.observe.plans.shell_words import commands

ROOT = Path(__file__).parents[2]


def _seeds() -> tuple[Any, ...]:
    """The benchmark's own plans; benchmarks import each other by name, as scripts do."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return tuple(importlib.import_module("plan_fault_seeds").SEEDS)
    finally:
        sys.path.pop(0)


SEEDS = _seeds()
UNKNOWABLE = {
    "length beyond the model": "the model's positions are scaled, so nobody knows the limit without its files",
    "group of 4 for TP 16": "a cluster too small for the group is named instead",
}
NOT_CORRECTED = {
    # what only the user can know, or what no change of the plan cures
    *("no master address", "group of 4 for TP 16", "TP that does not divide"),
}


def wrong(text: str, path: str, gpus: str, nodes: int = 1) -> list[Finding]:
    hardware = replace(parse_gpus(gpus), nodes=nodes)
    found = check_plans([read_plan_text(text, path)], hardware)
    return [finding for finding in found if finding.status in (Status.FAIL, Status.WARN)]


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.path)
def test_sound_plans_are_accused_of_nothing(seed: Any) -> None:
    assert not wrong(seed.text, seed.path, seed.gpus, seed.nodes)


CASES = [
    pytest.param(seed, old, new, causes, id=f"{seed.path}: {name}")
    for seed in SEEDS
    for name, old, new, causes in seed.faults
    if name not in UNKNOWABLE
]


@pytest.mark.parametrize(("seed", "old", "new", "causes"), CASES)
def test_every_fault_is_named_rightly(seed: Any, old: str, new: str, causes: str) -> None:
    broken = seed.text.replace(old, new, 1)

    found = wrong(broken, seed.path, seed.gpus, seed.nodes)

    assert {str(each.data["cause"]) for each in found} & set(causes.split()), [each.summary for each in found]


CORRECTED = [
    pytest.param(seed, old, new, id=f"{seed.path}: {name}")
    for seed in SEEDS
    for name, old, new, _ in seed.faults
    if name not in NOT_CORRECTED
]


@pytest.mark.parametrize(("seed", "old", "new"), CORRECTED)
def test_what_is_corrected_is_accused_of_nothing_more(seed: Any, old: str, new: str) -> None:
    hardware = replace(parse_gpus(seed.gpus), nodes=seed.nodes)
    correction = correct_text(seed.text.replace(old, new, 1), seed.path, hardware)

    if correction.diff:
        assert not wrong(correction.new_text, seed.path, seed.gpus, seed.nodes)


LINE = "#!/bin/bash\n{}vllm serve Qwen/Qwen2.5-7B-Instruct --port 8000 {}\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("–max-model-len 4096", "typographic dash"),
        ("-max-model-len 4096", "one hyphen"),
        ("--enforce-eager true", "is a switch"),
        ("--enforce-eager=true", "is a switch"),
        ("--mem-fraction-static 0.8", "is an option of SGLang; vLLM calls it --gpu-memory-utilization"),
        ("--dtype fp16", "did you mean float16?"),
        ("--kv-cache-dtype fp7", "is no value that vllm knows"),
        ("--block-size 20", "no multiple of 16"),
        ("--max-num-seqs 512 --max-num-batched-tokens 64", "below max-num-seqs"),
        ("\\\n  --dtype auto \\ \n  --max-model-len 4096", "blank behind the backslash"),
        ("\\\n  --dtype auto\n  --max-model-len 4096", "no backslash"),
    ],
)
def test_words_of_a_command_line(options: str, said: str) -> None:
    text = LINE.format("", options)
    found = wrong(text, "x.sh", "8xH100")

    assert len(found) == 1
    assert said in found[0].summary
    correction = correct_text(text, "x.sh", parse_gpus("8xH100"))
    assert correction.diff
    assert not correction.remaining


def test_a_value_that_only_newer_versions_may_have_is_a_note() -> None:
    text = "#!/bin/bash\npython3 -m sglang.launch_server --model-path x/y-7B --attention-backend brandnew\n"

    assert not wrong(text, "x.sh", "8xH100")


def test_functions_for_one_port_and_a_kill_between_are_alternatives() -> None:
    start = "vllm serve x/y-7B --port 8000 &\n"
    functions = f"#!/bin/bash\na() {{\n{start}}}\nb() {{\n{start}}}\na\n"
    killed = f"#!/bin/bash\n{start}kill $!\n{start}"

    assert not wrong(functions, "x.sh", "8xH100")
    assert not wrong(killed, "x.sh", "8xH100")
    assert wrong(f"#!/bin/bash\n{start}{start}", "x.sh", "8xH100")


def test_case_patterns_are_no_lost_options() -> None:
    text = '#!/bin/bash\nvllm serve x/y-7B\ncase "$1" in\n  --port) shift;;\n  --tp|--dp) shift;;\nesac\n'

    assert not wrong(text, "x.sh", "8xH100")


def test_programs_and_options_in_variables_are_followed() -> None:
    text = '#!/bin/bash\nBIN=vllm\nCMD="$BIN serve x/y-7B"\nCMD+=" --tensor-parallel-size 16"\neval "$CMD --port 8001"\n'
    words = [word.text for word in list(commands(text))[-1].words]

    assert words == ["vllm", "serve", "x/y-7B", "--tensor-parallel-size", "16", "--port", "8001"]
    assert [each.data["cause"] for each in wrong(text, "x.sh", "8xH100")] == ["gpu-count-exceeded"]


def test_a_file_written_by_the_script_belongs_to_the_engine_that_names_it() -> None:
    text = (
        "#!/bin/bash\ncat <<EOF > /tmp/engine.yaml\ntensor_parallel_size: 16\nkv_cache_config:\n  free_gpu_mem_fraction: 0.8\n"
        "EOF\ntrtllm-serve meta-llama/Llama-3.1-8B-Instruct --extra_llm_api_options /tmp/engine.yaml\n"
    )
    found = wrong(text, "x.sh", "8xH100")

    assert {each.data["cause"] for each in found} == {"gpu-count-exceeded", "invalid-launch-argument"}
    new = correct_text(text, "x.sh", parse_gpus("8xH100")).new_text
    assert "free_gpu_memory_fraction: 0.8" in new


def test_a_chart_is_one_sentence(tmp_path: Path) -> None:
    chart = tmp_path / "chart"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: c\nversion: 0.1.0\n")
    for name in ("a.yaml", "b.yaml"):
        (chart / "templates" / name).write_text(
            "apiVersion: apps/v1\nkind: Deployment\nspec:\n  replicas: {{ .Values.n }}\n  {{- if .Values.x }}\n  y: 1\n  {{- end }}\n"
        )

    _, errors = read_plans([str(tmp_path)])

    assert [error.code for error in errors] == ["yaml-templated"]
    assert "2 templates" in str(errors[0])


CONFIG = '{"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256}'


@pytest.mark.parametrize(("algorithm", "method", "bits"), [("NVFP4", "nvfp4", 4), ("FP8", "modelopt", 8)])
def test_modelopts_own_file_tells_the_quantization(
    tmp_path: Path, algorithm: str, method: str, bits: int
) -> None:
    (tmp_path / "config.json").write_text(CONFIG)
    (tmp_path / "hf_quant_config.json").write_text(
        f'{{"producer": {{"name": "modelopt"}}, "quantization": {{"quant_algo": "{algorithm}", "group_size": 16, "exclude_modules": ["lm_head"]}}}}'
    )
    facts = facts_of_folder(str(tmp_path))

    assert (facts.method, facts.bits) == (method, bits)


SGLANG = (
    "docker run --gpus all --ipc=host lmsysorg/sglang:v{} python3 -m sglang.launch_server "
    "--model-path Qwen/Qwen3-8B --tp 2 {}\n"
)


@pytest.mark.parametrize(
    ("version", "options", "said"),
    [
        ("0.5.23", "--attn-dp-size 2 --moe-a2a-backend megamoe --kv-cache-dtype nvfp4", ""),
        ("0.5.23", "--tensor-parallel-size 2 --nccl-init-addr 10.0.0.1:5000", ""),
        ("0.5.9", "--cuda-graph-max-bs 64", ""),
        ("0.5.23", "--cuda-graph-max-bs 64", "no longer has --cuda-graph-max-bs"),
        ("0.5.9", "--attn-dp-size 2", "does not have --attn-dp-size yet"),
        ("0.5.23", "--moe-a2a-backend megamo", "megamoe"),
    ],
)
def test_options_of_sglang_by_version(version: str, options: str, said: str) -> None:
    found = wrong(SGLANG.format(version, options), "x.sh", "8xH200")

    assert bool(found) == bool(said)
    assert not found or said in found[0].summary


TWO_ON_ONE = """services:
  chat:
    image: vllm/vllm-openai:v0.10.1
    command: --model Qwen/Qwen3-8B --tensor-parallel-size 2 --gpu-memory-utilization 0.6 --max-model-len 8192
    deploy: {{resources: {{reservations: {{devices: [{{driver: nvidia, device_ids: ["0", "1"], capabilities: [gpu]}}]}}}}}}
  embed:
    image: vllm/vllm-openai:v0.10.1
    command: --model Qwen/Qwen3-0.6B --gpu-memory-utilization 0.2 --max-model-len 8192
    deploy: {{resources: {{reservations: {{devices: [{{driver: nvidia, device_ids: ["{0}"], capabilities: [gpu]}}]}}}}}}
"""


@pytest.mark.parametrize(("device", "accused"), [("1", False), ("2", True)])
def test_services_that_share_a_device_by_name_count_it_once(device: str, accused: bool) -> None:
    found = wrong(TWO_ON_ONE.format(device), "compose.yaml", "2xL40S")

    assert any("GPUs wanted" in one.summary for one in found) == accused


@pytest.mark.parametrize(
    ("device", "shares", "said"),
    [
        ("1", ("0.6", "0.2"), ""),
        ("1", ("0.9", "0.9"), "share GPU 1 and take 0.9 + 0.9"),
        ("0", ("0.6", "0.5"), "share GPU 0 and take 0.6 + 0.5"),
        ("1,2", ("0.6", "0.2"), "4 GPUs wanted"),  # three devices by name on a node of two
    ],
)
def test_a_device_shared_by_name_has_room_for_all_shares(
    device: str, shares: tuple[str, str], said: str
) -> None:
    text = TWO_ON_ONE.format(device.replace(",", '", "')).replace("    command", "    ipc: host\n    command")
    text = text.replace("utilization 0.6", f"utilization {shares[0]}").replace(
        "utilization 0.2", f"utilization {shares[1]}"
    )
    found = [one.summary for one in wrong(text, "compose.yaml", "2xL40S")]

    assert bool(found) == bool(said), found
    assert any(said in one for one in found) or not said


@pytest.mark.parametrize(("name", "accused"), [("DeepSeek-V3-bf16", False), ("DeepSeek-V3", True)])
def test_a_copy_in_16_bit_has_no_fp8_blocks(name: str, accused: bool) -> None:
    command = f"python -m sglang.launch_server --model-path /models/{name} --tp 32 --nnodes 4 --node-rank 0 --dist-init-addr 10.0.0.1:5000"
    found = wrong(command, "x.sh", "8xH100", nodes=4)

    assert any("FP8 block" in one.summary for one in found) == accused
