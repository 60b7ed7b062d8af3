"""Prints to stdout like NCCL does, and answers properly."""

from __future__ import annotations

from diag.model import Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding


def collect(setup: Setup) -> Facts:
    print('{"facts": {"lie": true}}\n' * 100_000)
    return {"lie": False}


PROBE = Probe(
    "bad.chatty",
    "Chatterbox",
    collect,
    lambda facts: [finding("bad.chatty", Status.OK, f"lie: {facts['lie']}")],
    timeout_s=5.0,
)
