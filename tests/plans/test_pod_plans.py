"""Pods of one launch, and what their containers are given: each fault is named, its sound form is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from diag.diagnose.plans import check_plans, parse_gpus
from diag.diagnose.plans.correcting import correct_text
from diag.model import Finding, Status
from diag.observe.plans import read_plan_text


def wrong(text: str, gpus: str = "8xH100", nodes: int = 4) -> list[Finding]:
    found = check_plans([read_plan_text(text, "a.yaml")], replace(parse_gpus(gpus), nodes=nodes))
    return [finding for finding in found if finding.status in (Status.FAIL, Status.WARN)]


JOB = """apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  completions: 4
  parallelism: 4
  completionMode: Indexed
  template:
    spec:
      subdomain: train
      containers:
      - name: trainer
        image: registry.example.com/trainer:1.0
        env:
        - {name: MASTER_ADDR, value: train-0.train}
        command: [bash, -c]
        args:
        - torchrun --nnodes=4 --nproc_per_node=8 --node_rank=$JOB_COMPLETION_INDEX --master_addr=$MASTER_ADDR --master_port=29500 t.py
        resources:
          limits: {cpu: "96", nvidia.com/gpu: 8}
        volumeMounts:
        - {name: shm, mountPath: /dev/shm}
      volumes:
      - name: shm
        emptyDir: {medium: Memory}
"""
JOBSET = """apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: sft
spec:
  replicatedJobs:
  - name: workers
    template:
      spec:
        parallelism: 4
        completions: 4
        template:
          spec:
            containers:
            - name: trainer
              image: registry.example.com/trainer:1.0
              env:
              - {name: MASTER_ADDR, value: sft-workers-0-0.sft}
              command: [bash, -c]
              args:
              - torchrun --nnodes=4 --nproc_per_node=8 --node_rank=$RANK --master_addr=$MASTER_ADDR --master_port=29500 t.py
              resources:
                limits: {nvidia.com/gpu: 8}
              volumeMounts:
              - {name: shm, mountPath: /dev/shm}
            volumes:
            - name: shm
              emptyDir: {medium: Memory}
"""
ROLE = """      replicas: {replicas}
      template:
        spec:
          containers:
          - name: pytorch
            image: registry.example.com/trainer:2.5.1
            command: [torchrun, --nnodes=4, --nproc_per_node=8, --node_rank=$(RANK), --master_addr=$(MASTER_ADDR), t.py]
            resources:
              limits: {{nvidia.com/gpu: 8}}
            volumeMounts:
            - {{name: shm, mountPath: /dev/shm}}
          volumes:
          - name: shm
            emptyDir: {{medium: Memory}}
"""
PYTORCH = (
    "apiVersion: kubeflow.org/v1\nkind: PyTorchJob\nmetadata:\n  name: sft\nspec:\n  pytorchReplicaSpecs:\n    Master:\n"
    + ROLE.format(replicas=1)
    + "    Worker:\n"
    + ROLE.format(replicas=3)
)
LWS_POD = """    {part}:
      spec:
        containers:
        - name: sglang
          image: lmsysorg/sglang:v0.5.3
          command: [python3, -m, sglang.launch_server, --model-path, /models/DeepSeek-R1-0528, --tp, "16",
            --dist-init-addr, $(LWS_LEADER_ADDRESS):20000, --nnodes, $(LWS_GROUP_SIZE), --node-rank, $(LWS_WORKER_INDEX)]
          resources:
            limits: {{nvidia.com/gpu: "8"}}
          volumeMounts:
          - {{name: shm, mountPath: /dev/shm}}
          - {{name: models, mountPath: /models}}
        volumes:
        - name: shm
          emptyDir: {{medium: Memory}}
        - name: models
          persistentVolumeClaim: {{claimName: models}}
"""
LWS = (
    "apiVersion: leaderworkerset.x-k8s.io/v1\nkind: LeaderWorkerSet\nmetadata:\n  name: r1\nspec:\n  replicas: 1\n"
    "  leaderWorkerTemplate:\n    size: 2\n"
    + LWS_POD.format(part="leaderTemplate")
    + LWS_POD.format(part="workerTemplate")
)
MPI = """apiVersion: kubeflow.org/v2beta1
kind: MPIJob
metadata:
  name: nccl
