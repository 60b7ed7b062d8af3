"""Meeting on the master's port: a node that cannot says how far it came; the master says who came and whom it sent away."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

from diag.observe.links.ladder import dial, source_address
from diag.observe.links.place import Card, is_loopback, resolve
from diag.observe.links.service import open_listener
from diag.observe.links.wire import PROTOCOL, Closed, Foreign, Message, Wire, greeting, read_greeting
from diag.system import Root
from diag.system.processes import list_processes, read_descriptors, read_tcp_sockets

CONNECT_S = 3.5
GREETING_S = 3.0
WELCOME_S = 10.0
"""Once the card is sent the master counts this node in: who gave up before its answer comes through a lossy link would be too late."""
PAUSE_S = 0.3
FINAL = ("rank-taken", "rank-out-of-range", "wrong-protocol", "own-loopback", "too-late")
"""Answers that waiting does not change."""
ELSEWHERE = ("refused", "silent", "wrong-program", "closed")
"""Outcomes on a port that the master may have found taken: its own spare ports are tried then."""
SLOW = ("timeout", "unroutable", "nobody-home")
"""Outcomes that take the whole of CONNECT_S to see."""

Trace = dict[str, Any]


def join(
    host: str, port: int, card: Card, deadline: float, spares: Sequence[int] = ()
) -> tuple[Wire | None, str | None, Trace]:
    """Reach the master before the deadline: (connection, the address it has for us, what was tried).

    `spares`: ports on which the master may listen instead, looked at where somebody else's program may hold `port`.

    The trace: {host, port, steps [{stage, outcome, detail}], ended_at, outcome, detail, tries, took_s}; stages are name,
    address, route, tcp, greeting and welcome.
    """
    begin = time.monotonic()
    pause = threading.Event()
    tries = 0
    while True:
        tries += 1
        at, (wire, address, steps) = port, _attempt(host, port, card, deadline)
        for spare in spares if wire is None and steps[-1]["outcome"] in ELSEWHERE else ():
            met = _attempt(host, spare, card, deadline)
            if met[0] is not None:
                at, (wire, address, steps) = spare, met
                break
        last = steps[-1]
        trace: Trace = {
            "host": host, "port": at, "steps": steps, "ended_at": last["stage"], "outcome": last["outcome"],
            "detail": last["detail"], "tries": tries, "took_s": round(time.monotonic() - begin, 2),
        }  # fmt: skip
        left = deadline - time.monotonic() - PAUSE_S
        # An attempt cut short tells less than the whole one before it.
        if (
            wire is not None
            or last["outcome"] in FINAL
            or left <= (CONNECT_S if last["outcome"] in SLOW else 0)
        ):
            return wire, address, trace
        pause.wait(PAUSE_S)


def _attempt(
    host: str, port: int, card: Card, deadline: float
) -> tuple[Wire | None, str | None, list[dict[str, Any]]]:
    steps: list[dict[str, Any]] = []

    def step(stage: str, outcome: str, detail: str = "") -> None:
        steps.append({"stage": stage, "outcome": outcome, "detail": detail})

    addresses, error = resolve(host)
    if not addresses:
        step("name", "unresolved", f"{host}: {error}")
        return None, None, steps
    step("name", "ok", f"{host} is {', '.join(addresses)}")
    wire, address = None, addresses[0]
    for address in addresses:
        source = source_address(address, port)
        if source is None:
            step("route", "unroutable", f"no route to {address}")
            continue
        step("route", "ok", f"to {address} from {source}")
        left = max(0.2, min(CONNECT_S, deadline - time.monotonic()))
        wire, outcome, detail = dial(address, port, left, small=True)
        if outcome == "unroutable" and is_absent(Root(), address):
            outcome, detail = "nobody-home", "no machine on this network has that address (no answer to ARP)"
        step("tcp", outcome, f"{address}:{port} {detail}".strip())
        if wire is not None:
            break
    if wire is None:
        if all(is_loopback(one) for one in addresses) and card["node_rank"]:
            step(
                "address", "loopback", f"{host} is {addresses[0]}: this node itself, where no master listens"
            )
        return None, None, steps
    try:
        _introduce(wire, card, step, deadline)
    except TimeoutError:
        step(
            "greeting",
            "silent",
            f"connected to {address}:{port}, but nobody greets within {GREETING_S:.0f} s",
        )
    except Foreign as error:
        step("greeting", "wrong-program", f"{address}:{port} answers {str(error)!r}")
    except Closed:
        step("greeting", "closed", f"{address}:{port} closes the connection at once")
    if steps[-1]["outcome"] == "ok":
        return wire, address, steps
    wire.close()
    return None, None, steps


def _introduce(wire: Wire, card: Card, step: Any, end: float) -> None:
    hello = read_greeting(wire, time.monotonic() + GREETING_S)
    if hello.get("protocol") != PROTOCOL:
        step(
            "greeting",
            "wrong-protocol",
            f"the master runs diag {hello.get('version')}, this node {card['version']}",
        )
        return
    patience = max(GREETING_S, min(WELCOME_S, end - time.monotonic()))
    wire.send(card, time.monotonic() + GREETING_S)
    answer = wire.receive(time.monotonic() + patience)
    if answer.get("refused") == "not-the-master":
        step("greeting", "not-the-master", f"node {hello.get('rank')} answers, which is not the master")
    elif answer.get("refused"):
        step("welcome", str(answer["refused"]), str(answer.get("detail", "")))
    else:
        step("welcome", "ok")


class Gathering:
    """The master's side: accepts nodes until all came or the deadline passes."""

    def __init__(self, port: int, card: Card, spares: Sequence[int] = ()) -> None:
        """Listen on the first port that is free. Raises OSError where all are taken."""
        self._card = card
        self._listener = _first_free((port, *spares))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Condition()
        self.wires: dict[int, Wire] = {}
        self.cards: dict[int, Card] = {card["node_rank"]: card}
        self.sent_away: list[Message] = []
        self.knocks: list[Message] = []
        self._closed = self._begun = False
        threading.Thread(target=self._accept, daemon=True).start()

    def wait(self, deadline: float) -> None:
        """Until every node came."""
        wanted = self._card["nnodes"]
        with self._lock:
            while len(self.cards) + len(self.sent_away) < wanted:
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                self._lock.wait(left)

    def stop_admitting(self) -> None:
        """From now on whoever comes is too late: the tests have begun without it."""
        with self._lock:
            self._begun = True

    def close(self) -> None:
        """Stop listening and end what is open."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for wire in self.wires.values():
            wire.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                sock, peer = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._welcome, args=(sock, str(peer[0])), daemon=True).start()

    def _welcome(self, sock: socket.socket, peer: str) -> None:
        wire = Wire(sock)
        deadline = time.monotonic() + GREETING_S
        own = self._card
        with contextlib.suppress(OSError):
            mine = str(sock.getsockname()[0])
        try:
            wire.send(greeting(own["instance"], "master", own["version"], rank=own["node_rank"]), deadline)
            card = wire.receive(deadline)
            if not _is_card(card):
                wire.close()
                return
            card["address"] = unmapped(peer)
            refusal = self._admit(card, wire, unmapped(mine))
            if refusal:
                wire.send({"refused": refusal[0], "detail": refusal[1]}, deadline)
        except (Closed, Foreign, TimeoutError):
            wire.close()
            return
        if refusal:
            wire.close()

    def _admit(self, card: Card, wire: Wire, mine: str) -> tuple[str, str] | None:
        rank, wanted = card["node_rank"], self._card["nnodes"]
        with self._lock:
            refusal = None
            if self._begun:
                refusal = ("too-late", "the other nodes have begun without it")
            elif any(one["instance"] == card["instance"] for one in self.sent_away):
                refusal = ("rank-taken", "already sent away")
            elif not isinstance(rank, int) or not 0 <= rank < wanted:
                refusal = (
                    "rank-out-of-range",
                    f"node rank {rank} where the master expects 0 to {wanted - 1}",
                )
                self.sent_away.append({**_short(card), "why": refusal[0]})
            elif rank in self.cards and self.cards[rank]["instance"] != card["instance"]:
                first = self.cards[rank]
                refusal = ("rank-taken", f"node rank {rank} is already {first['hostname']}")
                self.sent_away.append({**_short(card), "why": refusal[0], "first": first["hostname"]})
            else:
                wire.send(
                    {"welcome": True}, time.monotonic() + GREETING_S
                )  # before anybody may give it orders
                self.cards[rank] = card
                self.wires[rank] = wire
                self._card.setdefault("address", mine)
            self._lock.notify_all()
        return refusal


def _first_free(ports: Sequence[int]) -> socket.socket:
    for port in ports[:-1]:
        with contextlib.suppress(OSError):
            return open_listener(port, small=True)
    return open_listener(ports[-1], small=True)


def _is_card(card: Message) -> bool:
    """Whether a first line is a node's card: whatever else comes to the port is a stranger's."""
    return isinstance(card.get("node_rank"), int) and all(
        isinstance(card.get(key), str) for key in ("instance", "hostname", "version")
    )


def _short(card: Card) -> Message:
    return {
        key: card.get(key)
        for key in ("hostname", "node_rank", "nnodes", "world_size", "address", "instance", "machine")
    }


def is_absent(root: Root, address: str) -> bool:
    """True where the neighbour table (proc(5), /proc/net/arp) says that nobody answered for an IPv4 address."""
    rows = [line.split() for line in (root.read("/proc/net/arp") or "").splitlines()[1:]]
    return any(row[0] == address and len(row) > 3 and row[2] == "0x0" for row in rows)  # ATF_COM is 0x2


def unmapped(address: str) -> str:
    """An IPv4 address as IPv4, also where a dual-stack socket wrote it as IPv6."""
    return address.removeprefix("::ffff:") if "." in address else address


def listening_on(port: int) -> list[str]:
    """The addresses on which somebody of this node listens on a port."""
    return sorted(
        {one.local for one in read_tcp_sockets(Root()) if one.state == "LISTEN" and one.local_port == port}
    )


def who_listens(port: int) -> str:
    """The program on a port of this node, as far as we may see it; never raises."""
    root = Root()
    inodes = {one.inode for one in read_tcp_sockets(root) if one.state == "LISTEN" and one.local_port == port}
    if not inodes:
        return "another process"
    for process in list_processes(root):
        links = read_descriptors(root, process.pid) or ()
        if any(link.startswith("socket:[") and int(link[8:-1]) in inodes for link in links):
            return f"{process.title[:80]} (pid {process.pid})"
    return "a process that may not be looked at"
