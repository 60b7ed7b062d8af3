"""Bytes of one token in the KV cache of one GPU, and the kinds of layers that keep it."""

from __future__ import annotations

import math

from diag.diagnose.plans.cache_pages import Kind, Pages, Run, pages_of
from diag.diagnose.plans.model_facts import ModelFacts
from diag.diagnose.plans.settings import attention_tp_of, boolean, engine_of, integer, number, tp_of
from diag.diagnose.plans.weights import draft_of, drafted_tokens, kv_element_bytes
from diag.model.launch import Service

V4_STATE_BYTES = 10_000
"""DeepSeek V4: bytes of one token's window, compressor states and padding in one layer, as long as the step holds it.

From two printed pairs (5.44 GiB for 13,528 tokens, 6.66 GiB for 30,000) with the records' own 3.9 kB a token taken off.
"""
V4_WINDOW = 128
MAMBA_RATIO = 0.9
"""States' memory by tokens' memory where nothing is set (sglang server_args: mamba_full_memory_ratio)."""


class Cache:
    """The KV cache of one service on one GPU."""

    def __init__(
        self,
        service: Service,
        model: ModelFacts,
        version: tuple[int, ...] | None,
        *,
        length: int | None,
        batch: int,
        lean: bool = False,
    ) -> None:
        self.service, self.model, self.version = service, model, version
        self.length, self.batch, self.lean = length, batch, lean
        self.pp = max(1, service.pipeline_parallel_size or 1)
        self.element = kv_element_bytes(service, model)
        self.context = max(1, integer(service, "decode-context-parallel-size") or 1)
        self.pages = self._pages() if self._in_pages else None

    @property
    def _in_pages(self) -> bool:
        model = self.model
        several = model.state_layers or model.cross_layers
        several = several or 0 < model.sliding_layers < model.attention_layers
        apart = boolean(self.service, "disable-hybrid-kv-cache-manager")
        old = self.version is not None and self.version < (0, 10)
        known = (
            engine_of(self.service) == "vllm" and self.length and model.shaped and not model.compress_ratios
        )
        return bool(known and several and not apart and not old)

    def tokens(self, cache: int) -> int | None:
        """Tokens that a cache of so many bytes holds, as the engine prints them."""
        if self.pages is not None:
            return self.pages.tokens(cache)
        token = self.token_bytes()
        return int(cache / token) * self.context if token else None

    def token_bytes(self) -> float | None:
        """Bytes of one token; with windows or states the mean over a sequence of the longest length."""
        model = self.model
        if self.pages is not None and self.length:
            return self.pages.request_bytes / self.length
        if not model.shaped:
            return None
        if model.compress_ratios or model.family.startswith("deepseek_v4"):
            return self._compressed() if model.compress_ratios else None  # what it keeps hangs on the ratios
        layers = math.ceil(model.attention_layers / self.pp) + self._drafts()
        whole = self._layer() * layers
        whole += math.ceil(model.index_layers / self.pp) * model.index_head * self.element
        sliding = math.ceil(model.sliding_layers / self.pp)
        apart = engine_of(self.service) == "sglang" and not sliding  # its states have a pool of their own
        if not self.length or not (sliding or model.state_layers) or self._old() or apart:
            return whole
        kept = min(model.window - 1 + self.batch, self.length)
        states = model.state_layers / self.pp * model.state.bytes_of(tp_of(self.service))
        full = self._full_layer() * (layers - sliding)
        return float(full * self.length + self._layer() * sliding * kept + states) / self.length

    def without_states(self, pool: int) -> int:
        """What SGLang leaves for tokens of a pool that recurrent states share: a set number of states, or a share."""
        if engine_of(self.service) != "sglang" or not self.model.state_layers:
            return pool
        states = integer(self.service, "max-mamba-cache-size")
        if states:
            layers = self.model.state_layers / self.pp
            return int(pool - states * layers * self.model.state.bytes_of(tp_of(self.service)))
        ratio = number(self.service, "mamba-full-memory-ratio") or MAMBA_RATIO
        return int(pool / (1 + ratio))

    def _old(self) -> bool:
        """Before the hybrid allocator every layer with a window kept everything."""
        old = self.version is not None and self.version < (0, 10)
        return bool(self.model.sliding_layers) and (
            old or bool(boolean(self.service, "disable-hybrid-kv-cache-manager"))
        )

    def _layer(self) -> float:
        """Bytes of one token in one layer."""
        model, size = self.model, self.element
        if model.kv_lora_rank:
            layer = (model.kv_lora_rank + model.rope_head) * size
            if model.index_head:  # the indexer's keys: a byte each, and a scale of four bytes for 128
                layer += model.index_head * (1 + 4 / 128)
                if size == 1.0 and engine_of(self.service) == "vllm":
                    # fp8_ds_mla: positions stay 16 bit, scales beside
                    layer += model.rope_head + model.kv_lora_rank * 4 / 128
            return layer
        return 2 * max(1, model.kv_heads // attention_tp_of(self.service)) * model.head_size * size

    def _full_layer(self) -> float:
        """The same where attention is full: Gemma 4 has fewer, wider heads there."""
        model = self.model
        if not (model.full_kv_elements and model.kv_heads):
            return self._layer()
        split = model.full_kv_elements // attention_tp_of(self.service)
        return max(2 * model.head_size, split) * self.element

    def _drafts(self) -> int:
        """Layers of a prediction head of the model's own, which keep keys and values as its attention does."""
        _, method = draft_of(self.service)
        return 1 if method and "mtp" in method else 0

    def _pages(self) -> Pages | None:
        model, pp = self.model, self.pp
        drafted = drafted_tokens(self.service)
        full = model.attention_layers - model.sliding_layers
        kinds = (
            Kind("full", math.ceil(full / pp) + self._drafts() if full else 0, self._full_layer()),
            Kind(
                "chunk" if model.chunked else "window",
                math.ceil(model.sliding_layers / pp),
                self._layer(),
                model.window,
            ),
            Kind("cross", math.ceil(model.cross_layers / pp), self._layer(), model.cross_tokens),
            Kind(
                "state",
                math.ceil(model.state_layers / pp),
                state_bytes=model.state.bytes_of(tp_of(self.service), drafted),
            ),
        )
        run = Run(
            self.version,
            self.length or 0,
            self.batch,
            integer(self.service, "block-size") or (64 if model.kv_lora_rank else 16),
            self.context,
            drafted,
            boolean(self.service, "enable-prefix-caching"),
        )
        return pages_of(kinds, run)

    def _compressed(self) -> float:
        """DeepSeek V4: a record of 584 bytes for every `ratio` tokens, in ratio-4 layers an indexer key beside it.

        What is not compressed yet (a window of 128 tokens, the compressors' states) is held for the tokens of one
        step in every layer, however long the sequence (vLLM models/deepseek_v4).
        """
        model = self.model
        record = 584.0 if self.element == 1.0 else 2.0 * model.head_size
        key = model.index_head * (1 + 4 / 128)
        ratios = [ratio for ratio in model.compress_ratios if ratio > 1]
        slope = sum((record + (key if ratio == 4 else 0.0)) / ratio for ratio in ratios) / self.pp
        if engine_of(self.service) != "vllm" or not self.length or self.lean:
            return slope  # what one step holds is known from two start-ups only: it proves no failure
        held = min(V4_WINDOW - 1 + self.batch, self.length) * V4_STATE_BYTES * model.layers / self.pp
        return slope + held / self.length
