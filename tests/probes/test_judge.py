"""Every probe judges recorded facts as its cases in fixtures/facts say. A case is a JSON entry, never Python.

A case lists the findings it expects; a warning or failure it does not list is an error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from diag.model import Finding, Status
from diag.observe.probes.registry import discover

FACTS = Path(__file__).parents[2] / "fixtures" / "facts"
CAUSES = Path(__file__).with_name("cause_ids.txt")
"""The ids this project started from; they are never renamed."""
CASES = [
    (path.stem, case) for path in sorted(FACTS.glob("*.json")) for case in json.loads(path.read_text("utf-8"))
]
PROBES = {probe.id: probe for probe in discover().probes}


def fits(found: Finding, wanted: dict[str, Any]) -> bool:
    return (
        found.status.value == wanted["status"]
        and wanted.get("subject") in (None, found.subject)
        and wanted.get("cause") in (None, found.data.get("cause"))
        and wanted.get("contains", "") in found.summary
    )


@pytest.mark.parametrize(("probe_id", "case"), CASES, ids=[f"{name}: {case['name']}" for name, case in CASES])
def test_facts_are_judged_as_recorded(probe_id: str, case: dict[str, Any]) -> None:
    findings = PROBES[probe_id].judge(case["facts"])
    said = [(f.status.value, f.subject, f.data.get("cause"), f.summary) for f in findings]

    assert all(f.probe == probe_id for f in findings)
    for wanted in case["expect"]:
        assert any(fits(found, wanted) for found in findings), f"{wanted} not among {said}"
    for found in findings:
        if found.status in (Status.WARN, Status.FAIL):
            assert any(fits(found, wanted) for wanted in case["expect"]), f"not expected: {said}"


def test_discovery_finds_probes_and_every_file_loads() -> None:
    registry = discover()

    assert registry.broken == ()
    assert {"host.shm", "net.interfaces", "env.variables", "process.launch"} <= {
        probe.id for probe in registry.probes
    }


@pytest.mark.parametrize("probe_id", sorted(PROBES))
def test_every_probe_has_a_good_and_a_bad_case(probe_id: str) -> None:
    path = FACTS / f"{probe_id}.json"
    assert path.exists(), f"fixtures/facts/{probe_id}.json is missing"
    statuses = [
        {wanted["status"] for wanted in case["expect"]} for case in json.loads(path.read_text("utf-8"))
    ]

    assert any(one <= {"ok", "skip"} for one in statuses), "no good case"
    # A probe that only states who is there has nothing bad to say.
    assert probe_id == "process.gpu-users" or any(one & {"warn", "fail"} for one in statuses), "no bad case"


@pytest.mark.parametrize("probe_id", sorted(PROBES))
def test_every_probe_keeps_the_contract(probe_id: str) -> None:
    probe = PROBES[probe_id]
    module = sys.modules[probe.judge.__module__]

    assert module.__doc__
    assert probe.section in ("hardware", "software", "network", "host")
    assert 0 < probe.timeout_s <= 25
    assert module.__name__.rpartition(".")[2] == probe_id.replace(".", "_").replace("-", "_")


def test_causes_named_by_judges_are_permanent_ids() -> None:
    known = set(CAUSES.read_text("utf-8").split())
    named = {wanted["cause"] for _, case in CASES for wanted in case["expect"] if "cause" in wanted}

    assert named
    assert named <= known
