"""The runner's promises, kept against children that really misbehave."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import diag
from diag.model import Finding, Reason, Status
from diag.observe.probes.interface import Setup
from diag.observe.probes.runner import ProbeEvent, ProbeRun, run_probes
from diag.system import UserError

HERE = Path(__file__).parent
PACKAGE = "misbehaving"


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parents[1])]))
    return PACKAGE


def answer(run: ProbeRun, probe: str) -> Finding:
    return next(one for one in run.findings if one.probe == probe)


@pytest.mark.parametrize(
    ("probe", "status", "reason", "words"),
    [
        ("bad.sleeps", Status.UNKNOWN, Reason.TIMEOUT, "that it hangs is itself a finding"),
        ("bad.ignores-term", Status.UNKNOWN, Reason.TIMEOUT, "hung and was killed"),
        ("bad.spins", Status.UNKNOWN, Reason.TIMEOUT, "the processors are overloaded"),
        ("bad.slow-work", Status.OK, None, "came to its end"),
        ("bad.forks", Status.OK, None, "answered"),
        ("bad.garbage", Status.UNKNOWN, Reason.UNPARSABLE, "it said: the reason"),
        ("bad.chatty", Status.OK, None, "lie: False"),
        ("bad.crashes", Status.UNKNOWN, Reason.CRASHED, "by signal 11"),
        ("bad.refused", Status.UNKNOWN, Reason.PERMISSION, "PermissionError"),
        ("bad.huge", Status.UNKNOWN, Reason.UNPARSABLE, "cannot be understood"),
        ("bad.judge", Status.UNKNOWN, Reason.CRASHED, "KeyError: 'two'"),
    ],
)
def test_a_misbehaving_child_costs_its_deadline_and_is_named(
    package: str, probe: str, status: Status, reason: Reason | None, words: str
) -> None:
    begin = time.monotonic()
    found = answer(run_probes(Setup(), only=[probe], package=package), probe)

    assert (found.status, found.reason) == (status, reason)
    assert words in found.summary
    assert found.duration_s is not None
    assert time.monotonic() - begin < 7


def test_a_probe_that_cannot_be_imported_does_not_hide(package: str) -> None:
    found = answer(run_probes(Setup(), only=["good"], package=package), "bad.import")

    assert (found.status, found.reason) == (Status.UNKNOWN, Reason.CRASHED)
    assert "no such luck" in found.summary


def test_all_of_them_together_stay_within_the_total(package: str) -> None:
    run = run_probes(Setup(), package=package, timeout_s=15.0)

    assert run.duration_s < 15.0
    assert {one.probe for one in run.findings if one.status is Status.OK} == {
        "bad.forks",
        "bad.chatty",
        "bad.slow-work",
        "good.tool",
    }
    assert len(run.gaps) >= 7


def test_when_time_is_up_what_was_not_started_says_so(package: str) -> None:
    run = run_probes(Setup(), package=package, timeout_s=0.1)

    assert run.duration_s < 2.0
    assert "not started" in answer(run, "bad.chatty").summary
    assert answer(run, "bad.chatty").reason is Reason.TIMEOUT


def test_a_vendor_tool_that_sleeps_for_ever_is_killed(package: str, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexec sleep 3600\n")
    tool.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    os.environ["PATH"], old = env["PATH"], os.environ["PATH"]
    try:
        run = run_probes(Setup(env=env), only=["good.tool"], package=package)
    finally:
        os.environ["PATH"] = old

    assert answer(run, "good.tool").summary == "hung: True"


def test_stop_ends_the_run_and_keeps_what_is_there(package: str) -> None:
    stop = threading.Event()
    finished: list[str] = []

    def listen(event: ProbeEvent) -> None:
        if event.kind == "finished":
            finished.append(event.probe)
            if event.probe == "bad.chatty":
                stop.set()

    run = run_probes(Setup(), package=package, on_event=listen, stop=stop)

    assert run.interrupted
    assert answer(run, "bad.chatty").status is Status.OK
    late = [one for one in run.findings if "interrupted" in one.summary]
    assert all((one.status, one.reason) == (Status.SKIP, Reason.NOT_ASKED) for one in late)
    assert {one.probe for one in late}.isdisjoint(finished)


def test_a_broken_listener_costs_nothing(package: str) -> None:
    def listen(event: ProbeEvent) -> None:
        raise BrokenPipeError

    assert (
        answer(
            run_probes(Setup(), only=["bad.chatty"], package=package, on_event=listen), "bad.chatty"
        ).status
        is Status.OK
    )


def test_a_json_py_in_the_working_directory_is_not_imported(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')\n")
    monkeypatch.chdir(tmp_path)
    run = run_probes(Setup(env={"SEEN": "yes"}), only=["bad.judge"], package=package)

    assert run.facts["host"]["bad.judge"]["env"] == "yes"
    assert run.facts["host"]["bad.judge"]["cwd_json"] == json.__file__


def test_a_setup_larger_than_a_pipe_arrives(package: str) -> None:
    run = run_probes(Setup(env={"SEEN": "x" * 300_000}), only=["bad.judge", "bad.sleeps"], package=package)

    assert len(run.facts["host"]["bad.judge"]["env"]) == 300_000
    assert answer(run, "bad.sleeps").reason is Reason.TIMEOUT


def test_names_and_first_parts_select(package: str) -> None:
    run = run_probes(
        Setup(), only=["bad"], skip=["bad.sleeps", "bad.ignores-term", "bad.huge"], package=package
    )

    assert answer(run, "good.tool").reason is Reason.NOT_ASKED
    assert answer(run, "bad.sleeps").summary.endswith("not asked for")
    assert answer(run, "bad.chatty").status is Status.OK


@pytest.mark.parametrize(
    ("name", "near"), [("host.shn", "host.shm"), ("hots", "host"), ("interfaces", "net.interfaces")]
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UserError, match=f"did you mean {near}"):
        run_probes(Setup(), only=[name])


def test_ctrl_c_gives_a_partial_report(package: str) -> None:
    script = (
        "import _thread, threading, time\n"
        "from diag.observe.probes.runner import run_probes\n"
        "from diag.observe.probes.interface import Setup\n"
        "threading.Timer(1.0, _thread.interrupt_main).start()\n"
        "begin = time.monotonic()\n"
        "run = run_probes(Setup(), package='misbehaving_slow')\n"
        "print(run.interrupted, time.monotonic() - begin < 5, run.findings[-1].summary)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )

    assert done.stdout.strip() == "True True Sleeper: interrupted before it had answered", done.stderr
    assert not _running("misbehaving_slow"), "a child was left behind"


def _running(word: str) -> list[int]:
    """Processes of this test's own checkout that hold the word in their command line."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = place.read_bytes()
            if word.encode() in command and str(Path(diag.__file__).parent).encode() in command:
                found.append(int(place.parent.name))
    return found


