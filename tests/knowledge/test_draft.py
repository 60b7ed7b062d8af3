"""The draft maker's output loads and fires: an untested scaffold rots."""

from __future__ import annotations

from pathlib import Path

import pytest

from diag.diagnose.draft import draft_playbook, generalise
from diag.diagnose.knowledge import lint_playbooks
from diag.system import UserError

LINE = "(EngineCore_DP0 pid=51) ERROR 10-25 09:43:31 [core.py:708] FrobnicatorError: shard 17 of '/data/x.bin' at 10.1.2.3:99 is 'odd' (0xdead)"


def test_a_draft_is_a_playbook_that_fires_on_its_line(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text(f"first\n{LINE}\n")
    path = tmp_path / "driver" / "frobnicator-odd.yaml"
    path.parent.mkdir()

    path.write_text(draft_playbook(f"{log}:2", "frobnicator-odd"))

    assert [] == [str(one) for one in lint_playbooks(path)]


def test_numbers_paths_and_names_may_vary() -> None:
    import re

    pattern = generalise("shard 17 of '/data/x.bin' at 10.1.2.3:99 failed")

    assert re.search(pattern, "shard 3 of '/other/y.bin' at 10.9.9.9:1 failed")


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("x.log", "a-b"),
        ("x.log:0", "a-b"),
        ("gone.log:3", "a-b"),
        ("x.log:1", "fix-it"),
        ("x.log:1", "Bad Id"),
    ],
)
def test_a_bad_place_or_id_is_one_sentence(place: str, name: str) -> None:
    with pytest.raises(UserError):
        draft_playbook(place, name)
