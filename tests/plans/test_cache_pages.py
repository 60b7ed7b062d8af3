"""Kinds of models whose cache is no plain table of keys and values, against what vLLM printed for them."""

from __future__ import annotations

import pytest

from diag.diagnose.plans import estimate, facts_of_model, parse_gpus
from diag.diagnose.plans.cache_bytes import Cache
from diag.diagnose.plans.cache_pages import Kind, Run, pages_of
from diag.diagnose.plans.hardware import GIB
from diag.diagnose.plans.model_facts import ModelFacts, facts_of_config
from diag.model.launch import Service, Setting


def launch(model: str, tp: int = 1, **options: object) -> Service:
    return Service(
        "engine",
        framework="vllm",
        model=model,
        tensor_parallel_size=tp,
        options={name.replace("_", "-"): Setting(value) for name, value in options.items()},
    )


MTP = {"speculative_config": {"method": "mtp", "num_speculative_tokens": 3}}
PRINTED = [
    # model, version, TP, longest sequence, tokens of a step, options, printed GiB of cache, printed tokens
    ("google/gemma-4-26B-A4B-it", (0, 20), 1, 8192, 4096, {}, 44.03, 192_368),
    ("RedHatAI/gemma-4-26B-A4B-it-NVFP4", (0, 25), 1, 262_144, 2496, {}, 84.68, 3_912_140),
    ("google/gemma-3-27b-it", (0, 11), 1, 32_768, 16_384, {}, 88.51, 165_712),
    ("google/gemma-3-4b-it", (0, 19), 1, 8192, 8192, {}, 62.51, 468_144),
    ("openai/gpt-oss-20b", (0, 19), 1, 8192, 8192, {}, 58.47, 1_277_184),
    ("Qwen/Qwen3.5-27B", (0, 19), 4, 32_768, 2048, {}, 7.47, 122_304),
    ("Qwen/Qwen3.6-35B-A3B", (0, 19), 1, 131_072, 2048, {}, 47.55, 623_040),
    ("Qwen/Qwen3.6-27B-FP8", (0, 27), 1, 4096, 4096, {"enable_prefix_caching": True}, 41.03, 292_522),
    ("RedHatAI/Qwen3.6-35B-A3B-NVFP4", (0, 25), 1, 262_144, 2048, MTP, 74.22, 3_366_051),
    ("RedHatAI/Qwen3.8-27B-INT4", (0, 25), 1, 262_144, 2048, MTP, 80.17, 1_191_213),
    (
        "unsloth/Qwen3.8-27B-NVFP4",
        (0, 25),
        1,
        262_144,
        2048,
        {**MTP, "kv_cache_dtype": "fp8"},
        76.4,
        2_192_477,
    ),
    ("x/Kimi-Linear-48B-A3B-Instruct-AWQ", (0, 11), 2, 120_000, 64_000, {}, 2.30, 75_840),
    ("moonshotai/Kimi-K2-Thinking", (0, 11), 8, None, 8192, {}, 46.80, 715_072),
    (
        "moonshotai/Kimi-K2-Thinking",
        *((0, 11), 8, None, 8192, {"decode_context_parallel_size": 8}, 46.80, 5_721_088),
    ),
]


@pytest.mark.parametrize(("model", "version", "tp", "length", "batch", "options", "gib", "printed"), PRINTED)
def test_printed_tokens_follow_from_the_printed_cache(
    model: str,
    version: tuple[int, ...],
    tp: int,
    length: int | None,
    batch: int,
    options: dict[str, object],
    gib: float,
    printed: int,
) -> None:
    service = launch(model, tp, **options)
    cache = Cache(service, facts_of_model(model), version, length=length, batch=batch)

    assert cache.tokens(int(gib * GIB)) == pytest.approx(printed, rel=0.01)


def test_layers_of_two_kinds_share_pages_by_the_group() -> None:
    kinds = (Kind("full", 10, 4096.0), Kind("window", 25, 4096.0, 1024))
    pages = pages_of(kinds, Run((0, 25), 8192, 2048))

    assert pages is not None
    assert pages.groups == 1 + 3
    assert pages.block_bytes == 16 * 4096 * 10
    assert pages.blocks_per_request == 512 + 3 * (192 + 1)


def test_a_state_sets_the_size_of_the_pages() -> None:
    kinds = (Kind("full", 16, 4096.0), Kind("state", 48, state_bytes=3_207_168))
    pages = pages_of(kinds, Run((0, 25), 4096, 2048))

    assert pages is not None
    assert pages.smallest_block == 784
    assert pages.blocks_per_request == 6 + 3


def facts(**config: object) -> ModelFacts:
    return facts_of_config(config)


def test_layers_that_share_a_cache_keep_nothing() -> None:
    kinds = (["sliding_attention"] * 4 + ["full_attention"]) * 7
    found = facts(
        model_type="gemma3n",
        hidden_size=2048,
        num_hidden_layers=35,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=256,
        intermediate_size=16384,
        vocab_size=262400,
        sliding_window=512,
        layer_types=kinds,
        num_kv_shared_layers=15,
    )

    assert (found.attention_layers, found.sliding_layers) == (20, 16)


