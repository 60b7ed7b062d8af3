"""Runs somebody's launch in the foreground: its output passes through at once, our signals reach it, its exit code is kept."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from diag.system.errors import UserError

FORWARDED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCONT,
    signal.SIGWINCH,
)
DRAIN_S = 1.0
"""After the launch has ended: how long what it left running may go on printing before we stop listening."""


@dataclass(slots=True)
class Watched:
    """A launch that runs under our eyes."""

    process: subprocess.Popen[bytes]
    log: Path
    last_output: float = field(default_factory=time.monotonic)
    output_bytes: int = 0
    interrupted: bool = False
    """A signal that ends things was passed on: what follows is no failure of the launch."""

    @property
    def pid(self) -> int:
        """Of the launch's first process."""
        return self.process.pid


def start(command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Watched:
    """Start the launch; raises UserError where that is not possible.

    Its output goes into pipes, into which Python would print a few pages at a time: PYTHONUNBUFFERED keeps silence honest.
    """
    kept = dict(os.environ if env is None else env)
    kept.setdefault("PYTHONUNBUFFERED", "1")
    try:
        process = subprocess.Popen(
            list(command),
            stdin=None,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=kept,
        )
    except OSError as error:
        reason = "no such command" if error.errno == errno.ENOENT else error.strerror
        raise UserError(f"cannot be started: {reason}", where=command[0], code="no-such-command") from None
    return Watched(process, log)


def follow(watched: Watched, on_tick: Callable[[Watched], None], tick_s: float = 1.0) -> int:
    """Pass output and signals through until the launch ends; `on_tick` is called every `tick_s` seconds meanwhile.

    Returns the launch's exit status, negative for a signal.
    """
    with _Forwarding(watched), watched.log.open("wb") as copy, selectors.DefaultSelector() as selector:
        for pipe, target in ((watched.process.stdout, sys.stdout), (watched.process.stderr, sys.stderr)):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ, target)
        tick = time.monotonic() + tick_s
        ended: float | None = None
        while selector.get_map():
            for key, _ in selector.select(min(0.2, tick_s)):
                _pass_on(watched, selector, key, copy)
            now = time.monotonic()
            if ended is None and watched.process.poll() is not None:
                ended = now
            if ended is not None and now > ended + DRAIN_S:
                break  # something that it started keeps the pipe open
            if now >= tick and ended is None:
                copy.flush()
                on_tick(watched)
                tick = time.monotonic() + tick_s
    while True:
        try:
            return watched.process.wait(timeout=tick_s)
        except subprocess.TimeoutExpired:
            on_tick(watched)  # it closed its output and goes on


def _pass_on(
    watched: Watched, selector: selectors.BaseSelector, key: selectors.SelectorKey, copy: IO[bytes]
) -> None:
    try:
        chunk = os.read(key.fd, 1 << 16)
    except BlockingIOError:
        return
    if not chunk:
        selector.unregister(key.fileobj)
        return
    watched.last_output = time.monotonic()
    watched.output_bytes += len(chunk)
    copy.write(chunk)
    with contextlib.suppress(
        OSError, ValueError
    ):  # nobody listens to us any more: the launch shall not notice
        key.data.buffer.write(chunk)
        key.data.buffer.flush()


class _Forwarding:
    """While inside, signals that reach us are passed on to the launch instead of ending us."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in FORWARDED:
            self._before[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            self._watched.interrupted = True
        if number == signal.SIGINT and _same_terminal():
            return  # the terminal has sent it to the launch already
        with contextlib.suppress(ProcessLookupError):
            self._watched.process.send_signal(number)


def _same_terminal() -> bool:
    """True where Ctrl-C reaches the launch without us: we are the terminal's foreground group, and it is in our group."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False
