"""Python stacks through pystack, where py-spy is not there or does not understand an interpreter: its text, read without pausing."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from diag.model import Reason
from diag.system.commands import Outcome, run_command
from diag.system.files import Root
from diag.system.stacks import Frame, Stacks, ThreadStack

_THREAD = re.compile(r"Traceback for thread (\d+) \((.*?)\) \[(.*?)\]")
_FRAME = re.compile(r'    \(Python\) File "(.*)", line (\d+), in (.+)$')
_NUMBER = re.compile(r"        (\w+): (\d{1,9})$")


def find_pystack() -> str | None:
    """pystack next to our interpreter, else on PATH."""
    beside = Path(sys.executable).parent / "pystack"
    return str(beside) if beside.exists() else shutil.which("pystack")


def dump_with_pystack(pid: int, tool: str, *, timeout_s: float = 3.0, numbers: bool = False) -> Stacks:
    """Read the Python stacks of `pid` without stopping it; with `numbers` whole numbers among arguments and locals too."""
    words = [tool, "remote", "--no-block", *(["--locals"] if numbers else []), str(pid)]
    return read_outcome(pid, run_command(words, timeout_s=timeout_s))


def read_outcome(pid: int, outcome: Outcome) -> Stacks:
    """What a finished (or killed) `pystack remote` means."""
    if outcome.timed_out or outcome.stuck:
        return Stacks(
            pid, reason=Reason.TIMEOUT, message=f"pystack gave no answer within {outcome.duration_s:.0f} s"
        )
    threads = parse_text(pid, outcome.text) if outcome.code == 0 else ()
    if threads:
        return Stacks(pid, threads)
    said = outcome.err.decode("utf-8", "replace") + outcome.text
    low = said.lower()
    if "no such process" in low and not Path(f"/proc/{pid}").exists():
        return Stacks(pid, reason=Reason.NOT_APPLICABLE, message="the process is gone")
    if any(
        words in low for words in ("operation not permitted", "permission denied", "insufficient privileges")
    ):
        return Stacks(pid, reason=Reason.PERMISSION, message="pystack may not read that process's memory")
    if outcome.code == 0 or "interpreter state" in low or "not a python" in low:
        return Stacks(
            pid, reason=Reason.NOT_APPLICABLE, message="pystack finds no Python interpreter in that process"
        )
    lines = [line.strip(" \U0001f480") for line in said.splitlines() if "error" in line.lower()]
    return Stacks(pid, reason=Reason.CRASHED, message=(lines or ["pystack failed without a word"])[0][:300])


def parse_text(pid: int, text: str) -> tuple[ThreadStack, ...]:
    """Threads of `pystack remote` (1.x): outermost call first there, innermost first here."""
    threads: list[ThreadStack] = []
    frames: list[Frame] = []
    for line in text.splitlines():
        if (thread := _THREAD.match(line)) is not None:
            number = int(thread[1])
            frames = []
            name = "MainThread" if number == pid else thread[2]
            threads.append(ThreadStack(name, number, _active(pid, number), "gil" in thread[3].lower(), ()))
        elif threads and (frame := _FRAME.match(line)) is not None:
            frames.insert(0, Frame(frame[3], frame[1], int(frame[2])))
        elif frames and (value := _NUMBER.match(line)) is not None:
            known = frames[0]
            frames[0] = Frame(
                known.function, known.file, known.line, {**known.numbers, value[1]: int(value[2])}
            )
        if threads and frames:
            last = threads[-1]
            threads[-1] = ThreadStack(last.name, last.os_thread_id, last.active, last.owns_gil, tuple(frames))
    return tuple(one for one in threads if one.frames)


def _active(pid: int, thread: int) -> bool:
    stat = Root().read(f"/proc/{pid}/task/{thread}/stat") or ""
    return stat.rpartition(") ")[2][:1] == "R"
