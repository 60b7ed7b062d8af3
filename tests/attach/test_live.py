"""`diag attach` on real stuck processes: the culprit is named, the healthy are left alone, nobody is disturbed."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import stuck_jobs

from diag.diagnose.attaching import attach
from diag.diagnose.pipeline import explain
from diag.model import Report, Verdict

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None, reason="torch is not installed beside diag"
    ),
]

HOLDING = [
    # (how the culprit gets stuck, its rank, cause, words of the verdict)
    ("sleep", 0, "collective-timeout-slow-rank", "does not move"),
    ("lock", 1, "collective-timeout-slow-rank", "does not move"),
    ("fifo", 2, "weights-load-slow", "weights"),
    ("stop", 1, "collective-timeout-slow-rank", "is stopped"),
    ("gil", 0, "collective-timeout-slow-rank", "holds the GIL"),
    ("kernel", 2, "collective-timeout-slow-rank", "uninterruptible"),
    ("late", 1, "rendezvous-timeout", "does not move"),
]


def seen(report: Report) -> str:
    """For messages: every process's sentence."""
    return "\n".join(one.summary for one in report.findings if one.probe.startswith("attach"))


@pytest.mark.parametrize(("how", "culprit", "cause", "words"), HOLDING)
def test_who_holds_up_the_others_is_named(
    tmp_path: Path, how: str, culprit: int, cause: str, words: str
) -> None:
    with stuck_jobs.running(tmp_path, how, culprit) as job:
        report = attach(job.pids)

    assert report.diagnoses, seen(report)
    assert (report.diagnoses[0].id, report.diagnoses[0].culprit.rank) == (cause, culprit), seen(report)
    verdict = next(one for one in report.findings if one.probe == "attach.verdict")
    assert verdict.data["rank"] == culprit
    assert words in verdict.summary + report.diagnoses[0].summary
    assert report.verdict is Verdict.FAIL


def test_a_rank_that_died_is_named(tmp_path: Path) -> None:
    with stuck_jobs.running(tmp_path, "exit", 1) as job:
        report = attach(job.pids[:1] + job.pids[2:])

    # gloo's peers notice the closed connection at once and may die too: then nobody waits, and nobody is accused
    if report.diagnoses:
        assert (report.diagnoses[0].id, report.diagnoses[0].culprit.rank) == ("worker-died", 1), seen(report)


@pytest.mark.parametrize("culprit", [0, 2])
def test_a_rank_in_another_collective_is_named(tmp_path: Path, culprit: int) -> None:
    with stuck_jobs.running(tmp_path, "recv", culprit) as job:
        report = attach(job.pids)

    assert report.diagnoses, seen(report)
    assert (report.diagnoses[0].id, report.diagnoses[0].culprit.rank) == ("collective-desync", culprit), seen(
        report
    )


@pytest.mark.parametrize("how", ["healthy", "slow", "computes"])
def test_a_job_that_works_is_not_accused(tmp_path: Path, how: str) -> None:
    with stuck_jobs.running(tmp_path, how, 1) as job:
        for _ in range(3):
            report = attach(job.pids)
            assert report.diagnoses == (), seen(report)
            assert report.verdict is not Verdict.FAIL


def test_the_patient_is_neither_stopped_nor_signalled_nor_slowed(tmp_path: Path) -> None:
    """The ranks' own count of steps, signals received and stops, before, while and after we look."""

    def steps(job: stuck_jobs.Job) -> int:
        text = Path(f"/proc/{job.pids[0]}/status").read_text()
        return int(text.split("voluntary_ctxt_switches:\t")[1].split()[0])

    def traced(job: stuck_jobs.Job) -> set[str]:
        return {
            line
            for pid in job.pids
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith(("TracerPid", "SigPnd", "ShdPnd", "SigCgt", "SigIgn"))
        }

    with stuck_jobs.running(tmp_path, "healthy", 1) as job:
        before = traced(job)
        begin, at = steps(job), time.monotonic()
        time.sleep(4.0)
        alone = (steps(job) - begin) / (time.monotonic() - at)

        states: list[str] = []
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.002):
                states.extend(job.state(rank) for rank in range(job.world))
                assert "TracerPid:\t0" in Path(f"/proc/{job.pids[1]}/status").read_text()

        watcher = threading.Thread(target=watch)
        watcher.start()
        begin, at = steps(job), time.monotonic()
        attach(job.pids)
        looked = (steps(job) - begin) / (time.monotonic() - at)
        done.set()
        watcher.join()

        assert traced(job) == before
        assert not {"T", "t"} & set(states)
        assert len(states) > 100
        assert all(one.poll() is None for one in job.ranks)
        assert looked > 0.5 * alone, "two cores are shared with us; a stop would cost far more"


