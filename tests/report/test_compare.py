"""The difference between what works and what does not."""

from __future__ import annotations

import json
from dataclasses import replace

from report_examples import explained, healthy, node

from diag.model import Finding, Reason, Report, Status
from diag.report.compare import compare, draw


def with_facts(report: Report, **software: object) -> Report:
    return replace(report, facts={"software": software})


def test_equal_reports_do_not_differ() -> None:
    assert not compare(node(), node()).any


def test_a_fact_that_differs_is_named_with_both_values() -> None:
    found = compare(
        with_facts(healthy(), nccl="2.21.5", torch="2.5"), with_facts(healthy(), nccl="2.20.5", torch="2.5")
    )

    assert [(row.what, row.good, row.bad) for row in found.facts] == [("software.nccl", "2.21.5", "2.20.5")]


def test_what_always_differs_is_no_difference() -> None:
    assert not compare(
        with_facts(healthy(), pid=1, free_bytes=5), with_facts(healthy(), pid=2, free_bytes=6)
    ).any


def test_a_check_that_could_look_on_one_side_only_is_not_called_equal() -> None:
    blind = Finding("host.shm", "", Status.UNKNOWN, "no answer", Reason.TIMEOUT)
    seen = Finding("host.shm", "", Status.OK, "fine")
    found = compare(replace(healthy(), findings=(seen,)), replace(healthy(), findings=(blind,)))

    assert found.unmeasured == ("host.shm",)
    assert "host.shm" in draw(found, "text")


def test_diagnoses_and_failed_checks_come_first() -> None:
    text = draw(compare(healthy(), explained()), "text")

    assert text.index("shm-too-small") < text.index("launch.model")


def test_json_is_json() -> None:
    assert json.loads(draw(compare(healthy(), explained()), "json"))["schema"] == "diag.diff/1"
