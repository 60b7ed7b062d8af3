"""The memory model against the truth file, where it lies beside the repository; and against start-ups written down here."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from diag.diagnose.plans import estimate, facts_of_model, gpu_spec, parse_gpus
from diag.diagnose.plans.hardware import GIB
from diag.diagnose.plans.model_facts import facts_of_config
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


CONFIGS = [
    # what a config.json says (its own keys and no more), and the parameters of a real skeleton built from it
    # (transformers 5.24, meta device): what the file leaves out must be filled in as the family's class does
    (
        "gemma3",
        {
            "model_type": "gemma3",
            "text_config": {
                "model_type": "gemma3_text",
                "hidden_size": 5376,
                "intermediate_size": 21504,
                "num_attention_heads": 32,
                "num_hidden_layers": 62,
                "num_key_value_heads": 16,
                "head_dim": 128,
                "sliding_window": 1024,
            },
            "vision_config": {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27},
        },
        27.432e9,
    ),
    (
        "nemotron_h",
        {
            "model_type": "nemotron_h",
            "hidden_size": 2688,
            "num_hidden_layers": 52,
            "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
            "num_attention_heads": 32,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "intermediate_size": 1856,
            "moe_intermediate_size": 1856,
            "moe_shared_expert_intermediate_size": 3712,
            "n_routed_experts": 128,
            "n_shared_experts": 1,
            "mamba_num_heads": 64,
            "mamba_head_dim": 64,
            "n_groups": 8,
            "ssm_state_size": 128,
            "vocab_size": 131072,
            "tie_word_embeddings": False,
        },
        31.578e9,
    ),
    (
        "qwen3_vl",
        {
            "model_type": "qwen3_vl",
            "text_config": {
                "model_type": "qwen3_vl_text",
                "hidden_size": 2560,
                "num_hidden_layers": 36,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "head_dim": 128,
                "intermediate_size": 9728,
                "vocab_size": 151936,
                "tie_word_embeddings": True,
            },
            "vision_config": {
                "depth": 24,
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "out_hidden_size": 2560,
                "spatial_merge_size": 2,
                "deepstack_visual_indexes": [5, 11, 17],
            },
        },
        4.438e9,
    ),
    (
        "llama4",
        {
            "model_type": "llama4",
            "text_config": {
                "model_type": "llama4_text",
                "hidden_size": 5120,
                "num_hidden_layers": 48,
                "num_attention_heads": 40,
                "num_key_value_heads": 8,
                "intermediate_size": 8192,
                "intermediate_size_mlp": 16384,
                "num_local_experts": 16,
                "interleave_moe_layer_step": 1,
                "vocab_size": 202048,
                "tie_word_embeddings": False,
            },
        },
        107.77e9,
    ),
    (
        "deepseek_v3",
        {
            "model_type": "deepseek_v3",
            "hidden_size": 7168,
            "num_hidden_layers": 61,
            "num_attention_heads": 128,
            "intermediate_size": 18432,
            "moe_intermediate_size": 2048,
            "n_routed_experts": 256,
            "n_shared_experts": 1,
            "first_k_dense_replace": 3,
            "kv_lora_rank": 512,
            "q_lora_rank": 1536,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "vocab_size": 129280,
            "tie_word_embeddings": False,
        },
        671.026e9,
    ),
]


@pytest.mark.parametrize(("name", "config", "parameters"), CONFIGS, ids=[row[0] for row in CONFIGS])
def test_parameters_are_counted_as_a_real_skeleton_has_them(
    name: str, config: dict[str, object], parameters: float
) -> None:
    assert facts_of_config(config).total == pytest.approx(parameters, rel=0.006)


def test_every_known_models_figures_count_up_to_its_size() -> None:
    text = (ROOT / "diag" / "diagnose" / "plans" / "data" / "models.json").read_text("utf-8")
    rows = json.loads(text)["models"]
    seeing = (
        "_vl",
        "kimi_",
        "gemma3",
        "gemma4",
        "mistral3",
        "pixtral",
        "mllama",
        "llava",
        "internvl",
        "audio",
        "granite",
    )
    odd = [
        row["match"]
        for row in rows
        if not any(word in row["config"]["model_type"] for word in seeing)
        and row["config"]["model_type"]
        not in ("nemotron-nas", "opt", "ernie4_5_moe", "qwen3_5", "qwen3_5_moe")
        and abs(facts_of_config(row["config"], source="table").total / (row["params_b"] * 1e9) - 1) > 0.026
    ]

    assert len(rows) >= 200
    assert not odd


@pytest.mark.parametrize(
    ("name", "billions", "method"),
    [
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", 108.6, None),
        ("moonshotai/Kimi-K2.6", 1026.9, "compressed-tensors"),
        ("moonshotai/Kimi-VL-A3B-Instruct", 16.4, None),
        ("nvidia/Llama-3.3-70B-Instruct-FP4", 70.6, "nvfp4"),
        ("Qwen/Qwen3.5-397B-A17B-FP8", 396.8, "fp8"),
        ("tiiuae/Falcon3-10B-Instruct", 10.3, None),
    ],
)
def test_a_known_model_is_known_by_name(name: str, billions: float, method: str | None) -> None:
    facts = facts_of_model(name)

    assert (facts.certain, facts.method) == (True, method)
    assert facts.total / 1e9 == pytest.approx(billions, rel=0.01)


@pytest.mark.parametrize(
    "name", ["acme/DeepSeek-R1-Small-2layers", "lmsys/gpt-oss-120b-eagle3", "x/tiny-random-llama-3-8b"]
)
def test_a_cut_down_namesake_is_not_taken_for_the_large_model(name: str) -> None:
    assert not facts_of_model(name).known


def test_what_the_quantization_leaves_alone_is_counted_in_sixteen_bit() -> None:
    kimi = facts_of_model("moonshotai/Kimi-K2.5")
    found = estimate(launch("moonshotai/Kimi-K2.5", 8), parse_gpus("8xH200"), kimi)

    assert 72 < (found.weights_bytes_per_gpu or 0) / GIB < 77  # 594 GB of files over eight


def test_a_draft_model_takes_its_room() -> None:
    hardware = parse_gpus("8xH100")
    plain = estimate(launch("Qwen/Qwen3-32B", 2), hardware, facts_of_model("Qwen/Qwen3-32B"))
    spoken = launch(
        "Qwen/Qwen3-32B", 2, speculative_config='{"model": "Qwen/Qwen3-1.7B", "num_speculative_tokens": 4}'
    )
    drafted = estimate(spoken, hardware, facts_of_model("Qwen/Qwen3-32B"))

    added = (drafted.weights_bytes_per_gpu or 0) - (plain.weights_bytes_per_gpu or 0)
    assert 1.5 < added / GIB < 1.8
    assert (drafted.kv_cache_tokens or 0) < (plain.kv_cache_tokens or 0)


@pytest.mark.parametrize(
    ("version", "gpu", "tp", "share"),
    [
        ("0.4.6", "8xH100", 1, 0.88),
        ("0.4.6", "8xH100", 8, 0.81),
        ("0.5.9", "8xH100", 1, 0.836),
        ("0.5.9", "8xH200", 8, 0.896),
    ],
)
def test_sglangs_share_of_the_memory_follows_its_version(
    version: str, gpu: str, tp: int, share: float
) -> None:
    service = Service(
        "engine",
        framework="sglang",
        model="Qwen/Qwen3-8B",
        tensor_parallel_size=tp,
        options={"engine.version": Setting(version)},
    )
    found = estimate(service, parse_gpus(gpu), facts_of_model("Qwen/Qwen3-8B"))

    assert found.utilization == pytest.approx(share, abs=0.006)


def test_a_cache_that_is_told_in_bytes_is_taken_as_told() -> None:
    told = launch("Qwen/Qwen3-8B", kv_cache_memory_bytes="8589934592", gpu_memory_utilization=0.01)
    found = estimate(told, parse_gpus("8xH100"), facts_of_model("Qwen/Qwen3-8B"))

    assert found.kv_cache_bytes_per_gpu == 8 * GIB
    assert found.fits


def test_data_parallel_attention_keeps_whole_heads_on_every_rank() -> None:
    model, hardware = facts_of_model("deepseek-ai/DeepSeek-R1"), parse_gpus("8xH200")

    def weights(**options: object) -> float:
        service = Service(
            "engine",
            framework="sglang",
            model="deepseek-ai/DeepSeek-R1",
            tensor_parallel_size=8,
            data_parallel_size=8,
            options={name.replace("_", "-"): Setting(value) for name, value in options.items()},
        )
        return (estimate(service, hardware, model).weights_bytes_per_gpu or 0) / GIB

    # 11.4 billion elements of attention in FP8 (and their absorbed copies in 16 bit), seven eighths of them more on each rank
    assert 8 < weights(enable_dp_attention=True) - weights() < 16
