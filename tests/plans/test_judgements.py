"""Judgements that need no real plan to be shown: one wrong line, one right line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diag.diagnose.plans import check_plans, facts_of_folder, parse_gpus
from diag.model import Finding, Status
from diag.model.launch import Hardware
from diag.observe.plans import read_plan_text


def wrong(text: str, gpus: str | Hardware = "8xH200") -> list[Finding]:
    hardware = parse_gpus(gpus) if isinstance(gpus, str) else gpus
    findings = check_plans([read_plan_text(text + "\n", "a.sh")], hardware)
    return [finding for finding in findings if finding.status in (Status.FAIL, Status.WARN)]


NODES = "python3 -m sglang.launch_server --model-path Qwen/Qwen3-32B --tp 16 --nnodes 2 --node-rank 0 --dist-init-addr "
SERVE = "vllm serve Qwen/Qwen3-8B"


@pytest.mark.parametrize(
    ("bad", "good", "cause", "said"),
    [
        (
            "vllm serve Qwen/Qwen3-235B-A22B-FP8 --tensor-parallel-size 8",
            "vllm serve Qwen/Qwen3-235B-A22B-FP8 --tensor-parallel-size 8 --enable-expert-parallel",
            "quantization-unsupported",
            "1536 ÷ TP 8 = 192 is no multiple of the FP8 block of 128; TP sizes that work: 1, 2, 4",
        ),
        (NODES + "fd00::12:20000", NODES + "[fd00::12]:20000", "host-ip-wrong", "without brackets"),
        (
            f"NCCL_SOCKET_IFNAM=eth0 {SERVE}",
            f"NCCL_SOCKET_IFNAME=eth0 {SERVE}",
            "invalid-launch-argument",
            "did you mean NCCL_SOCKET_IFNAME?",
        ),
        (
            f"NCCL_IB_DISABLE=1 NCCL_IB_HCA=mlx5_0 {SERVE}",
            f"NCCL_IB_HCA=mlx5_0 {SERVE}",
            "invalid-launch-argument",
            "switches off what NCCL_IB_HCA sets",
        ),
        (
            "vllm serve Qwen/Qwen2.5-7B-Instruct --tensor-parallel-size 8",
            "vllm serve Qwen/Qwen2.5-7B-Instruct --tensor-parallel-size 4",
            "tp-not-divisible",
            "legal sizes: 1, 2, 4",
        ),
        (
            "vllm serve microsoft/phi-4 --tensor-parallel-size 4",
            "vllm serve microsoft/phi-4 --tensor-parallel-size 2",
            "tp-not-divisible",
            "KV heads",
        ),
    ],
)
def test_a_slip_is_named_and_its_right_form_is_not(bad: str, good: str, cause: str, said: str) -> None:
    found = [finding for finding in wrong(bad) if finding.data["cause"] == cause]

    assert found
    assert any(said in finding.summary for finding in found), [finding.summary for finding in found]
    assert not [finding.summary for finding in wrong(good) if finding.data["cause"] == cause]


@pytest.mark.parametrize(
    ("driver", "eager", "told"),
    [("550.90.07", "", True), ("550.90.07", " --enforce-eager", False), ("550.127.05", "", False)],
)
def test_a_driver_that_hangs_in_capture_is_told_on_several_nodes(driver: str, eager: str, told: bool) -> None:
    line = f"vllm serve Qwen/Qwen3-32B --tensor-parallel-size 16 --nnodes 2 --node-rank 0 --master-addr 10.0.0.1{eager}"
    found = wrong(line, Hardware("H100", 8, 2, 79 << 30, driver, "report:x"))

    assert ("driver-cudagraph-bug" in {finding.data["cause"] for finding in found}) is told


def test_a_context_above_the_models_own_is_told(tmp_path: Path) -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = facts_of_folder(str(tmp_path))
    for length, told in ((8192, False), (16384, True)):
        plan = read_plan_text(f"vllm serve /models/m --max-model-len {length}\n", "a.sh")
        findings = check_plans([plan], parse_gpus("8xH100"), model)
        assert any("vLLM refuses it" in finding.summary for finding in findings) is told


def test_one_address_in_the_files_of_two_nodes_is_told() -> None:
    line = "export VLLM_HOST_IP={ip}\nvllm serve Qwen/Qwen3-32B --tensor-parallel-size 16 --nnodes 2 --node-rank {rank} --master-addr 10.0.0.1\n"
    first = read_plan_text(line.format(ip="10.0.0.1", rank=0), "a.sh")
    for ip, told in (("10.0.0.1", True), ("10.0.0.2", False)):
        findings = check_plans(
            [first, read_plan_text(line.format(ip=ip, rank=1), "b.sh")], parse_gpus("8xH100")
        )
        assert any("in a.sh and in b.sh" in finding.summary for finding in findings) is told


def test_connectors_inside_another_are_seen() -> None:
    line = "vllm serve Qwen/Qwen3-8B --port {port} --kv-transfer-config '{config}' &\n"
    multi = '{"kv_connector":"MultiConnector","kv_connector_extra_config":{"connectors":[{"kv_connector":"NixlConnector"}]}}'
    plan = read_plan_text(
        line.format(port=1, config=multi) + line.format(port=2, config='{"kv_connector":"NixlConnector"}'),
        "a.sh",
    )

    assert not [
        each
        for each in check_plans([plan], parse_gpus("8xH100"))
        if each.data.get("cause") == "tp-mismatch-disagg"
    ]
