"""The JSON form is what other programs rely on."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_examples import ALL, explained

from diag.model import SCHEMA, Finding, Report, Status, Verdict
from diag.report import from_json, render, to_json
from diag.report.jsonform import loads
from diag.system import UserError

TOP = {
    "schema",
    "tool",
    "created",
    "verdict",
    "diagnoses",
    "findings",
    "facts",
    "gaps",
    "inputs",
    "redaction",
}
DIAGNOSIS = {
    "id",
    "title",
    "strength",
    "role",
    "summary",
    "culprit",
    "evidence",
    "echoes",
    "fixes",
    "confirm",
}


@pytest.mark.parametrize("name", ALL)
def test_a_report_survives_the_round_trip(name: str) -> None:
    data = json.loads(render(ALL[name](), "json"))

    assert to_json(from_json(data)) == data
    assert from_json(data).diagnoses == ALL[name]().diagnoses
    assert from_json(data).findings == ALL[name]().findings


def test_all_keys_of_the_contract_are_there_even_in_an_empty_report() -> None:
    data = to_json(Report("explain", Verdict.OK, "", "0"))

    assert set(data) >= TOP
    assert data["schema"] == SCHEMA
    assert set(data["facts"]) >= {"launch", "hardware", "software", "network"}
    assert data["facts"]["launch"]["services"] == []
    assert data["redaction"] == {"applied": False, "counts": {}}


def test_all_keys_of_a_diagnosis_are_there() -> None:
    one = to_json(explained())["diagnoses"][0]

    assert set(one) >= DIAGNOSIS
    assert set(one["culprit"]) == {"rank", "host", "process", "component", "gpu", "link", "phase"}
    assert set(one["evidence"][0]) == {"source", "line", "text", "rank", "host", "time"}
    assert set(one["fixes"][0]) >= {"do", "settings", "command", "patch", "risk", "verify"}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{}", '{"schema": "diag.report/2"}', '{"schema": "diag.report/1"}', "{", '"text"', "[" * 100_000, '{"schema": 5}'],
)  # fmt: skip
def test_foreign_json_is_one_clear_sentence(text: str) -> None:
    with pytest.raises(UserError) as caught:
        loads(text)

    assert "\n" not in str(caught.value)


@given(st.data())
def test_a_damaged_report_never_raises_anything_but_a_user_error(data: st.DataObject) -> None:
    tree: Any = to_json(explained())
    node: Any = tree
    for _ in range(data.draw(st.integers(1, 5))):
        key = data.draw(st.sampled_from(list(node) if isinstance(node, dict) else list(range(len(node)))))
        if not isinstance(node[key], (dict, list)) or not node[key] or data.draw(st.booleans()):
            node[key] = data.draw(st.sampled_from([None, 1, "x", [], {}, [None], True]))
            break
        node = node[key]
    with suppress(UserError):
        from_json(tree)


def test_odd_facts_become_plain_json() -> None:
    finding = Finding(
        "a.b",
        "",
        Status.OK,
        "x",
        data={"nan": math.nan, "inf": math.inf, "set": {2, 1}, "bytes": b"\xff", "enum": Status.OK},
    )
    report = replace(explained(), findings=(finding,))
    data = json.loads(render(report, "json"))

    assert data["findings"][0]["data"] == {
        "nan": None,
        "inf": None,
        "set": [1, 2],
        "bytes": "\ufffd",
        "enum": "ok",
    }


def test_lone_surrogates_and_line_separators_can_be_encoded() -> None:
    report = replace(explained(), notes=("\udcff \u2028 ä",))
    text = render(report, "json")

    assert "ä" in text
    assert json.loads(text.encode().decode())["notes"] == ["\udcff \u2028 ä"]
