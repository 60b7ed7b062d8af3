"""pystack reads what py-spy reads, where py-spy is not there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from diag.model import Reason
from diag.system import Outcome
from diag.system.pyspy import dump_stacks, find_py_spy
from diag.system.pystack import dump_with_pystack, find_pystack, parse_text, read_outcome

ROOT = Path(__file__).parents[2]
PROGRAM = """
import threading, time
lock = threading.Lock()
lock.acquire()
def recv(src, group):
    lock.acquire()
def main():
    threading.Thread(target=recv, args=(7, "pp"), daemon=True).start()
    step = 12
    print("there", flush=True)
    time.sleep(100)
main()
"""


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    program = tmp_path / "train.py"
    program.write_text(PROGRAM)
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest.fixture
def tool() -> str:
    found = find_pystack()
    if found is None:
        pytest.skip("pystack is not installed beside diag")
    return found


def test_it_tells_what_py_spy_tells(patient: subprocess.Popen[bytes], tool: str) -> None:
    ours, theirs = dump_with_pystack(patient.pid, tool, numbers=True), dump_stacks(patient.pid, numbers=True)
    if Reason.PERMISSION in (ours.reason, theirs.reason):
        pytest.skip("no right to ptrace here")

    told = [
        {
            one.os_thread_id: [
                (frame.function.rpartition(".")[2], frame.file, frame.line) for frame in one.frames
            ]
            for one in stacks.threads
        }
        for stacks in (ours, theirs)
    ]
    assert told[0] == told[1]
    main = next(one for one in ours.threads if one.name == "MainThread")
    assert (main.frames[0].function, main.frames[0].numbers["step"], main.active) == ("main", 12, False)
    other = next(one for one in ours.threads if one.name != "MainThread")
    assert other.frames[0].numbers == {"src": 7}


def test_a_stopped_process_is_read_and_stays_as_it_is(patient: subprocess.Popen[bytes], tool: str) -> None:
    patient.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, patient.pid, os.WSTOPPED)

    stacks = dump_with_pystack(patient.pid, tool)

    state = Path(f"/proc/{patient.pid}/stat").read_text().rpartition(") ")[2][0]
    assert state == "T"
    assert stacks.reason is Reason.PERMISSION or len(stacks.threads) == 2


def test_it_steps_in_where_py_spy_is_not_there(
    patient: subprocess.Popen[bytes], tool: str, tmp_path: Path
) -> None:
    """An interpreter without py-spy beside it, and a PATH that has pystack alone."""
    venv.create(tmp_path / "bare", symlinks=True)
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "pystack").symlink_to(tool)
    code = (
        "import json\nfrom diag.system.pyspy import dump_stacks, find_py_spy\n"
        f"told = dump_stacks({patient.pid})\n"
        "print(json.dumps([find_py_spy(), str(told.reason), [frame.function for one in told.threads for frame in one.frames]]))"
    )
    done = subprocess.run(
        [str(tmp_path / "bare" / "bin" / "python"), "-c", code], capture_output=True, text=True, check=False,
        env={"PATH": str(tmp_path / "tools"), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    py_spy, reason, functions = json.loads(done.stdout)
    assert py_spy is None
    assert find_py_spy() is not None
    assert {"recv", "main"} <= set(functions) or "PERMISSION" in reason


def test_without_either_the_reason_names_both(patient: subprocess.Popen[bytes], tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", symlinks=True)
    code = f"from diag.system.pyspy import dump_stacks\ntold = dump_stacks({patient.pid})\nprint(told.reason.value, told.message)"
    done = subprocess.run(
        [str(tmp_path / "bare" / "bin" / "python"), "-c", code], capture_output=True, text=True, check=False,
        env={"PATH": "/nowhere", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip

    assert done.stdout.startswith("tool-missing neither py-spy nor pystack"), done.stderr


def test_a_process_without_python_and_one_that_is_gone_are_told_apart(tool: str) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        there = dump_with_pystack(process.pid, tool)
        process.kill()
    gone = dump_with_pystack(process.pid, tool)

    assert there.reason in (Reason.NOT_APPLICABLE, Reason.PERMISSION, Reason.CRASHED)
    assert there.threads == ()
    assert (gone.reason, gone.message) == (Reason.NOT_APPLICABLE, "the process is gone")


def test_a_text_is_read_innermost_call_first_with_its_lock() -> None:
    text = (
        "Traceback for thread 12 (python) [Has the GIL,Waiting] (most recent call last):\n"
        '    (Python) File "/v/train.py", line 10, in <module>\n        main()\n'
        '    (Python) File "/v/train.py", line 9, in main\n        time.sleep(100)\n      Locals:\n        src: 7\n'
        '        name: "rank"\n\nTraceback for thread 13 (worker) [] (most recent call last):\n'
    )

    (main,) = parse_text(12, text)

    assert (main.name, main.owns_gil) == ("MainThread", True)
    assert [(one.function, one.line, dict(one.numbers)) for one in main.frames] == [
        ("main", 9, {"src": 7}), ("<module>", 10, {}),
    ]  # fmt: skip


def test_a_hung_pystack_is_a_timeout() -> None:
    assert read_outcome(7, Outcome(None, b"", b"", 3.0, timed_out=True)).reason is Reason.TIMEOUT
