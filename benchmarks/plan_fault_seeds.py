"""Plans of our own, each sound, with faults made word by word: kinds of plans that are rare in repositories.

A fault is (name, old words, new words, causes that name it rightly). Used by `plan_faults.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from plan_fault_plans import (
    BATCH,
    COMPOSE,
    DEPLOYMENT,
    DOCKER,
    LWS,
    PD_SCRIPT,
    RAYSERVICE,
    TRTLLM,
    TWO_NODES,
    VARIABLES,
)

Broken = tuple[str, str, str, str]
ARG = "invalid-launch-argument"
COUNT = "gpu-count-exceeded launcher-layout"
PAIR = "tp-mismatch-disagg kv-transport-unsupported disagg-prefill-not-enabled"


@dataclass(frozen=True)
class Seed:
    """One sound plan on its hardware."""

    path: str
    text: str
    gpus: str
    nodes: int
    faults: tuple[Broken, ...]


SEEDS = (
    Seed(
        "two_nodes.sh",
        TWO_NODES,
        "8xH200",
        2,
        (
            ("rank given twice", "--node-rank 1", "--node-rank 0", "launcher-layout"),
            ("rank beyond the nodes", "--node-rank 1", "--node-rank 2", "launcher-layout"),
            (
                "other master on one node",
                "1 --dist-init-addr 10.0.0.1",
                "1 --dist-init-addr 10.0.0.2",
                "launcher-layout rendezvous-timeout host-ip-wrong",
            ),
            (
                "other master port on one node",
                "1 --dist-init-addr 10.0.0.1:20000",
                "1 --dist-init-addr 10.0.0.1:20001",
                "launcher-layout rendezvous-timeout",
            ),
            ("nnodes differ", "--nnodes 2 --node-rank 1", "--nnodes 3 --node-rank 1", "launcher-layout"),
            (
                "TP differs between nodes",
                "--tp 16 --nnodes 2 --node-rank 1",
                "--tp 8 --nnodes 2 --node-rank 1",
                "launcher-layout tp-mismatch-disagg",
            ),
            (
                "other model on one node",
                "DeepSeek-V3 --tp 16 --nnodes 2 --node-rank 1",
                "DeepSeek-R1 --tp 16 --nnodes 2 --node-rank 1",
                "launcher-layout model-path-missing version-skew",
            ),
            (
                "TP not a multiple of nodes",
                "--tp 16 --nnodes 2 --node-rank 0",
                "--tp 15 --nnodes 2 --node-rank 0",
                "launcher-layout tp-not-divisible",
            ),
            (
                "master is localhost",
                "0 --dist-init-addr 10.0.0.1",
                "0 --dist-init-addr localhost",
                "host-ip-wrong launcher-layout",
            ),
            (
                "no master address",
                ' --dist-init-addr 10.0.0.1:20000 --trust-remote-code --port 30000" &\nssh node1',
                ' --trust-remote-code --port 30000" &\nssh node1',
                "launcher-layout rendezvous-timeout host-ip-wrong invalid-launch-argument",
            ),
        ),
    ),
    Seed(
        "pd.sh",
        PD_SCRIPT,
        "8xH100",
        1,
        (
            ("roles both producer", "kv_consumer", "kv_producer", PAIR),
            ("role misspelt", "kv_consumer", "kv_comsumer", ARG),
            ("one side channel port", "5601", "5600", "port-in-use"),
            ("one HTTP port", "--port 8200", "--port 8100", "port-in-use"),
            (
                "one GPU for both",
                "CUDA_VISIBLE_DEVICES=1",
                "CUDA_VISIBLE_DEVICES=0",
                "gpu-memory-in-use duplicate-gpu",
            ),
            (
                "block size of one side",
                "8200 \\\n  --max-model-len 8192 --block-size 64",
                "8200 \\\n  --max-model-len 8192 --block-size 32",
                PAIR,
            ),
            (
                "cache type of one side",
                '--gpu-memory-utilization 0.85 \\\n  --kv-transfer-config \'{"kv_connector":"NixlConnector","kv_role":"kv_consumer',
                '--kv-cache-dtype fp8 --gpu-memory-utilization 0.85 \\\n  --kv-transfer-config \'{"kv_connector":"NixlConnector","kv_role":"kv_consumer',
                PAIR,
            ),
            (
                "no transfer config on one side",
                '  --kv-transfer-config \'{"kv_connector":"NixlConnector","kv_role":"kv_consumer"}\' &',
                "  &",
                PAIR,
            ),
            (
                "single quotes in JSON",
                '\'{"kv_connector":"NixlConnector","kv_role":"kv_producer"}\'',
                "\"{'kv_connector':'NixlConnector','kv_role':'kv_producer'}\"",
                ARG,
            ),
            (
                "other connector on one side",
                'NixlConnector","kv_role":"kv_consumer',
                'LMCacheConnectorV1","kv_role":"kv_consumer',
                PAIR,
            ),
        ),
    ),
    Seed(
        "compose.yaml",
        COMPOSE,
        "8xH100",
        1,
        (
            ("one published port", '"8001:8001"', '"8000:8001"', "port-in-use"),
            ("fewer devices", "count: 4", "count: 2", COUNT),
            ("GPU twice", "count: 4", 'device_ids: ["0", "1", "1", "2"]', "duplicate-gpu gpu-count-exceeded"),
            (
                "no device reserved",
                "    deploy:\n      resources:\n        reservations:\n          devices:\n            - driver: nvidia\n              count: 4\n              capabilities: [gpu]\n",
                "",
                "gpu-not-visible gpu-count-exceeded",
            ),
            (
                "no capability",
                "count: 4\n              capabilities: [gpu]",
                "count: 4\n              capabilities: [compute]",
                "gpu-not-visible",
            ),
            ("shm gone", "    shm_size: 16g\n", "", "shm-too-small"),
            ("shm of 64m", "shm_size: 16g", "shm_size: 64m", "shm-too-small"),
            ("published port nobody serves", '"8000:8000"', '"8000:8080"', "port-in-use network-unreachable"),
            ("other engine's option", "--max-model-len 16384", "--context-length 16384", ARG),
        ),
    ),
    Seed(
        "lws.yaml",
        LWS,
        "8xH200",
        2,
        (
            ("group of 4 for TP 16", "size: 2", "size: 4", "launcher-layout"),
            ("group of 1 for TP 16", "size: 2", "size: 1", COUNT),
            ("TP of one node in a group of two", '"16"', '"8"', "launcher-layout"),
            (
                "leader's variable misspelt",
                "LWS_LEADER_ADDRESS",
                "LWS_LEADER_ADDR",
                "invalid-launch-argument host-ip-wrong",
            ),
            (
                "worker's index misspelt",
                "LWS_WORKER_INDEX",
                "LWS_WORKER_IDX",
                "invalid-launch-argument launcher-layout",
            ),
            ("rank fixed", "$(LWS_WORKER_INDEX)", '"0"', "launcher-layout"),
            ("4 GPUs a pod", 'nvidia.com/gpu: "8"', 'nvidia.com/gpu: "4"', COUNT),
            ("memory of 8Gi", "900Gi", "8Gi", "host-oom-killed"),
            ("shm of 128Mi", "64Gi", "128Mi", "shm-too-small"),
        ),
    ),
    Seed(
        "deployment.yaml",
        DEPLOYMENT,
        "8xH100",
        1,
        (
            ("startup probe of 60 s", "failureThreshold: 180", "failureThreshold: 6", "probe-killed"),
            (
                "no startup probe",
                "          startupProbe:\n            httpGet:\n              path: /health\n              port: 8000\n            periodSeconds: 10\n            failureThreshold: 180\n",
                "",
                "probe-killed",
            ),
            (
                "TP 4 on 2 GPUs",
                "limits:\n              nvidia.com/gpu: 4",
                "limits:\n              nvidia.com/gpu: 2",
                f"{COUNT} pod-unschedulable",
            ),
            (
                "half a GPU",
                "limits:\n              nvidia.com/gpu: 4",
                "limits:\n              nvidia.com/gpu: 0.5",
                f"{COUNT} pod-unschedulable invalid-launch-argument",
            ),
            ("port of another app", "--port=8000", "--port=9000", "probe-killed"),
            ("volume without its mount", "mountPath: /dev/shm", "mountPath: /dev/shmm", "shm-too-small"),
            (
                "volume's name misspelt",
                "name: dshm\n              mountPath",
                "name: dsmh\n              mountPath",
                "shm-too-small invalid-launch-argument",
            ),
            ("level misspelt", "VLLM_LOGGING_LEVEL", "VLLM_LOGING_LEVEL", ARG),
        ),
    ),
    Seed(
        "train.sbatch",
        BATCH,
        "8xH100",
        4,
        (
            ("fewer nodes of Slurm", "--nodes=4", "--nodes=2", "launcher-layout"),
            ("fewer GPUs of Slurm", "--gpus-per-node=8", "--gpus-per-node=4", COUNT),
            ("a task a GPU under torchrun", "--ntasks-per-node=1", "--ntasks-per-node=8", "launcher-layout"),
            (
                "heads not divisible",
                "--num-attention-heads 64",
                "--num-attention-heads 60",
                "tp-not-divisible",
            ),
            (
                "layers not divisible",
                "--num-layers 48",
                "--num-layers 49",
                "tp-not-divisible launcher-layout",
            ),
            (
                "batch not divisible",
                "--global-batch-size 512",
                "--global-batch-size 511",
                "launcher-layout invalid-launch-argument",
            ),
            (
                "sizes beyond the world",
                "--pipeline-model-parallel-size 2",
                "--pipeline-model-parallel-size 8",
                "launcher-layout",
            ),
            (
                "master is localhost",
                "--rdzv-endpoint $MASTER_ADDR:29500",
                "--rdzv-endpoint localhost:29500",
                "host-ip-wrong",
            ),
            (
                "no meeting point",
                "--rdzv-backend c10d --rdzv-endpoint $MASTER_ADDR:29500",
                "",
                "launcher-layout rendezvous-timeout host-ip-wrong",
            ),
            ("interface lo", "IFNAME=ib0", "IFNAME=lo", "nccl-wrong-interface"),
        ),
    ),
    Seed(
        "engine.yaml",
        TRTLLM,
        "8xH200",
        1,
        (
            (
                "experts over too many",
                "moe_expert_parallel_size: 8",
                "moe_expert_parallel_size: 16",
                "launcher-layout tp-not-divisible gpu-count-exceeded invalid-launch-argument",
            ),
            (
                "experts that do not divide",
                "moe_expert_parallel_size: 8",
                "moe_expert_parallel_size: 3",
                "launcher-layout tp-not-divisible invalid-launch-argument",
            ),
            ("key in a block misspelt", "free_gpu_memory_fraction", "free_gpu_mem_fraction", ARG),
            ("block misspelt", "cuda_graph_config", "cuda_graphs_config", ARG),
            ("backend misspelt", "DEEPGEMM", "DEEPGEM", ARG),
            ("transceiver misspelt", "backend: UCX", "backend: UXC", ARG),
            ("share in percent", "fraction: 0.8", "fraction: 80", ARG),
            ("option of the other engine", "max_seq_len: 9216", "max_model_len: 9216", ARG),
        ),
    ),
    Seed(
        "docker.sh",
        DOCKER,
        "8xA100-80GB",
        1,
        (
            ("no GPUs", "--gpus all ", "", "gpu-not-visible gpu-count-exceeded"),
            ("one GPU", "--gpus all", "--gpus '\"device=0\"'", COUNT),
            ("no shared memory", " --ipc=host", "", "shm-too-small"),
            (
                "contradicting quantization",
                "--port 8000",
                "--port 8000 --quantization gptq",
                "quantization-unsupported invalid-launch-argument",
            ),
            ("option behind the image's", "--model Qwen", "--gpus all --model Qwen", ARG),
        ),
    ),
    Seed(
        "rayservice.yaml",
        RAYSERVICE,
        "8xA100-80GB",
        1,
        (
            (
                "TP beyond the worker",
                "tensor_parallel_size: 2",
                "tensor_parallel_size: 4",
                "ray-resources-pending gpu-count-exceeded",
            ),
            (
                "TP that does not divide",
                "tensor_parallel_size: 2",
                "tensor_parallel_size: 3",
                "tp-not-divisible ray-resources-pending gpu-count-exceeded",
            ),
            ("workers without GPUs", ", nvidia.com/gpu: 2", "", "ray-resources-pending gpu-count-exceeded"),
            (
                "more replicas than GPUs",
                "min_replicas: 1",
                "min_replicas: 3",
                "ray-resources-pending gpu-count-exceeded",
            ),
            ("length beyond the model", "max_model_len: 8192", "max_model_len: 819200", ARG),
            ("key misspelt", "tensor_parallel_size: 2", "tensor_paralel_size: 2", ARG),
            ("API version", "ray.io/v1", "ray.io/v2", "version-skew invalid-launch-argument"),
        ),
    ),
    Seed(
        "variables.sh",
        VARIABLES,
        "8xH100",
        1,
        (
            ("option in a variable misspelt", "--max-model-len", "--max-modle-len", ARG),
            ("TP in a variable", "--tensor-parallel-size 2", "--tensor-parallel-size 16", COUNT),
            (
                "GPUs fewer than ranks",
                "CUDA_VISIBLE_DEVICES=4,5",
                "CUDA_VISIBLE_DEVICES=4",
                "gpu-count-exceeded gpu-not-visible",
            ),
            ("one port", "--port 30000", "--port 8000", "port-in-use"),
        ),
    ),
)
