"""The master's part: gives orders over the connections of the meeting and gathers answers. Who misses a deadline gets no more orders."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from diag.observe.links.place import Card, interface_of
from diag.observe.links.rungs import climb, transfer
from diag.observe.links.schedule import Pair, plan_rounds
from diag.observe.links.wire import Closed, Foreign, Message, Wire

REACH_S = 16.0
"""Connection, greeting, other ports and two alternative addresses, each with its own shorter deadline."""
ROUND_S = 12.0
ROUNDS_S, EACH_ROUND_S = 15.0, 1.0
"""A healthy round takes about half a second; when a bad link has used up the time, the rest is said to be unmeasured."""
AGAIN_S = 10.0
"""For measuring slow links again."""
AT_ONCE = 32
SLOW = 0.35
"""A link below this share of the usual rate is measured again alone before anybody is accused."""
MOST_RETESTS = 6
JUMBO_BYTES = 9216
"""The largest MTU Ethernet switches carry; loopback's 65,536 is nobody's path."""

Facts = dict[str, Any]
Obey = Callable[[Message, Mapping[int, Card]], Message]


class Lead:
    """One job's tests. `obey` does this node's own part; `upper` says whether the rungs that need torch or NIXL are wanted."""

    def __init__(
        self,
        wires: Mapping[int, Wire],
        cards: Mapping[int, Card],
        obey: Obey,
        *,
        deep: bool,
        upper: bool,
        talk: Callable[[str], None],
    ) -> None:
        self._wires, self._cards, self._obey = dict(wires), cards, obey
        self._deep, self._upper, self._talk = deep, upper, talk
        self._pool = ThreadPoolExecutor(max(AT_ONCE, len(self._wires)))
        self.links: dict[str, Facts] = {}
        self.silent: dict[str, Facts] = {}
        self.knocks: list[Message] = []
        self.collectives: dict[str, Facts] = {}
        self.transfer: Facts = {}
        self.unmeasured = 0

    def work(self) -> None:
        """Everybody reaches for everybody at once, then pairs measure in rounds, then the upper rungs."""
        ranks = sorted(self._cards)
        rounds = plan_rounds(ranks)
        peers: dict[int, list[int]] = {rank: [] for rank in ranks}
        for a, b in (pair for one in rounds for pair in one):
            peers[a].append(b)
            peers[b].append(a)
        roster = {str(rank): public(card) for rank, card in self._cards.items()}
        self._order({rank: {"do": "roster", "nodes": roster} for rank in ranks}, 5.0, "the list of nodes")
        self._talk(f"{len(ranks)} nodes met; {sum(map(len, rounds))} links in {len(rounds)} rounds")
        answers = self._order(
            {rank: {"do": "reach", "peers": peers[rank]} for rank in ranks}, REACH_S, "reaching for the peers"
        )
        for rank, answer in answers.items():
            for peer, result in answer["results"].items():
                self.links[f"{rank}>{peer}"] = result
        self._measure_all(rounds)
        self._again()
        self._tally(ranks)
        if self._upper:
            self._climb()

    def farewell(self, facts: Facts) -> None:
        """Tell everybody the outcome, all at once: one that reads slowly holds up nobody."""
        deadline = time.monotonic() + 5

        def tell(wire: Wire) -> None:
            with contextlib.suppress(Closed, TimeoutError):
                wire.send({"do": "end", "facts": facts}, deadline)

        for future in [self._pool.submit(tell, wire) for wire in self._wires.values()]:
            future.result()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _measure_all(self, rounds: Sequence[Sequence[Pair]]) -> None:
        end = time.monotonic() + ROUNDS_S + EACH_ROUND_S * len(rounds)
        for number, pairs in enumerate(rounds):
            if time.monotonic() > end and not self._deep:
                self.unmeasured = sum(map(len, rounds[number:]))
                break
            self._measure(pairs)

    def _measure(self, pairs: Sequence[Pair]) -> None:
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
        """Measure links far below what is usual once more, alone: a busy moment is no slow link."""
        told = {ends_of(name): float(link["mbps"]) for name, link in self.links.items() if link.get("mbps")}
        if not told:
            return
        usual = usual_rate(told)
        slow = sorted(
            (ends for ends, value in told.items() if value < SLOW * usual), key=lambda ends: told[ends]
        )
        pairs = list(dict.fromkeys((min(ends), max(ends)) for ends in slow))[:MOST_RETESTS]
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

    def _tally(self, ranks: Sequence[int]) -> None:
        """What arrived, as the receivers counted it: tells the directions of a loss apart."""
        for rank, answer in self._order({rank: {"do": "tally"} for rank in ranks}, 5.0, "the tally").items():
            self.knocks += answer["knocks"]
            for sender, number, count in answer["received"]:
                link = self.links.get(f"{sender}>{rank}", {})
                if link.get("burst") == number:
                    link["there"] = max(link["there"], count)

    def _climb(self) -> None:
        """Collectives need every link; a KV transfer needs its own."""
        alive = [rank for rank in sorted(self._cards) if str(rank) not in self.silent]
        whole = bool(self.links) and all(link.get("stage") == "ok" for link in self.links.values())
        for backend in ("gloo", "nccl") if whole else ():
            alive = [rank for rank in alive if str(rank) not in self.silent]
            if len(alive) > 1:
                self._talk(f"adding numbers over all nodes ({'NCCL' if backend == 'nccl' else backend})")
                told = climb(backend, alive, self._cards, self._order, deep=self._deep)
                if told:
                    self.collectives[backend] = told
        if self.links:
            self.transfer = transfer(alive, self._cards, self._open, self._order)

    def _order(self, orders: dict[int, Message], within_s: float, phase: str) -> dict[int, Message]:
        """Send each node its order, do our own meanwhile, wait for all answers."""
        deadline = time.monotonic() + within_s
        futures = {}
        for rank, wire in self._wires.items():
            if str(rank) not in self.silent:  # who has nothing to do hears that we are still there
                order = {**orders.get(rank, {"do": "wait"}), "within_s": within_s}
                futures[rank] = self._pool.submit(_ask, wire, order, deadline)
        answers: dict[int, Message] = {}
        if 0 in orders:
            answers[0] = self._obey(orders[0], self._cards)
        for rank, future in futures.items():
            answer, how = future.result()
            if answer is None:
                self.silent[str(rank)] = {"phase": phase, "how": how}
            elif rank in orders:
                answers[rank] = answer
        return answers


def _ask(wire: Wire, order: Message, deadline: float) -> tuple[Message | None, str]:
    try:
        wire.send(order, deadline)
        return wire.receive(deadline), "ok"
    except Closed:
        return None, "closed"
    except TimeoutError:
        return None, "timeout"
    except Foreign:
        return None, "garbled"


def ends_of(name: str) -> Pair:
    """`3>7` as (3, 7)."""
    a, _, b = name.partition(">")
    return int(a), int(b)


def usual_rate(rates: Mapping[Pair, float]) -> float:
    """What a link of this job carries if nothing is wrong: the upper median, over the nodes, of each node's best direction.

    One slow node makes two thirds of the links of three nodes slow, but spoils only its own best.
    """
    best: dict[int, float] = {}
    for ends, rate in rates.items():
        for rank in ends:
            best[rank] = max(best.get(rank, 0.0), rate)
    return statistics.median_high(best.values())


def public(card: Card) -> Card:
    """What peers need to reach a node."""
    if "interfaces" not in card:
        return card  # it is public already
    address = card.get("address")
    carrier = interface_of(card, address)
    shown = (
        "hostname",
        "instance",
        "machine",
        "tcp_port",
        "udp_port",
        "extra_port",
        "spread_ports",
        "services",
        "chosen",
    )
    return {
        "rank": card["node_rank"], "address": address, "mtu_bytes": min(carrier["mtu_bytes"] or 1500, JUMBO_BYTES) if carrier else None,
        **{key: card.get(key) for key in shown},
    }  # fmt: skip
