"""TensorRT-LLM's own file and commands: keys, values and options that its versions do not take."""

from __future__ import annotations

import pytest

from diag.diagnose.plans import check_plans, parse_gpus
from diag.diagnose.plans.correcting import correct_text
from diag.model import Finding, Status
from diag.observe.plans import read_plan_text
from diag.observe.plans.trtllm_keys import keys, names_in, versions

RIGHT = """\
tensor_parallel_size: 8
moe_expert_parallel_size: 8
enable_attention_dp: true
max_batch_size: 128
max_num_tokens: 4096
attention_dp_config:
  enable_balance: true
  timeout_iters: 50
kv_cache_config:
  dtype: fp8
  free_gpu_memory_fraction: 0.8
  enable_block_reuse: false
cuda_graph_config:
  enable_padding: true
  batch_sizes: [1, 2, 4, 8]
moe_config:
  backend: DEEPGEMM
  load_balancer: {num_slots: 288, layer_updates_per_iter: 1}
scheduler_config:
  capacity_scheduler_policy: MAX_UTILIZATION
  dynamic_batch_config: {enable_batch_size_tuning: true}
speculative_config:
  decoding_type: MTP
  num_nextn_predict_layers: 3
cache_transceiver_config:
  backend: UCX
  max_tokens_in_buffer: 8192
"""
DISAGGREGATED = """\
hostname: localhost
port: 8000
schedule_style: context_first
disagg_cluster: {cluster_uri: "http://localhost:2379", minimal_instances: {context_servers: 1}}
context_servers:
  num_instances: 1
  tensor_parallel_size: 2
  router: {type: kv_cache_aware, max_batch_size: 4}
  kv_cache_config: {free_gpu_memory_fraction: 0.2}
  urls: ["localhost:8001"]
generation_servers:
  num_instances: 1
  tensor_parallel_size: 1
  cache_transceiver_config: {backend: UCX}
  urls: ["localhost:8002"]
"""


def said(text: str, name: str = "engine.yaml") -> list[Finding]:
    """What is said of options and keys, certain or not."""
    found = check_plans([read_plan_text(text, name)], parse_gpus("8xH200"))
    return [each for each in found if each.data.get("cause") == "invalid-launch-argument"]


def test_right_files_are_silent() -> None:
    assert not said(RIGHT)
    assert not said(DISAGGREGATED)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("enable_attention_dp:", "enable_atention_dp:"),
        ("timeout_iters:", "timeout_iter:"),
        ("enable_padding:", "enable_adding:"),
        ("enable_batch_size_tuning:", "enable_batchsize_tuning:"),
        ("num_nextn_predict_layers:", "num_nextn_predict_layer:"),
        ("max_tokens_in_buffer:", "max_tokens_ni_buffer:"),
        ("backend: DEEPGEMM", "backend: DEEPGEM"),
        ("MAX_UTILIZATION", "MAX_UTILISATION"),
        ("decoding_type: MTP", "decoding_type: MPT"),
    ],
)
def test_a_slip_is_found_at_any_depth_and_mended(right: str, wrong: str) -> None:
    text = RIGHT.replace(right, wrong)
    found = said(text)

    assert [each.status for each in found] == [Status.FAIL]
    assert "did you mean" in found[0].summary
    assert correct_text(text, "engine.yaml", parse_gpus("8xH200")).new_text == RIGHT


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        ("max_batch_size: 128", "max_batch_size: many", "a whole number"),
        ("enable_padding: true", "enable_padding: maybe", "true or false"),
        ("batch_sizes: [1, 2, 4, 8]", "batch_sizes: 8", "a list"),
        ("timeout_iters: 50", "timeout_iters: [50]", "a whole number"),
    ],
)
def test_values_of_another_kind_are_refused(right: str, wrong: str, expected: str) -> None:
    found = said(RIGHT.replace(right, wrong))

    assert len(found) == 1
    assert expected in found[0].summary


def test_a_new_name_is_a_note_and_a_variable_is_no_value() -> None:
    new = said(RIGHT + "frobnicate_config: {x: 1}\n")
    assert [(each.status, each.data.get("note")) for each in new] == [(Status.OK, True)]
    assert not said(RIGHT.replace("max_batch_size: 128", "max_batch_size: ${BATCH}"))


def test_both_sides_of_a_disaggregated_file_are_read() -> None:
    text = DISAGGREGATED.replace("schedule_style", "schedul_style").replace("backend: UCX", "backend: UCXX")
    found = said(text.replace("free_gpu_memory_fraction", "free_gpu_mem_fraction"))

    assert sorted(each.subject for each in found) == [
        "context_servers",
        "context_servers",
        "generation_servers",
    ]
    assert "schedule_style" in " ".join(each.summary for each in found)


@pytest.mark.parametrize(
    ("image", "count"), [("release:1.0.0", 0), ("release:1.2.0", 1), ("release:1.3.0rc5", 1), ("release", 0)]
)
def test_keys_that_a_version_no_longer_has(image: str, count: int) -> None:
    text = (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cfg}\ndata:\n  e.yaml: |\n    enable_trtllm_sampler: true\n"
        "    max_batch_size: 8\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: t}\nspec:\n  containers:\n  - name: s\n"
        f"    image: nvcr.io/nvidia/tensorrt-llm/{image}\n"
        '    command: ["trtllm-serve", "a/b-8B", "--extra_llm_api_options", "/cfg/e.yaml"]\n'
    )
    found = said(text, "pod.yaml")

    assert len(found) == count
    assert all("no longer has the key enable_trtllm_sampler" in each.summary for each in found)


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("trtllm-serve a/b-8B --max_batch_sise 8", "max_batch_size"),
        ("trtllm-serve serve a/b-8B --log_level infoo", "info"),
        ("trtllm-serve a/b-8B --tool_parser qwen_3coder", "qwen3_coder"),
        ("trtllm-serve disaggregated -c d.yaml --request_timeot 9", "request_timeout"),
        ("trtllm-bench --model a/b-8B throughput --tp 2 --datset x.json", "dataset"),
        (
            "trtllm-llmapi-launch trtllm-bench --model a/b-8B throughput --scheduler_policy max_utilisation",
            "max_utilization",
        ),
    ],
)
def test_options_of_its_commands(line: str, meant: str) -> None:
    found = said(f"#!/bin/bash\n{line}\n", "run.sh")

    assert [each.status for each in found] == [Status.FAIL]
    assert meant in found[0].summary


def test_the_bench_takes_gpus_as_a_server_does() -> None:
    text = "#!/bin/bash\ntrtllm-bench --model a/b-8B throughput --tp 16 --dataset d.json\n"
    found = check_plans([read_plan_text(text, "run.sh")], parse_gpus("8xH100"))

    assert "gpu-count-exceeded" in {each.data.get("cause") for each in found if each.status is Status.FAIL}


def test_the_table_is_whole() -> None:
    assert len(keys()) > 350
    assert len(versions()) >= 5
    assert {"dtype", "free_gpu_memory_fraction", "kv_events_config"} <= set(names_in("kv_cache_config"))
    assert keys()["enable_trtllm_sampler"].last == "1.0"
    assert all(key.values for key in keys().values() if key.kind == "choice")


def test_a_letter_put_for_another_may_be_a_newer_name() -> None:
    found = said(
        "tp-size: 8\nmodel-path: a/b-8B\nmem-fraction-static: 0.8\ndsa-prefill-backend: flashmla_sparse\n"
    )

    assert not [each for each in found if each.status is Status.FAIL]
