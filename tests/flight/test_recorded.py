"""Dumps of real gloo jobs (fixtures/flight/record.py): the culprit is named at every rank, whatever the order of the files."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import pytest

from diag.diagnose.pipeline import explain
from diag.model import Report, Verdict

FOLDER = Path(__file__).parents[2] / "fixtures/flight"
CAUSES = {
    "missing": "collective-timeout-slow-rank", "group-missing": "collective-timeout-slow-rank", "type": "collective-desync",
    "size": "collective-desync", "dtype": "collective-desync", "skip-then-other": "collective-desync", "order": "collective-desync",
}  # fmt: skip
CASES = sorted(path.name for path in FOLDER.iterdir() if re.fullmatch(r".*-\d", path.name))


def accused(report: Report) -> tuple[str | None, int | None]:
    """(cause, rank) of the first diagnosis."""
    first = report.diagnoses[0] if report.diagnoses else None
    return (first.id, first.culprit.rank) if first else (None, None)


def test_every_kind_is_there_at_every_rank() -> None:
    assert CASES == sorted(f"{kind}-{rank}" for kind in CAUSES for rank in range(4))


@pytest.mark.parametrize("case", CASES)
def test_the_culprit_is_named(case: str) -> None:
    kind, _, rank = case.rpartition("-")

    report = explain([str(FOLDER / case)])

    assert accused(report) == (CAUSES[kind], int(rank))
    assert report.verdict is Verdict.FAIL


@pytest.mark.parametrize("case", CASES)
def test_the_order_of_the_files_changes_nothing(case: str) -> None:
    kind, _, rank = case.rpartition("-")
    files = sorted(str(path) for path in (FOLDER / case).iterdir())
    random.Random(case).shuffle(files)

    assert accused(explain(files)) == (CAUSES[kind], int(rank))


def test_a_job_that_went_through_is_healthy() -> None:
    report = explain([str(FOLDER / "healthy")])

    assert report.diagnoses == ()
    assert report.exit_code == 0


@pytest.mark.parametrize("case", ["missing-1", "type-2", "dtype-0"])
def test_without_a_healthy_ranks_file_nobody_else_is_accused(case: str, tmp_path: Path) -> None:
    rank = int(case[-1])
    for left_out in range(4):
        if left_out == rank:
            continue
        folder = tmp_path / str(left_out)
        shutil.copytree(FOLDER / case, folder)
        for path in folder.glob(f"*_{left_out}*"):
            path.unlink()

        report = explain([str(folder)])

        assert accused(report)[1] in (rank, None)


@pytest.mark.parametrize("case", ["missing-1", "missing-3"])
def test_a_rank_that_left_no_dump_is_named_as_dead_or_silent(case: str, tmp_path: Path) -> None:
    rank = int(case[-1])
    shutil.copytree(FOLDER / case, tmp_path / "job")
    for path in (tmp_path / "job").glob(f"*_{rank}*"):
        path.unlink()

    report = explain([str(tmp_path / "job")])

    if rank == 3:  # gloo's dumps do not tell how many ranks there were: nobody knows of a fourth
        assert report.diagnoses == ()
    else:
        assert accused(report) == ("worker-died", rank)
        assert any("flight-recorder dump of rank" in gap.what for gap in report.gaps)
