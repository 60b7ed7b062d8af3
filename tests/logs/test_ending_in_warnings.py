"""A log that ends in warnings, whatever their form and wherever the file begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from diag.observe.logs.opening import Opening
from diag.observe.logs.reading import build_reader
from diag.playbooks.base import load_base


@pytest.mark.parametrize(
    ("text", "warns"),
    [
        ("W0428 08:14:19.5 12 store.cc:3] low memory\n", True),
        ("step 1\nW0428 08:14:19.5 12 store.cc:3] low memory\nW0428 08:14:20.5 12 store.cc:3] again\n", True),
        ("[rank1]:[W428 08:14:19.5 x.cpp:3] slow\n", True),
        ("2026-11-30 10:00:00 WARNING worker is slow\n", True),
        ("a.py:3: UserWarning: old option\n", True),
        ("World size 8\nWed Nov 30: step 2\n", False),
        ("step 1\nstep 2\n", False),
    ],
)
def test_a_log_ends_in_warnings(tmp_path: Path, text: str, warns: bool) -> None:
    path = tmp_path / "run.log"
    path.write_text(text)
    reader = build_reader(load_base())
    (reading,) = [reader.read(source) for source in Opening([str(path)])]

    assert reading.ends_in_warnings == warns
