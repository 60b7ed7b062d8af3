"""Would touch a GPU."""

from __future__ import annotations

from diag.model import Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding


def collect(setup: Setup) -> Facts:
    return {"touched": True}


PROBE = Probe(
    "gpu.touch",
    "Toucher",
    collect,
    lambda facts: [finding("gpu.touch", Status.OK, "touched")],
    touches_gpu=True,
)
