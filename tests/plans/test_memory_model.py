"""The memory model against the truth file, where it lies beside the repository; and against start-ups written down here."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from diag.diagnose.plans import estimate, facts_of_model, gpu_spec, parse_gpus
from diag.diagnose.plans.hardware import GIB
from diag.model.launch import Hardware, Service, Setting
from diag.system import UserError

ROOT = Path(__file__).parents[2]
TRUTH = ROOT.parent / "shared" / "memory_truth.yaml"


def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("memory_model", ROOT / "benchmarks" / "memory_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["memory_model"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(
    not TRUTH.is_file(),
    reason="NO TRUTH FILE at ../shared/memory_truth.yaml: the memory model is not checked against printed figures",
)
def test_predictions_keep_the_aims_against_what_engines_printed() -> None:
    module = benchmark()
    rows = list(module.rows(str(TRUTH)))

    good, compared = module.within(rows, "weights", 0.03)
    assert compared >= 35
    assert good >= 0.97 * compared
    good, compared = module.within(rows, "tokens", 0.10)
    assert compared >= 35
    assert good >= 0.9 * compared
    assert not [row.id for row in rows if row.failed_for_memory and row.estimate.fits]
    assert not [row.id for row in rows if not row.failed_for_memory and row.estimate.fits is False]


def launch(model: str, tp: int = 1, **options: object) -> Service:
    return Service(
        "engine",
        framework="vllm",
        model=model,
        tensor_parallel_size=tp,
        options={name.replace("_", "-"): Setting(value) for name, value in options.items()},
    )


@pytest.mark.parametrize(
    ("model", "billions"),
    [
        ("Qwen/Qwen2.5-72B-Instruct", 72.7),
        ("mistralai/Mixtral-8x7B-v0.1", 46.7),
        ("deepseek-ai/DeepSeek-R1", 671),
        ("Qwen/Qwen3-30B-A3B-FP8", 30.5),
        ("acme/wonder-13B-chat", 13),
        ("/models/acme-8x7B", 45.9),
    ],
)
def test_a_models_size_comes_from_its_name(model: str, billions: float) -> None:
    assert facts_of_model(model).total / 1e9 == pytest.approx(billions, rel=0.01)


def test_only_a_models_own_figures_are_certain() -> None:
    assert facts_of_model("Qwen/Qwen3-32B").certain
    assert not facts_of_model("acme/wonder-13B-chat").certain
    assert not facts_of_model("my_model").known


@pytest.mark.parametrize(
    ("text", "name", "count", "gib"),
    [
        ("4xT4", "T4", 4, 14.56),
        ("16xA100-40GB", "A100", 16, 39.39),
        ("8xH200", "H200", 8, 139.8),
        ("H100", "H100", None, 79.19),
        ("2xFoo-48GB", "Foo", 2, 47.28),
        ("8×A100-80G", "A100", 8, 79.15),
    ],
)
def test_gpus_are_read_from_their_short_form(text: str, name: str, count: int | None, gib: float) -> None:
    hardware = parse_gpus(text)

    assert (hardware.gpu_name, hardware.gpus_per_node) == (name, count)
    assert (hardware.gpu_memory_bytes or 0) / GIB == pytest.approx(gib, abs=0.01)


@pytest.mark.parametrize("text", ["", "x", "0xT4", "4xNonsense", "-1xT4", "4x", "99999999999xT4"])
def test_nonsense_for_gpus_is_said_in_one_sentence(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_gpus(text)

    assert caught.value.where == "--gpus"


@pytest.mark.parametrize(
    ("name", "product", "capability"),
    [
        ("NVIDIA H100 80GB HBM3", "H100", 9.0),
        ("Tesla V100-SXM2-16GB", "V100", 7.0),
        ("NVIDIA A10G", "A10G", 8.6),
        ("NVIDIA A10", "A10", 8.6),
        ("NVIDIA L40S", "L40S", 8.9),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada", 8.9),
        ("NVIDIA GB200", "GB200", 10.0),
        ("NVIDIA GH200 480GB", "GH200", 9.0),
    ],
)
def test_a_drivers_name_for_a_gpu_is_known(name: str, product: str, capability: float) -> None:
    spec = gpu_spec(name)

    assert spec is not None
    assert (spec.name, spec.capability) == (product, capability)


def test_mla_caches_are_not_divided_by_tensor_parallelism() -> None:
    hardware = parse_gpus("8xH200")
    one, eight = (
        estimate(
            launch("deepseek-ai/DeepSeek-R1", tp), hardware, facts_of_model("deepseek-ai/DeepSeek-R1")
        ).token_bytes
        for tp in (1, 8)
    )

    assert one == eight == 576 * 2 * 61


def test_nothing_is_said_of_an_unknown_model_or_gpu() -> None:
    unknown_model = estimate(launch("my_model"), parse_gpus("8xH100"), facts_of_model("my_model"))
    unknown_gpu = estimate(launch("Qwen/Qwen3-8B"), Hardware(), facts_of_model("Qwen/Qwen3-8B"))

    assert unknown_model.fits is None
    assert unknown_gpu.fits is None
    assert unknown_gpu.weights_bytes_per_gpu
