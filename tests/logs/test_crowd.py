"""Several processes read a folder as one does."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from diag.diagnose.pipeline import explain
from diag.observe.logs import crowd
from diag.observe.logs.opening import Opening
from diag.observe.logs.reading import build_reader
from diag.playbooks.base import load_base

LINE = "INFO 04-28 08:14:33 [loader.py:12] Loading weights took 3.2 seconds, rank {0} of 40\n"
OOM = "[rank{0}]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 39.39 GiB of which 1.00 GiB is free.\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Forty rank files, a report-like and a compressed-looking one among them; the threshold is lowered, not the work."""
    monkeypatch.setattr(crowd, "LEAST_BYTES", 1000)
    monkeypatch.setattr(crowd, "_processors", lambda: 2)
    top = tmp_path / "logs"
    (top / "deep").mkdir(parents=True)
    for rank in range(40):
        text = LINE.format(rank) * 50 + (OOM.format(rank) if rank == 7 else "")
        (top / ("deep" if rank % 2 else ".") / f"rank{rank}.log").write_text(text)
    (top / "broken.log.gz").write_bytes(b"\x1f\x8b nothing")
    (top / "values.log").write_text('{"message": "hello"}\n')
    return top


def test_the_readings_are_the_same(folder: Path) -> None:
    told: list[int] = []
    reader = build_reader(load_base())
    found = crowd.read_crowd([str(folder)], reader, (), told.append)
    own = {source.name: reader.read(source) for source in Opening([str(folder)])}
    assert len(found) == 40
    assert all(found[name] == own[name] for name in found)
    assert sum(told) == sum(reading.bytes for reading in found.values())


def test_the_answer_is_the_same(folder: Path) -> None:
    alone, together = explain([str(folder)]), explain([str(folder)], crowd=True)
    assert [one.id for one in together.diagnoses] == [one.id for one in alone.diagnoses]
    assert together.inputs == alone.inputs
    assert together.diagnoses[0].culprit == alone.diagnoses[0].culprit


def test_one_file_is_no_crowd(folder: Path) -> None:
    assert crowd.read_crowd([str(folder / "rank0.log")], build_reader(load_base()), (), lambda _: None) == {}


def test_beside_a_thread_the_processes_start_anew(folder: Path) -> None:
    reader, wait = build_reader(load_base()), threading.Event()
    forked = crowd.read_crowd([str(folder)], reader, (), lambda _: None)
    beside = threading.Thread(target=wait.wait)
    beside.start()
    try:
        assert crowd.read_crowd([str(folder)], reader, (), lambda _: None) == forked
    finally:
        wait.set()
        beside.join()


def test_what_is_no_log_of_a_launch_is_left_to_the_caller(folder: Path) -> None:
    (folder / "README.md").write_text("# How to run\n\nStart `train.py` on every node.\n" * 20)
    found = crowd.read_crowd([str(folder)], build_reader(load_base()), (), lambda _: None)
    assert len(found) == 40
    assert explain([str(folder)], crowd=True).inputs == explain([str(folder)]).inputs
