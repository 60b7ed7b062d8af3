"""The labelled cases: floors that may only rise, and no healthy launch accused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FLOORS: dict[str, float] = json.loads((ROOT / "tests" / "cases" / "floors.json").read_text())


def scorer() -> Any:
    spec = importlib.util.spec_from_file_location("score_cases", ROOT / "benchmarks" / "score_cases.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["score_cases"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("folder", sorted(FLOORS))
def test_the_share_of_right_first_answers_does_not_fall(folder: str) -> None:
    place = (ROOT / folder).resolve()
    if not place.is_dir():
        pytest.skip(f"{folder} does not lie beside this checkout")

    score = scorer().score([place])

    assert [] == score.false_alarms
    assert score.share_top1 >= FLOORS[folder], score.misses


def test_the_founding_cases_are_all_right() -> None:
    score = scorer().score([ROOT / "fixtures" / "cases" / "founding"])

    assert [] == score.misses
    assert [] == score.false_alarms