def test_attention_and_mamba_may_stand_side_by_side() -> None:
    found = facts(
        model_type="falcon_h1",
        hidden_size=5120,
        num_hidden_layers=72,
        num_attention_heads=20,
        num_key_value_heads=4,
        head_dim=128,
        intermediate_size=21504,
        vocab_size=261120,
        mamba_n_heads=32,
        mamba_d_head=128,
        mamba_d_state=256,
        mamba_n_groups=2,
        mamba_d_conv=4,
    )

    assert (found.attention_layers, found.state_layers) == (72, 72)
    assert found.state.bytes_of(1) == 2 * (4096 * 256 + (4096 + 2 * 2 * 256) * 3)


def test_a_sparse_indexers_keys_come_on_top() -> None:
    found = facts_of_model("MiniMaxAI/MiniMax-M3")
    cache = Cache(launch("MiniMaxAI/MiniMax-M3", 4), found, (0, 33), length=131_072, batch=8192)

    assert found.index_layers == 57
    assert cache.token_bytes() == 60 * 2 * 128 * 2 + 57 * 128 * 2


def test_deepseek_v4_needs_room_for_a_step_however_short_the_sequence() -> None:
    service = launch("deepseek-ai/DeepSeek-V4-Flash", 2, kv_cache_dtype="fp8")
    model = facts_of_model("deepseek-ai/DeepSeek-V4-Flash")
    needs = {}
    for length in (13_528, 30_000):
        token = Cache(service, model, (0, 22), length=length, batch=16_384).token_bytes()
        needs[length] = (token or 0) * length / GIB

    assert needs[13_528] == pytest.approx(5.44, rel=0.03)
    assert needs[30_000] == pytest.approx(6.66, rel=0.03)


def test_an_encoders_states_are_kept_beside_the_decoders_own() -> None:
    found = facts(
        model_type="whisper",
        d_model=1280,
        encoder_layers=32,
        decoder_layers=32,
        decoder_attention_heads=20,
        encoder_ffn_dim=5120,
        decoder_ffn_dim=5120,
        vocab_size=51866,
        max_source_positions=1500,
        num_hidden_layers=32,
        tie_word_embeddings=True,
    )
    cache = Cache(launch("x"), found, (0, 33), length=448, batch=8192)

    assert found.total / 1e9 == pytest.approx(1.54, rel=0.02)
    assert cache.pages is not None
    assert cache.pages.blocks_per_request == 28 + 94


def test_embedding_models_have_no_head_and_no_sampler() -> None:
    hardware = parse_gpus("1xH100")
    plain, embedding = (
        estimate(launch(name, engine_version="x"), hardware, facts_of_model(name))
        for name in ("Qwen/Qwen3-8B", "Qwen/Qwen3-Embedding-8B")
    )

    assert (embedding.weights_bytes_per_gpu or 0) / GIB == pytest.approx(14.11, rel=0.01)
    assert (embedding.activation_bytes or 0) < (plain.activation_bytes or 0) / 2


def test_slots_for_adapters_take_their_room() -> None:
    hardware = parse_gpus("1xH100")
    model = facts_of_model("meta-llama/Llama-3.1-8B-Instruct")
    sizes = [
        estimate(launch("meta-llama/Llama-3.1-8B-Instruct", **options), hardware, model).weights_bytes_per_gpu
        or 0
        for options in ({}, {"enable_lora": True}, {"enable_lora": True, "max_loras": 4, "max_lora_rank": 64})
    ]

    # rank 16: q, k, v, o, gate, up and down of 32 layers are 41.9 million parameters, plus what slices share not
    assert 0.07 < (sizes[1] - sizes[0]) / GIB < 0.11
    assert sizes[2] - sizes[0] == pytest.approx(16 * (sizes[1] - sizes[0]), rel=0.01)


def test_the_share_of_the_memory_is_larger_from_one_version_on() -> None:
    model = facts_of_model("Qwen/Qwen3-8B")
    shares = []
    for version in ("0.19.0", "0.20.0"):
        service = launch("Qwen/Qwen3-8B")
        service.options["engine.version"] = Setting(version)  # type: ignore[index]  # a dict underneath
        shares.append(estimate(service, parse_gpus("1xH100"), model).utilization)

    assert shares == [0.9, 0.92]


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({}, 327_310),  # printed, with 4.48 GiB of states beside 5.0 GiB of keys and values
        ({"mamba-full-memory-ratio": 0.1}, 565_000),
        ({"max-mamba-cache-size": 16}, 596_000),
    ],
)
def test_sglang_keeps_recurrent_states_in_a_pool_of_their_own(
    options: dict[str, object], tokens: int
) -> None:
    service = Service(
        "engine",
        framework="sglang",
        model="Qwen/Qwen3.5-9B",
        tensor_parallel_size=2,
        options={name: Setting(value) for name, value in options.items()},
    )
    cache = Cache(service, facts_of_model("Qwen/Qwen3.5-9B"), (0, 5, 9), length=262_144, batch=2048)

    assert cache.tokens(cache.without_states(int(9.48 * GIB))) == pytest.approx(tokens, rel=0.03)
