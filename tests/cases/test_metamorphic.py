"""What does not change the launch must not change the answer."""

from __future__ import annotations

import gzip
import importlib.util
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diag.diagnose.engine import diagnose
from diag.diagnose.pipeline import evidence_of
from diag.model import Strength
from diag.observe.logs.reading import LogReader, build_reader
from diag.playbooks.base import Base, load_base

ROOT = Path(__file__).parents[2]


def cases() -> list[Path]:
    found = sorted(path.parent for path in (ROOT / "fixtures" / "cases").rglob("case.yaml"))
    return found[:: max(1, len(found) // 40)]


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base()


@pytest.fixture(scope="module")
def reader(base: Base) -> LogReader:
    return build_reader(base)


def answer(base: Base, reader: LogReader, paths: list[Path]) -> str | None:
    found = diagnose(base, evidence_of([str(path) for path in paths], reader))
    return found[0].id if found else None


def logs_of(case: Path) -> list[Path]:
    return sorted(path for path in case.iterdir() if path.name != "case.yaml")


def forms_module() -> Any:
    spec = importlib.util.spec_from_file_location("log_forms", ROOT / "benchmarks" / "log_forms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FORMS: dict[str, Callable[[bytes], bytes]] = forms_module().FORMS
"""`python benchmarks/log_forms.py fixtures` runs each of them over every case and lists what changes."""


@pytest.mark.parametrize("form", sorted(FORMS))
def test_the_answer_survives_another_form(form: str, tmp_path: Path, base: Base, reader: LogReader) -> None:
    """Every third of the sampled cases, another third for each form.

    What somebody typed below a log (`look.txt`) passes through no launcher. Folded or wrapped text may lose the
    answer where too little of it shows the width, but gets no other one.
    """
    for case in cases()[len(form) % 3 :: 3]:
        expected = answer(base, reader, logs_of(case))
        paths = []
        for path in logs_of(case):
            target = tmp_path / f"{case.name}-{path.name}"
            typed = path.name.startswith("look")
            target.write_bytes(path.read_bytes() if typed else FORMS[form](path.read_bytes()))
            paths.append(target)
        got = answer(base, reader, paths)

        assert got == expected or (form.startswith(("fold-", "wrap-")) and got is None), case.name


@given(case=st.sampled_from(cases()), seed=st.integers(0, 1 << 20), share=st.floats(0.02, 0.4))
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_cut_tail_may_weaken_the_answer_but_proves_nothing_against_a_healthy_launch(
    tmp_path: Path, base: Base, reader: LogReader, case: Path, seed: int, share: float
) -> None:
    chooser = random.Random(seed)
    paths = []
    for path in logs_of(case):
        data = path.read_bytes()
        target = tmp_path / path.name
        target.write_bytes(data[: int(len(data) * (1 - share))] or b"\n")
        paths.append(target)
    chooser.shuffle(paths)
    found = diagnose(base, evidence_of([str(path) for path in paths], reader))

    # a phase that has begun, or a name that has not resolved yet, looks like a hang until the rest is there
    healthy = "label: healthy" in (case / "case.yaml").read_text()
    assert not healthy or not any(one.strength is Strength.PROVEN for one in found)


@pytest.mark.parametrize("case", cases(), ids=lambda path: path.name)
def test_the_answer_survives_compression_and_order(
    case: Path, tmp_path: Path, base: Base, reader: LogReader
) -> None:
    expected = answer(base, reader, logs_of(case))
    packed = []
    for path in logs_of(case):
        target = tmp_path / f"{path.name}.gz"
        target.write_bytes(gzip.compress(path.read_bytes()))
        packed.append(target)

    assert expected == answer(base, reader, packed)
    assert expected == answer(base, reader, packed[::-1])