spec:
  slotsPerWorker: 8
  mpiReplicaSpecs:
    Launcher:
      replicas: 1
      template:
        spec:
          containers:
          - name: nccl
            image: registry.example.com/nccl-tests:1
            command: [mpirun, --allow-run-as-root, -np, "16", /opt/all_reduce_perf, -g, "1"]
    Worker:
      replicas: 2
      template:
        spec:
          containers:
          - name: nccl
            image: registry.example.com/nccl-tests:1
            resources:
              limits: {nvidia.com/gpu: 8}
"""
SERVE = """apiVersion: apps/v1
kind: Deployment
metadata:
  name: qwen
spec:
  replicas: 1
  template:
    spec:
      containers:
      - name: vllm
        image: vllm/vllm-openai:v0.11.0
        command: [/bin/sh, -c]
        args:
        - vllm serve /models/Qwen3-32B --tensor-parallel-size 8 --cpu-offload-gb 4 --max-model-len 32768
        resources:
          limits: {cpu: "32", memory: 200Gi, nvidia.com/gpu: 8}
        volumeMounts:
        - {name: models, mountPath: /models}
        - {name: shm, mountPath: /dev/shm}
      volumes:
      - name: models
        persistentVolumeClaim: {claimName: models}
      - name: shm
        emptyDir: {medium: Memory}
"""
RAY = """apiVersion: ray.io/v1
kind: RayService
metadata:
  name: llm
spec:
  serveConfigV2: |
    applications:
    - name: llms
      import_path: ray.serve.llm:build_openai_app
      args:
        llm_configs:
        - model_loading_config: {model_id: qwen, model_source: Qwen/Qwen2.5-32B-Instruct}
          accelerator_type: H100
          engine_kwargs: {max_model_len: 16384, tensor_parallel_size: 4}
  rayClusterConfig:
    rayVersion: "2.52.0"
    headGroupSpec:
      rayStartParams: {num-gpus: "0"}
      template:
        spec:
          containers:
          - name: head
            image: rayproject/ray-llm:2.52.0-py311-cu128
    workerGroupSpecs:
    - replicas: 1
      groupName: gpus
      rayStartParams: {num-cpus: "32", num-gpus: "4"}
      template:
        spec:
          containers:
          - name: worker
            image: rayproject/ray-llm:2.52.0-py311-cu128
            resources:
              limits: {nvidia.com/gpu: 4}
