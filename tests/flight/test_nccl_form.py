"""Dumps in NCCL's form, every kind of fault at every rank, in pickle and JSON, with wrapped rings, lost and damaged files."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import nccl_jobs as jobs
import pytest

from diag.diagnose.pipeline import explain
from diag.model import Report
from diag.system import UserError

WORLD = 8
EVERY_RANK = list(range(WORLD))


def told(report: Report) -> tuple[str | None, list[int]]:
    """(cause, ranks) of the first diagnosis."""
    if not report.diagnoses:
        return None, []
    ranks = next(
        one.data["ranks"] for one in report.findings if one.data.get("cause") == report.diagnoses[0].id
    )
    rank = report.diagnoses[0].culprit.rank
    assert rank == (ranks[0] if len(ranks) == 1 else None)
    return report.diagnoses[0].id, ranks


@pytest.mark.parametrize("form", ["pickle", "json", "mixed"])
@pytest.mark.parametrize("culprit", EVERY_RANK)
def test_a_rank_that_never_called(tmp_path: Path, culprit: int, form: str) -> None:
    ranks = jobs.flat(WORLD)
    jobs.steps(ranks)
    for one in ranks:
        if one.rank != culprit:
            one.call("all_reduce", state="started")
    jobs.write_all(ranks, tmp_path, form=form)

    assert told(explain([str(tmp_path)])) == ("collective-timeout-slow-rank", [culprit])


@pytest.mark.parametrize(
    ("kind", "theirs", "others"),
    [
        ("type", ("broadcast", 64, "Float"), ("all_reduce", 64, "Float")),
        ("size", ("all_reduce", 32, "Float"), ("all_reduce", 64, "Float")),
        ("dtype", ("all_reduce", 64, "Half"), ("all_reduce", 64, "Float")),
    ],
)
@pytest.mark.parametrize("culprit", EVERY_RANK)
def test_a_rank_that_called_something_else(
    tmp_path: Path, culprit: int, kind: str, theirs: tuple[str, int, str], others: tuple[str, int, str]
) -> None:
    ranks = jobs.flat(WORLD)
    jobs.steps(ranks)
    for one in ranks:
        op, size, dtype = theirs if one.rank == culprit else others
        one.call(op, size=size, dtype=dtype, state="started")
    jobs.write_all(ranks, tmp_path)

    report = explain([str(tmp_path)])

    assert told(report) == ("collective-desync", [culprit])
    assert next(one for one in report.findings if one.data.get("cause")).data["kind"] == kind
    assert "/srv/app/train.py" in report.diagnoses[0].summary


@pytest.mark.parametrize("culprit", [0, 1])
def test_of_two_ranks_the_one_that_left_the_usual_order(tmp_path: Path, culprit: int) -> None:
    ranks = jobs.flat(2)
    jobs.steps(ranks)
    for one in ranks:
        if one.rank == culprit:
            one.call("_all_gather_base", size=128, state="started")  # the step begins with an all-reduce
        else:
            one.call("all_reduce", size=4096, state="started")
    jobs.write_all(ranks, tmp_path)

    assert told(explain([str(tmp_path)])) == ("collective-desync", [culprit])


def test_of_two_ranks_without_a_past_neither_is_accused(tmp_path: Path) -> None:
    ranks = jobs.flat(2)
    for one in ranks:
        one.call("all_reduce" if one.rank else "broadcast", state="started")
    jobs.write_all(ranks, tmp_path)

    cause, accused = told(explain([str(tmp_path)]))

    assert (cause, accused) == ("collective-desync", [])


def test_a_difference_that_went_through_is_no_fault(tmp_path: Path) -> None:
    ranks = jobs.flat(4)
    for one in ranks:
        one.call("all_gather", size=10 + one.rank)
        one.call("all_reduce")
    jobs.write_all(ranks, tmp_path)

    assert explain([str(tmp_path)]).diagnoses == ()


def test_shapes_that_hold_the_same_number_of_elements_agree(tmp_path: Path) -> None:
    ranks = jobs.flat(4)
    for one in ranks:
        one.call("all_reduce", size=64, state="started")
    ranks[2].entries[-1]["input_sizes"] = [[8, 8]]
    jobs.write_all(ranks, tmp_path)

    assert explain([str(tmp_path)]).diagnoses == ()


@pytest.mark.parametrize("culprit", EVERY_RANK)
def test_a_device_that_does_not_get_on(tmp_path: Path, culprit: int) -> None:
    ranks = jobs.flat(WORLD)
    jobs.steps(ranks)
    for one in ranks:
        one.call("all_reduce", state="scheduled" if one.rank == culprit else "started")
        one.call("broadcast", state="scheduled")
    jobs.write_all(ranks, tmp_path)

    report = explain([str(tmp_path)])

    assert told(report) == ("collective-timeout-slow-rank", [culprit])
    assert "GPU side" in report.diagnoses[0].summary


@pytest.mark.parametrize("culprit", EVERY_RANK)
def test_a_rank_without_a_dump(tmp_path: Path, culprit: int) -> None:
    ranks = jobs.flat(WORLD)
    jobs.steps(ranks)
    for one in ranks:
        one.call("all_reduce", state="started")
    jobs.write_all([one for one in ranks if one.rank != culprit], tmp_path)

    report = explain([str(tmp_path)])

    assert told(report) == ("worker-died", [culprit])
    assert any(f"rank {culprit}" in gap.what for gap in report.gaps)


@pytest.mark.parametrize("culprit", EVERY_RANK)
def test_a_send_without_a_receive(tmp_path: Path, culprit: int) -> None:
    ranks = jobs.grid(2, 2, 2)
    for one in ranks:
        for _ in range(4):
            one.call("all_reduce", group=jobs.group_of(one, "TP"))
            one.call("all_reduce", group=jobs.group_of(one, "DP"))
    name = jobs.group_of(ranks[culprit], "PP")
    first, last = ranks[culprit].groups[name][0]
    sender = last if culprit == first else first
    ranks[sender].call("send", group=name, peer=culprit, state="started")
    jobs.write_all(ranks, tmp_path)

    assert told(explain([str(tmp_path)])) == ("collective-desync", [culprit])


@pytest.mark.parametrize("culprit", EVERY_RANK)
def test_in_many_groups_the_waiting_is_followed_to_its_end(tmp_path: Path, culprit: int) -> None:
    """TP waits for the culprit, PP and DP neighbours of those that wait in TP wait too."""
    ranks = jobs.grid(2, 2, 2)
    for one in ranks:
        for _ in range(4):
            one.call("all_reduce", group=jobs.group_of(one, "TP"))
            one.call("all_reduce", group=jobs.group_of(one, "DP"))
    name = jobs.group_of(ranks[culprit], "TP")
    victims = [rank for rank in ranks[culprit].groups[name][0] if rank != culprit]
    for one in ranks:
        if one.rank == culprit:
            continue
        if one.rank in victims:
            one.call("all_reduce", group=name, state="started")
        else:
            one.call("all_reduce", group=jobs.group_of(one, "TP"))
            one.call("all_reduce", group=jobs.group_of(one, "DP"), state="started")
    jobs.write_all(ranks, tmp_path)

    cause, accused = told(explain([str(tmp_path)]))

    assert cause == "collective-timeout-slow-rank"
    assert accused == [culprit]


@pytest.mark.parametrize("culprit", EVERY_RANK)
def test_rings_that_wrapped_differently(tmp_path: Path, culprit: int) -> None:
    ranks = jobs.flat(WORLD)
    for one in ranks:
        one.capacity = 5 + 7 * one.rank
    jobs.steps(ranks, 30)
    for one in ranks:
        if one.rank != culprit:
            one.call("reduce_scatter", state="started")
    jobs.write_all(ranks, tmp_path)

    assert told(explain([str(tmp_path)])) == ("collective-timeout-slow-rank", [culprit])


def test_all_at_the_same_place_accuse_no_rank(tmp_path: Path) -> None:
    ranks = jobs.flat(WORLD)
    jobs.steps(ranks)
    for one in ranks:
        one.call("all_reduce", state="started", retired=True)
    jobs.write_all(ranks, tmp_path)

    report = explain([str(tmp_path)])

    assert report.diagnoses == ()
    assert any("no rank is late" in one.summary for one in report.findings)


def test_groups_without_a_common_member_are_all_looked_at(tmp_path: Path) -> None:
    """Their record numbers are far apart, which makes torch's own analyser drop one of them silently."""
    groups = {"1": ([0, 1], "A"), "2": ([2, 3], "B")}
    ranks = [jobs.Rank(rank, 4, groups) for rank in range(4)]
    for one in ranks:
        one.records = 0 if one.rank < 2 else 5_000
        for _ in range(5):
            one.call("all_reduce", group="1" if one.rank < 2 else "2")
    ranks[0].call("all_reduce", group="1", state="started")
    jobs.write_all(ranks, tmp_path)

    assert told(explain([str(tmp_path)])) == ("collective-timeout-slow-rank", [1])


