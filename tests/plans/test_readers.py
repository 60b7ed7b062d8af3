"""Every format: what is read, with its places; that the healthy plan is silent; that each mutation of it is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from diag.diagnose.plans import check_plans, parse_gpus
from diag.diagnose.plans.correcting import correct_text
from diag.model import Finding, Status
from diag.observe.plans import (
    is_plan,
    plan_from_arguments,
    plan_from_engine_args,
    plan_from_mapping,
    read_plan,
    read_plan_text,
)
from diag.observe.plans.discovery import readers

PLANS = Path(__file__).parents[2] / "fixtures" / "plans"
HEALTHY = [
    "dgd/disagg_v1beta1.yaml",
    "dgd/disagg_v1alpha1.yaml",
    "kubernetes/deployment.yaml",
    "kubernetes/lws.yaml",
    "shell/sglang_two_nodes.sh",
    "shell/vllm_docker.sh",
    "shell/two_servers.sh",
    "compose/vllm.yaml",
    "slurm/torchrun.sbatch",
    "config/vllm.yaml",
    "config/trtllm_disagg.yaml",
    "config/accelerate.yaml",
    "config/hostfile",
]
DOCKER, DEPLOY, TWO, SGLANG, V1ALPHA1, V1BETA1, LWS, SBATCH, COMPOSE, CONFIG, ACCELERATE = (
    "shell/vllm_docker.sh",
    "kubernetes/deployment.yaml",
    "shell/two_servers.sh",
    "shell/sglang_two_nodes.sh",
    "dgd/disagg_v1alpha1.yaml",
    "dgd/disagg_v1beta1.yaml",
    "kubernetes/lws.yaml",
    "slurm/torchrun.sbatch",
    "compose/vllm.yaml",
    "config/vllm.yaml",
    "config/accelerate.yaml",
)
MUTATIONS = [
    # file, GPUs, what is changed into what, the cause that must be named
    (DOCKER, "8xH100", " --tensor-parallel-size 4", "", "gpu-oom-weights"),
    (DOCKER, "8xH100", "parallel-size 4", "parallel-size 16", "gpu-count-exceeded"),
    (DOCKER, "8xH100", "parallel-size 4", "parallel-size 3", "tp-not-divisible"),
    (
        DOCKER,
        "8xH100",
        "--max-model-len 16384",
        "--max-model-len 16384 --gpu-memory-utilization 0.5",
        "gpu-oom-kv-cache",
    ),
    (DOCKER, "8xH100", "--max-model-len", "--max-modle-len", "invalid-launch-argument"),
    (DOCKER, "8xH100", "--ipc=host ", "", "shm-too-small"),
    (DOCKER, "8xT4", "--max-model-len 16384", "--max-model-len 16384 --dtype bfloat16", "dtype-unsupported"),
    (
        DOCKER,
        "8xV100-32GB",
        "--max-model-len 16384",
        "--max-model-len 16384 --quantization fp8",
        "quantization-unsupported",
    ),
    (
        DOCKER,
        "8xH100",
        "Qwen/Qwen2.5-72B-Instruct",
        "Qwen/Qwen2.5-72B-Instruct --disable-log-requets",
        "invalid-launch-argument",
    ),
    (DOCKER, "8xH100", "vllm-openai:v0.9.2", "vllm-openai:v0.19.0", None),
    (DEPLOY, "8xH100", "size=4", "size=8", "gpu-count-exceeded"),
    (DEPLOY, "8xH100", "        - --tensor-parallel-size=4\n", "", "gpu-oom-weights"),
    (DEPLOY, "8xL4", "8192", "8192", "gpu-oom-weights"),
    (DEPLOY, "8xH100", "initialDelaySeconds: 900", "initialDelaySeconds: 10", "probe-killed"),
    (DEPLOY, "8xH100", "mountPath: /dev/shm", "mountPath: /cache", "shm-too-small"),
    (DEPLOY, "8xH100", 'nvidia.com/gpu: "4"', 'nvidia.com/gpu: "16"', "gpu-count-exceeded"),
    (
        DEPLOY,
        "8xH100",
        "--max-model-len=8192",
        "--max-model-len=8192\n        - --async-scheduling",
        "invalid-launch-argument",
    ),
    (TWO, "8xH100", "--port 8200", "--port 8100", "port-in-use"),
    (TWO, "8xH100", "CUDA_VISIBLE_DEVICES=1", "CUDA_VISIBLE_DEVICES=0", "gpu-memory-in-use"),
    (TWO, "1xH100", "x", "x", "gpu-count-exceeded"),
    (
        TWO,
        "8xH100",
        "VLLM_NIXL_SIDE_CHANNEL_PORT=5601",
        "VLLM_NIXL_SIDE_CHANNEL_PRT=5601",
        "invalid-launch-argument",
    ),
    (SGLANG, "8xH100", "HEAD=10.0.4.11", "HEAD=127.0.0.1", "host-ip-wrong"),
    (SGLANG, "8xH100", "--node-rank 1", "--node-rank 2", "launcher-layout"),
    (SGLANG, "8xH100", "--node-rank 1", "--node-rank 0", "launcher-layout"),
    (
        SGLANG,
        "8xH100",
        "--tp 16 --dist-init-addr $HEAD:20000 \\\n    --nnodes 2 --node-rank 1",
        "--tp 8 --dist-init-addr $HEAD:20000 \\\n    --nnodes 2 --node-rank 1",
        "launcher-layout",
    ),
    (SGLANG, "8xH100", "--port 30000", "--port 20000", "port-in-use"),
    (SGLANG, "8xH100", "mem-fraction-static", "mem-fracton-static", "invalid-launch-argument"),
    (SGLANG, "8xA100-40GB", "0.85", "0.85", "gpu-oom-weights"),
    (V1ALPHA1, "8xH100", '"--is-prefill-worker", ', "", "disagg-prefill-not-enabled"),
    (V1ALPHA1, "8xH100", "nodeCount: 2", "nodeCount: 1", "gpu-count-exceeded"),
    (
        V1ALPHA1,
        "8xH100",
        '"--tensor-parallel-size", "8"',
        '"--tensor-parallel-size", "16"',
        "gpu-count-exceeded",
    ),
    (V1ALPHA1, "8xH100", ', "--tensor-parallel-size", "8"', "", "tp-mismatch-disagg"),
    (
        V1BETA1,
        "8xH100",
        "          - prefill\n",
        '          - prefill\n          - --block-size\n          - "32"\n',
        "tp-mismatch-disagg",
    ),
    (
        V1BETA1,
        "8xH100",
        '          - "4"            # one worker on half a node',
        '          - "2"',
        "gpu-oom-kv-cache",
    ),
    (
        V1BETA1,
        "8xA100-40GB",
        '          - "4"            # one worker on half a node',
        '          - "2"',
        "gpu-oom-weights",
    ),
    (
        V1BETA1,
        "8xH100",
        "--disaggregation-mode\n          - decode",
        "--disagregation-mode\n          - decode",
        "invalid-launch-argument",
    ),
    (LWS, "8xH100", "--pipeline-parallel-size 2", "--pipeline-parallel-size 4", "gpu-count-exceeded"),
    (LWS, "4xH100", "size 8", "size 8", "gpu-count-exceeded"),
    (LWS, "8xL4", "size 8", "size 8", "gpu-oom-weights"),
    (SBATCH, "8xH100", "--nnodes=4", "--nnodes=2", "launcher-layout"),
    (SBATCH, "8xH100", "pipeline-model-parallel-size 2", "pipeline-model-parallel-size 3", "launcher-layout"),
    (SBATCH, "8xH100", "nproc-per-node=8", "nproc-per-node=16", "gpu-count-exceeded"),
    (SBATCH, "4xH100", "x", "x", "gpu-count-exceeded"),
    (SBATCH, "8xH100", "IFNAME=eth0", "IFNAME=lo", "nccl-wrong-interface"),
    (SBATCH, "8xH100", "$MASTER_ADDR:29500", "localhost:29500", "host-ip-wrong"),
    (SBATCH, "8xH100", "ntasks-per-node=1", "ntasks-per-node=8", "launcher-layout"),
    (COMPOSE, "8xH100", "count: 2", "count: 1", "gpu-count-exceeded"),
    (COMPOSE, "8xH100", "shm_size: 16g", "shm_size: 64m", "shm-too-small"),
    (COMPOSE, "8xH100", "--tensor-parallel-size", "--tensor-paralel-size", "invalid-launch-argument"),
    (CONFIG, "8xH100", "tensor-parallel-size: 4\n", "", "gpu-oom-weights"),
    (CONFIG, "8xH100", "gpu-memory-utilization: 0.9", "gpu-memory-utilization: 9", "invalid-launch-argument"),
    (CONFIG, "8xH100", "max-model-len: 16384", "max-modle-len: 16384", "invalid-launch-argument"),
    (ACCELERATE, "8xH100", "num_processes: 16", "num_processes: 15", "launcher-layout"),
    (ACCELERATE, "8xH100", "num_processes: 16", "num_processes: 32", "gpu-count-exceeded"),
    (ACCELERATE, "8xH100", "main_process_ip: 10.0.4.11", "main_process_ip: 127.0.0.1", "host-ip-wrong"),
    ("config/hostfile", "4xH100", "x", "x", "gpu-count-exceeded"),
]


def wrong(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.status in (Status.FAIL, Status.WARN)]


def test_readers_are_found_by_looking() -> None:
    assert len(readers()) >= 7
    assert len({reader.kind for reader in readers()}) == len(readers())


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_plan_is_silent(name: str) -> None:
    plan = read_plan(str(PLANS / name))

    assert plan.services
    assert not [finding.summary for finding in wrong(check_plans([plan], parse_gpus("8xH100")))]


@pytest.mark.parametrize(("name", "gpus", "old", "new", "cause"), MUTATIONS)
def test_a_mutation_is_found(name: str, gpus: str, old: str, new: str, cause: str | None) -> None:
    text = (PLANS / name).read_text("utf-8")
    assert old in text or old == "x"
    found = wrong(
        check_plans([read_plan_text(text.replace(old, new) if old != "x" else text, name)], parse_gpus(gpus))
    )

    assert (cause is None and not found) or cause in {finding.data["cause"] for finding in found}, [
        finding.summary for finding in found
    ]
    assert all(finding.data["line"] for finding in found)


@pytest.mark.parametrize(
    ("name", "gpus", "old", "new", "expected"),
    [
        (DOCKER, "8xH100", " --tensor-parallel-size 4", "", "--tensor-parallel-size 4"),
        (DOCKER, "8xH100", "parallel-size 4", "parallel-size 3", "--tensor-parallel-size 4"),
        (DEPLOY, "8xH100", "        - --tensor-parallel-size=4\n", "", '- "4"'),
        (DEPLOY, "8xH100", "size=4", "size=2", "--tensor-parallel-size=4"),
        (V1ALPHA1, "8xH100", '"--is-prefill-worker", ', "", '"--disaggregation-mode", "prefill"'),
        (V1ALPHA1, "8xH100", ', "--tensor-parallel-size", "8"', "", '"--tensor-parallel-size", "8"'),
        (
            V1BETA1,
            "8xH100",
            '          - "4"            # one worker on half a node',
            '          - "2"            # kept',
            '- "4"            # kept',
        ),
        (CONFIG, "8xH100", "tensor-parallel-size: 4\n", "", "tensor-parallel-size: "),
    ],
)
def test_a_correction_lands_in_the_plans_own_style_and_nothing_is_left(
    name: str, gpus: str, old: str, new: str, expected: str
) -> None:
    text = (PLANS / name).read_text("utf-8").replace(old, new)
    found = correct_text(text, name, parse_gpus(gpus))

    assert not found.remaining
    assert expected in found.new_text, found.diff
    assert sum(line.startswith("+") and not line.startswith("+++") for line in found.diff.splitlines()) <= 4


def test_settings_carry_their_line_and_key() -> None:
    plan = read_plan(str(PLANS / V1BETA1))
    size = plan.services[1].options["tensor-parallel-size"]

    assert (size.value, size.line, size.key) == ("4", 28, "--tensor-parallel-size")
    assert plan.services[1].model == "meta-llama/Llama-3.3-70B-Instruct"


def test_lines_of_different_files_are_compared() -> None:
    head = "python3 -m sglang.launch_server --model-path Qwen/Qwen3-32B --tp 16 --dist-init-addr 10.0.0.1:20000 --nnodes 2 --node-rank 0\n"
    tail = head.replace("--tp 16", "--tp 8").replace("--node-rank 0", "--node-rank 1")
    plans = [read_plan_text(head, "a.sh"), read_plan_text(tail, "b.sh")]

    assert "launcher-layout" in {finding.data["cause"] for finding in wrong(check_plans(plans, None))}
    assert not wrong(
        check_plans([plans[0], read_plan_text(head.replace("--node-rank 0", "--node-rank 1"), "b.sh")], None)
    )


@pytest.mark.parametrize(
    ("words", "framework", "tp", "model"),
    [
        (["vllm", "serve", "Qwen/Qwen3-8B", "-tp", "2"], "vllm", 2, "Qwen/Qwen3-8B"),
        (
            [
                "/opt/venv/bin/python3",
                "-m",
                "vllm.entrypoints.openai.api_server",
                "--model=a/b",
                "--tensor_parallel_size=4",
            ],
            "vllm",
            4,
            "a/b",
        ),
        (["python", "-m", "sglang.launch_server", "--model-path", "a/b", "--tp", "8"], "sglang", 8, "a/b"),
        (["python3", "-m", "dynamo.vllm", "--model", "a/b", "--tensor-parallel-size", "2"], "vllm", 2, "a/b"),
        (["trtllm-serve", "a/b", "--tp_size", "4"], "trtllm", 4, "a/b"),
        (
            [
                "srun",
                "-n",
                "2",
                "numactl",
                "-N0",
                "vllm",
                "serve",
                "a/b",
                "--enforce-eager",
                "--tensor-parallel-size",
                "2",
            ],
            "vllm",
            2,
            "a/b",
        ),
    ],
)
def test_a_bare_argument_list_is_a_plan(words: list[str], framework: str, tp: int, model: str) -> None:
    plan = plan_from_arguments(words, {}, "run.log", 7)

    assert plan is not None
    assert (plan.services[0].framework, plan.services[0].tensor_parallel_size, plan.services[0].model) == (
        framework,
        tp,
        model,
    )
    assert plan.services[0].options["tensor-parallel-size"].line == 7


def test_other_commands_are_no_plan() -> None:
    assert plan_from_arguments(["ls", "-l"], {}) is None
    assert plan_from_arguments(["pip", "install", "vllm"], {}) is None
    assert plan_from_arguments([], {}) is None


def test_printed_configurations_are_plans_too() -> None:
    mapping = {
        "Common": {"model": "Qwen/Qwen2.5-32B-Instruct"},
        "VllmWorker": {
            "remote-prefill": True,
            "tensor-parallel-size": 4,
            "ServiceArgs": {"workers": 1, "resources": {"gpu": 4}},
            "common-configs": ["model"],
        },
        "PrefillWorker": {
            "ServiceArgs": {"workers": 1, "resources": {"gpu": "4"}},
            "common-configs": ["model"],
        },
    }
    causes = {
        finding.data["cause"]: finding.data["line"]
        for finding in wrong(
            check_plans([plan_from_mapping(mapping, "run.log", 12)], parse_gpus("16xA100-40GB"))
        )
    }

    assert causes.get("gpu-oom-weights") == 12
    plan = plan_from_engine_args(
        {"model": "Qwen/Qwen3-8B", "tensor_parallel_size": 2, "dtype": None}, "vllm", "run.log", 3
    )
    assert plan.services[0].tensor_parallel_size == 2
    assert "dtype" not in plan.services[0].options


@pytest.mark.parametrize(
    ("path", "head", "expected"),
    [
        ("plan.yaml", b"VllmWorker:\n  tensor-parallel-size: 4\n  ServiceArgs:\n    workers: 1\n", True),
        ("deploy.yaml", b"apiVersion: apps/v1\nkind: Deployment\n", True),
        ("run.sh", b"#!/bin/bash\nvllm serve x\n", True),
        ("run.log", b"INFO 05-01 10:00:00 [api_server.py:1] vllm serve x\n", False),
        ("core", b"\x7fELF\0\0", False),
        ("notes.yaml", b"title: holidays\n", False),
    ],
)
def test_plans_are_told_from_logs(path: str, head: bytes, expected: bool) -> None:
    assert is_plan(path, head) is expected


def test_no_sentence_sounds_green_while_something_is_unknown() -> None:
    findings = check_plans([read_plan(str(PLANS / DOCKER))], None)

    assert [finding.summary for finding in findings if finding.status is Status.SKIP]
    assert "lacked facts" in findings[-1].summary


def test_printed_arguments_of_several_nodes_are_no_excess_of_one() -> None:
    plan = plan_from_engine_args(
        {"model_path": "deepseek-ai/DeepSeek-V3", "tp_size": 16, "nnodes": 2, "node_rank": 0},
        "sglang",
        "x.log",
        3,
    )

    assert not wrong(check_plans([plan], parse_gpus("8xH100")))
