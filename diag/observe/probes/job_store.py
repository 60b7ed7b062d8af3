"""The stores of jobs whose ranks wait for each other to come: read from outside, in the launch's own interpreter."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from diag.observe.probes.interface import Setup
from diag.observe.probes.patient import find_interpreter, run_worker

DEADLINE_S = 12.0
"""Loading torch takes most of it."""
ROUND_S = 4
MOST = 2


def read_stores(
    environments: Sequence[Mapping[str, str]], deadline_s: float = DEADLINE_S
) -> list[dict[str, Any]]:
    """One fact for each store that the variables name: {address, port, world, came: [rank] | null, keys, error}."""
    wanted = {}
    for one in environments:
        port, world = one.get("MASTER_PORT", ""), one.get("WORLD_SIZE", "")
        if one.get("MASTER_ADDR") and port.isdigit() and world.isdigit():
            wanted[one["MASTER_ADDR"], int(port)] = int(world)
    if not wanted:
        return []
    setup = Setup(env=dict(os.environ))
    python, why = find_interpreter(setup)
    found = []
    for (address, number), ranks in list(wanted.items())[:MOST]:
        fact: dict[str, Any] = {"address": address, "port": number, "world": ranks}
        if python is None:
            found.append({**fact, "came": None, "error": why})
            continue
        job = {**fact, "deadline_s": deadline_s, "round_s": ROUND_S}
        answer = run_worker(setup, python, "store_state.py", job)
        failed = answer["failed"]
        told = answer["ranks"][0] if failed is None else {"error": failed["message"] or failed["reason"]}
        found.append({**fact, "came": None, **told})
    return found
