"""The base of playbooks keeps its own laws."""

from __future__ import annotations

from pathlib import Path

import pytest

from diag.diagnose.knowledge import diagnose_text, lint_playbooks
from diag.observe.logs.reading import build_reader
from diag.playbooks.base import home, load_base, playbook_files
from diag.playbooks.literals import PatternError, required_literals
from diag.playbooks.load import load_playbook
from diag.system import UserError

ROOT = Path(__file__).parents[2]
IDS = (ROOT / "fixtures" / "playbook_ids.txt").read_text().split()


def test_the_base_is_not_empty() -> None:
    assert len(playbook_files(home())) >= 25


def test_every_playbook_fires_on_its_samples_and_stays_silent_on_its_look_alikes() -> None:
    problems = [str(problem) for problem in lint_playbooks()]

    assert [] == problems


def test_ids_are_permanent() -> None:
    retired = (home() / "RETIRED.md").read_text()
    present = load_base().playbooks

    assert [] == [name for name in IDS if name not in present and name not in retired]


def test_the_stored_form_equals_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIAG_CACHE_DIR", str(tmp_path / "cache"))
    first = load_base()
    again = load_base()

    assert list((tmp_path / "cache").glob("base-*.json"))
    assert first.playbooks == again.playbooks


def test_a_cache_that_others_can_write_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setenv("DIAG_CACHE_DIR", str(folder))

    base = load_base()

    assert base.cache is None
    assert [] == list(folder.iterdir())


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(a+)+b needle", "linear"),
        (r"(?=x)needle", "linear"),
        (r"(needle)\1", "linear"),
        (r"\w+ \d+", "no literal"),
        ("(?i)needle", "flags"),
        ("needle(", "not a regular expression"),
    ],
)
def test_costly_and_vague_patterns_are_refused(pattern: str, words: str) -> None:
    with pytest.raises(PatternError, match=words):
        required_literals(pattern)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "fixtures" / "playbooks_bad").rglob("*.yaml")), ids=lambda path: path.stem
)
def test_a_broken_playbook_is_refused_with_its_place(path: Path) -> None:
    expected = path.read_text().splitlines()[0].removeprefix("# expect: ")

    with pytest.raises(UserError) as caught:
        load_playbook(path)

    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("level", "way", "ids"),
    [
        ("WARNING", "; falling back to torch.", []),
        ("ERROR", "; falling back to torch.", ["python-env-broken"]),
        ("WARNING", ".", ["python-env-broken"]),
    ],
)
def test_a_warning_that_names_another_way_carries_no_diagnosis(level: str, way: str, ids: list[str]) -> None:
    base = load_base()
    text = f"{level} 05-11 08:00:00 [loader.py:12] ImportError: flash_attn is not installed{way}\n"

    found = diagnose_text(base, build_reader(base), text)

    assert ids == [one.id for one in found]
