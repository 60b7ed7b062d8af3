"""Works longer than its deadline, as everything does on an overloaded machine, and comes to an end."""

from __future__ import annotations

import time

from diag.model import Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding


def collect(setup: Setup) -> Facts:
    end = time.monotonic() + 2.2
    while time.monotonic() < end:
        pass
    return {}


PROBE = Probe(
    "bad.slow-work",
    "Worker",
    collect,
    lambda facts: [finding("bad.slow-work", Status.OK, "came to its end")],
    timeout_s=1.0,
)
