"""The founding cases 3, 4 and 5 from the plan alone: named, reckoned, corrected; their healthy forms stay silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from diag.diagnose.plans import Correction, check_plans, correct, parse_gpus
from diag.model import Finding, Status
from diag.observe.plans import read_plan, read_plan_text

PLANS = Path(__file__).parents[2] / "fixtures" / "plans"


def check(name: str, gpus: str) -> list[Finding]:
    return check_plans([read_plan(str(PLANS / name))], parse_gpus(gpus))


def wrong(findings: list[Finding]) -> dict[tuple[str, str], Finding]:
    return {
        (finding.data["cause"], finding.subject): finding
        for finding in findings
        if finding.status in (Status.FAIL, Status.WARN)
    }


def corrected(name: str, gpus: str) -> Correction:
    path = str(PLANS / name)
    plan, hardware = read_plan(path), parse_gpus(gpus)
    (found,) = correct([path], [plan], check_plans([plan], hardware), hardware)
    again = check_plans([read_plan_text(found.new_text, path)], hardware)

    assert not wrong(again), [finding.summary for finding in again]
    assert found.diff
    return found


@pytest.mark.parametrize("name", ["dynamo479/wrong.yaml", "dynamo479/wrong_common.yaml"])
def test_a_prefill_worker_without_tensor_parallel_size_is_named_with_its_arithmetic(name: str) -> None:
    found = wrong(check(name, "16xA100-40GB"))

    memory = found["gpu-oom-weights", "PrefillWorker"]
    assert memory.status is Status.FAIL
    assert memory.data["missing"] == "tensor-parallel-size"
    assert 59 < memory.data["weights_bytes_per_gpu"] / 2**30 < 62
    assert "39.4 GiB" in memory.summary
    assert found["tp-mismatch-disagg", "PrefillWorker"].status is not Status.OK
    assert ("gpu-oom-weights", "VllmWorker") not in found


def test_the_corrected_479_is_the_cure_of_the_issue() -> None:
    text = corrected("dynamo479/wrong.yaml", "16xA100-40GB").new_text
    plan = read_plan_text(text, "corrected.yaml")
    prefill = next(service for service in plan.services if service.name == "PrefillWorker")

    assert prefill.tensor_parallel_size == 4
    assert {
        name: prefill.options[name].value
        for name in ("block-size", "max-model-len", "max-num-batched-tokens", "gpu-memory-utilization")
    } == {
        "block-size": 64,
        "max-model-len": 32768,
        "max-num-batched-tokens": 32768,
        "gpu-memory-utilization": 0.8,
    }
    assert (prefill.replicas, prefill.gpus_per_replica) == (1, 4)
    assert prefill.model == "/models/qwen-32B"
    assert "# leaves room for the other worker" in text


@pytest.mark.parametrize("name", ["dynamo479/wrong_common.yaml", "dynamo479/wrong_v1.yaml"])
def test_other_shapes_of_479_are_corrected_too(name: str) -> None:
    plan = read_plan_text(corrected(name, "16xA100-40GB").new_text, name)

    assert {service.tensor_parallel_size for service in plan.services if "Prefill" in service.name} == {4}


@pytest.mark.parametrize("name", ["wrong", "wrong_false", "wrong_no_options", "wrong_v1"])
def test_prefill_that_is_not_switched_on_is_found_and_switched_on(name: str) -> None:
    found = wrong(check(f"dynamo462/{name}.yaml", "8xA100-80GB"))
    first = next(iter(found.values()))

    assert {cause for cause, _ in found} == {"disagg-prefill-not-enabled"}
    assert first.data["line"]
    diff = corrected(f"dynamo462/{name}.yaml", "8xA100-80GB").diff
    assert "+  enable_disagg: true" in diff if name == "wrong_v1" else "+  remote-prefill: true" in diff


def test_the_thresholds_that_keep_prompts_local_are_mentioned() -> None:
    finding = wrong(check("dynamo462/wrong.yaml", "8xA100-80GB"))["disagg-prefill-not-enabled", "VllmWorker"]

    assert "max-local-prefill-length (10)" in finding.data["fix"]["do"]
    assert "max-prefill-queue-size (1000)" in finding.data["fix"]["do"]


@pytest.mark.parametrize("name", ["wrong", "wrong_common"])
def test_939_asks_for_32_of_4_gpus_and_for_bfloat16_on_turing(name: str) -> None:
    findings = check(f"dynamo939/{name}.yaml", "4xT4")
    found = wrong(findings)

    count = found["gpu-count-exceeded", "VllmWorker"]
    assert (count.data["wanted"], count.data["there"]) == (32, 4)
    assert {subject for cause, subject in found if cause == "dtype-unsupported"} == {
        "VllmWorker",
        "PrefillWorker",
    }
    notes = [finding for finding in findings if finding.data["cause"] == "attention-backend-unsupported"]
    assert [finding.status for finding in notes] == [Status.OK]


@pytest.mark.parametrize("name", ["wrong", "wrong_common", "circulating_cure"])
def test_the_corrected_939_fits_four_t4(name: str) -> None:
    found = corrected(f"dynamo939/{name}.yaml", "4xT4")
    plan = read_plan_text(found.new_text, "corrected.yaml")
    workers = {service.name: service for service in plan.services if service.gpus_per_replica}

    assert sum((each.replicas or 1) * (each.gpus_per_replica or 0) for each in workers.values()) <= 4
    worker = workers["VllmWorker"]
    assert worker.tensor_parallel_size == worker.gpus_per_replica == 4
    assert worker.options["dtype"].value == "float16"
    assert any("8 × T4" in way for way in found.alternatives)
    assert any("4-bit" in way for way in found.alternatives)
    assert any("aggregated" in reason for reason in found.reasons)


def test_the_cure_that_circulates_still_wants_eight_gpus_and_does_not_fit_one() -> None:
    found = wrong(check("dynamo939/circulating_cure.yaml", "4xT4"))

    assert found["gpu-count-exceeded", "VllmWorker"].data["wanted"] == 8
    for service in ("VllmWorker", "PrefillWorker"):
        memory = found["gpu-oom-weights", service]
        assert memory.status is Status.FAIL
        assert memory.data["certain"]
        assert memory.data["weights_bytes_per_gpu"] > 27 * 2**30


@pytest.mark.parametrize(
    ("name", "gpus"),
    [
        ("dynamo939/healthy.yaml", "8xT4"),
        ("dynamo479/healthy.yaml", "16xA100-40GB"),
        ("dynamo479/healthy_common.yaml", "16xA100-40GB"),
        ("dynamo462/healthy.yaml", "8xA100-80GB"),
        ("dynamo462/healthy_aggregated.yaml", "1xA100-80GB"),
    ],
)
def test_the_same_launch_healthy_yields_only_ok(name: str, gpus: str) -> None:
    assert {finding.status for finding in check(name, gpus)} == {Status.OK}
