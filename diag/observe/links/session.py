"""One node's part in testing the links: meet, test in the order the master gives, learn the outcome. Never hangs.

`run_links` returns plain facts, the same on every node that stays to the end:
{nnodes, node_rank, master, met, steps: trace of the meeting | null, taken: who holds the master's port | null,
 nodes: {rank: card}, missing: [rank], sent_away: [...], knocks: [...], links: {"a>b": result}, silent: {rank: phase},
 collective: {...} | null, meeting_s, unmeasured: pairs there was no time for,
 incident: a phrase that all nodes share, took_s}.
"""

from __future__ import annotations

import contextlib
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from diag.observe.links.ladder import measure, reach, source_address
from diag.observe.links.launchers import Layout
from diag.observe.links.meeting import Gathering, join, who_listens
from diag.observe.links.place import Card, interface_of, is_loopback, resolve
from diag.observe.links.schedule import plan_rounds
from diag.observe.links.service import Service, open_listener
from diag.observe.links.wire import Closed, Foreign, Message, Wire

MEETING_S = 20.0
REACH_S = 14.0
"""Connection, greeting and two alternative addresses, each with its own shorter deadline."""
ROUND_S = 12.0
ROUNDS_S, EACH_ROUND_S = 15.0, 1.0
"""A healthy round takes about half a second; when a bad link has used up the time, the rest is said to be unmeasured."""
SILENCE_S = 25.0
"""A node that hears nothing from the master for so long goes home; the longest order takes REACH_S."""
COLLECTIVE_S = 26.0
"""Starting torch everywhere takes most of it."""
AGAIN_S = 10.0
"""For measuring slow links again."""
AT_ONCE = 32
SLOW = 0.35
"""A link below this share of the median is measured again alone before anybody is accused."""
MOST_RETESTS = 6
JUMBO_BYTES = 9216
"""The largest MTU Ethernet switches carry; loopback's 65,536 is nobody's path."""

Facts = dict[str, Any]
Collective = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(slots=True)
class _Job:
    """What both sides carry along."""

    layout: Layout
    card: Card
    service: Service
    deep: bool
    collective: Collective | None
    talk: Callable[[str], None]
    knocks: list[Message]
    """Who took this node for the master."""


def run_links(
    layout: Layout,
    card: Card,
    *,
    meeting_s: float = MEETING_S,
    deep: bool = False,
    collective: Collective | None = None,
    talk: Callable[[str], None] = lambda text: None,
) -> Facts:
    """Meet the other nodes and test the links. `card` is `place.describe` plus whatever is to be compared."""
    begin = time.monotonic()
    knocks: list[Message] = []

    def knocked(other: Message, peer: str) -> None:
        knocks.append(
            {key: other.get(key) for key in ("hostname", "node_rank", "instance", "master")}
            | {"address": peer}
        )

    master = layout.node_rank == 0
    port = layout.port or 0
    extra = None if master or _is_here(layout.master_host or "") else port
    service = Service(card["instance"], card["version"], layout.node_rank or 0, extra, knocked)
    card |= {
        "tcp_port": service.tcp_port,
        "udp_port": service.udp_port,
        "extra_port": port if master else service.extra_port,
    }
    job = _Job(layout, card, service, deep, collective, talk, knocks)
    try:
        facts = _lead(job, begin + meeting_s) if master else _follow(job, begin + meeting_s)
    finally:
        service.close()
    return {
        "nnodes": layout.nnodes, "node_rank": layout.node_rank, "launcher": layout.launcher, **facts,
        "master": {"host": layout.master_host, "port": port}, "knocks": [*facts.get("knocks", []), *knocks],
        "took_s": round(time.monotonic() - begin, 1),
    }  # fmt: skip


def _is_here(host: str) -> bool:
    """True where the master's name leads to this machine: its port must then be left to it."""
    addresses, _ = resolve(host)
    return any(is_loopback(one) or source_address(one) == one for one in addresses)


def _nothing(**more: Any) -> Facts:
    return {
        "met": False, "steps": None, "taken": None, "nodes": {}, "missing": [], "sent_away": [], "links": {}, "silent": {},
        "collective": None, "knocks": [], **more,
    }  # fmt: skip


# the master


def _lead(job: _Job, deadline: float) -> Facts:
    begin = time.monotonic()
    try:
        gathering = Gathering(job.layout.port or 0, job.card)
    except OSError as error:
        who = who_listens(job.layout.port or 0)
        return _nothing(taken={"who": who, "error": error.strerror}, nodes={"0": job.card})
    job.talk(f"waiting for {job.card['nnodes'] - 1} more nodes on port {job.layout.port}")
    try:
        gathering.wait(deadline)
        met_s = time.monotonic() - begin
        lead = _Lead(job, gathering)
        missing = [rank for rank in range(job.card["nnodes"]) if rank not in gathering.cards]
        if gathering.wires:
            lead.work()
        facts = _nothing(
            met=bool(gathering.wires), missing=missing, nodes={str(rank): card for rank, card in sorted(gathering.cards.items())},
            sent_away=gathering.sent_away, links=lead.links, silent=lead.silent, collective=lead.combined,
            knocks=lead.knocks, meeting_s=round(met_s, 1), incident=uuid.uuid4().hex,
            unmeasured=lead.unmeasured,
        )  # fmt: skip
        lead.farewell(facts)
        return facts
    finally:
        gathering.close()


