"""Shapes that real plans have: branches in scripts, engine files in ConfigMaps, folded texts, Ray, MPI, pods of other kinds."""

from __future__ import annotations

import pytest

from diag.diagnose.plans import check_plans, parse_gpus
from diag.model import Finding, Status
from diag.observe.plans import read_plan_text
from diag.observe.plans.shell_words import commands

POD = """apiVersion: v1
kind: Pod
metadata: {{name: p}}
spec:
  containers:
  - name: main
    image: {image}
    command: [{command}]
    resources:
      limits:
        nvidia.com/gpu: "{gpus}"
    volumeMounts:
    - {{mountPath: /dev/shm, name: dshm}}
  volumes:
  - name: dshm
    emptyDir: {{medium: Memory}}
"""


def wrong(text: str, name: str, gpus: str = "8xH100") -> list[Finding]:
    findings = check_plans([read_plan_text(text, name)], parse_gpus(gpus))
    return [finding for finding in findings if finding.status in (Status.FAIL, Status.WARN)]


def causes(text: str, name: str, gpus: str = "8xH100") -> set[str]:
    return {str(finding.data["cause"]) for finding in wrong(text, name, gpus)}


def test_what_branches_disagree_on_is_not_known_afterwards() -> None:
    script = 'TP=8\nif [ "$BIG" ]; then\n  TP=16\nelse\n  NAME=x\nfi\nserve $TP $NAME\n'
    last = list(commands(script))[-1]

    assert [word.text for word in last.words] == ["serve", "$TP", "x"]


def test_options_that_only_a_branch_appends_leave_the_list_open() -> None:
    script = 'ARGS=(--a 1)\nif [ "$X" ]; then ARGS+=(--b 2); fi\nserve "${ARGS[@]}"\n'
    last = list(commands(script))[-1]

    assert [word.text for word in last.words] == ["serve", "--a", "1", "${ARGS[@]}"]


def test_services_of_two_branches_never_clash() -> None:
    both = 'if [ "$A" ]; then\n  {one} &\nelse\n  {two} &\nfi\nwait\n'
    one, two = (
        f"vllm serve Qwen/Qwen3-{size} --port 8000 --tensor-parallel-size 8" for size in ("8B", "32B")
    )

    assert not causes(both.format(one=one, two=two), "a.sh")
    assert {"port-in-use", "gpu-count-exceeded"} <= causes(f"{one} &\n{two} &\nwait\n", "a.sh")


def test_a_variable_that_is_not_exported_reaches_no_command() -> None:
    script = "{}NCCL_SOCKET_IFNAME=lo\ntorchrun --nnodes 2 --node-rank 0 --nproc-per-node 8 --rdzv-endpoint h:1 t.py\n"

    assert "nccl-wrong-interface" not in causes(script.format(""), "a.sh")
    assert "nccl-wrong-interface" in causes(script.format("export "), "a.sh")


def test_what_is_only_printed_starts_nothing() -> None:
    assert not read_plan_text("#!/bin/bash\necho vllm serve Qwen/Qwen3-8B\n", "a.sh").services


TRTLLM = """apiVersion: nvidia.com/v1alpha1
kind: DynamoGraphDeployment
metadata: {name: g}
spec:
  services:
    Worker:
      componentType: worker
      replicas: 1
      resources: {limits: {gpu: "4"}}
      extraPodSpec:
        mainContainer:
          image: x
          command: [python3, -m, dynamo.trtllm]
          args: [--model-path, Qwen/Qwen3-235B-A22B-FP8, --extra-engine-args, /config/agg.yaml]
"""
CONFIG = """---
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data:
  agg.yaml: |
    tensor_parallel_size: %s
    kv_cache_config:
      free_gpu_memory_fraction: 0.8
"""


def test_an_engine_file_in_a_config_map_belongs_to_its_service() -> None:
    plan = read_plan_text(TRTLLM + CONFIG % 4, "d.yaml")
    service = plan.services[0]

    assert service.tensor_parallel_size == 4
    size = service.options["tensor-parallel-size"]
    assert (size.line, (TRTLLM + CONFIG % 4).splitlines()[(size.line or 0) - 1].strip()) == (
        size.line,
        "tensor_parallel_size: 4",
    )
    assert service.options["free-gpu-memory-fraction"].value == 0.8
    assert not causes(TRTLLM + CONFIG % 4, "d.yaml")
    assert "gpu-count-exceeded" in causes(TRTLLM + CONFIG % 8, "d.yaml")


def test_sizes_in_a_file_that_is_not_there_are_not_guessed() -> None:
    found = check_plans([read_plan_text(TRTLLM, "d.yaml")], parse_gpus("8xH100"))

    assert not [finding for finding in found if finding.status in (Status.FAIL, Status.WARN)]
    assert any("parallel sizes are not in the plan" in finding.summary for finding in found)


def test_lines_of_a_plain_scalar_are_one_command() -> None:
    text = POD.format(image="x", command="/bin/sh, -c", gpus=4) + ""
    text = text.replace(
        "    resources:",
        "    args:\n    - vllm serve Qwen/Qwen3-32B\n      --tensor-parallel-size 4\n    resources:",
    )

    assert read_plan_text(text, "p.yaml").services[0].tensor_parallel_size == 4


