"""Works for ever."""

from __future__ import annotations

from diag.model import Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding


def collect(setup: Setup) -> Facts:
    while True:
        pass


PROBE = Probe(
    "bad.spins",
    "Worker",
    collect,
    lambda facts: [finding("bad.spins", Status.OK, "came to its end")],
    timeout_s=0.5,
)
