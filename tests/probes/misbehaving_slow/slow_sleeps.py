"""Sleeps for ever."""

from __future__ import annotations

import time

from diag.model import Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding


def collect(setup: Setup) -> Facts:
    time.sleep(3600)
    return {}


PROBE = Probe(
    "slow.sleeps", "Sleeper", collect, lambda facts: [finding("slow.sleeps", Status.OK, "x")], timeout_s=20.0
)