@pytest.mark.parametrize("version", ["2.3", "2.5", "2.7", "2.9", "2.10"])
def test_schemas_of_torch_2_4_to_2_15(tmp_path: Path, version: str) -> None:
    ranks = jobs.flat(4, version=version)
    jobs.steps(ranks)
    for one in ranks:
        if version < "2.9":
            for entry in one.entries:
                entry.pop("thread_id", None)
        if one.rank != 1:
            one.call("all_reduce", state="scheduled")
    jobs.write_all(ranks, tmp_path)

    assert told(explain([str(tmp_path)])) == ("collective-timeout-slow-rank", [1])


def test_damaged_foreign_empty_and_hostile_files_are_gaps(tmp_path: Path) -> None:
    ranks = jobs.flat(WORLD)
    jobs.steps(ranks)
    for one in ranks:
        if one.rank != 5:
            one.call("all_reduce", state="started")
    jobs.write_all(ranks, tmp_path)
    (tmp_path / "nccl_trace_rank_0").write_bytes(b"")
    whole = (tmp_path / "nccl_trace_rank_1").read_bytes()
    (tmp_path / "nccl_trace_rank_1").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "nccl_trace_rank_2").write_bytes(pickle.dumps({"model": [1, 2, 3]}, protocol=2))
    (tmp_path / "nccl_trace_rank_3").write_bytes(b"\x80\x02}(X\x01\x00\x00\x00acos\nsystem\nu.")
    (tmp_path / "checkpoint.bin").write_bytes(bytes(range(256)) * 64)
    (tmp_path / "nccl_trace_rank_4").write_bytes(gzip.compress((tmp_path / "nccl_trace_rank_4").read_bytes()))

    report = explain([str(tmp_path)])

    assert told(report) == ("collective-timeout-slow-rank", [5])
    reasons = {gap.what.rsplit("/", 1)[-1]: gap.reason for gap in report.gaps}
    assert reasons["nccl_trace_rank_0"] == "is empty"
    assert "breaks off" in reasons["nccl_trace_rank_1"]
    assert reasons["nccl_trace_rank_2"] == "is no flight-recorder dump"
    assert "load or call code" in reasons["nccl_trace_rank_3"]
    assert reasons["checkpoint.bin"] == "is binary"


