"""How vLLM divides the KV cache of a model into pages, and how many tokens it prints for it.

Layers of one kind (full attention, a window, chunks, a recurrent state) form groups of equal size; every group has a
table of blocks of its own, all blocks have one size. Arithmetic of vllm/v1/core/kv_cache_utils.py, kv_cache_interface.py
and platforms/interface.py, 0.11 to 0.33.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MANY_WINDOW_LAYERS = 1.5
"""Up to this ratio of layers the larger kind gives the size of a group (1.25 before 0.17)."""
BY_REQUEST = (0, 21)
"""From here on the printed tokens are concurrency × longest sequence; before, blocks ÷ groups × block."""
STATES_CACHED = (0, 28)
"""From here on hybrid models reuse prefixes by default, which keeps one state more."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Layers that keep the same things."""

    name: str
    """full, window, chunk, cross (the encoder's tokens, kept whole) or state."""
    layers: int
    token_bytes: float = 0.0
    """Bytes of one token in one layer, on one GPU; of a state: 0."""
    span: int = 0
    """Tokens of the window or chunk."""
    state_bytes: float = 0.0
    """One sequence's state in one layer, on one GPU."""


@dataclass(frozen=True, slots=True)
class Run:
    """What the pages hang on beside the model."""

    version: tuple[int, ...] | None
    length: int
    """Tokens of the longest sequence."""
    batch: int
    """Tokens of one step."""
    block: int = 16
    context_parallel: int = 1
    drafted: int = 0
    """Tokens that are speculated at once."""
    prefix_caching: bool | None = None


@dataclass(frozen=True, slots=True)
class Pages:
    """The cache of one GPU, ready to be counted."""

    run: Run
    block_bytes: float
    """Bytes of one block: a page in every layer of a group."""
    blocks_per_request: int
    """Blocks of one sequence of the longest length."""
    groups: int
    smallest_block: int
    """Tokens of the smallest page."""

    @property
    def request_bytes(self) -> float:
        """Bytes of one sequence of the longest length."""
        return self.blocks_per_request * self.block_bytes

    def tokens(self, cache: float) -> int:
        """What vLLM prints as `GPU KV cache size` for a cache of so many bytes."""
        blocks = int(cache / self.block_bytes)
        version = self.run.version
        if version is not None and version < BY_REQUEST:
            return blocks // self.groups * self.smallest_block * self.run.context_parallel
        return int(blocks / self.blocks_per_request * self.run.length)


def pages_of(kinds: tuple[Kind, ...], run: Run) -> Pages | None:
    """The pages of these layers; None where nothing keeps tokens."""
    kinds = tuple(kind for kind in kinds if kind.layers)
    attention = [kind for kind in kinds if kind.token_bytes]
    if not attention:
        return None
    blocks = _block_sizes(kinds, attention, run)
    page = max(blocks[kind] * kind.token_bytes for kind in attention)
    size = _group_size(kinds, run.version)
    groups = {kind: math.ceil(kind.layers / size) for kind in kinds}
    request = sum(groups[kind] * _blocks_of_request(kind, blocks.get(kind, 0), run) for kind in kinds)
    return Pages(run, page * size, request, sum(groups.values()), min(blocks.values()))


def _block_sizes(kinds: tuple[Kind, ...], attention: list[Kind], run: Run) -> dict[Kind, int]:
    """Tokens of one page of each kind with tokens, so that all pages have one size."""
    state = max((kind.state_bytes for kind in kinds), default=0.0)
    primary = next((kind for kind in attention if kind.name == "full"), attention[0])
    base = run.block
    if state:
        base = max(base, run.block * math.ceil(state / (run.block * primary.token_bytes)))
    page = max(base * kind.token_bytes for kind in attention)
    return {
        kind: int(page // kind.token_bytes) if page % kind.token_bytes == 0 else base for kind in attention
    }


def _group_size(kinds: tuple[Kind, ...], version: tuple[int, ...] | None) -> int:
    fewest, most = min(kind.layers for kind in kinds), max(kind.layers for kind in kinds)
    ratio = MANY_WINDOW_LAYERS if version is None or version >= (0, 17) else 1.25
    return most if most < fewest * ratio else fewest


def _blocks_of_request(kind: Kind, block: int, run: Run) -> int:
    if kind.name == "state":
        cached = run.prefix_caching
        if cached is None:
            cached = run.version is None or run.version >= STATES_CACHED
        return 1 + run.drafted + cached
    if kind.name == "window":
        return math.ceil(min(kind.span - 1 + run.batch, run.length) / block) + 1
    if kind.name == "cross":
        return math.ceil(kind.span / block)
    if kind.name == "chunk":
        return math.ceil(min(kind.span + run.batch, run.length) / block)
    return math.ceil(math.ceil(run.length / run.context_parallel) / block)