@pytest.mark.parametrize(
    ("users", "only", "words", "status"),
    [
        ("[]", [], "touched", Status.OK),
        (
            '["rank 0 (pid 7)"]',
            [],
            "left out so as not to disturb what runs on the GPUs: rank 0 (pid 7)",
            Status.SKIP,
        ),
        ('["rank 0 (pid 7)"]', ["gpu"], "left out", Status.SKIP),
        ('["rank 0 (pid 7)"]', ["gpu.touch"], "touched", Status.OK),
        ("no json", [], "cannot tell who uses the GPUs", Status.SKIP),
    ],
)
def test_probes_that_touch_a_gpu_stay_away_from_living_ranks(
    package: str, users: str, only: list[str], words: str, status: Status
) -> None:
    found = answer(run_probes(Setup(env={"USERS": users}), only=only, package="gated"), "gpu.touch")

    assert found.status is status
    assert words in found.summary


def test_a_child_on_a_mount_that_never_answers_is_killed_and_named(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FIFO nobody writes to: the child's open(2) blocks in the kernel."""
    os.mkfifo(tmp_path / "fifo")
    found = answer(
        run_probes(
            Setup(env={"FIFO": str(tmp_path / "fifo")}), only=["slow.opens"], package="misbehaving_slow"
        ),
        "slow.opens",
    )

    assert found.reason is Reason.TIMEOUT
