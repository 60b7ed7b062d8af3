"""A child that is asked several things while it lives: JSON lines in on standard input, JSON lines out on a private descriptor."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

KILL_S = 1.0
"""What collecting a killed child may take; one in uninterruptible sleep is left behind."""
TAIL_BYTES = 16 << 10
MOST_BYTES = 4 << 20
"""An answer beyond this is none."""


class Companion:
    """One child in a session of its own. No call waits longer than its deadline; `end` kills the whole group.

    Start it from a thread that stays: children that ask the kernel to die with their parent die with that thread.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Start it. Raises OSError where it cannot be started."""
        read_fd, write_fd = os.pipe()
        self._fd = read_fd
        self._rest = b""
        self._said = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - closed by `end`; both sides append
        try:
            self._process = subprocess.Popen(
                list(argv), stdin=subprocess.PIPE, stdout=self._said, stderr=self._said, pass_fds=(write_fd,),
                env={**env, "DIAG_ANSWER_FD": str(write_fd)}, start_new_session=True,
            )  # fmt: skip
        except OSError:
            os.close(read_fd)
            self._said.close()
            raise
        finally:
            os.close(write_fd)

    def tell(self, message: Mapping[str, Any]) -> bool:
        """Send one line; False where nobody reads any more. Lines are small: a pipe holds them."""
        pipe = self._process.stdin
        if pipe is None:
            return False
        try:
            pipe.write(json.dumps(message).encode() + b"\n")
            pipe.flush()
        except (OSError, ValueError):
            return False
        return True

    def hear(self, timeout_s: float) -> dict[str, Any] | None:
        """The next line; None where none came in time, or the child has ended."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._fd], [], [], left)[0]:
                return None
            chunk = os.read(self._fd, 1 << 16)
            if not chunk or len(self._rest) > MOST_BYTES:
                return None
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        with contextlib.suppress(ValueError):
            answer = json.loads(line)
            if isinstance(answer, dict):
                return answer
        return None

    @property
    def code(self) -> int | None:
        """How it ended; None while it lives."""
        return self._process.poll()

    def said(self) -> str:
        """The end of what it printed."""
        if self._said.closed:
            return ""
        self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, self._said.tell() - TAIL_BYTES))
        return self._said.read().decode("utf-8", "replace")

    def end(self) -> None:
        """Kill it and everything it started; may be called again."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_S)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._said.close()
