"""What a person sees, kept as golden texts under readable names (accept with --update-golden)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from report_examples import ALL, explained, healthy, node, redacted, unknown

from diag.model import Finding, Reason, Report, Status, Verdict
from diag.report import FORMATS, render
from diag.system import UserError

GOLDEN = Path(__file__).parents[2] / "fixtures" / "reports"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("width", [80, 200])
def test_screens_look_as_accepted(name: str, width: int, golden: Callable[[str, Path], None]) -> None:
    golden(render(redacted(ALL[name]()), "text", width=width), GOLDEN / f"{name}-{width}.txt")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("fmt", "ending"), [("markdown", "md"), ("json", "json"), ("html", "html")])
def test_files_look_as_accepted(
    name: str, fmt: str, ending: str, golden: Callable[[str, Path], None]
) -> None:
    golden(render(redacted(ALL[name]()), fmt), GOLDEN / f"{name}.{ending}")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("width", [80, 100, 200])
def test_no_line_is_wider_than_the_screen_unless_it_is_to_be_copied(name: str, width: int) -> None:
    for line in render(ALL[name](), "text", width=width).splitlines():
        assert len(line) <= width or line.startswith("       ")


def test_the_first_line_says_verdict_and_cause_with_its_figures() -> None:
    first = render(explained(), "text", width=200).splitlines()[0]

    assert first.startswith("FAIL: ")
    assert "9637892 bytes" in first


def test_a_run_starts_with_what_was_measured_and_what_was_not() -> None:
    first = render(node(), "text", width=80).splitlines()[0]

    assert first == "FAIL: 3 of 7 measured, 1 failed, 1 warned, 2 skipped, 2 unknown"


def test_an_unmeasured_check_never_reads_as_fine() -> None:
    finding = Finding("gpu.memory", "", Status.UNKNOWN, "could not look", Reason.TIMEOUT)
    report = Report("run", Verdict.UNKNOWN, "", "0", findings=(finding,), exit_code=3)
    text = render(report, "text")

    assert text.startswith("UNKNOWN: 0 of 1 measured, 1 unknown")
    assert "fine" not in text


def test_a_quiet_log_is_not_called_a_healthy_machine() -> None:
    text = render(healthy(), "text")

    assert "312 lines" in text
    assert "proves nothing about the machine" in text


def test_the_unknown_shows_the_odd_rank_and_the_next_command() -> None:
    text = render(unknown(), "text")

    assert "rank 1 failed unlike the others" in text
    assert "--enforce-eager" in text


def test_a_log_cannot_steer_the_terminal() -> None:
    one = explained()
    evil = "\x1b[2J\x1b]0;owned\x07\x9b31m red \u202e reversed \r\n next \x00"
    nasty = replace(one, diagnoses=(replace(one.diagnoses[0], summary=evil, title=evil),), notes=(evil,))
    for fmt in FORMATS:
        text = render(nasty, fmt)

        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text.replace("\\u202e", "")), fmt


def test_colour_appears_only_when_asked_for() -> None:
    assert "\x1b" not in render(explained(), "text")
    assert "\x1b[" in render(explained(), "text", color=True)


def test_an_unknown_format_is_the_users_error() -> None:
    with pytest.raises(UserError, match="yaml"):
        render(healthy(), "yaml")