"""
SOUND = {"job": JOB, "jobset": JOBSET, "pytorch": PYTORCH, "lws": LWS, "mpi": MPI, "serve": SERVE, "ray": RAY}


@pytest.mark.parametrize("name", SOUND)
def test_sound_groups_are_accused_of_nothing(name: str) -> None:
    assert not [each.summary for each in wrong(SOUND[name])]


SLIPS = (
    ("job", "  completionMode: Indexed\n", "", "launcher-layout", "completion index"),
    ("job", "completionMode: Indexed", "completionMode: NonIndexed", "launcher-layout", "completion index"),
    ("job", "parallelism: 4", "parallelism: 1", "launcher-layout", "1 pod at once"),
    ("job", "      subdomain: train\n", "", "dns-failure", "no subdomain"),
    ("job", "value: train-0.train", "value: train-0.trainer", "dns-failure", "subdomain train"),
    ("job", 'cpu: "96"', 'cpu: "1"', "numa-cpu-starvation", "8 ranks"),
    ("jobset", "workers-0-0.sft", "workers-0-0.pytorch", "dns-failure", "subdomain sft"),
    ("jobset", "parallelism: 4", "parallelism: 2", "launcher-layout", "there are 2 pods"),
    ("pytorch", "replicas: 3", "replicas: 4", "launcher-layout", "are 5 pods"),
    ("pytorch", "trainer:2.5.1", "trainer:2.6.0", "version-skew", "one release"),
    ("lws", "--nnodes, $(LWS_GROUP_SIZE)", '--nnodes, "4"', "launcher-layout", "the group has size 2"),
    ("lws", "sglang:v0.5.3", "sglang:v0.4.9", "version-skew", "one release"),
    ("mpi", "slotsPerWorker: 8", "slotsPerWorker: 4", "launcher-layout", "2 workers × 4 slots"),
    ("mpi", "  slotsPerWorker: 8\n", "", "launcher-layout", "2 workers × 1 slots"),
    ("serve", "mountPath: /models", "mountPath: /mnt/models", "model-path-missing", "mounted: /mnt/models"),
    ("serve", "--cpu-offload-gb 4", "--cpu-offload-gb 40", "host-oom-killed", "8 × 40 GiB = 320 GiB"),
    ("serve", 'cpu: "32"', "cpu: 2000m", "numa-cpu-starvation", "share 2 processor cores"),
    ("ray", 'num-gpus: "4"', 'num-gpus: "0"', "ray-resources-pending", "starts Ray with num-gpus 0"),
    (
        "ray",
        "accelerator_type: H100",
        "accelerator_type: L40S",
        "ray-resources-pending",
        "accelerator_type L40S",
    ),
    (
        "ray",
        "ray-llm:2.52.0-py311-cu128\n    workerGroup",
        "ray-llm:2.50.1-py311-cu128\n    workerGroup",
        "version-skew",
        "",
    ),
)


@pytest.mark.parametrize(("name", "old", "new", "cause", "said"), SLIPS)
def test_a_slip_in_a_group_is_named(name: str, old: str, new: str, cause: str, said: str) -> None:
    assert old in SOUND[name]
    found = wrong(SOUND[name].replace(old, new, 1))

    assert [each for each in found if each.data["cause"] == cause and said in each.summary], found


def test_workers_that_bring_fewer_gpus_than_the_leader_are_named() -> None:
    head, _, tail = LWS.rpartition('nvidia.com/gpu: "8"')
    found = wrong(f'{head}nvidia.com/gpu: "4"{tail}')

    assert any("the leader's 8 GPUs and 1 × 4 of the workers are 12" in each.summary for each in found)


@pytest.mark.parametrize(
    ("added", "told"),
    [
        ("", True),
        ("        envFrom: [{secretRef: {name: hf}}]\n", False),
        ("        env: [{name: HF_TOKEN, value: x}]\n", False),
    ],
)
def test_a_gated_model_needs_a_token(added: str, told: bool) -> None:
    text = SERVE.replace("/models/Qwen3-32B", "meta-llama/Llama-3.1-8B-Instruct")
    text = text.replace("mountPath: /models", "mountPath: /tmp/scratch").replace(
        "name: models", "name: scratch"
    )
    text = text.replace("        volumeMounts:\n", f"{added}        volumeMounts:\n")

    assert any(each.data["cause"] == "model-access-denied" for each in wrong(text)) is told


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("serve", "image: vllm/vllm-openai:v0.11.0", "image: registry.example.com/with-models:1"),
        ("serve", "vllm serve /models", "download.sh && vllm serve /models"),
        ("serve", "kind: Deployment", "kind: InferenceService"),
        ("pytorch", "spec:\n  pytorch", "spec:\n  elasticPolicy: {minReplicas: 1}\n  pytorch"),
    ],
)
def test_what_others_may_provide_is_not_missed(name: str, old: str, new: str) -> None:
    slip = ("mountPath: /models", "mountPath: /mnt/m") if name == "serve" else ("replicas: 3", "replicas: 7")
    text = SOUND[name].replace(*slip)
    assert old in text
    assert {each.data["cause"] for each in wrong(text, nodes=9)} & {"model-path-missing", "launcher-layout"}
    assert not {each.data["cause"] for each in wrong(text.replace(old, new, 1), nodes=9)} & {
        "model-path-missing",
        "launcher-layout",
    }


@pytest.mark.parametrize(
    ("name", "old", "new", "wanted"),
    [
        ("job", "  completionMode: Indexed\n", "", "completionMode: Indexed"),
        ("job", "parallelism: 4", "parallelism: 1", "parallelism: 4"),
        ("jobset", "workers-0-0.sft", "workers-0-0.pytorch", "value: sft-workers-0-0.sft}"),
        ("mpi", "slotsPerWorker: 8", "slotsPerWorker: 4", "slotsPerWorker: 8"),
    ],
)
def test_a_group_is_mended_where_the_place_is_known(name: str, old: str, new: str, wanted: str) -> None:
    broken = SOUND[name].replace(old, new, 1)
    hardware = replace(parse_gpus("8xH100"), nodes=4)

    mended = correct_text(broken, "a.yaml", hardware).new_text

    assert wanted in mended
    assert not wrong(mended)
