"""--fix: each kind of change lands where it belongs, leaves comments alone, and nothing is left to complain about."""

from __future__ import annotations

from pathlib import Path

import pytest

from diag.diagnose.plans import parse_gpus
from diag.diagnose.plans.correcting import Correction, correct_text

PLANS = Path(__file__).parents[2] / "fixtures" / "plans"
DEPLOY = (PLANS / "kubernetes" / "deployment.yaml").read_text("utf-8")
COMPOSE = (PLANS / "compose" / "vllm.yaml").read_text("utf-8")
DOCKER = (PLANS / "shell" / "vllm_docker.sh").read_text("utf-8")
TWO = (PLANS / "shell" / "two_servers.sh").read_text("utf-8")
SGLANG = (PLANS / "shell" / "sglang_two_nodes.sh").read_text("utf-8")
SBATCH = (PLANS / "slurm" / "torchrun.sbatch").read_text("utf-8")
LWS = (PLANS / "kubernetes" / "lws.yaml").read_text("utf-8")
CONFIG = (PLANS / "config" / "vllm.yaml").read_text("utf-8")
ACCELERATE = (PLANS / "config" / "accelerate.yaml").read_text("utf-8")


def corrected(text: str, name: str, gpus: str = "8xH100") -> Correction:
    found = correct_text(text, name, parse_gpus(gpus))

    assert not found.remaining, found.remaining
    assert found.diff
    return found


@pytest.mark.parametrize(
    ("text", "name", "good", "bad"),
    [
        (DOCKER, "a.sh", "--max-model-len", "--max-modle-len"),
        (SGLANG, "a.sh", "mem-fraction-static", "mem-fracton-static"),
        (COMPOSE, "docker-compose.yaml", "--tensor-parallel-size", "--tensor-paralel-size"),
        (CONFIG, "c.yaml", "max-model-len: 16384", "max-modle-len: 16384"),
        (DEPLOY, "d.yaml", "--max-model-len=8192", "--max-modle-len=8192"),
        (TWO, "a.sh", "VLLM_NIXL_SIDE_CHANNEL_PORT=5601", "VLLM_NIXL_SIDE_CHANNEL_PRT=5601"),
        (SGLANG, "a.sh", "--node-rank 1", "--node-rank 0"),
        (SGLANG, "a.sh", "--node-rank 1", "--node-rank 2"),
        (SBATCH, "a.sbatch", "--nnodes=4", "--nnodes=2"),
        (SBATCH, "a.sbatch", "ntasks-per-node=1", "ntasks-per-node=8"),
        (SBATCH, "a.sbatch", "nproc-per-node=8", "nproc-per-node=16"),
        (LWS, "l.yaml", "--pipeline-parallel-size 2", "--pipeline-parallel-size 4"),
        (ACCELERATE, "a.yaml", "num_processes: 16", "num_processes: 15"),
        (COMPOSE, "docker-compose.yaml", "count: 2", "count: 1"),
    ],
)
def test_the_slip_is_undone_and_nothing_else(text: str, name: str, good: str, bad: str) -> None:
    assert good in text

    assert corrected(text.replace(good, bad), name).new_text == text


def test_a_port_moves_to_a_free_one() -> None:
    assert "--port 8201" in corrected(TWO.replace("--port 8100", "--port 8200"), "a.sh").new_text


def test_a_service_moves_to_a_free_gpu() -> None:
    text = corrected(TWO.replace("CUDA_VISIBLE_DEVICES=1", "CUDA_VISIBLE_DEVICES=0"), "a.sh").new_text

    assert "CUDA_VISIBLE_DEVICES=1" in text or "CUDA_VISIBLE_DEVICES=2" in text


@pytest.mark.parametrize(
    ("text", "name", "old", "new", "expected"),
    [
        (DOCKER, "a.sh", "--ipc=host ", "", "docker run --ipc=host"),
        (DOCKER, "a.sh", "--ipc=host", "--shm-size=64m", "--shm-size=16g"),
        (DOCKER, "a.sh", "--ipc=host", "--shm-size 64m", "--shm-size 16g"),
        (COMPOSE, "docker-compose.yaml", "shm_size: 16g", "shm_size: 64m", "shm_size: 16g"),
        (COMPOSE, "docker-compose.yaml", "    shm_size: 16g\n", "", "    shm_size: 16g\n"),
        (DEPLOY, "d.yaml", "mountPath: /dev/shm", "mountPath: /cache", "mountPath: /dev/shm"),
        (DEPLOY, "d.yaml", "sizeLimit: 16Gi", "sizeLimit: 64Mi", "sizeLimit: 16Gi"),
    ],
)
def test_shared_memory_is_granted(text: str, name: str, old: str, new: str, expected: str) -> None:
    assert old in text
    found = corrected(text.replace(old, new), name)

    assert expected in found.new_text
    assert sum(line.startswith("-") and not line.startswith("---") for line in found.diff.splitlines()) <= 1


def test_a_probe_is_given_patience() -> None:
    old = DEPLOY.replace("initialDelaySeconds: 900", "initialDelaySeconds: 10")
    found = corrected(old, "d.yaml")

    assert "failureThreshold" in found.diff
    assert found.new_text.replace("\n", "") != old


def test_an_option_the_version_lacks_is_taken_out_with_its_line() -> None:
    text = DEPLOY.replace("--max-model-len=8192", "--max-model-len=8192\n        - --async-scheduling")

    assert corrected(text, "d.yaml").new_text == DEPLOY


def test_a_share_of_ninety_was_meant_as_a_fraction() -> None:
    text = CONFIG.replace("gpu-memory-utilization: 0.9", "gpu-memory-utilization: 90")

    assert "gpu-memory-utilization: 0.9\n" in corrected(text, "c.yaml").new_text


def test_what_only_the_user_can_know_is_left_and_said() -> None:
    found = correct_text(SGLANG.replace("HEAD=10.0.4.11", "HEAD=127.0.0.1"), "a.sh", parse_gpus("8xH100"))

    assert not found.diff
    assert found.remaining
    assert any("address of the first node" in reason for reason in found.reasons)
