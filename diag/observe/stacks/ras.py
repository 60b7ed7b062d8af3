"""What NCCL's RAS service says of a running job: asked read-only over its text protocol, every wait with a deadline.

NCCL 2.24 and newer start a RAS thread in each process; those of a node listen on one address (localhost:28028, else
NCCL_RAS_ADDR) and answer with the collectives that every rank of every communicator has launched. Launched, not finished: equal
counts do not say that the GPUs get on. Since all processes of a node share the port (SO_REUSEPORT), a connection may reach one that
stands still, or one of another job: then we ask again, as NCCL's own client does.
Sources: src/ras/client.cc and client_support.cc of NCCL 2.30.7; answers were recorded from its RAS threads, built without GPUs.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from diag.observe.stacks.ras_answer import Answer, read_json, read_text

DEFAULT = ("localhost", 28028)
GREETING_S = 1.0
"""Whoever does not greet within a second stands still; NCCL's own client goes on to the next one just as soon."""
GATHER_S = 4
"""What the service may take to hear from other processes; one that is stopped costs all of it."""
EXTRA_S = 6.0
"""NCCL ends a collection that is late after five seconds more."""
TRIES = 6
MAX_BYTES = 64 << 20


class Refused(Exception):
    """The service was not reached, or does not speak its protocol; the text says how far we came."""


@dataclass(frozen=True, slots=True)
class Heard:
    """One answer and when it came (`time.monotonic()`)."""

    at: float
    took_s: float
    answer: Answer


def address_of(text: str | None) -> tuple[str, int]:
    """(host, port) of NCCL_RAS_ADDR, or the default where it is not set or cannot be read."""
    host, colon, port = (text or "").strip().rpartition(":")
    if not colon or not port.isdigit() or not 0 < int(port) < 65536:
        return DEFAULT
    return host.strip("[]") or DEFAULT[0], int(port)


def ask(host: str, port: int, pids: Collection[int], deadline: float) -> Heard:
    """Ask until a process of the job with one of `pids` has answered. Raises Refused.

    An answer that names no processes (all is well, in the text form) cannot be told from another job's, and counts.
    """
    said = "no time to ask"
    for _ in range(TRIES):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        begin = time.monotonic()
        try:
            with _connect(host, port, min(GREETING_S, left)) as sock:
                answer = _dialogue(sock, deadline)
        except (TimeoutError, OSError, ValueError) as error:
            said = str(error) or "no answer within a second"
            if isinstance(error, ConnectionRefusedError):
                break
            continue
        if not answer.pids or answer.pids & set(pids):
            return Heard(time.monotonic(), time.monotonic() - begin, answer)
        said = f"it answers for another job (processes {', '.join(map(str, sorted(answer.pids)[:4]))})"
    raise Refused(said)


def _connect(host: str, port: int, seconds: float) -> socket.socket:
    return socket.create_connection((host, port), seconds)


def _dialogue(sock: socket.socket, deadline: float) -> Answer:
    """Greet, choose the form, ask for the status. Raises TimeoutError, OSError, or ValueError for what is no RAS service."""
    rest = bytearray()
    sock.settimeout(GREETING_S)
    greeting = _say(sock, rest, "CLIENT PROTOCOL 2")
    if not greeting.upper().startswith("SERVER PROTOCOL "):
        raise ValueError(f"what listens there is no RAS service: it says {greeting[:40]!r}")
    _say(sock, rest, f"TIMEOUT {GATHER_S}")
    # JSON came with NCCL 2.28.7; older ones call the command unknown and go on.
    as_json = _say(sock, rest, "SET FORMAT json").upper() == "OK"
    begin = time.monotonic()
    sock.sendall(b"STATUS\n" if as_json else b"VERBOSE STATUS\n")
    limit = min(deadline, begin + GATHER_S + EXTRA_S)
    text = _rest(sock, rest, limit).decode("utf-8", "replace")
    return read_json(text) if as_json else read_text(text)


def _say(sock: socket.socket, rest: bytearray, words: str) -> str:
    """One command, one line back."""
    sock.sendall(words.encode() + b"\n")
    while b"\n" not in rest:
        if len(rest) > 4096:
            raise ValueError(f"what listens there is no RAS service: it says {bytes(rest[:40])!r}")
        _read(sock, rest)
    line, _, left = bytes(rest).partition(b"\n")
    rest[:] = left
    return line.decode("utf-8", "replace").strip()


def _rest(sock: socket.socket, rest: bytearray, deadline: float) -> bytes:
    """Everything until the service closes the connection, as it does after a status."""
    while len(rest) < MAX_BYTES:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the service did not finish its answer in time")
        sock.settimeout(left)
        try:
            _read(sock, rest)
        except ConnectionAbortedError:
            break
    return bytes(rest)


def _read(sock: socket.socket, rest: bytearray) -> None:
    """More bytes; ConnectionAbortedError at the end."""
    chunk = sock.recv(1 << 16)
    if not chunk:
        raise ConnectionAbortedError("the service closed the connection")
    rest += chunk


def is_here(host: str) -> bool:
    """Whether an address is one of this network namespace's own: a socket can be bound to it."""
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.bind((host, 0))
        return True
    return False


def compare(first: Heard, second: Heard | None) -> dict[str, Any]:
    """Plain facts of two answers: communicators with what differs in them, and whether their counts stood still."""
    last = second or first
    before = {one["hash"]: one for one in first.answer.communicators}
    communicators = []
    for one in last.answer.communicators:
        old = before.get(one["hash"])
        still = second is not None and old is not None and old["counts"] == one["counts"]
        told = {key: value for key, value in one.items() if key != "counts"}
        communicators.append({**told, "still": still, "launched": one["counts"]["total"]})
    return {
        "version": last.answer.version, "form": last.answer.form, "communicators": communicators,
        "processes": last.answer.processes, "timeouts": last.answer.timeouts,
        "span_s": round(second.at - first.at, 1) if second else 0.0, "took_s": round(last.took_s, 2),
    }  # fmt: skip
