"""`diag watch` in a process of its own: output, signals and exit codes pass through; death and hang are explained."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import stuck_jobs

ROOT = Path(__file__).parents[2]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def watch(tmp_path: Path) -> Start:
    """Start `diag watch ARGS`."""

    def start(*args: str) -> subprocess.Popen[str]:
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DIAG_CACHE_DIR": str(tmp_path / ".cache"),
            "COLUMNS": "100",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "diag.cli.main", "watch", *args], cwd=tmp_path, env=env, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    return start


@pytest.mark.parametrize("code", [0, 7])
def test_output_and_exit_code_are_the_launchs_own(watch: Start, code: int) -> None:
    launch = f"import sys; print('to out'); print('to err', file=sys.stderr); sys.exit({code})"

    done = watch("-q", "--", sys.executable, "-c", launch)
    out, err = done.communicate(timeout=60)

    assert (out, done.returncode) == ("to out\n", code)
    assert err == "to err\n"


def test_a_death_by_signal_is_told_like_a_shell_does(watch: Start) -> None:
    done = watch("-q", "--", sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    done.communicate(timeout=60)

    assert done.returncode == 128 + signal.SIGKILL


def test_a_death_is_explained_on_standard_error(watch: Start) -> None:
    line = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 39.39 GiB"
    launch = (
        f"print('Loading model'); print('Traceback (most recent call last):\\n{line}'); raise SystemExit(1)"
    )

    done = watch("--", sys.executable, "-c", launch)
    out, err = done.communicate(timeout=60)

    assert done.returncode == 1
    assert out == f"Loading model\nTraceback (most recent call last):\n{line}\n"
    assert "gpu-oom" in err
    assert "the launch ended with code 1" in err


def test_options_of_the_launch_are_not_ours(watch: Start) -> None:
    done = watch(
        "--quiet", "--", sys.executable, "-c", "import sys; print(sys.argv[1:])", "--json", "-o", "x"
    )
    out, _ = done.communicate(timeout=60)

    assert out == "['--json', '-o', 'x']\n"


def test_a_command_that_does_not_exist_is_wrong_usage(watch: Start) -> None:
    done = watch("--", "no-such-launcher")
    _, err = done.communicate(timeout=60)

    assert done.returncode == 2
    assert err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_reach_the_launch_and_it_decides(watch: Start, number: signal.Signals) -> None:
    launch = (
        "import signal, sys, time\n"
        f"signal.signal({int(number)}, lambda *_: (print('got it'), sys.exit(5)))\n"
        "print('ready')\ntime.sleep(60)"
    )
    done = watch("--", sys.executable, "-c", launch)
    assert done.stdout is not None
    assert done.stdout.readline() == "ready\n"

    done.send_signal(number)
    out, err = done.communicate(timeout=60)

    assert (out, done.returncode) == ("got it\n", 5)
    if number != signal.SIGUSR1:
        assert err == "", "who ends a launch needs no explanation of its end"


def test_a_silent_launch_that_works_is_not_called_hung(watch: Start, tmp_path: Path) -> None:
    launch = "import time\nuntil = time.monotonic() + 9\nwhile time.monotonic() < until: sum(range(1000))\nprint('done')"

    done = watch("--silence", "2", "-o", "report.json", "--", sys.executable, "-c", launch)
    out, err = done.communicate(timeout=90)

    assert (out, done.returncode) == ("done\n", 0)
    assert "the launch works" in err
    assert not (tmp_path / "report.json").exists()


@pytest.mark.lab
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed beside diag")
def test_a_hang_is_noticed_explained_and_left_running(watch: Start, tmp_path: Path) -> None:
    program, fifo = tmp_path / "train.py", tmp_path / "weights.fifo"
    program.write_text(stuck_jobs.PROGRAM)
    os.mkfifo(fifo)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    done = watch("--silence", "8", "-o", "report.json", "--", *run, str(program), "lock", "1", str(fifo))
    report = tmp_path / "report.json"
    try:
        until = time.monotonic() + 120
        while not report.exists() and time.monotonic() < until:
            time.sleep(0.5)
        assert report.exists()
        assert done.poll() is None
        ranks = len(list(tmp_path.glob("*.ready*")))
        said = json.loads(report.read_text())
    finally:
        done.send_signal(signal.SIGTERM)  # torchrun ends its ranks
        try:
            done.communicate(timeout=60)
        finally:
            done.kill()

    assert ranks == 3
    assert (said["diagnoses"][0]["id"], said["diagnoses"][0]["culprit"]["rank"]) == (
        "collective-timeout-slow-rank",
        1,
    )
    assert "the launch had printed nothing" in " ".join(said["notes"])
