"""Simulated hosts, broken for real: a few faults of the link laboratory. The rest: python benchmarks/lab_links.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture(scope="module")
def lab() -> Any:
    """The laboratory's two scripts; skips loudly where it cannot run."""
    sys.path.insert(0, BENCHMARKS)
    try:
        import lab_faults
        import lab_links
    finally:
        sys.path.remove(BENCHMARKS)
    why_not = lab_links.needs()
    if why_not:
        pytest.skip(f"the link laboratory {why_not}")
    return lab_links, {fault.name: fault for fault in lab_faults.FAULTS}


@pytest.mark.lab
@pytest.mark.parametrize(
    "name",
    [
        "healthy", "link-one-way", "ephemeral-ports-one", "port-range", "mtu-black-hole", "same-name", "translated", "node-dies",
        "side-channel-blocked", "nixl-wrong-device",
    ],
)  # fmt: skip
def test_a_fault_is_told_right(lab: Any, name: str) -> None:
    lab_links, faults = lab
    if (why_not := faults[name].needs()) is not None:
        pytest.skip(why_not)

    told = lab_links.run_fault(faults[name], 4)

    assert told.right, told.said
    assert told.took_s < lab_links.LIMIT_S


@pytest.mark.lab
def test_separate_reports_tell_the_same_even_if_node_0_never_ran(lab: Any) -> None:
    lab_links, faults = lab

    told = lab_links.run_apart(faults["wrong-world-size"], 3, None)

    assert [one.right for one in told] == [True, True, True], [one.said for one in told]


@pytest.mark.lab
def test_nothing_is_left_behind(lab: Any) -> None:
    lab_links, faults = lab

    lab_links.run_fault(faults["node-freezes"], 3)

    tag = f"dl{os.getpid() % 100000:05d}"  # other laboratories may live beside this one
    assert tag not in lab_links.sh("ip", "netns", "list")
    assert tag not in lab_links.sh("ip", "link", "show")
    assert tag not in lab_links.sh("nft", "list", "tables")
