"""Answers more than anybody wants to read."""

from __future__ import annotations

from diag.observe.probes.interface import Facts, Probe, Setup


def collect(setup: Setup) -> Facts:
    return {"text": "x" * (20 << 20)}


PROBE = Probe("bad.huge", "Huge", collect, lambda facts: [], timeout_s=5.0)
