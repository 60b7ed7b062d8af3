"""Batch scripts: what every node must have alike or of its own, launchers in every task, Ray over several nodes, containers' GPUs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from diag.diagnose.plans import check_plans, parse_gpus
from diag.model import Finding, Status
from diag.observe.plans import read_plan_text

HEAD = """#!/bin/bash
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
export MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)
export MASTER_PORT=$((20000 + RANDOM % 10000))
"""
TORCHRUN = "torchrun --nnodes=4 --nproc_per_node=8"
MEET = "--master_addr=$MASTER_ADDR --master_port=$MASTER_PORT train.py"
RAY = """#!/bin/bash
#SBATCH -N 2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
head=$(hostname)
srun -N1 -n1 -w $head ray start --head --port=6379 --num-gpus=8 --block &
srun -N1 -n1 --exclude $head ray start --address=$head:{port} --num-gpus=8 --block &
vllm serve x/y-405B --tensor-parallel-size {tp} --pipeline-parallel-size 2 --distributed-executor-backend ray --params 7B
"""


def wrong(text: str, nodes: int | None = None) -> list[Finding]:
    hardware = replace(parse_gpus("8xH100"), nodes=nodes)
    found = check_plans([read_plan_text(text, "job.sh")], hardware)
    return [one for one in found if one.status is Status.FAIL]


@pytest.mark.parametrize(
    ("text", "cause", "said"),
    [
        (f"{HEAD}srun {TORCHRUN} --node_rank=$SLURM_PROCID {MEET}\n", "launcher-layout", "same rank"),
        (
            f'{HEAD}srun bash -c "{TORCHRUN} --node_rank=$SLURM_NODEID {MEET}"\n',
            "launcher-layout",
            "same rank",
        ),
        (
            f'{HEAD}srun --exclusive -c 8 bash -lc "{TORCHRUN} --node_rank=$SLURM_NODEID {MEET}"\n',
            "launcher-layout",
            "same rank",
        ),
        (
            f'{HEAD}srun -l --cpu-bind=none /bin/bash -c "accelerate launch --num_machines 4 --num_processes 32 --machine_rank $SLURM_PROCID '
            '--main_process_ip $MASTER_ADDR --main_process_port 29500 train.py"\n',
            "launcher-layout",
            "--machine-rank",
        ),
        (
            f"{HEAD}srun bash -c 'export MASTER_PORT=$((20000 + RANDOM % 999)); {TORCHRUN} --node_rank=$SLURM_NODEID {MEET}'\n",
            "rendezvous-timeout",
            "draws its own --master-port",
        ),
        (
            f"{HEAD}srun bash -c '{TORCHRUN} --rdzv_id=$RANDOM --rdzv_backend=c10d --rdzv_endpoint=$MASTER_ADDR:29500 train.py'\n",
            "rendezvous-timeout",
            "draws its own --rdzv-id",
        ),
        (
            f"{HEAD}srun bash -c '{TORCHRUN} --node_rank=$SLURM_NODEID --master_addr=$(hostname) --master_port=29500 train.py'\n",
            "launcher-layout",
            "takes itself for the first",
        ),
        (
            HEAD.replace("scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1", "cat head.txt")
            + f"{TORCHRUN} --node_rank=0 {MEET}\n",
            "launcher-layout",
            "on the first one only",
        ),
        (
            f"{HEAD}srun --ntasks-per-node=8 {TORCHRUN} --rdzv_backend=c10d --rdzv_endpoint=$MASTER_ADDR:29500 train.py\n",
            "launcher-layout",
            "8 tasks a node",
        ),
        (
            f"{HEAD}srun --ntasks-per-node=8 deepspeed --hostfile hosts train.py --deepspeed ds.json\n",
            "launcher-layout",
            "8 tasks a node",
        ),
        (RAY.format(port=6380, tp=8), "control-plane-unreachable", "join port 6380"),
        (
            "docker run -e NVIDIA_VISIBLE_DEVICES=0 --runtime nvidia --ipc=host lmsysorg/sglang:v0.4.9 "
            "python3 -m sglang.launch_server --model-path Qwen/Qwen3-8B --tp 2\n",
            "gpu-count-exceeded",
            "is given 1 GPUs",
        ),
    ],
)
def test_what_a_batch_script_starts_wrongly(text: str, cause: str, said: str) -> None:
    found = wrong(text)

    assert [one.data["cause"] for one in found] == [cause], [one.summary for one in found]
    assert said in found[0].summary


@pytest.mark.parametrize(
    "text",
    [
        f"{HEAD}srun bash -c '{TORCHRUN} --node_rank=$SLURM_NODEID {MEET}'\n",
        f'{HEAD}srun bash -c "{TORCHRUN} --node_rank=\\$SLURM_NODEID {MEET}"\n',
        f"{HEAD}srun --exclusive -c 8 bash -lc '{TORCHRUN} --node_rank=$SLURM_NODEID {MEET}'\n",
        f"{HEAD}srun {TORCHRUN} --rdzv_id=$RANDOM --rdzv_backend=c10d --rdzv_endpoint=$MASTER_ADDR:29500 train.py\n",
        f"{HEAD.replace('node=1', 'node=8')}srun --ntasks-per-node=1 {TORCHRUN} --rdzv_endpoint=$(hostname):29500 train.py\n",
        f"{HEAD.replace('node=1', 'node=8')}srun --ntasks=$SLURM_NNODES {TORCHRUN} --rdzv_endpoint=$(hostname):29500 train.py\n",
        f"{HEAD.replace('node=1', 'node=8')}srun python train.py\n",
        f'{HEAD}if [ -z "$SLURM_PROCID" ]; then srun "$0"; exit; fi\n{TORCHRUN} --node_rank=$SLURM_PROCID {MEET}\n',
        f'{HEAD}for n in $hosts; do ssh $n "{TORCHRUN} --node_rank=0 {MEET}" & done\n',
        f"{HEAD}srun accelerate launch --num_processes 32 --num_machines 4 --rdzv_backend c10d --machine_rank $SLURM_PROCID "
        "--main_process_ip $MASTER_ADDR --main_process_port 29500 train.py\n",
        RAY.format(port=6379, tp=8),
        "docker run --gpus all -e NVIDIA_VISIBLE_DEVICES=all --ipc=host lmsysorg/sglang:v0.4.9 "
        "python3 -m sglang.launch_server --model-path Qwen/Qwen3-8B --tp 2\n",
    ],
)
def test_what_it_starts_rightly(text: str) -> None:
    assert not wrong(text)


def test_a_ray_cluster_is_as_large_as_its_nodes() -> None:
    text = (
        "vllm serve Qwen/Qwen2.5-72B-Instruct --tensor-parallel-size 16 --distributed-executor-backend ray\n"
    )

    assert not wrong(text, nodes=2)
    assert [one.data["cause"] for one in wrong(text, nodes=1)] == ["gpu-count-exceeded"]
    assert not wrong(text)  # how many nodes Ray has, nobody has said
    assert wrong(text.replace("backend ray", "backend mp"))


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (
            "apptainer exec -B /scratch vllm.sif vllm serve Qwen/Qwen3-8B --tensor-parallel-size 2",
            "gpu-not-visible",
        ),
        ("singularity exec pytorch.sif torchrun --nproc_per_node 4 train.py", "gpu-not-visible"),
        ("apptainer exec --nv vllm.sif vllm serve Qwen/Qwen3-8B --tensor-parallel-size 2", None),
        ("apptainer exec $OPTIONS vllm.sif vllm serve Qwen/Qwen3-8B --tensor-parallel-size 2", None),
        ("export APPTAINER_NV=1\napptainer exec vllm.sif vllm serve Qwen/Qwen3-8B", None),
    ],
)
def test_a_container_file_is_given_its_gpus(line: str, cause: str | None) -> None:
    assert [one.data["cause"] for one in wrong(f"#!/bin/bash\n{line}\n")] == ([cause] if cause else [])
