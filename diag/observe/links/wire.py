"""Lines of JSON over a socket, each wait with its deadline. No pickle: a stranger's line is data, never code."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any

PROTOCOL = 2
"""Raised when an older diag could not understand us."""
HELLO = "diag-links"
MAX_LINE_BYTES = 64 << 20
MAX_GREETING_BYTES = 4096
MOMENT_S = 0.02
"""The shortest time over which a rate is told: long enough for full windows, shorter than a processor's time slices."""

Message = dict[str, Any]


class Foreign(Exception):
    """What answers does not speak our protocol; the text is the beginning of what it said."""


class Closed(Exception):
    """The other side ended the connection."""


class Wire:
    """One connection. Deadlines are `time.monotonic()` values; TimeoutError when one passes."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._rest = bytearray()
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, message: Message, deadline: float) -> None:
        """Send one message. Raises Closed or TimeoutError."""
        self.send_bytes(encode(message), deadline)

    def send_bytes(self, data: bytes, deadline: float) -> None:
        """Send raw bytes."""
        view = memoryview(data)
        try:
            while view:
                self._limit(deadline)
                view = view[self.socket.send(view) :]
        except TimeoutError:
            raise
        except OSError as error:
            raise Closed(str(error)) from None

    def receive(self, deadline: float, most: int = MAX_LINE_BYTES) -> Message:
        """The next message. Raises Closed, TimeoutError or Foreign."""
        while b"\n" not in self._rest:
            if len(self._rest) > most:
                raise Foreign(_quoted(self._rest))
            self._rest += self._read(deadline)
        line, _, rest = bytes(self._rest).partition(b"\n")
        self._rest = bytearray(rest)
        try:
            message = json.loads(line)
        except ValueError:
            raise Foreign(_quoted(line)) from None
        if not isinstance(message, dict):
            raise Foreign(_quoted(line))
        return message

    def receive_bytes(self, count: int, deadline: float) -> int:
        """Read and drop `count` bytes of payload."""
        left = count - len(self._rest)
        del self._rest[:count]
        while left > 0:
            left -= len(self._read(deadline, min(left, 1 << 18)))
        return count

    def drain(self, deadline: float) -> tuple[int, float, float]:
        """(bytes, seconds, bytes a second in the best moment) until the other side stops sending or the deadline passes.

        The best moment is what the link carries: a machine without a free processor interrupts both ends at any time.
        """
        total = mark = len(self._rest)
        self._rest.clear()
        begin = last = start = time.monotonic()
        best = 0.0
        try:
            while True:
                total += len(self._read(deadline, 1 << 20))
                last = time.monotonic()
                if last - start >= MOMENT_S:
                    best = max(best, (total - mark) / (last - start))
                    mark, start = total, last
        except (Closed, TimeoutError):
            return total, last - begin, best

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(OSError):
            self.socket.close()

    def _read(self, deadline: float, size: int = 1 << 16) -> bytes:
        self._limit(deadline)
        try:
            data = self.socket.recv(size)
        except TimeoutError:
            raise
        except OSError as error:
            raise Closed(str(error)) from None
        if not data:
            raise Closed("closed by the other side")
        return data

    def _limit(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.socket.settimeout(left)


def encode(message: Message) -> bytes:
    """A message as it travels: one line."""
    return json.dumps(message).encode() + b"\n"


def _quoted(data: bytes | bytearray) -> str:
    return bytes(data[:40]).decode("utf-8", "backslashreplace").strip()


def greeting(instance: str, role: str, version: str, **more: Any) -> Message:
    """The first line of whoever listens: who it is, so that a caller knows whom it really reached."""
    return {
        "hello": HELLO,
        "protocol": PROTOCOL,
        "version": version,
        "instance": instance,
        "role": role,
        **more,
    }


def read_greeting(wire: Wire, deadline: float) -> Message:
    """The listener's greeting. Raises Foreign where another program answers."""
    message = wire.receive(deadline, MAX_GREETING_BYTES)
    if message.get("hello") != HELLO:
        raise Foreign(str(message)[:40])
    return message
