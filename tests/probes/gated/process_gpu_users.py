"""Says who uses the GPUs: whatever the test put into the environment."""

from __future__ import annotations

import json

from diag.model import Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding


def collect(setup: Setup) -> Facts:
    return {"users": json.loads(setup.env["USERS"])}


PROBE = Probe(
    "process.gpu-users", "Users", collect, lambda facts: [finding("process.gpu-users", Status.OK, "asked")]
)