class _Lead:
    """Gives orders and gathers answers; who does not answer in time gets no more of them."""

    def __init__(self, job: _Job, gathering: Gathering) -> None:
        self._job = job
        self._wires = dict(gathering.wires)
        self._cards = gathering.cards
        self._pool = ThreadPoolExecutor(max(AT_ONCE, len(gathering.wires)))
        self.links: dict[str, Facts] = {}
        self.silent: dict[str, str] = {}
        self.knocks: list[Message] = []
        self.combined: Facts | None = None
        self.unmeasured = 0

    def work(self) -> None:
        """Everybody reaches for everybody at once, then pairs measure in rounds, then all add numbers together."""
        ranks = sorted(self._cards)
        rounds = plan_rounds(ranks)
        peers: dict[int, list[int]] = {rank: [] for rank in ranks}
        for a, b in (pair for one in rounds for pair in one):
            peers[a].append(b)
            peers[b].append(a)
        roster = {str(rank): _public(card) for rank, card in self._cards.items()}
        self._order({rank: {"do": "roster", "nodes": roster} for rank in ranks}, 5.0, "the list of nodes")
        self._job.talk(f"{len(ranks)} nodes met; {sum(map(len, rounds))} links in {len(rounds)} rounds")
        answers = self._order(
            {rank: {"do": "reach", "peers": peers[rank]} for rank in ranks}, REACH_S, "reaching for the peers"
        )
        for rank, answer in answers.items():
            for peer, result in answer["results"].items():
                self.links[f"{rank}>{peer}"] = result
        end = time.monotonic() + ROUNDS_S + EACH_ROUND_S * len(rounds)
        for number, pairs in enumerate(rounds):
            if time.monotonic() > end and not self._job.deep:
                self.unmeasured = sum(map(len, rounds[number:]))
                break
            self._measure(pairs)
        self._again()
        tally = self._order({rank: {"do": "tally"} for rank in ranks}, 5.0, "the tally")
        for rank, answer in tally.items():
            self.knocks += answer["knocks"]
            for sender, number, count in answer["received"]:
                link = self.links.get(f"{sender}>{rank}", {})
                if link.get("burst") == number:
                    link["there"] = max(link["there"], count)
        if self._job.collective is not None:
            self._combine(ranks)

    def farewell(self, facts: Facts) -> None:
        """Tell everybody the outcome."""
        for wire in self._wires.values():
            with contextlib.suppress(Closed, TimeoutError):
                wire.send({"do": "end", "facts": facts}, time.monotonic() + 5)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _measure(self, pairs: Sequence[tuple[int, int]]) -> None:
        orders = {}
        for a, b in pairs:
            if str(a) not in self.silent and str(b) not in self.silent:
                orders[a] = {"do": "measure", "peer": b, "connected": self._open(a, b)}
                orders[b] = {"do": "measure", "peer": a, "connected": self._open(b, a)}
        for rank, answer in self._order(orders, ROUND_S, "measuring").items():
            link = self.links.setdefault(f"{rank}>{orders[rank]['peer']}", {})
            link.update(answer["result"])

    def _open(self, a: int, b: int) -> bool:
        return self.links.get(f"{a}>{b}", {}).get("stage") == "ok"

    def _again(self) -> None:
        """Measure links far below the median once more, alone: a busy moment is no slow link."""
        told = {name: link["mbps"] for name, link in self.links.items() if link.get("mbps")}
        if not told:
            return
        median = statistics.median(told.values())
        slow = sorted(
            (name for name, value in told.items() if value < SLOW * median), key=lambda name: told[name]
        )
        pairs = list(dict.fromkeys(tuple(sorted(map(int, name.split(">")))) for name in slow))[:MOST_RETESTS]
        end = time.monotonic() + AGAIN_S
        for a, b in pairs:
            if time.monotonic() > end:
                return
            before = {key: dict(self.links.get(key, {})) for key in (f"{a}>{b}", f"{b}>{a}")}
            self._measure([(a, b)])
            for key, old in before.items():
                link = self.links.get(key, {})
                link["mbps"] = max(link.get("mbps") or 0.0, old.get("mbps") or 0.0)
                if old.get("largest_bytes", 0) > link.get("largest_bytes", 0):
                    link["largest_bytes"] = old["largest_bytes"]

    def _combine(self, ranks: Sequence[int]) -> None:
        alive = [rank for rank in ranks if str(rank) not in self.silent]
        if len(alive) < 2 or any(link.get("stage") != "ok" for link in self.links.values()):
            return  # the ladder has ended before this rung
        self._job.talk("adding numbers over all nodes (gloo)")
        with open_listener(0) as free:
            port = free.getsockname()[1]
        order = {"do": "collective", "ranks": alive, "address": self._cards[0].get("address"), "port": port}
        answers = self._order(dict.fromkeys(alive, order), COLLECTIVE_S, "the all-reduce")
        self.combined = {str(rank): answer["result"] for rank, answer in answers.items()}

    def _order(self, orders: dict[int, Message], within_s: float, phase: str) -> dict[int, Message]:
        """Send each node its order, do our own meanwhile, wait for all answers."""
        deadline = time.monotonic() + within_s
        futures = {}
        for rank, wire in self._wires.items():
            if str(rank) not in self.silent:  # who has nothing to do hears that we are still there
                futures[rank] = self._pool.submit(_ask, wire, orders.get(rank, {"do": "wait"}), deadline)
        answers: dict[int, Message] = {}
        if 0 in orders:
            answers[0] = _obey(self._job, orders[0], self._cards)
        for rank, future in futures.items():
            answer = future.result()
            if answer is None:
                self.silent[str(rank)] = phase
            elif rank in orders:
                answers[rank] = answer
        return answers


