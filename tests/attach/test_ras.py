"""NCCL's RAS service, asked and understood: recorded answers of NCCL's own RAS threads, over real connections."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stuck_jobs

from diag.diagnose.attaching import attach
from diag.diagnose.stuck import judge_together, ras_seen
from diag.model import Finding, Report, Status, Verdict
from diag.observe.stacks.ras import Heard, Refused, address_of, ask, compare
from diag.observe.stacks.ras_answer import Answer, read_json, read_text

HERE = Path(__file__).parent
RECORDED = HERE.parents[1] / "fixtures" / "ras"
NAMES = sorted(path.stem for path in RECORDED.glob("*.json"))

spec = importlib.util.spec_from_file_location("ras_standin", HERE / "ras_standin" / "sitecustomize.py")
assert spec is not None
assert spec.loader is not None
standin = importlib.util.module_from_spec(spec)
spec.loader.exec_module(standin)


def recorded(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text())
    return loaded


def small(answer: Answer) -> dict[str, Any]:
    """What both forms tell: of each communicator in which something differs, every group but the largest, and who is lost."""
    told = {}
    for one in answer.communicators:
        groups = {**one["ops"], "states": one["states"], "errors": one["errors"]}
        rows = {
            name: sorted((str(group["value"]), sorted(place["rank"] for place in group["ranks"])) for group in found)
            for name, found in groups.items() if found
        }  # fmt: skip
        if one["ops"] or one["states"]:  # the text form does not name the many
            rows = {name: [row for row in found if len(row[1]) in (1, 2)] for name, found in rows.items()}
        lost = [(place["rank"], place["pid"], place["dead"]) for place in one["missing"]]
        if rows or lost:
            told[one["hash"]] = (rows, lost)
    return told


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_of_an_answer_tell_the_same(name: str) -> None:
    told = recorded(name)

    as_json, as_text = read_json(told["json"]), read_text(told["text"])

    assert as_json.pids == set(told["pids"])
    assert as_text.pids <= as_json.pids
    assert as_json.version == as_text.version == "2.30.7"
    if name not in ("three-late-1", "three-other-1"):  # two of three are few as well
        assert small(as_text) == small(as_json)
    assert bool(small(as_json)) == (name not in ("healthy", "three-equal", "three-later"))


def test_an_answer_that_lacks_a_comma_in_every_missing_rank_is_read() -> None:
    """As NCCL 2.28.9 writes it: none between nvml_dev and status."""
    text = recorded("dead")["json"]
    broken = re.sub(r'("nvml_dev": \d+),(\s+"status": \{\s+"unresponsive")', r"\1\2", text)
    assert len(text) - len(broken) == 2
    with pytest.raises(json.JSONDecodeError):
        json.loads(broken)

    assert read_json(broken) == read_json(text)


def test_the_missing_ranks_of_older_answers_are_read() -> None:
    text = (
        "NCCL version 2.24.3 compiled with CUDA 12.4\n\nCommunicators... (2.05s)\n\nErrors\n======\n\n"
        "#0-0 (cf264af53edbe986) INCOMPLETE\n  Missing communicator data from 1 rank\n  The missing rank: 21\n\n"
        "#0-1 (27a079b828ff1a75) MISMATCH\n  Communicator ranks have different collective operation counts\n"
        "  26 ranks have launched up to operation 6650\n  1 ranks have launched up to operation 6649\n"
        "  Rank 0 -- GPU 0 managed by process 483072 on node 172.16.64.210\n"
    )

    answer = read_text(text)

    assert [21] == [one["rank"] for one in answer.communicators[0]["missing"]]
    (groups,) = answer.communicators[1]["ops"].values()
    assert [(6650, 26, []), (6649, 1, [0])] == [
        (one["value"], one["n"], [place["rank"] for place in one["ranks"]]) for one in groups
    ]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"communicators": [{}]}', '{"communicators": 3}', "OK", "\x00" * 99]
)
def test_what_is_no_answer_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not understood"):
        read_json(text)
    with pytest.raises(ValueError, match="not understood"):
        read_text(text)


def test_an_answer_cut_at_any_place_never_breaks_the_reader() -> None:
    told = recorded("unresponsive")
    for end in range(0, len(told["json"]) - 3, 97):
        with pytest.raises(ValueError, match="not understood"):
            read_json(told["json"][:end])
    for end in range(0, len(told["text"]), 13):
        with contextlib.suppress(ValueError):
            assert read_text(told["text"][:end]).version in ("2.30.7", "")


# the client


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Any]:
    made = []

    def start(*names: str, port: int = 0, **setup: Any) -> Any:
        answers = [str(RECORDED / f"{name}.json") for name in names]
        one = standin.Service({"port": port, "answers": answers, "folder": str(tmp_path), **setup})
        made.append(one)
        return one

    yield start
    for one in made:
        one.listener.close()


def test_the_service_is_asked_for_its_status_and_nothing_else(service: Any) -> None:
    one = service("late")

    heard = ask("127.0.0.1", one.port, recorded("late")["pids"], time.monotonic() + 10)

    assert heard.answer.form == "json"
    assert one.heard == ["CLIENT PROTOCOL 2", "TIMEOUT 4", "SET FORMAT json", "STATUS"]


def test_a_service_older_than_json_answers_in_text(service: Any) -> None:
    one = service("late", old=True)

    heard = ask("localhost", one.port, recorded("late")["pids"], time.monotonic() + 10)

    assert (heard.answer.form, one.heard[-1]) == ("text", "VERBOSE STATUS")


def test_a_process_that_stands_still_on_the_shared_port_is_passed_over(service: Any) -> None:
    one = service("late", silent=2)
    begin = time.monotonic()

    heard = ask("127.0.0.1", one.port, recorded("late")["pids"], begin + 10)

    assert heard.answer.communicators
    assert 1.5 < time.monotonic() - begin < 6


def test_another_job_s_answer_is_not_taken_for_ours(service: Any) -> None:
    one = service("late")

    with pytest.raises(Refused, match="another job"):
        ask("127.0.0.1", one.port, [1], time.monotonic() + 10)


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        ({"greeting": "SSH-2.0-OpenSSH_9.2\n"}, "no RAS service"),
        ({"cut": 300}, "not understood"),
        ({"greeting": "x" * 9000 + "\n"}, "no RAS service"),
    ],
)
def test_what_speaks_otherwise_is_told(service: Any, setup: dict[str, Any], words: str) -> None:
    one = service("late", **setup)

    with pytest.raises(Refused, match=words):
        ask("127.0.0.1", one.port, recorded("late")["pids"], time.monotonic() + 4)


def test_nobody_there_is_told_at_once() -> None:
    begin = time.monotonic()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(Refused, match="refused"):
            ask("127.0.0.1", sock.getsockname()[1], [1], begin + 10)

    assert time.monotonic() - begin < 2


def test_the_address_follows_nccl_s_variable() -> None:
    assert address_of(None) == address_of("nonsense") == address_of("host:0") == ("localhost", 28028)
    assert address_of("10.0.0.1:3000") == ("10.0.0.1", 3000)
    assert address_of("[fd00::1]:3000") == ("fd00::1", 3000)


# the judge


def judged(first: str, second: str | None = None, form: str = "json", span: float = 6.0) -> list[Finding]:
    read = read_json if form == "json" else read_text
    answers = [
        Heard(at, 0.1, read(recorded(name)[form])) for at, name in ((0.0, first), (span, second or first))
    ]
    facts = {"address": "localhost:28028", **compare(answers[0], answers[1])}
    found = judge_together(ras_seen([facts], "node1"))
    return [one for one in found if one.probe == "attach.ras-verdict"]


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize(
    ("name", "status", "cause", "words"),
    [
        ("late", Status.WARN, None, "rank 5 of a communicator"),
        ("desync", Status.FAIL, "collective-desync", "rank 5 of a communicator"),
        ("dead", Status.FAIL, "worker-died", "has given up rank 6 of a communicator"),
        ("unresponsive", Status.WARN, None, "no answer from rank 6 of a communicator"),
        ("error", Status.FAIL, None, "rank 3 of a communicator"),
        ("init", Status.WARN, None, "rank 3 of a communicator"),
        ("abort", Status.WARN, None, "ABORT"),
    ],
)
def test_what_differs_is_told_and_who(
    name: str, status: Status, cause: str | None, words: str, form: str
) -> None:
    found = judged(name, form=form)

    (told,) = [one for one in found if words in one.summary]
    assert (told.status, told.data.get("cause")) == (status, cause)
    assert len(found) == 1
    if name == "error":
        assert "2 more only lost a peer" in told.summary


def test_counts_that_move_accuse_nobody() -> None:
    (told,) = judged("three-late-1", "three-later")

    assert (told.status, told.data["kind"]) == (Status.OK, "moving")


def test_equal_counts_that_stand_still_accuse_no_rank() -> None:
    (told,) = judged("healthy")

    assert (told.status, told.data["kind"]) == (Status.OK, "equal")
    assert "no rank is late" in told.summary


def test_one_look_alone_is_no_proof_of_being_late() -> None:
    facts = {"address": "a", **compare(Heard(0.0, 0.1, read_json(recorded("late")["json"])), None)}

    assert [] == [
        one for one in judge_together(ras_seen([facts], "node1")) if one.probe == "attach.ras-verdict"
    ]


# the whole of diag attach


def attached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, *names: str, old: bool = False
) -> Report:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    setup = {
        "port": port,
        "answers": [str(RECORDED / f"{name}.json") for name in names],
        "folder": str(tmp_path),
        "old": old,
    }
    monkeypatch.setenv("RAS_STANDIN", json.dumps(setup))
    monkeypatch.setenv("NCCL_RAS_ADDR", f"127.0.0.1:{port}")
    monkeypatch.setenv("PYTHONPATH", str(HERE / "ras_standin"))
    with stuck_jobs.running(tmp_path, how, 1) as job:
        monkeypatch.delenv("PYTHONPATH")
        return attach(job.pids)


needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed beside diag"
)


@pytest.mark.lab
@needs_torch
@pytest.mark.parametrize("old", [False, True])
def test_a_late_rank_that_stands_still_is_the_culprit_for_both_witnesses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    report = attached(tmp_path, monkeypatch, "sleep", "three-late-1", old=old)

    (told,) = [one for one in report.findings if one.probe == "attach.ras-verdict"]
    assert (told.status, told.data["rank"]) == (Status.FAIL, 1), told.summary
    assert "130 of 131 AllReduce" in told.summary
    assert (report.diagnoses[0].id, report.diagnoses[0].culprit.rank) == ("collective-timeout-slow-rank", 1)


@pytest.mark.lab
@needs_torch
def test_a_stopped_rank_that_holds_the_port_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = attached(tmp_path, monkeypatch, "stop", "three-late-1")

    assert [one.data["rank"] for one in report.findings if one.probe == "attach.ras-verdict"] == [1]
    assert report.diagnoses[0].culprit.rank == 1


@pytest.mark.lab
@needs_torch
def test_a_job_whose_counts_move_is_left_in_peace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = attached(tmp_path, monkeypatch, "healthy", "three-equal", "three-later", "three-late-1")

    assert report.verdict is not Verdict.FAIL
    assert not [
        one for one in report.findings if one.probe == "attach.ras-verdict" and one.status is Status.FAIL
    ]


def test_this_interpreter_is_not_changed_by_the_stand_in() -> None:
    assert "sitecustomize" not in sys.modules or "ras_standin" not in str(
        sys.modules["sitecustomize"].__file__
    )
