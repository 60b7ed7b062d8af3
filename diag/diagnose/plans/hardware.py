"""What a GPU can do, from its name: memory, architecture, number formats, attention kernels."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from diag.model.launch import Hardware
from diag.system import UserError

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class GpuSpec:
    """One product. `capability` is CUDA's (7.5 for a T4), None for GPUs of other makers."""

    name: str
    architecture: str
    capability: float | None
    memory_bytes: int
    """Total as the CUDA driver reports it."""
    memory_certain: bool
    """False where the name leaves several sizes open (A100: 40 or 80)."""

    def _at_least(self, capability: float) -> bool:
        # AMD's CDNA2 and later have bf16 in hardware, CDNA3 fp8; their attention kernels are their own.
        return self.capability is None or self.capability >= capability

    @property
    def bfloat16(self) -> bool:
        """Tensor cores take bfloat16."""
        return self._at_least(8.0)

    @property
    def fp8(self) -> bool:
        """Tensor cores take FP8."""
        return self._at_least(8.9) and self.architecture != "CDNA2"

    @property
    def flash_attention_2(self) -> bool:
        """FlashAttention-2's kernels run here."""
        return self._at_least(8.0)

    @property
    def flash_attention_3(self) -> bool:
        """FlashAttention-3's kernels run here: Hopper only."""
        return self.capability == 9.0

    @property
    def flashinfer(self) -> bool:
        """FlashInfer's kernels run here."""
        return self.capability is not None and self.capability >= 7.5

    @property
    def many_sequences(self) -> bool:
        """vLLM's own default batch is large on GPUs of 70 GiB and more that are no A100 (vLLM arg_utils.py)."""
        return self.memory_bytes >= 70 * GIB and self.name not in ("A100", "GB10")


@cache
def _table() -> tuple[dict[str, object], ...]:
    text = files("diag.diagnose.plans").joinpath("data/gpus.json").read_text("utf-8")
    return tuple(json.loads(text)["gpus"])


_SIZE = re.compile(r"(?<![A-Za-z0-9])(\d{2,3})\s*G(?:i?B)\b", re.IGNORECASE)


def _squeeze(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", re.sub(r"NVIDIA|TESLA|GEFORCE|AMD|INSTINCT", "", name.upper()))


@cache
def gpu_spec(name: str | None, memory_bytes: int | None = None) -> GpuSpec | None:
    """The product that `name` (`Tesla T4`, `NVIDIA A100-SXM4-40GB`, `H100`) means; None if it is not known."""
    if not name:
        return None
    named = _SIZE.search(name)
    bare = _squeeze(_SIZE.sub("", name))
    best: tuple[int, dict[str, object]] | None = None
    for row in _table():
        for alias in row["names"]:  # type: ignore[attr-defined]  # JSON
            exact = bare == alias or bare == "RTX" + alias
            if (
                exact
                or re.search(rf"(?<![A-Z0-9]){alias}(?![0-9])", _words(name))
                or (
                    bare.startswith(alias)
                    and not bare[len(alias) : len(alias) + 1].isdigit()
                    and len(alias) >= 4
                )
            ) and (best is None or len(alias) + 100 * exact > best[0]):
                best = (len(alias) + 100 * exact, row)
    if best is None:
        return None
    return _spec(best[1], int(named.group(1)) if named else None, memory_bytes)


def _words(name: str) -> str:
    return re.sub(r"[-_ ]+", " ", name.upper())


def _spec(row: dict[str, object], size: int | None, memory_bytes: int | None) -> GpuSpec:
    sizes: dict[int, float] = {int(key): float(value) for key, value in row["gib"].items()}  # type: ignore[attr-defined]  # JSON
    capability = row["capability"]
    if memory_bytes:
        total, certain = memory_bytes, True
    elif size is not None and size < 1.3 * max(sizes):  # GH200's 480GB is the processor's memory
        near = min(sizes, key=lambda each: abs(each - size))
        total, certain = (
            int((sizes[near] if abs(near - size) <= max(4, size // 16) else size * 0.985) * GIB),
            True,
        )
    else:
        # Several sizes: the smaller one, so that nothing is called fitting that may not fit.
        total, certain = int(next(iter(sizes.values())) * GIB), not row.get("ambiguous")
    return GpuSpec(
        str(row["name"]),
        str(row["architecture"]),
        float(capability) if isinstance(capability, (int, float)) else None,
        total,
        certain,
    )


ASSUMED = "the smallest memory assumed"
"""In `Hardware.origin` where a product comes in several sizes and nobody said which."""

_GPUS = re.compile(
    r"\s*(?:(\d{1,6})\s*[xX×*]\s*)?([A-Za-z0-9][A-Za-z0-9 ._-]*?)(?:[-_ :]*(\d{1,3}(?:\.\d+)?)\s*G(?:i?B)?)?\s*\Z",
    re.IGNORECASE,
)


def parse_gpus(text: str, nodes: int | None = None) -> Hardware:
    """Hardware from `4xT4`, `16xA100-40GB`, `8xH200`, `H100`. Raises UserError for what is none of these."""
    match = _GPUS.match(text)
    if not match:
        raise UserError(
            f"{text!r} is no GPU list",
            "--gpus",
            "write COUNTxNAME or COUNTxNAME-MEMORY, for example 4xT4 or 16xA100-40GB",
            "bad-gpus",
        )
    count, name, memory = match.groups()
    if count is not None and int(count) == 0:
        raise UserError("no GPU at all", "--gpus", "the count is per node", "bad-gpus")
    spec = gpu_spec(f"{name}-{memory}GB" if memory else name)
    if spec is None and memory is None:
        raise UserError(
            f"GPU {name!r} is not in the table",
            "--gpus",
            f"add its memory, for example {count or 8}x{name}-48GB",
            "unknown-gpu",
        )
    size = spec.memory_bytes if spec is not None else int(float(memory or 0) * 0.985 * GIB)
    origin = (
        "--gpus" if spec is None or spec.memory_certain or memory else f"--gpus ({ASSUMED} for {spec.name})"
    )
    return Hardware(
        spec.name if spec is not None else name.strip(),
        int(count) if count else None,
        nodes,
        size,
        None,
        origin,
    )


def spec_of(hardware: Hardware | None) -> GpuSpec | None:
    """The GPU of a Hardware; None if there is none or its name is not known."""
    return None if hardware is None else gpu_spec(hardware.gpu_name, hardware.gpu_memory_bytes)
