"""Run a command that may hang: own session, hard deadline, the whole group killed, nothing waited for twice."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from diag.system.files import Root

DRAIN_S = 0.5
"""After a kill: how long what is left in the pipes may take to arrive."""

LOOKS, LOOK_PAUSE_S = 4, 0.02
"""At the deadline: who works is seen on a processor, or in the queue for one, in one of so many looks."""

MAX_OUTPUT_BYTES = 8 << 20
"""A command that prints more is cut, never a memory problem."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended.

    `code` is None when it never started, or hung and was killed; `stuck` says that even SIGKILL did not
    end it (uninterruptible sleep), which is itself a finding.
    """

    code: int | None
    out: bytes
    err: bytes
    duration_s: float
    timed_out: bool = False
    stuck: bool = False
    missing: bool = False
    denied: bool = False
    answer: bytes = b""
    """What came on the private descriptor, if one was asked for."""
    starved: bool = False
    """Killed at the deadline although it worked all the time: too few processors, no hang."""

    @property
    def text(self) -> str:
        """Standard output, undecodable bytes replaced."""
        return self.out.decode("utf-8", "replace")


def run_command(
    argv: Sequence[str],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    answer_fd: bool = False,
    cwd: str | None = None,
    stop: threading.Event | None = None,
    grace_s: float = 0.0,
) -> Outcome:
    """Run `argv` (no shell) for at most `timeout_s` seconds, or until `stop` is set.

    A command that still works at the deadline, on a processor or in the queue for one, gets `grace_s` more.
    With `answer_fd` the child finds the number of a private pipe in DIAG_ANSWER_FD: libraries print to
    stdout, so answers travel apart. A stopped command counts as timed out. Never raises for what the
    command does.
    """
    begin = time.monotonic()
    read_fd = write_fd = -1
    child_env = dict(os.environ if env is None else env)
    if answer_fd:
        read_fd, write_fd = os.pipe()
        child_env["DIAG_ANSWER_FD"] = str(write_fd)
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_env,
            cwd=cwd,
            pass_fds=(write_fd,) if answer_fd else (),
            start_new_session=True,
        )
    except OSError as error:
        for fd in (read_fd, write_fd):
            if fd >= 0:
                os.close(fd)
        return Outcome(
            None,
            b"",
            str(error).encode(),
            time.monotonic() - begin,
            missing=isinstance(error, FileNotFoundError),
            denied=isinstance(error, PermissionError),
        )
    if answer_fd:
        os.close(write_fd)
    return _supervise(process, begin, timeout_s, stdin=stdin, read_fd=read_fd, stop=stop, grace_s=grace_s)


def _supervise(
    process: subprocess.Popen[bytes],
    begin: float,
    timeout_s: float,
    *,
    stdin: bytes | None,
    read_fd: int,
    stop: threading.Event | None,
    grace_s: float,
) -> Outcome:
    buffers: dict[int, bytearray] = {}
    pipes: list[IO[bytes]] = [pipe for pipe in (process.stdout, process.stderr) if pipe is not None]
    if read_fd >= 0:
        pipes.append(os.fdopen(read_fd, "rb", buffering=0))
    with selectors.DefaultSelector() as selector:
        for pipe in pipes:
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe, selectors.EVENT_READ)
            buffers[pipe.fileno()] = bytearray()
        if stdin is not None and process.stdin is not None:
            # Fed piecemeal: a child that never reads must not hold us at a full pipe.
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE, _Feed(process.stdin, memoryview(stdin)))
        finished = _pump(selector, buffers, begin + timeout_s, process, stop)
        works = not finished and not (stop is not None and stop.is_set()) and _works(process.pid)
        if works and grace_s > 0:
            finished = _pump(selector, buffers, begin + timeout_s + grace_s, process, stop)
            works = not finished and _works(process.pid)
        timed_out = not finished
        _kill_group(process.pid)  # also ends what a finished child left behind in its session
        if timed_out:
            _pump(selector, buffers, time.monotonic() + DRAIN_S, None)
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    stuck = False
    try:
        process.wait(timeout=DRAIN_S)
    except subprocess.TimeoutExpired:
        stuck = True  # uninterruptible: left behind, reported as such
    collected = [bytes(buffers[pipe.fileno()]) for pipe in pipes]
    for pipe in pipes:
        pipe.close()
    return Outcome(
        None if timed_out or stuck else process.returncode,
        collected[0],
        collected[1],
        time.monotonic() - begin,
        timed_out=timed_out,
        stuck=stuck,
        answer=collected[2] if read_fd >= 0 else b"",
        starved=works,
    )


def _pump(
    selector: selectors.BaseSelector,
    buffers: dict[int, bytearray],
    deadline: float,
    process: subprocess.Popen[bytes] | None,
    stop: threading.Event | None = None,
) -> bool:
    """Read until every pipe ends or the child has ended (a grandchild may keep the pipes open)."""
    ended_at: float | None = None
    while selector.get_map():
        now = time.monotonic()
        if process is not None and ended_at is None and process.poll() is not None:
            ended_at = now
        limit = deadline if ended_at is None else min(deadline, ended_at + DRAIN_S)
        if now >= limit or (stop is not None and stop.is_set()):
            return ended_at is not None
        for key, _ in selector.select(min(0.1, limit - now)):
            if isinstance(key.data, _Feed):
                if key.data.push():
                    selector.unregister(key.fileobj)
                    key.data.pipe.close()
                continue
            fd = key.fd
            try:
                chunk = os.read(fd, 65536)
            except BlockingIOError:
                continue
            except OSError:
                chunk = b""
            if not chunk:
                selector.unregister(key.fileobj)
            elif len(buffers[fd]) < MAX_OUTPUT_BYTES:
                buffers[fd] += chunk
    while process is not None:  # every pipe closed, the child still there
        left = deadline - time.monotonic()
        if left <= 0 or (stop is not None and stop.is_set()):
            return process.poll() is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=min(0.1, left))
            return True
    return True


@dataclass(slots=True)
class _Feed:
    """What is still to be written to a child's standard input."""

    pipe: IO[bytes]
    rest: memoryview

    def push(self) -> bool:
        """Write what fits now; True when there is nothing more to do."""
        try:
            self.rest = self.rest[os.write(self.pipe.fileno(), self.rest) :] if self.rest else self.rest
        except BlockingIOError:
            return False
        except OSError:
            return True  # the child closed its end: its business
        return not self.rest


def _works(session: int) -> bool:
    """Whether anything in a child's session is on a processor or in the queue for one; looked at several times."""
    root = Root()
    for _ in range(LOOKS):
        for pid in root.names("/proc"):
            if pid.isdigit():
                fields = (root.read(f"/proc/{pid}/stat") or "").rpartition(") ")[2].split()
                if len(fields) > 3 and fields[0] == "R" and int(fields[3]) == session:
                    return True
        threading.Event().wait(LOOK_PAUSE_S)
    return False


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
