"""The grid of links: drawn where something is wrong, whole for 64 nodes, the bad ones of more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from report_examples import healthy, linked

from diag.model import Report
from diag.report import render
from diag.report.matrix import MOST_HTML, draw_heat_map, draw_lines, grid_of


def with_links(links: dict[str, Any], nodes: dict[str, Any] | None = None) -> Report:
    return replace(linked(), facts={"network": {"links": {"links": links, "nodes": nodes or {}}}})


def test_a_screen_shows_the_closed_link_in_its_row_and_column() -> None:
    lines = draw_lines(linked())
    rows = {line.split()[0]: line.split()[2:] for line in lines[2:]}

    assert rows["dgx-a1"][:4] == [".", "-", "x", "~"]
    assert rows["dgx-a2"][:4] == [".", "x", "-", "~"]
    assert rows["dgx-a4"][1] == "s"
    assert rows["dgx-a0"][3] == "~"


def test_where_all_links_are_open_a_screen_shows_none_and_the_page_all() -> None:
    report = with_links(
        {
            "0>1": {"state": "open", "mbps": 9400.0, "share": 1.0},
            "1>0": {"state": "open", "mbps": 900.0, "share": 0.1},
        }
    )

    assert draw_lines(report) == []
    page = draw_heat_map(report)
    assert 'class="open l4"' in page
    assert 'class="open l0"' in page


def test_a_report_without_links_has_no_grid() -> None:
    assert grid_of(healthy(), 16) is None
    assert "class=grid" not in render(healthy(), "html")


def test_of_a_thousand_nodes_the_bad_ones_are_shown() -> None:
    links: dict[str, Any] = {f"{a}>{(a + 1) % 1000}": {"state": "open"} for a in range(1000)}
    links["700>701"] = {"state": "closed", "outcome": "timeout"}

    grid = grid_of(with_links(links), MOST_HTML)

    assert grid is not None
    assert {700, 701} <= set(grid.ranks)
    assert (len(grid.ranks), grid.left_out) == (64, 936)
    assert len(draw_heat_map(with_links(links))) < 400_000


@pytest.mark.parametrize(
    "facts",
    [
        {"network": None}, {"network": {"links": []}}, {"network": {"links": {"links": {"a>b": {}, "1>": {}, "0>1": 5}}}},
        {"network": {"links": {"links": {"0>1": {"state": "<b>", "mbps": True, "share": "x"}}, "nodes": [1]}}},
    ],
)  # fmt: skip
def test_strange_facts_of_a_foreign_report_break_nothing(facts: dict[str, Any]) -> None:
    report = replace(linked(), facts=facts)

    assert "<b>" not in draw_heat_map(report)
    draw_lines(report)


def test_names_in_the_grid_are_escaped() -> None:
    page = draw_heat_map(with_links({"0>1": {"state": "open"}}, {"0": {"hostname": '<i onload="x">'}}))

    assert "<i" not in page
