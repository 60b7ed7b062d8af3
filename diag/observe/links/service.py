"""What every node offers its peers while links are tested: TCP and UDP on ephemeral ports, and TCP on the number of the
rendezvous port, since firewalls often open only that one. Threads are daemons and every wait ends; `close` ends all.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from diag.observe.links.wire import Closed, Foreign, Message, Wire, greeting

DATAGRAM = struct.Struct("!4sIHHI")
"""Mark, burst, sender's rank, sequence number, datagrams of this burst that arrived so far."""
MARK = b"dglk"
REQUEST_S = 6.0
"""The longest a peer's connection may stay silent."""
MAX_ECHO_BYTES = 1 << 20
SMALL_SEGMENT_BYTES = 536
"""Every host must take packets of 576 bytes (RFC 1122): what nodes tell each other passes where full packets vanish."""
SPREAD = (0.01, 0.2, 0.4, 0.6, 0.8, 0.99)
"""Where in the range of ephemeral ports a node listens too: firewalls often open only a part of it."""
NEAR = 24
"""How many ports beside such a place are tried: the place itself may be taken."""


def open_listener(
    port: int, kind: socket.SocketKind = socket.SOCK_STREAM, *, small: bool = False
) -> socket.socket:
    """A socket on every address of both families; `port` 0 is ephemeral, `small` keeps segments small. Raises OSError."""
    try:
        sock = socket.socket(socket.AF_INET6, kind)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        address: tuple[str, int] = ("::", port)
    except OSError:  # a kernel without IPv6
        sock = socket.socket(socket.AF_INET, kind)
        address = ("", port)
    try:
        if kind == socket.SOCK_STREAM and port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if small:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SMALL_SEGMENT_BYTES)
        sock.bind(address)
        if kind == socket.SOCK_STREAM:
            sock.listen(128)
    except OSError:
        sock.close()
        raise
    return sock


def ephemeral_range() -> tuple[int, int]:
    """First and last port that the kernel picks by itself (ip(7), ip_local_port_range)."""
    try:
        low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    except (OSError, ValueError):
        return 32768, 60999  # the kernel's default
    return low, max(low, high)


class Service:
    """The listeners of one node. `knocked` is called with what strangers at the rendezvous number say of themselves."""

    def __init__(
        self,
        instance: str,
        version: str,
        rank: int,
        extra_port: int | None,
        knocked: Callable[[Message, str], None],
    ) -> None:
        self._greeting = greeting(instance, "node", version, rank=rank)
        self._knocked = knocked
        self._sockets: list[socket.socket] = []
        self._open: set[socket.socket] = set()
        self.received: dict[tuple[int, int], int] = {}
        """(sender's rank, burst) -> datagrams that arrived: tells the directions of a loss apart."""
        tcp, udp = open_listener(0), open_listener(0, socket.SOCK_DGRAM)
        self.tcp_port, self.udp_port = tcp.getsockname()[1], udp.getsockname()[1]
        self._sockets += [tcp, udp]
        self._start(self._accept, tcp)
        self._start(self._answer_datagrams, udp)
        # Somebody else's port is left alone: then that number is not tested.
        self.extra_port = extra_port if extra_port is not None and self.listen_too(extra_port) else None
        self.spread_ports = list(self._spread())

    def listen_too(self, port: int) -> bool:
        """Serve on another port as well; False where it is taken."""
        try:
            sock = open_listener(port)
        except OSError:
            return False
        self._sockets.append(sock)
        self._start(self._accept, sock)
        return True

    def _spread(self) -> Iterator[int]:
        low, high = ephemeral_range()
        for share in SPREAD:
            place = low + int((high - low) * share)
            free = (port for port in range(place, min(place + NEAR, high + 1)) if self.listen_too(port))
            if (port := next(free, None)) is not None:
                yield port

    def close(self) -> None:
        """Stop listening; connections that are still open end."""
        for sock in (*self._sockets, *tuple(self._open)):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                sock.close()

    def _start(self, body: Callable[[socket.socket], None], sock: socket.socket) -> None:
        threading.Thread(target=body, args=(sock,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, peer = listener.accept()
            except OSError:
                return
            self._open.add(sock)
            threading.Thread(target=self._serve, args=(sock, str(peer[0])), daemon=True).start()

    def _serve(self, sock: socket.socket, peer: str) -> None:
        wire = Wire(sock)
        try:
            wire.send(self._greeting, time.monotonic() + REQUEST_S)
            while True:
                request = wire.receive(time.monotonic() + REQUEST_S)
                if "node_rank" in request:  # a node that takes us for the master
                    self._knocked(request, peer)
                    wire.send({"refused": "not-the-master"}, time.monotonic() + REQUEST_S)
                    return
                self._do(wire, request)
        except (Closed, Foreign, TimeoutError):
            pass
        finally:
            self._open.discard(sock)
            wire.close()

    def _do(self, wire: Wire, request: Message) -> None:
        deadline = time.monotonic() + REQUEST_S
        match request.get("op"):
            case "echo":
                size = min(int(request.get("bytes", 0)), MAX_ECHO_BYTES)
                wire.receive_bytes(size, deadline)
                wire.send_bytes(b"\0" * size, deadline)
            case "clock":
                wire.send({"time_s": time.time()}, deadline)
            case "sink":
                count, seconds, best = wire.drain(deadline)
                wire.send({"bytes": count, "seconds": seconds, "best": best}, deadline)
                raise Closed
            case _:
                raise Foreign(str(request)[:40])

    def _answer_datagrams(self, sock: socket.socket) -> None:
        while True:
            try:
                data, sender = sock.recvfrom(65535)
            except OSError:
                return
            if len(data) < DATAGRAM.size or data[:4] != MARK:
                continue
            mark, burst, rank, number, _ = DATAGRAM.unpack_from(data)
            count = self.received[rank, burst] = self.received.get((rank, burst), 0) + 1
            with contextlib.suppress(OSError):
                sock.sendto(DATAGRAM.pack(mark, burst, rank, number, count), sender)
