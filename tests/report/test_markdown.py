"""An issue body that GitHub takes, whatever a log holds."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report_examples import ALL, explained, node

from diag.model import Evidence, Finding, InputFile, Report, Status
from diag.report import render
from diag.report.markdown import LIMIT


def tokens(text: str) -> list[str]:
    return [token.type for token in MarkdownIt("commonmark").enable("table").parse(text)]


def test_a_huge_report_still_fits_an_issue() -> None:
    many = tuple(
        Finding(f"net.check{number}", f"eth{number}", Status.FAIL, "broken " * 60) for number in range(3000)
    )
    long = replace(
        explained(), findings=many, notes=("note " * 500,) * 500, facts={"launch": {f"key{n}": "x" * 500 for n in range(2000)}},
        inputs=tuple(InputFile(f"logs/{'d' * 80}/{number}.log", "log", 1, 1) for number in range(3000)),
    )  # fmt: skip
    text = render(long, "markdown")

    assert len(text) <= LIMIT
    assert text.count("<details>") == text.count("</details>")
    assert "shm-too-small" in text


def test_a_huge_single_answer_is_cut_with_every_block_closed() -> None:
    one = explained()
    first = replace(one.diagnoses[0], confirm=("`x` " * 200,) * 1000)
    text = render(replace(one, diagnoses=(first,)), "markdown")

    assert len(text) <= LIMIT
    assert len(re.findall(r"(?m)^```", text)) % 2 == 0


@pytest.mark.parametrize(
    "evil",
    ["@someone look", "fixes #123", "<!-- hidden", "</details><script>x</script>", "| a | b |", "```\nescape", "~~~", "# title", "1. list", "- item",
     "![x](http://evil/x.png)", "[x](javascript:x)", "**bold** _it_", "&lt; &copy;", "line\n\n# title", "\\", "$x$", "http://evil.example/x"],
)  # fmt: skip
def test_nothing_in_a_log_becomes_markup(evil: str) -> None:
    base = node()
    calm = replace(base, findings=(Finding("a.b", "", Status.FAIL, "calm"),), notes=("calm",))
    loud = replace(base, findings=(Finding("a.b", "", Status.FAIL, evil),), notes=(evil,))

    assert tokens(render(loud, "markdown")) == tokens(render(calm, "markdown"))
    assert not re.search(r"(?<![`\w])@someone", render(loud, "markdown"))


@given(st.text(min_size=1, max_size=60))
@settings(deadline=None)
def test_evidence_stays_inside_its_fence(text: str) -> None:
    one = explained()
    first = replace(one.diagnoses[0], evidence=(Evidence("run.log", 1, f"`````{text}```"),))
    drawn = tokens(render(replace(one, diagnoses=(first,)), "markdown"))

    assert drawn == tokens(
        render(
            replace(one, diagnoses=(replace(first, evidence=(Evidence("run.log", 1, "calm"),)),)), "markdown"
        )
    )


@pytest.mark.parametrize("name", ALL)
def test_every_example_is_far_below_the_limit(name: str) -> None:
    report: Report = ALL[name]()

    assert len(render(report, "markdown")) < 6_000
