"""What the GPUs do while the processes stand: idle, computing, or spinning in a kernel that waits for others. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diag.model import Finding, Status

PROBE = "attach.gpu"
BUSY_PERCENT = 90
SPINS_BELOW, COMPUTES_ABOVE = 0.45, 0.6
"""Shares of the power limit: kernels that poll for a peer keep a GPU busy at little power (a GPU at 100 % and a fraction of its
watts in vllm#46097, NCCL waiting); the idle and the full power of products differ, so only shares count, with room between."""


def judge_gpus(facts: Mapping[str, Any]) -> list[Finding]:
    """One sentence on all GPUs of the node; nothing where NVML told nothing."""
    hardware = facts.get("hardware")
    inventory = hardware.get("gpu.inventory") if isinstance(hardware, Mapping) else None
    gpus = inventory.get("gpus") if isinstance(inventory, Mapping) else None
    seen: dict[str, list[str]] = {}
    for gpu in gpus if isinstance(gpus, list) else []:
        doing = _doing(gpu)
        if doing:
            seen.setdefault(doing, []).append(str(gpu.get("index")))
    if not seen:
        return []
    parts = [f"{doing}: GPU {', '.join(which)}" for doing, which in sorted(seen.items())]
    return [
        Finding(
            PROBE, "", Status.OK, f"GPUs while the launch was looked at: {'; '.join(parts)}", None, dict(seen)
        )
    ]


def _doing(gpu: Mapping[str, Any]) -> str:
    busy, power, limit = gpu.get("utilization_percent"), gpu.get("power_w"), gpu.get("power_limit_w")
    if busy is None:
        return ""
    if busy < 5:
        return "idle (the wait is on the CPU's side)"
    if busy >= BUSY_PERCENT and power and limit:
        share = float(power) / float(limit)
        if share < SPINS_BELOW:
            return "busy at little power (a kernel spins, as NCCL's do while they wait)"
        if share > COMPUTES_ABOVE:
            return "computing"
    return "busy"
