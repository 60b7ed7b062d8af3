"""Servers, nodes and releases of one launch against each other: each fault found, its healthy form silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from diag.diagnose.plans import check_plans, parse_gpus
from diag.model import Finding, Status
from diag.observe.plans.reading import read_plan_text

SGLANG = "python3 -m sglang.launch_server --model-path Qwen/Qwen2.5-72B-Instruct --tp 4 --host 127.0.0.1 --mem-fraction-static 0.85 "
PREFILL = (
    SGLANG
    + "--disaggregation-mode prefill --disaggregation-transfer-backend nixl --base-gpu-id 0 --port 30000"
)
DECODE = (
    SGLANG
    + "--disaggregation-mode decode --disaggregation-transfer-backend nixl --base-gpu-id 4 --port 30001"
)
ROUTER = (
    "python3 -m sglang_router.launch_router --pd-disaggregation --prefill http://127.0.0.1:30000 8998 "
    "--decode http://127.0.0.1:30001 --host 0.0.0.0 --port 8000"
)
DYNAMO = "python3 -m dynamo.vllm --model Qwen/Qwen3-8B --max-model-len 16384 "


def _wrong(gpus: str, nodes: int, *scripts: str) -> list[Finding]:
    plans = [
        read_plan_text(f"#!/bin/bash\n{text}\n", f"part{number}.sh") for number, text in enumerate(scripts)
    ]
    hardware = parse_gpus(gpus, nodes)
    return [each for each in check_plans(plans, hardware) if each.status is Status.FAIL]


def _causes(gpus: str, nodes: int, *scripts: str) -> set[str]:
    return {str(each.data["cause"]) for each in _wrong(gpus, nodes, *scripts)}


def test_a_router_and_its_servers_that_fit_each_other() -> None:
    assert _causes("8xH100", 1, PREFILL, DECODE, ROUTER) == set()


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("--disaggregation-mode decode ", "", "disagg-prefill-not-enabled"),
        ("--decode http://127.0.0.1:30001", "--decode http://127.0.0.1:30002", "network-unreachable"),
        ("--base-gpu-id 4", "--base-gpu-id 0", "gpu-memory-in-use"),
        ("--port 30000", "--port 30000 --disaggregation-bootstrap-port 9000", "kv-transfer-hang"),
    ],
)
def test_what_does_not_fit_is_named(old: str, new: str, cause: str) -> None:
    scripts = [each.replace(old, new) for each in (PREFILL, DECODE, ROUTER)]
    assert cause in _causes("8xH100", 1, *scripts)


def test_a_router_takes_no_gpu() -> None:
    disagg = "CUDA_VISIBLE_DEVICES={0} trtllm-serve meta-llama/Llama-3.1-8B-Instruct --backend pytorch --port 800{0} &"
    script = f"{disagg.format(0)}\n{disagg.format(1)}\ntrtllm-serve disaggregated -c disagg.yml"
    assert "gpu-count-exceeded" not in _causes("2xH100", 1, script)


HEAD = (
    "export ETCD_ENDPOINTS=http://10.2.0.5:2379 NATS_SERVER=nats://10.2.0.5:4222\n"
    + DYNAMO
    + "--is-decode-worker"
)


@pytest.mark.parametrize(
    ("lines", "causes"),
    [
        ("export ETCD_ENDPOINTS=http://10.2.0.5:2379", set()),
        ("export ETCD_ENDPOINTS=http://localhost:2379", {"control-plane-unreachable"}),
        ("export UCX_NET_DEVICES=lo", {"ucx-wrong-interface"}),
        ("export UCX_NET_DEVICES=mlx5_0:1", set()),
        ("export UCX_TLS=tcp,self,sm", {"kv-transport-unsupported"}),
        ("export UCX_TLS=tcp,sm,cuda_copy", set()),
        ("export UCX_TLS=all", set()),
    ],
)
def test_what_a_second_node_must_reach(lines: str, causes: set[str]) -> None:
    second = f"{lines}\n{DYNAMO} --is-prefill-worker"
    assert _causes("8xH100", 2, HEAD, second) & {
        "control-plane-unreachable", "ucx-wrong-interface", "kv-transport-unsupported",
    } == causes  # fmt: skip


@pytest.mark.parametrize(("start", "causes"), [(8, set()), (1, {"launcher-layout"})])
def test_data_parallel_ranks_of_two_nodes(start: int, causes: set[str]) -> None:
    serve = (
        "vllm serve deepseek-ai/DeepSeek-V3-0324 --max-model-len 16384 --enable-expert-parallel --data-parallel-size 16 "
        "--data-parallel-size-local 8 --data-parallel-address 10.0.8.21 --data-parallel-rpc-port 13345"
    )
    second = f"{serve} --headless --data-parallel-start-rank {start}"
    assert _causes("8xH200", 2, serve, second) & {"launcher-layout"} == causes


VLLM = "vllm serve Qwen/Qwen2.5-7B-Instruct --max-model-len 16384 "


@pytest.mark.parametrize(
    ("script", "causes"),
    [
        ("# vllm 0.6.6\n" + VLLM + "--max-num-batched-tokens 4096", {"invalid-launch-argument"}),
        ("# vllm 0.6.6\n" + VLLM + "--max-num-batched-tokens 16384", set()),
        ("pip install vllm==0.11.0\n" + VLLM + "--max-num-batched-tokens 4096", set()),
        (VLLM + "--enable-lora --max-lora-rank 48", {"invalid-launch-argument"}),
        (VLLM + "--enable-lora --max-lora-rank 64", set()),
        ("# vllm 0.8.5\nexport CUDA_VISIBLE_DEVICES=MIG-8f7a3b52-1d8e\n" + VLLM, {"device-uuid-unsupported"}),
        ("# vllm 0.11.0\nexport CUDA_VISIBLE_DEVICES=MIG-8f7a3b52-1d8e\n" + VLLM, set()),
        (VLLM.replace("16384", "131072"), {"invalid-launch-argument"}),
        ("vllm serve Qwen/Qwen2.5-7B-Instruct-AWQ --max-model-len 8192 --quantization awq --dtype bfloat16", {"quantization-unsupported"}),
        ("vllm serve Qwen/Qwen2.5-7B-Instruct-AWQ --max-model-len 8192 --quantization awq --dtype half", set()),
        ("pip install ai-dynamo[vllm]==1.6.1\n" + DYNAMO + "--is-prefill-worker", {"invalid-launch-argument"}),
        ("pip install ai-dynamo[vllm]==0.8.0\n" + DYNAMO + "--is-prefill-worker", set()),
        ("# dynamo 1.6.1\n" + DYNAMO + "--disaggregation-mode prefill", {"invalid-launch-argument"}),
    ],
)  # fmt: skip
def test_what_only_some_releases_take(script: str, causes: set[str]) -> None:
    assert _causes("8xH100", 1, script) == causes


def test_sglang_workers_of_a_graph_that_do_not_both_say_their_side() -> None:
    worker = "SGLang{0}Worker:\n  model-path: Qwen/Qwen2.5-7B-Instruct\n  tp: 1\n{1}  ServiceArgs: {{workers: 1, resources: {{gpu: 1}}}}\n"
    both = worker.format("", "  disaggregation-mode: prefill\n") + worker.format(
        "Decode", "  disaggregation-mode: decode\n"
    )
    for text, causes in (
        (both, set()),
        (both.replace("  disaggregation-mode: decode\n", ""), {"disagg-prefill-not-enabled"}),
    ):
        found = check_plans([read_plan_text(text, "disagg.yaml")], parse_gpus("2xH100", 1))
        assert {str(each.data["cause"]) for each in found if each.status is Status.FAIL} == causes


def test_a_graph_whose_gpu_is_a_number_is_refused(tmp_path: Path) -> None:
    graph = (
        "apiVersion: nvidia.com/v1alpha1\nkind: DynamoGraphDeployment\nmetadata: {name: agg}\nspec:\n  services:\n    VllmWorker:\n"
        "      componentType: worker\n      replicas: 1\n      resources:\n        limits:\n          gpu: SIZE\n      extraPodSpec:\n"
        "        mainContainer:\n          image: nvcr.io/nvidia/ai-dynamo/vllm-runtime:0.6.1\n          command: [python3, -m, dynamo.vllm]\n"
        "          args: [--model, Qwen/Qwen3-8B, --max-model-len, '8192']\n"
    )
    for size, causes in (("'1'", set()), ("1", {"invalid-launch-argument"})):
        found = check_plans(
            [read_plan_text(graph.replace("SIZE", size), "agg.yaml")], parse_gpus("8xH100", 1)
        )
        assert {str(each.data["cause"]) for each in found if each.status is Status.FAIL} == causes