def test_the_stuck_stay_stuck_and_alive(tmp_path: Path) -> None:
    with stuck_jobs.running(tmp_path, "stop", 1) as job:
        attach(job.pids)
        assert job.state(1) == "T"
        assert [one.poll() for one in job.ranks] == [None] * job.world


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None or not Path("/usr/bin/python3").exists(),
    reason="needs root to give up a right, and a Python for everybody",
)
def test_without_the_right_to_look_the_gaps_are_listed(tmp_path: Path) -> None:
    """Somebody else's process, and no CAP_SYS_PTRACE: no stacks; said, with what would help, and no verdict out of thin air."""
    sleeper = ["/usr/bin/python3", "-c", "import time; time.sleep(100)"]
    patient = subprocess.Popen(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *sleeper], cwd="/"
    )
    try:
        time.sleep(6.0)
        argv = [sys.executable, "-m", "diag.cli.main", "attach", "--json", "--raw", str(patient.pid)]
        done = subprocess.run(
            ["setpriv", "--bounding-set=-sys_ptrace", *argv], capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "DIAG_CACHE_DIR": str(tmp_path / "cache")},
        )  # fmt: skip
    finally:
        patient.kill()
        patient.wait()

    report = json.loads(done.stdout)
    assert done.returncode in (0, 3), done.stderr
    assert report["diagnoses"] == []
    assert any("may not read" in gap["what"] and "SYS_PTRACE" in gap["remedy"] for gap in report["gaps"])


def test_two_looks_that_were_written_down_and_redacted_are_joined(tmp_path: Path) -> None:
    """Each half of a job seen alone tells only that it waits; together they name the culprit."""
    with stuck_jobs.running(tmp_path, "lock", 2, world=4) as job:
        alone = []
        for number, pids in enumerate((job.pids[:2], job.pids[2:])):
            path = tmp_path / f"report-{number}.json"
            run = [sys.executable, "-m", "diag.cli.main", "attach", "-q", "-o", str(path), *map(str, pids)]
            alone.append(subprocess.run(run, check=False, env=own_environment(tmp_path)).returncode)

    report = explain([str(tmp_path / "report-0.json"), str(tmp_path / "report-1.json")])

    assert alone == [3, 1]
    assert (report.diagnoses[0].id, report.diagnoses[0].culprit.rank) == ("collective-timeout-slow-rank", 2)
    verdict = next(one for one in report.findings if one.probe == "attach.verdict")
    assert "ranks 0, 1, 3" in verdict.summary


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("nft") is None or shutil.which("ip") is None,
    reason="needs root, ip and nft",
)
def test_a_connection_into_the_void_names_the_link(tmp_path: Path) -> None:
    """In a network namespace whose peer drops every packet, a rank reaches for its master."""
    name = f"diag{os.getpid() % 10000}"
    setup = [
        f"ip netns add {name}", f"ip -n {name} link set lo up", f"ip -n {name} link add br0 type bridge",
        f"ip -n {name} addr add 10.77.0.1/24 dev br0", f"ip -n {name} link set br0 up",
        f"ip netns exec {name} nft add table ip diag", f"ip netns exec {name} nft add chain ip diag out {{ type filter hook output priority 0 ; }}",
        f"ip netns exec {name} nft add rule ip diag out tcp dport 29500 drop",
    ]  # fmt: skip
    code = "import torch.distributed as dist; dist.init_process_group('gloo')"
    env = {
        **os.environ,
        "RANK": "1",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "10.77.0.1",
        "MASTER_PORT": "29500",
    }
    rank = None
    try:
        for line in setup:
            subprocess.run(line.split(), check=True)
        rank = subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, "-c", code], env=env, stderr=subprocess.DEVNULL
        )
        report = None
        for _ in range(20):
            time.sleep(3.0)
            report = attach([rank.pid])
            if report.diagnoses:
                break
        assert report is not None
    finally:
        if rank is not None:
            rank.kill()
            rank.wait()
        subprocess.run(["ip", "netns", "del", name], check=False)

    assert report.diagnoses, seen(report)
    first = report.diagnoses[0]
    assert (first.id, first.culprit.rank) == ("network-unreachable", 1)
    assert first.culprit.link is not None
    assert first.culprit.link[1] == "10.77.0.1:29500"


def own_environment(tmp_path: Path) -> dict[str, str]:
    """For running the command line of this checkout."""
    return {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "DIAG_CACHE_DIR": str(tmp_path / "cache"),
    }
