"""Runs a vendor tool that never comes back."""

from __future__ import annotations

from diag.model import Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.system import run_command


def collect(setup: Setup) -> Facts:
    outcome = run_command(["nvidia-smi"], timeout_s=0.5, env=dict(setup.env))
    return {"timed_out": outcome.timed_out}


PROBE = Probe(
    "good.tool",
    "Tool",
    collect,
    lambda facts: [finding("good.tool", Status.OK, f"hung: {facts['timed_out']}")],
    timeout_s=5.0,
)