def test_names_that_tell_no_rank(tmp_path: Path) -> None:
    """Host names in file names, no number at all: the groups inside tell the rank."""
    ranks = jobs.grid(2, 2, 2)
    for one in ranks:
        one.call("all_reduce")
        one.call("all_reduce", group=jobs.group_of(one, "TP"))
        if one.rank != 6:
            one.call("all_reduce", state="started")
    names = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    for one, name in zip(ranks, names, strict=True):
        jobs.write_pickle(one, tmp_path / name)

    assert told(explain([str(tmp_path)])) == ("collective-timeout-slow-rank", [6])


def test_a_young_wait_is_no_hang(tmp_path: Path) -> None:
    """One rank computes a little longer than its peers while the recorders are written: nothing is wrong."""
    import os

    ranks = jobs.flat(WORLD)
    jobs.steps(ranks)
    for one in ranks:
        if one.rank != 3:
            one.call("all_reduce", state="started")
    jobs.write_all(ranks, tmp_path)
    for one in ranks:
        late = (one.clock + jobs.SECOND // 50) / jobs.SECOND
        os.utime(tmp_path / f"nccl_trace_rank_{one.rank}", (late, late))

    report = explain([str(tmp_path)])

    assert report.diagnoses == ()
    assert any("may just be running" in one.summary for one in report.findings)


def test_one_foreign_pickle_alone_is_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"weights": [1.0]}, protocol=2))

    with pytest.raises(UserError, match="no flight-recorder dump"):
        explain([str(path)])
