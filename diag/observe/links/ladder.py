"""The ladder from this node to one peer: route, TCP, greeting, loss, large messages, path MTU, time, bandwidth.

Each rung has its deadline; `reach` stops at the first broken one. All times are seconds unless a name says otherwise.
"""

from __future__ import annotations

import contextlib
import errno
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from diag.observe.links.place import is_loopback
from diag.observe.links.service import DATAGRAM, MARK, SMALL_SEGMENT_BYTES
from diag.observe.links.wire import Closed, Foreign, Wire, read_greeting

CONNECT_S = 4.0
"""SYNs go out after 0, 1 and 3 s (tcp(7)): three chances, so that loss alone seldom looks like a firewall."""
GREETING_S = 2.0
ALT_S = 1.5
ECHO_S = 1.5
"""200 ms is TCP's shortest retransmission time-out: two losses in a row still fit."""
SMALL_BYTES, LARGE_BYTES = 64, (8192, 65536)
BURST = 200
"""Datagrams; 200 small ones fit into the default receive buffer (212,992 bytes) even if nobody reads."""
BANDWIDTH_S = 0.2
DEEP_BANDWIDTH_S = 2.0
IP_MTU_DISCOVER, IP_PMTUDISC_PROBE = 10, 3
IPV6_MTU_DISCOVER = 23
"""linux/in.h, linux/in6.h: send with DF, whatever the kernel believes the path MTU to be."""
UNROUTABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL)

Result = dict[str, Any]


def source_address(host: str, port: int = 9) -> str | None:
    """The address the kernel would send from towards `host`; None if there is no route. Nothing is sent."""
    try:
        with socket.socket(family_of(host), socket.SOCK_DGRAM) as sock:
            sock.connect((host, port))
            return str(sock.getsockname()[0])
    except OSError:
        return None


def family_of(address: str) -> socket.AddressFamily:
    """The family of a numeric address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def dial(address: str, port: int, timeout_s: float, *, small: bool = False) -> tuple[Wire | None, str, str]:
    """(connection, outcome, detail); outcome is ok, refused, timeout or unroutable. `small` keeps segments small."""
    try:
        sock = socket.socket(family_of(address), socket.SOCK_STREAM)
        if small:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SMALL_SEGMENT_BYTES)
    except OSError as error:
        return None, "unroutable", str(error.strerror)
    sock.settimeout(timeout_s)
    try:
        sock.connect((address, port))
    except TimeoutError:
        sock.close()
        return None, "timeout", f"no answer within {timeout_s:.1f} s"
    except OSError as error:
        sock.close()
        if error.errno == errno.ETIMEDOUT:
            return None, "timeout", "no answer"
        outcome = "unroutable" if error.errno in UNROUTABLE else "refused"
        return None, outcome, str(error.strerror or error)
    return Wire(sock), "ok", ""


def greet(address: str, port: int, expected: str, own: str, timeout_s: float) -> tuple[Wire | None, Result]:
    """Connect and see who answers. The result tells stage (tcp, greeting, ok) and outcome."""
    begin = time.monotonic()
    wire, outcome, detail = dial(address, port, timeout_s)
    if wire is None:
        return None, {"stage": "tcp", "outcome": outcome, "detail": detail}
    took_ms = round((time.monotonic() - begin) * 1e3, 2)
    try:
        hello = read_greeting(wire, time.monotonic() + GREETING_S)
    except TimeoutError:
        wire.close()
        return None, {
            "stage": "greeting",
            "outcome": "silent",
            "detail": "connected, but nobody greets",
            "connect_ms": took_ms,
        }
    except Foreign as error:
        wire.close()
        return None, {"stage": "greeting", "outcome": "wrong-program", "detail": str(error)}
    except Closed:
        wire.close()
        return None, {"stage": "greeting", "outcome": "closed", "detail": "closed at once"}
    if hello.get("instance") != expected:
        wire.close()
        whose = "this node itself" if hello.get("instance") == own else f"node {hello.get('rank')}"
        outcome = "own-loopback" if hello.get("instance") == own else "wrong-host"
        return None, {"stage": "greeting", "outcome": outcome, "detail": f"{address} leads to {whose}"}
    return wire, {"stage": "ok", "outcome": "ok", "detail": "", "connect_ms": took_ms}


def reach(peer: dict[str, Any], own: str, machine: str = "") -> Result:
    """Whether connections to a peer can be opened: its address, its rendezvous number, the addresses its variables choose.

    `peer`: rank, address, tcp_port, extra_port, spread_ports, services {name: {port, ours}}, instance, hostname, machine,
    chosen {library: {interface, address}}.
    `own` and `machine` are this node's instance and machine.
    """
    address, instance = peer["address"], peer["instance"]
    result: Result = {"address": address, "source": source_address(address)}
    if result["source"] is None:
        return {**result, "stage": "route", "outcome": "unroutable", "detail": f"no route to {address}"}
    wire, seen = greet(address, peer["tcp_port"], instance, own, CONNECT_S)
    if wire is not None:
        wire.close()
    result |= seen
    if seen["stage"] == "tcp" and peer.get("extra_port"):
        result["rendezvous_port"] = _answers(peer, peer["extra_port"], own)
    if seen["stage"] in ("tcp", "ok"):
        result |= _other_ports(peer, own, surely=seen["stage"] == "ok")
    alternatives = {}
    for library, chosen in sorted((peer.get("chosen") or {}).items()):
        target = chosen.get("address")
        if not target or target == address or seen["stage"] != "ok":
            continue
        if machine and machine == peer.get("machine"):
            continue  # two nodes on one machine: no address leads astray
        # Loopback, or a docker0 that every node has.
        if is_loopback(target) or source_address(target) == target:
            there = {"outcome": "own-loopback", "detail": f"{target} leads a peer to itself"}
        else:
            other, there = greet(target, peer["tcp_port"], instance, own, ALT_S)
            if other is not None:
                other.close()
        alternatives[library] = {**chosen, "outcome": there["outcome"], "detail": there["detail"]}
    return {**result, "chosen": alternatives}


def _answers(peer: dict[str, Any], port: int, own: str, *, surely: bool = False) -> str:
    """Whether the peer's diag answers on a port: the outcome. `surely`: silence is asked again, with time for three SYNs."""
    outcome = "timeout"
    for timeout_s in (ALT_S, CONNECT_S) if surely else (ALT_S,):
        wire, there = greet(peer["address"], port, peer["instance"], own, timeout_s)
        if wire is not None:
            wire.close()
        outcome = str(there["outcome"])
        if outcome not in ("timeout", "silent"):
            break
    return outcome


