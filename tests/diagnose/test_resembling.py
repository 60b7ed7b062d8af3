"""A failure that no playbook knows gets a guess, said as one; what resembles a harmless line gets none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diag.diagnose.pipeline import explain
from diag.diagnose.resembling import KnownMessages
from diag.model import Strength, Verdict
from diag.playbooks.base import known_lines_of_folder, load_base
from diag.report.formats import render

HEAD = 'Traceback (most recent call last):\n  File "/opt/engine/launch.py", line 9, in start\n    go()\n'


def log(folder: Path, last: str) -> str:
    path = folder / "run.log"
    path.write_text(f"starting\n{HEAD}{last}\n")
    return str(path)


def test_other_words_for_a_known_failure_lead_to_its_cause(tmp_path: Path) -> None:
    report = explain(
        [log(tmp_path, "EngineSetupFault: the listening port 8000 on this address is in use already")]
    )

    first = report.diagnoses[0]
    assert (first.id, first.strength, first.guessed) == ("port-in-use", Strength.POSSIBLE, True)
    assert (report.verdict, report.exit_code) == (Verdict.UNKNOWN, 3)
    assert report.unexplained is not None


def test_words_that_no_playbook_knows_give_no_guess(tmp_path: Path) -> None:
    report = explain([log(tmp_path, "EngineSetupFault: the flux capacitor lost its ninth gigawatt")])

    assert report.diagnoses == ()
    assert report.exit_code == 3


@pytest.mark.parametrize("form", ["text", "markdown", "html", "json"])
def test_every_form_says_that_it_is_a_guess(form: str, tmp_path: Path) -> None:
    report = explain(
        [log(tmp_path, "EngineSetupFault: the listening port 8000 on this address is in use already")]
    )

    drawn = render(report, form)

    if form == "json":
        assert json.loads(drawn)["diagnoses"][0]["guessed"] is True
    else:
        assert "resembles" in drawn
        assert "no playbook knows" in drawn


def test_figures_and_paths_do_not_count() -> None:
    known = KnownMessages(
        [
            ("port-in-use", "the listening port 8000 was taken by process /usr/bin/a"),
            ("disk-full", "the scratch volume of this node has no blocks left"),
        ]
    )

    assert known.nearest("the listening port 31000 was taken by process /srv/x/y") == pytest.approx((1.0, 0))


def test_messages_of_few_words_are_nobodys() -> None:
    known = KnownMessages(
        [("worker-died", "core dumped"), ("disk-full", "the scratch volume has no blocks left")]
    )

    assert known.nearest("core dumped") is None


def test_the_wheel_carries_the_same_lines_as_the_samples(tmp_path: Path) -> None:
    from diag.playbooks.base import home

    stored = json.loads(known_lines_of_folder(home()))["lines"]

    assert [tuple(one) for one in stored] == load_base().known_lines()
