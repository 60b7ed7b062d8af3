"""py-spy's answers, good and bad, become stacks or a reason."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from diag.model import Reason
from diag.system import Outcome, Root
from diag.system.pyspy import dump_stacks, parse_dump, ptrace_allowed, read_outcome

DUMP = json.dumps(
    [
        {
            "pid": 7, "thread_id": 1, "thread_name": "MainThread", "os_thread_id": 7, "active": False, "owns_gil": False,
            "frames": [
                {"name": "wait", "filename": "/v/torch/distributed/rendezvous.py", "module": None, "short_filename": "r.py", "line": 12, "locals": None},
                {"name": "main", "filename": "train.py", "module": None, "short_filename": None, "line": 3, "locals": None},
            ],
            "process_info": None,
        },
        {"pid": 7, "thread_id": 2, "thread_name": None, "os_thread_id": None, "active": True, "owns_gil": True, "frames": [], "process_info": None},
    ]
)  # fmt: skip


def test_a_dump_is_parsed_innermost_call_first() -> None:
    main, other = parse_dump(DUMP)

    assert (main.name, main.frames[0].function, main.frames[0].line) == ("MainThread", "wait", 12)
    assert (other.name, other.active, other.owns_gil, other.frames) == ("", True, True, ())


@pytest.mark.parametrize("text", ["", "null", "{}x", '[{"frames": 3}]', '[{"frames": [{}]}]', "[1]"])
def test_other_text_is_refused_never_guessed(text: str) -> None:
    assert read_outcome(7, Outcome(0, text.encode(), b"", 0.1)).reason is Reason.UNPARSABLE


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "Permission Denied: Try running again with elevated permissions by going 'sudo env \"PATH=$PATH\" !!'",
            Reason.PERMISSION,
        ),
        ("Error: Operation not permitted (os error 1)", Reason.PERMISSION),
        ("Error: Failed to find python version from target process", Reason.NOT_APPLICABLE),
        ("Error: No such process (os error 3)", Reason.NOT_APPLICABLE),
        ("Error: Failed to get stack trace\nReason: EFAULT", Reason.CRASHED),
        ("", Reason.CRASHED),
    ],
)
def test_what_py_spy_complains_about_becomes_a_reason(said: str, reason: Reason) -> None:
    assert read_outcome(7, Outcome(1, b"", said.encode(), 0.1)).reason is reason


def test_a_hung_py_spy_is_a_timeout() -> None:
    assert read_outcome(7, Outcome(None, b"", b"", 3.0, timed_out=True)).reason is Reason.TIMEOUT


def test_a_process_without_python_is_told_apart() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            stacks = dump_stacks(process.pid)
        finally:
            process.kill()

    assert stacks.reason in (Reason.NOT_APPLICABLE, Reason.PERMISSION)


def test_a_real_process_shows_where_it_is() -> None:
    code = (
        "import time\ndef in_barrier(src):\n    print('there', flush=True)\n    time.sleep(60)\nin_barrier(3)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            stacks = dump_stacks(process.pid, numbers=True)
        finally:
            process.kill()
    if stacks.reason is Reason.PERMISSION:
        pytest.skip("no right to ptrace here")

    (frame,) = [one for one in stacks.threads[0].frames if one.function == "in_barrier"]
    assert (frame.file, frame.line) == ("<string>", 4)
    assert frame.numbers == {"src": 3}


def test_the_right_to_ptrace_is_read_from_the_capabilities(tmp_path: object) -> None:
    assert ptrace_allowed(Root("/nonexistent")) is None
    assert ptrace_allowed(Root()) in (True, False)


def test_dumping_does_not_stop_the_process() -> None:
    """Non-blocking: the target goes on counting while it is looked at."""
    code = "import time\nn = 0\nwhile True:\n    n += 1\n    print(n, flush=True)\n    time.sleep(0.01)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            dump_stacks(process.pid)
            threading.Event().wait(0.1)
            state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2][0]
        finally:
            process.kill()

    assert state in "RS"
