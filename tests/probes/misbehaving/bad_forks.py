"""Leaves a child behind that keeps every pipe open, and answers."""

from __future__ import annotations

import os
import time

from diag.model import Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding


def collect(setup: Setup) -> Facts:
    if os.fork() == 0:
        os.setsid()
        time.sleep(20)
        os._exit(0)
    return {"answered": True}


PROBE = Probe(
    "bad.forks", "Forker", collect, lambda facts: [finding("bad.forks", Status.OK, "answered")], timeout_s=3.0
)
