"""Training launches of several files: each fault is named, its sound form is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from diag.diagnose.plans import check_plans, parse_gpus
from diag.diagnose.plans.correcting import correct_text
from diag.model import Finding, Status
from diag.observe.plans import read_plan_text

Files = dict[str, str]


def wrong(files: Files, gpus: str = "8xA100-80GB", nodes: int = 2) -> list[Finding]:
    plans = [read_plan_text(text, path) for path, text in files.items()]
    found = check_plans(plans, replace(parse_gpus(gpus), nodes=nodes))
    return [finding for finding in found if finding.status in (Status.FAIL, Status.WARN)]


def causes(files: Files, gpus: str = "8xA100-80GB", nodes: int = 2) -> set[str]:
    return {str(finding.data["cause"]) for finding in wrong(files, gpus, nodes)}


def changed(files: Files, path: str, old: str, new: str) -> Files:
    assert old in files[path]
    return {**files, path: files[path].replace(old, new)}


DEEPSPEED = {
    "hostfile": "# two nodes\nnode-a slots=8\nnode-b slots=8\n",
    "ds.json": '{\n\t"train_batch_size": 64,\n\t"train_micro_batch_size_per_gpu": 2,\n\t"gradient_accumulation_steps": 2,\n'
    '\t"bf16": {"enabled": true},\n\t"fp16": {"enabled": false},\n\t"zero_optimization": {"stage": 3}\n}\n',
    "run.sh": "#!/bin/bash\ndeepspeed --hostfile hostfile --master_port 29600 train.py --model_name_or_path Qwen/Qwen2.5-7B \\\n"
    "  --deepspeed ds.json --per_device_train_batch_size 2\n",
}
SLIPS = (
    (
        "ds.json",
        '"train_batch_size": 64',
        '"train_batch_size": 128',
        "invalid-launch-argument",
        "= 64 is not",
    ),
    ("ds.json", '"train_batch_size": 64', '"train_batch_size": 66', "invalid-launch-argument", "no multiple"),
    ("ds.json", '"fp16": {"enabled": false}', '"fp16": {"enabled": true}', "invalid-launch-argument", "both"),
    ("ds.json", '"stage": 3', '"stage": 4', "invalid-launch-argument", "stages 0 to 3"),
    ("hostfile", "node-b slots=8", "node-b slots = 8", "invalid-launch-argument", "HOST slots=N"),
    (
        "run.sh",
        "--master_port",
        "--include=node-a:0,1,8@node-b --master_port",
        "gpu-count-exceeded",
        "slot 8",
    ),
    ("run.sh", "--master_port", "--include=node-c --master_port", "invalid-launch-argument", "node-c"),
    (
        "run.sh",
        "batch_size 2",
        "batch_size 4",
        "invalid-launch-argument",
        "given --per_device_train_batch_size 4",
    ),
)


def test_a_sound_deepspeed_launch_is_accused_of_nothing() -> None:
    assert not wrong(DEEPSPEED)


@pytest.mark.parametrize(("path", "old", "new", "cause", "said"), SLIPS)
def test_a_slip_in_a_deepspeed_launch_is_named(path: str, old: str, new: str, cause: str, said: str) -> None:
    found = [each for each in wrong(changed(DEEPSPEED, path, old, new)) if each.data["cause"] == cause]

    assert any(said in each.summary for each in found), [each.summary for each in found]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "--master_port",
            "--include=node-a:0,7@node-b:0,7 --num_gpus 8 --tensor-parallel-size 4 --master_port",
        ),
        ("--hostfile hostfile", "--hostfile /etc/hosts-of-the-day"),
        ("--per_device_train_batch_size 2", "--tensor_parallel_size 1"),
    ],
)
def test_what_cannot_be_known_of_a_deepspeed_launch_is_not_judged(old: str, new: str) -> None:
    files = changed(DEEPSPEED, "run.sh", old, new)
    smaller = changed(files, "ds.json", '"train_batch_size": 64', '"train_batch_size": 16')

    assert not {each.summary for each in wrong(smaller) if each.status is Status.FAIL}


def test_weights_that_zero_does_not_shard_are_reckoned() -> None:
    large = changed(DEEPSPEED, "run.sh", "Qwen/Qwen2.5-7B", "meta-llama/Llama-2-70b-hf")
    whole = changed(large, "ds.json", '"stage": 3', '"stage": 2')

    assert "gpu-oom-weights" in causes(whole)
    assert "gpu-oom-weights" not in causes(large)
    assert "gpu-oom-weights" not in causes(
        changed(whole, "run.sh", "--deepspeed", "--load_in_4bit --deepspeed")
    )


def test_adams_states_are_reckoned_with_their_shards() -> None:
    large = changed(DEEPSPEED, "run.sh", "Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-72B")

    assert "gpu-oom-runtime" in causes(large, "8xA100-40GB")
    assert not causes(large, "8xA100-80GB")
    assert not causes(changed(large, "run.sh", "--deepspeed", "--lora_r 8 --deepspeed"), "8xA100-40GB")


def test_a_bad_line_of_a_hostfile_is_mended() -> None:
    text = "node-a slots=8\nnode-b slots = 8\n"

    assert correct_text(text, "hostfile", None).new_text == "node-a slots=8\nnode-b slots=8\n"


def machine(rank: int) -> str:
    return (
        f"compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nmachine_rank: {rank}\nmain_process_ip: 10.0.0.1\n"
        "main_process_port: 29501\nmixed_precision: bf16\nnum_machines: 2\nnum_processes: 16\nrdzv_backend: static\n"
    )


MACHINES = {
    "rank0.yaml": machine(0),
    "rank1.yaml": machine(1),
    "run.sh": "#!/bin/bash\naccelerate launch --config_file rank$1.yaml train.py\n",
}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("num_processes: 16", "num_processes: 8", "disagree on num_processes: machine 0: 16, machine 1: 8"),
        ("main_process_port: 29501", "main_process_port: 29502", "disagree on main_process_port"),
        ("machine_rank: 1", "machine_rank: 0", "machine_rank 0 stands"),
    ],
)
def test_machines_that_disagree_are_named(old: str, new: str, said: str) -> None:
    assert not wrong(MACHINES)
    found = wrong(changed(MACHINES, "rank1.yaml", old, new))
    assert [each for each in found if said in each.summary and each.data["cause"] == "launcher-layout"]


def test_configurations_of_different_launches_are_not_compared() -> None:
    files = {"two.yaml": machine(0), "four.yaml": machine(1).replace("num_processes: 16", "num_processes: 8")}

    assert not wrong(files)


FSDP = {
    "fsdp.yaml": "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nfsdp_config:\n  fsdp_sharding_strategy: FULL_SHARD\n"
    "  fsdp_transformer_layer_cls_to_wrap: LlamaDecoderLayer\nmixed_precision: bf16\nnum_machines: 1\nnum_processes: 8\n",
    "run.sh": "#!/bin/bash\naccelerate launch --config_file fsdp.yaml train.py --model_name_or_path meta-llama/Llama-3.1-8B\n",
}


def test_the_class_that_fsdp_wraps_is_the_models() -> None:
    other = changed(FSDP, "fsdp.yaml", "LlamaDecoderLayer", "Qwen2DecoderLayer")

    assert not wrong(FSDP, nodes=1)
    assert any("made of LlamaDecoderLayer" in each.summary for each in wrong(other, nodes=1))
    unknown = changed(FSDP, "fsdp.yaml", "LlamaDecoderLayer", "MyOwnLayer")
    assert not wrong(unknown, nodes=1)  # a model's own class: nobody here knows it


def test_fp8_needs_hardware_that_has_it() -> None:
    files = changed(FSDP, "fsdp.yaml", "mixed_precision: bf16", "mixed_precision: fp8")

    assert "dtype-unsupported" in causes(files, "8xA100-80GB", 1)
    assert "dtype-unsupported" not in causes(files, "8xH100", 1)


MEGATRON = {
    "train.sh": "#!/bin/bash\nGPUS=8\nARGS=(--num-layers 80 --hidden-size 8192 --ffn-hidden-size 28672 --num-attention-heads 64\n"
    "  --group-query-attention --num-query-groups 8 --seq-length 4096 --max-position-embeddings 4096 --swiglu\n"
    "  --micro-batch-size 1 --global-batch-size 128 --train-iters 1000 --bf16 --use-distributed-optimizer\n"
    "  --tensor-model-parallel-size 8 --pipeline-model-parallel-size 4)\n"
    "torchrun --nproc_per_node $GPUS --nnodes 8 --node_rank $RANK --master_addr $M --master_port 6000 pretrain_gpt.py ${ARGS[@]}\n"
}


@pytest.mark.parametrize(
    ("old", "new", "cause", "said"),
    [
        (
            "--global-batch-size 128",
            "--global-batch-size 127",
            "invalid-launch-argument",
            "127 samples over 2",
        ),
        (
            "--seq-length 4096",
            "--seq-length 8192",
            "invalid-launch-argument",
            "above --max-position-embeddings",
        ),
        ("--num-query-groups 8", "--num-query-groups 12", "tp-not-divisible", "12 query groups"),
        ("--nnodes 8", "--nnodes 4", "gpu-oom-runtime", ""),
    ],
)
def test_megatrons_arithmetic(old: str, new: str, cause: str, said: str) -> None:
    nodes = 8 if cause != "gpu-oom-runtime" else 4
    files = changed(MEGATRON, "train.sh", old, new)
    if (
        nodes == 4
    ):  # one replica of half the stages: twice the layers a GPU, and nobody to share the optimizer with
        files = changed(
            files, "train.sh", "--pipeline-model-parallel-size 4", "--pipeline-model-parallel-size 1"
        )
        files = changed(files, "train.sh", "--use-distributed-optimizer", "")

    assert not wrong(MEGATRON, "8xH100", 8)
    found = [each for each in wrong(files, "8xH100", nodes) if each.data["cause"] == cause]
    assert any(said in each.summary for each in found)