def test_a_backslash_in_a_folded_text_is_told() -> None:
    text = POD.format(image="x", command="/bin/sh, -c", gpus=1).replace(
        "    resources:",
        "    args:\n    - >-\n      vllm serve Qwen/Qwen3-8B \\\n      --max-model-len 4096\n    resources:",
    )

    assert causes(text, "p.yaml") == {"invalid-launch-argument"}
    assert not causes(text.replace(">-", "|-"), "p.yaml")


def test_a_list_option_in_a_yaml_list_ends_at_the_next_option() -> None:
    words = 'vllm, serve, Qwen/Qwen3-32B, --middleware, a.b, --tensor-parallel-size, "4"'
    plan = read_plan_text(POD.format(image="x", command=words, gpus=4), "p.yaml")

    assert plan.services[0].tensor_parallel_size == 4


@pytest.mark.parametrize(
    ("gpus", "tp", "cause"), [(8, "7", "launcher-layout"), (4, None, "launcher-layout"), (4, "4", None)]
)
def test_granted_gpus_that_nothing_uses_are_told(gpus: int, tp: str | None, cause: str | None) -> None:
    words = "vllm, serve, acme/unknown" + (f', --tensor-parallel-size, "{tp}"' if tp else "")

    assert (causes(POD.format(image="x", command=words, gpus=gpus), "p.yaml") == {cause}) is (
        cause is not None
    )


def test_a_container_that_runs_something_else_still_takes_its_gpus() -> None:
    assert causes(POD.format(image="x", command="python, train.py", gpus=16), "p.yaml") == {
        "gpu-count-exceeded"
    }
    assert not causes(POD.format(image="x", command="python, train.py", gpus=8), "p.yaml")


RAY = """apiVersion: ray.io/v1
kind: RayService
metadata: {{name: r}}
spec:
  serveConfigV2: |
    applications:
    - name: llms
      import_path: ray.serve.llm:build_openai_app
      args:
        llm_configs:
        - model_loading_config:
            model_id: qwen
            model_source: Qwen/Qwen2.5-72B-Instruct
          engine_kwargs:
            tensor_parallel_size: {tp}
          deployment_config:
            autoscaling_config: {{min_replicas: {replicas}, max_replicas: 4}}
  rayClusterConfig:
    headGroupSpec:
      rayStartParams: {{}}
      template:
        spec:
          containers:
          - {{name: head, image: rayproject/ray-llm}}
    workerGroupSpecs:
    - groupName: gpu
      replicas: 2
      template:
        spec:
          containers:
          - name: worker
            image: rayproject/ray-llm
            resources: {{limits: {{nvidia.com/gpu: "4"}}}}
"""


def test_ray_serves_no_more_than_its_groups_have() -> None:
    plan = read_plan_text(RAY.format(tp=4, replicas=2), "r.yaml")
    model = next(service for service in plan.services if service.framework == "vllm")

    assert (model.model, model.tensor_parallel_size, model.replicas) == ("Qwen/Qwen2.5-72B-Instruct", 4, 2)
    assert not causes(RAY.format(tp=4, replicas=2), "r.yaml")
    assert causes(RAY.format(tp=4, replicas=3), "r.yaml") == {"ray-resources-pending"}
    assert "gpu-oom-weights" in causes(RAY.format(tp=1, replicas=1), "r.yaml")


def test_rays_own_cluster_file_names_node_types() -> None:
    text = (
        "cluster_name: c\nprovider: {type: aws}\nhead_node_type: head\navailable_node_types:\n"
        "  head: {resources: {CPU: 8}}\n  gpu:\n    min_workers: 2\n    max_workers: 4\n    resources: {CPU: 96, GPU: 16}\n"
    )

    assert causes(text, "c.yaml", "8xA100-80GB") == {"gpu-count-exceeded"}
    assert not causes(text, "c.yaml", "16xA100-80GB")


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("mpirun -n 8 trtllm-serve Qwen/Qwen2.5-72B-Instruct --tp_size 4 --pp_size 2", None),
        (
            "mpirun -n 4 trtllm-serve Qwen/Qwen2.5-72B-Instruct --tp_size 4 --pp_size 2",
            "mpi-world-size-mismatch",
        ),
        (
            "srun -N 2 --ntasks-per-node 8 --mpi=pmix trtllm-llmapi-launch trtllm-serve a/b --tp_size 8",
            "mpi-world-size-mismatch",
        ),
        ("srun -N 2 --ntasks-per-node 8 --mpi=pmix trtllm-llmapi-launch trtllm-serve a/b --tp_size 16", None),
        ("trtllm-serve Qwen/Qwen2.5-7B-Instruct --max_batch_sise 8", "invalid-launch-argument"),
    ],
)
def test_tensorrt_llm_lines_are_judged(line: str, cause: str | None) -> None:
    found = causes(line + "\n", "a.sh")

    assert cause in found if cause else not found


def test_a_probe_that_dynamos_operator_guards_is_no_fault() -> None:
    text = TRTLLM.replace("dynamo.trtllm", "dynamo.vllm").replace(
        "--extra-engine-args, /config/agg.yaml", "--tensor-parallel-size, '4'"
    )
    probe = "          livenessProbe: {httpGet: {path: /live, port: 9090}, periodSeconds: 5, failureThreshold: 1}\n"

    assert "probe-killed" not in causes(text + probe, "d.yaml")
