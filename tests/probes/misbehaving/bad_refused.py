"""Raises."""

from __future__ import annotations

from diag.observe.probes.interface import Facts, Probe, Setup


def collect(setup: Setup) -> Facts:
    raise PermissionError(13, "Permission denied", "/dev/nvidia0")


PROBE = Probe("bad.refused", "Refused", collect, lambda facts: [], timeout_s=3.0)