def _ask(wire: Wire, order: Message, deadline: float) -> Message | None:
    try:
        wire.send(order, deadline)
        return wire.receive(deadline)
    except (Closed, Foreign, TimeoutError):
        return None


def _public(card: Card) -> Card:
    """What peers need to reach a node."""
    address = card.get("address")
    carrier = interface_of(card, address)
    return {
        "rank": card["node_rank"], "address": address, "mtu_bytes": min(carrier["mtu_bytes"] or 1500, JUMBO_BYTES) if carrier else None,
        **{key: card.get(key) for key in ("hostname", "instance", "machine", "tcp_port", "udp_port", "extra_port", "chosen")},
    }  # fmt: skip


# every node


def _follow(job: _Job, deadline: float) -> Facts:
    host, port = job.layout.master_host or "", job.layout.port or 0
    job.talk(f"meeting the others at {host}:{port}")
    wire, address, trace = join(host, port, job.card, deadline)
    if wire is None:
        return _nothing(steps=trace, nodes={str(job.layout.node_rank): job.card})
    nodes: dict[int, Card] = {}
    phase = "the roster"
    try:
        while True:
            order = wire.receive(time.monotonic() + SILENCE_S)
            if order.get("do") == "end":
                return {**order["facts"], "steps": trace}
            if order.get("do") == "roster":
                nodes = {int(rank): card for rank, card in order["nodes"].items()}
                nodes[0]["address"] = address  # as we reach the master, whatever others call it
            phase = str(order.get("do"))
            wire.send(_obey(job, order, nodes), time.monotonic() + 5)
    except (Closed, Foreign, TimeoutError) as error:
        lost = {
            "after": phase,
            "how": "the connection ended" if isinstance(error, Closed) else "no word any more",
        }
        return _nothing(steps=trace, lost=lost, nodes={str(job.layout.node_rank): job.card})
    finally:
        wire.close()


def _obey(job: _Job, order: Message, nodes: dict[int, Card]) -> Message:
    """Carry out one order and return the answer."""
    own = job.card["instance"]
    match order["do"]:
        case "reach":
            peers = [
                _public(nodes[rank]) if "node_rank" in nodes[rank] else nodes[rank] for rank in order["peers"]
            ]
            with ThreadPoolExecutor(AT_ONCE) as pool:
                found = list(pool.map(lambda peer: reach(peer, own, job.card["machine"]), peers))
            results = {
                str(peer["rank"]): _with_interface(job.card, one)
                for peer, one in zip(peers, found, strict=True)
            }
            return {"results": results}
        case "measure":
            card = nodes[order["peer"]]
            peer = _public(card) if "node_rank" in card else card
            return {
                "result": measure(peer, job.layout.node_rank or 0, own, order["connected"], deep=job.deep)
            }
        case "tally":
            return {
                "received": [[*key, count] for key, count in job.service.received.items()],
                "knocks": job.knocks,
            }
        case "collective" if job.collective is not None:
            place = order["ranks"].index(job.layout.node_rank or 0)
            where = {"address": nodes[0]["address"], "port": order["port"]}
            return {"result": job.collective({**where, "rank": place, "world": len(order["ranks"])})}
    return {}


def _with_interface(card: Card, result: Facts) -> Facts:
    carrier = interface_of(card, result.get("source"))
    return {**result, "interface": carrier["name"] if carrier else None}
