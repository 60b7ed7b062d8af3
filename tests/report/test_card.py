"""A playbook as a card, from its YAML's plain values or from the loaded dataclass's."""

from __future__ import annotations

import pytest

from diag.report.card import draw_card, draw_list

CARD = {
    "id": "shm-too-small",
    "title": "/dev/shm is too small",
    "layer": "memory",
    "severity": "error",
    "since": "0.1",
    "summary": "The file system is full[[ on {host}]].",
    "signals": {
        "nccl_extend": {"kind": "log", "patterns": ("failed to extend <b>", "no second")},
        "plain": {"log": "No space left"},
    },
    "when": [{"any": ["nccl_extend"], "none": []}, {"all": ["plain"]}],
    "fixes": [
        {
            "do": "Make it larger.",
            "settings": {"shm-size": "16g"},
            "risk": "restarts-job",
            "patch": "a:\n  b: c\n",
        }
    ],
    "looks_like": (("disk-full", "a path elsewhere"),),
    "confirm": ["df -h /dev/shm"],
}


def test_a_card_tells_all_that_a_reader_needs() -> None:
    text = draw_card(CARD, "text", width=80)

    for told in (
        "failed to extend <b>",
        "any: nccl_extend",
        "all: plain",
        "     shm-size: 16g",
        "       b: c",
        "disk-full: a path elsewhere",
        "- df -h",
    ):
        assert told in text
    assert "is full on {host}." in text
    assert "needs a restart of the job" in text


@pytest.mark.parametrize(
    "looks_like", [[{"disk-full": "a path elsewhere"}], (("disk-full", "a path elsewhere"),)]
)
def test_rivals_read_the_same_from_yaml_and_from_the_dataclass(looks_like: object) -> None:
    assert "- disk-full: a path elsewhere" in draw_card({**CARD, "looks_like": looks_like}, "text")


def test_html_escapes_patterns() -> None:
    assert "<b>" not in draw_card(CARD, "html")


@pytest.mark.parametrize("fmt", ["text", "markdown", "html"])
def test_a_list_names_every_playbook(fmt: str) -> None:
    assert "shm-too-small" in draw_list([CARD], fmt)