def _other_ports(peer: dict[str, Any], own: str, *, surely: bool) -> Result:
    """Ports spread over the ephemeral range, and those of services beside the collectives, all at once.

    A service's port may be held by the job itself: then a connection is all that can be asked for.
    """
    spread, services = peer.get("spread_ports") or [], peer.get("services") or {}

    def service(one: dict[str, Any]) -> str:
        if one["ours"]:
            return _answers(peer, one["port"], own, surely=surely)
        wire, outcome, _ = dial(peer["address"], one["port"], CONNECT_S)
        if wire is not None:
            wire.close()
        return outcome

    with ThreadPoolExecutor(max(1, len(spread) + len(services))) as pool:
        ports = pool.map(lambda port: _answers(peer, port, own, surely=surely), spread)
        others = pool.map(service, services.values())
        return {
            "ports": {str(port): outcome for port, outcome in zip(spread, ports, strict=True)},
            "services": {name: {"port": one["port"], "outcome": outcome}
                         for (name, one), outcome in zip(services.items(), others, strict=True)},
        }  # fmt: skip


def measure(peer: dict[str, Any], rank: int, own: str, connected: bool, *, deep: bool = False) -> Result:
    """What the link to a peer is worth; without a connection only whether datagrams pass."""
    address = peer["address"]
    result: Result = {}
    result |= burst(address, peer["udp_port"], rank, SMALL_BYTES, BURST if connected else BURST // 4)
    if not connected:
        return result
    wire, seen = greet(address, peer["tcp_port"], peer["instance"], own, CONNECT_S)
    if wire is None:
        return {**result, "later": seen["outcome"]}
    try:
        result |= _times(wire)
        result |= _large(wire)
    except (Closed, Foreign, TimeoutError):
        result["echo"] = "lost"
    finally:
        wire.close()
    result |= path_mtu(address, peer["udp_port"], rank, peer.get("mtu_bytes") or 1500)
    if result.get("largest_bytes") == LARGE_BYTES[-1]:
        result |= bandwidth(peer, own, DEEP_BANDWIDTH_S if deep else BANDWIDTH_S)
    return result


def _times(wire: Wire) -> Result:
    """Round trip (the least of eight) and how far the peer's clock is ahead of ours, as NTP computes it (RFC 5905)."""
    best: tuple[float, float] | None = None
    for _ in range(8):
        sent = time.time()
        begin = time.monotonic()
        wire.send({"op": "clock"}, begin + ECHO_S)
        answer = wire.receive(begin + ECHO_S)
        took = time.monotonic() - begin
        if best is None or took < best[0]:
            best = (took, float(answer["time_s"]) - (sent + took / 2))
    assert best is not None  # noqa: S101 - eight rounds were made
    return {"rtt_ms": round(best[0] * 1e3, 3), "clock_ahead_s": round(best[1], 3)}


def _large(wire: Wire) -> Result:
    """The largest message that comes back whole; 0 if not even the small one does."""
    largest = 0
    for size in (SMALL_BYTES, *LARGE_BYTES):
        deadline = time.monotonic() + ECHO_S
        try:
            wire.send({"op": "echo", "bytes": size}, deadline)
            wire.send_bytes(b"\0" * size, deadline)
            wire.receive_bytes(size, deadline)
        except (TimeoutError, Closed):
            return {"largest_bytes": largest, "vanished_bytes": size}
        largest = size
    return {"largest_bytes": largest}


def burst(address: str, port: int, rank: int, size: int, count: int) -> Result:
    """Small datagrams there and back, paced: {sent, there, back}: how many arrived, and how many answers came home."""
    number = random.getrandbits(32)
    padding = b"\0" * (size - DATAGRAM.size)
    there = back = 0
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((address, port))
            sock.setblocking(False)
            for index in range(count):
                with contextlib.suppress(OSError):  # a full buffer or an ICMP refusal: counted as lost
                    sock.send(DATAGRAM.pack(MARK, number, rank, index, 0) + padding)
                if index % 10 == 9:
                    there, back = _collect(sock, time.monotonic() + 0.002, there, back, count)
            there, back = _collect(sock, time.monotonic() + 0.3, there, back, count)
        except OSError:
            pass
    return {"burst": number, "sent": count, "there": there, "back": back}


def _collect(sock: socket.socket, deadline: float, there: int, back: int, count: int) -> tuple[int, int]:
    while back < count and (left := deadline - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            data = sock.recv(2048)
        except OSError:
            continue
        if len(data) >= DATAGRAM.size and data[:4] == MARK:
            back += 1
            there = max(there, DATAGRAM.unpack_from(data)[4])
    return there, back


def path_mtu(address: str, port: int, rank: int, wanted: int) -> Result:
    """The largest IP packet with DF set that reaches the peer, looked for between 576 and `wanted` bytes."""
    v6 = ":" in address
    overhead = 48 if v6 else 28  # IP header and UDP header
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as sock:
        try:
            level, option = (
                (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER) if v6 else (socket.IPPROTO_IP, IP_MTU_DISCOVER)
            )
            sock.setsockopt(level, option, IP_PMTUDISC_PROBE)
            sock.connect((address, port))
        except OSError:
            return {}
        if not _passes(sock, rank, 548):
            return {}  # UDP does not pass at all: nothing learnt
        if _passes(sock, rank, wanted - overhead):
            return {"mtu_bytes": wanted}
        low, high = 576, wanted
        known = [one for one in (8900, 1500, 1450, 1400, 1280) if low < one < high]
        while high - low > 8:
            middle = known.pop(0) if known else (low + high) // 2
            if not low < middle < high:
                continue
            if _passes(sock, rank, middle - overhead):
                low = middle
            else:
                high = middle
    return {"mtu_bytes": low}


def _passes(sock: socket.socket, rank: int, size: int) -> bool:
    number = random.getrandbits(32)
    packet = DATAGRAM.pack(MARK, number, rank, 0, 0) + b"\0" * max(0, size - DATAGRAM.size)
    for _ in range(3):
        try:
            sock.send(packet)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                return False  # larger than our own interface carries, or the path said so
            continue
        deadline = time.monotonic() + 0.1
        while (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            try:
                data = sock.recv(2048)
            except OSError:
                continue
            if len(data) >= DATAGRAM.size and DATAGRAM.unpack_from(data)[1] == number:
                return True
    return False


def bandwidth(peer: dict[str, Any], own: str, seconds: float) -> Result:
    """Megabits a second that the peer received from us over one TCP stream, in the best moment of it."""
    wire, _ = greet(peer["address"], peer["tcp_port"], peer["instance"], own, CONNECT_S)
    if wire is None:
        return {}
    block = b"\0" * (1 << 18)
    begin = time.monotonic()
    try:
        wire.send({"op": "sink"}, begin + 1)
        with contextlib.suppress(TimeoutError):
            while time.monotonic() < begin + seconds:
                wire.send_bytes(block, begin + seconds)
        wire.socket.shutdown(socket.SHUT_WR)
        answer = wire.receive(begin + seconds + 4)
        rate = max(answer["bytes"] / max(answer["seconds"], seconds), float(answer.get("best", 0.0)))
        return {"mbps": round(rate * 8 / 1e6, 1)}
    except (Closed, Foreign, TimeoutError, OSError):
        return {"mbps": None}
    finally:
        wire.close()
