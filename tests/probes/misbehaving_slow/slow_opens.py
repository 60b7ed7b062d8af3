"""Opens what FIFO names, which never answers; returns at once where it names nothing."""

from __future__ import annotations

from pathlib import Path

from diag.model import Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding


def collect(setup: Setup) -> Facts:
    return {"text": Path(setup.env["FIFO"]).read_text() if "FIFO" in setup.env else ""}


PROBE = Probe(
    "slow.opens", "Opener", collect, lambda facts: [finding("slow.opens", Status.OK, "fine")], timeout_s=0.5
)
