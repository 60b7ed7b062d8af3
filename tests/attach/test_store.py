"""Who never came to the rendezvous, read from a live job's own TCPStore."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import stuck_jobs

from diag.diagnose.attaching import attach
from diag.diagnose.stuck import judge_stores, waiting_to_meet
from diag.model import Finding, Status
from diag.observe.probes.interface import Setup
from diag.observe.probes.job_store import read_stores
from diag.observe.probes.patient import run_worker

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed beside diag"
)


def store(came: list[int] | None, world: int = 4, **more: Any) -> dict[str, Any]:
    return {"address": "gpu0", "port": 29500, "world": world, "came": came, "keys": 3, "error": None, **more}


def waits(rank: int, still_s: float = 40.0, world: int = 4) -> Finding:
    data = {
        "pid": 100 + rank,
        "rank": rank,
        "kind": "waits",
        "site": "rendezvous",
        "still_s": still_s,
        "job": f"port 29500, {world} ranks",
    }
    return Finding("attach.process", f"rank {rank}", Status.OK, "waits", None, data)


@pytest.mark.parametrize(
    ("came", "looked_at", "absent"),
    [([2, 3], [0], [1]), ([1, 2], [0, 1], [3]), ([3], [0], [1, 2]), ([1], [], [2, 3]), ([2], [1], [3])],
)
def test_who_left_no_key_and_does_not_wait_has_not_come(
    came: list[int], looked_at: list[int], absent: list[int]
) -> None:
    """The first rank leaves its key last: nobody may take it for missing."""
    (told,) = judge_stores([store(came)], [waits(rank) for rank in looked_at])

    assert told.data["absent"] == absent
    assert told.data.get("rank") == (absent[0] if len(absent) == 1 else None)
    assert told.status is (Status.FAIL if looked_at else Status.WARN)


def test_who_may_still_be_loading_is_not_accused() -> None:
    (told,) = judge_stores([store([2, 3])], [waits(0, still_s=8.0)])

    assert (told.status, "cause" in told.data) == (Status.WARN, False)


def test_all_have_come_or_it_cannot_be_told() -> None:
    assert judge_stores([store([1, 2, 3])], [waits(0)])[0].status is Status.OK
    assert judge_stores([store(None)], [waits(0)])[0].status is Status.OK
    assert judge_stores([store(None, error="refused")], [waits(0)])[0].status is Status.UNKNOWN


def test_only_who_stands_in_a_rendezvous_leads_to_its_store() -> None:
    assert waiting_to_meet([waits(0), waits(1, still_s=1.0)]) == [100]


@pytest.mark.lab
@needs_torch
@pytest.mark.parametrize("culprit", [1, 2])
def test_the_rank_that_never_came_is_named_by_the_live_store(tmp_path: Path, culprit: int) -> None:
    """Only one waiting rank is looked at, as on one node of several: the store tells the rest, and is left as it was."""
    with stuck_jobs.running(tmp_path, "late", culprit) as job:
        variables = dict(
            line.split("=", 1)
            for line in Path(f"/proc/{job.pids[0]}/environ").read_text().split("\0")
            if line.startswith(("MASTER_", "WORLD_"))
        )
        before = read_stores([variables], deadline_s=60.0)
        report = attach([job.pids[0]])
        after = read_stores([variables], deadline_s=60.0)

    (told,) = [one for one in report.findings if one.probe == "attach.store"]
    if told.status is not Status.UNKNOWN:  # torch did not load within the look's time
        assert told.data["absent"] == [culprit], told.summary
    assert before == after
    assert before[0]["came"] == [rank for rank in (1, 2) if rank != culprit]


@pytest.mark.lab
@needs_torch
def test_a_store_that_is_not_there_is_told_in_time() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        job = {
            "address": "127.0.0.1",
            "port": sock.getsockname()[1],
            "world": 2,
            "deadline_s": 60.0,
            "round_s": 1,
        }
        answer = run_worker(Setup(env=dict(os.environ)), sys.executable, "store_state.py", job)

    assert answer["failed"] is None
    assert answer["ranks"][0]["came"] is None
    assert answer["ranks"][0]["error"]
