"""One node's part in testing the links: meet, test in the order the master gives, learn the outcome. Never hangs.

`run_links` returns plain facts, the same on every node that stays to the end:
{nnodes, node_rank, master, met, steps: trace of the meeting | null, taken: who holds the master's port | null,
 nodes: {rank: card}, missing: [rank], sent_away: [...], knocks: [...], links: {"a>b": result},
 silent: {rank: {phase, how}}, collectives: {gloo | nccl: see rungs}, transfer: see rungs, meeting_s,
 unmeasured: pairs there was no time for, incident: a phrase that all nodes share, took_s}.
Who loses the master on the way keeps what it has measured itself, and `lost` {after, how}.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from diag.observe.links.ladder import measure, reach, source_address
from diag.observe.links.launchers import Layout
from diag.observe.links.lead import AT_ONCE, Lead, public
from diag.observe.links.meeting import Gathering, join, listening_on, who_listens
from diag.observe.links.place import Card, interface_of, is_loopback, resolve
from diag.observe.links.rungs import Workers
from diag.observe.links.service import Service, open_listener
from diag.observe.links.wire import Closed, Foreign, Message

MEETING_S = 20.0
PATIENCE_S = 12.0
"""Beyond the time the master gave for an order: so long a node waits for the next one before it goes home."""
FIRST_ORDER_S = 25.0
"""The master may still be waiting for others."""

Facts = dict[str, Any]


@dataclass(slots=True)
class _Job:
    """What both sides carry along."""

    layout: Layout
    card: Card
    service: Service
    deep: bool
    workers: Workers | None
    talk: Callable[[str], None]
    knocks: list[Message]
    """Who took this node for the master."""


def run_links(
    layout: Layout,
    card: Card,
    *,
    meeting_s: float = MEETING_S,
    deep: bool = False,
    workers: Workers | None = None,
    services: Mapping[str, int] | None = None,
    talk: Callable[[str], None] = lambda text: None,
) -> Facts:
    """Meet the other nodes and test the links. `card` is `place.describe` plus whatever is to be compared.

    `services`: name -> port of what the launch listens on besides; held by us while it is free.
    """
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
        "spread_ports": service.spread_ports,
        "services": {
            name: _serve(service, number) for name, number in (services or {}).items() if number != port
        },
        "abilities": dict(workers.abilities) if workers is not None else {},
    }
    job = _Job(layout, card, service, deep, workers, talk, knocks)
    try:
        facts = _lead(job, begin + meeting_s) if master else _follow(job, begin + meeting_s)
    finally:
        service.close()
        if workers is not None:
            workers.transfer({"step": "close"})
    port = facts.pop("port", port)
    return {
        "nnodes": layout.nnodes, "node_rank": layout.node_rank, "launcher": layout.launcher, **facts,
        "master": {"host": layout.master_host, "port": port}, "knocks": [*facts.get("knocks", []), *knocks],
        "took_s": round(time.monotonic() - begin, 1),
    }  # fmt: skip


def _serve(service: Service, port: int) -> Facts:
    if service.listen_too(port):
        return {"port": port, "ours": True}
    return {"port": port, "ours": False, "bound": listening_on(port)}


def _is_here(host: str) -> bool:
    """True where the master's name leads to this machine: its port must then be left to it."""
    addresses, _ = resolve(host)
    return any(is_loopback(one) or source_address(one) == one for one in addresses)


def _nothing(**more: Any) -> Facts:
    return {
        "met": False, "steps": None, "taken": None, "nodes": {}, "missing": [], "sent_away": [], "links": {}, "silent": {},
        "collectives": {}, "transfer": {}, "knocks": [], **more,
    }  # fmt: skip


# the master


def _lead(job: _Job, deadline: float) -> Facts:
    begin = time.monotonic()
    try:
        gathering = Gathering(job.layout.port or 0, job.card, job.layout.spare_ports)
    except OSError as error:
        who = who_listens(job.layout.port or 0)
        return _nothing(taken={"who": who, "error": error.strerror}, nodes={"0": job.card})
    job.card["extra_port"] = gathering.port
    job.talk(f"waiting for {job.card['nnodes'] - 1} more nodes on port {gathering.port}")
    try:
        gathering.wait(deadline)
        met_s = time.monotonic() - begin
        gathering.stop_admitting()
        lead = Lead(
            gathering.wires, gathering.cards, lambda order, nodes: _obey(job, order, nodes),
            deep=job.deep, upper=job.workers is not None, talk=job.talk,
        )  # fmt: skip
        missing = [rank for rank in range(job.card["nnodes"]) if rank not in gathering.cards]
        if gathering.wires:
            lead.work()
        facts = _nothing(
            met=bool(gathering.wires), missing=missing, nodes={str(rank): card for rank, card in sorted(gathering.cards.items())},
            sent_away=gathering.sent_away, links=lead.links, silent=lead.silent, collectives=lead.collectives,
            transfer=lead.transfer, knocks=lead.knocks, meeting_s=round(met_s, 1), incident=uuid.uuid4().hex,
            unmeasured=lead.unmeasured, port=gathering.port,
        )  # fmt: skip
        lead.farewell(facts)
        return facts
    finally:
        gathering.close()


# every node


def _follow(job: _Job, deadline: float) -> Facts:
    host, port = job.layout.master_host or "", job.layout.port or 0
    own = job.layout.node_rank or 0
    job.talk(f"meeting the others at {host}:{port}")
    wire, address, trace = join(host, port, job.card, deadline, job.layout.spare_ports)
    if wire is None:
        return _nothing(steps=trace, nodes={str(own): job.card})
    nodes: dict[int, Card] = {}
    links: dict[str, Facts] = {}
    order: Message = {}
    phase, silence_s = "the roster", max(FIRST_ORDER_S, deadline - time.monotonic() + PATIENCE_S)
    try:
        while True:
            order = wire.receive(time.monotonic() + silence_s)
            if order.get("do") == "end":
                return {**order["facts"], "steps": trace}
            if order.get("do") == "roster":
                nodes = {int(rank): card for rank, card in order["nodes"].items()}
                nodes[0]["address"] = address  # as we reach the master, whatever others call it
            phase, silence_s = str(order.get("do")), float(order.get("within_s", 0)) + PATIENCE_S
            answer = _obey(job, order, nodes)
            _keep(links, own, order, answer)
            wire.send(answer, time.monotonic() + 5)
    except (Closed, Foreign, TimeoutError) as error:
        lost = {
            "after": phase,
            "how": "the connection ended" if isinstance(error, Closed) else "no word any more",
        }
        if order.get("do") == "measure":
            _forget_measure(links.get(f"{own}>{order['peer']}", {}))
        cards = {str(rank): {**card, "node_rank": rank} for rank, card in nodes.items()}
        return _nothing(
            steps=trace,
            lost=lost,
            links=links,
            nodes={**cards, str(own): {**job.card, "address": nodes.get(own, {}).get("address")}},
        )
    finally:
        wire.close()


def _keep(links: dict[str, Facts], own: int, order: Message, answer: Message) -> None:
    """What this node itself found, in case the master is lost before it can tell everybody."""
    if order["do"] == "reach":
        links.update({f"{own}>{peer}": dict(one) for peer, one in answer["results"].items()})
    elif order["do"] == "measure":
        links.setdefault(f"{own}>{order['peer']}", {}).update(answer["result"])


def _forget_measure(link: Facts) -> None:
    """Drop what was measured while the master was lost: the peer may have gone home in the middle of it."""
    for key in set(link) - {
        "address",
        "source",
        "interface",
        "stage",
        "outcome",
        "detail",
        "connect_ms",
        "ports",
        "services",
        "chosen",
    }:
        del link[key]


def _obey(job: _Job, order: Message, nodes: Mapping[int, Card]) -> Message:
    """Carry out one order and return the answer."""
    own = job.card["instance"]
    match order["do"]:
        case "reach":
            peers = [public(nodes[rank]) for rank in order["peers"]]
            with ThreadPoolExecutor(AT_ONCE) as pool:
                found = list(pool.map(lambda peer: reach(peer, own, job.card["machine"]), peers))
            results = {
                str(peer["rank"]): _with_interface(job.card, one)
                for peer, one in zip(peers, found, strict=True)
            }
            return {"results": results}
        case "measure":
            peer = public(nodes[order["peer"]])
            return {
                "result": measure(peer, job.layout.node_rank or 0, own, order["connected"], deep=job.deep)
            }
        case "tally":
            return {
                "received": [[*key, count] for key, count in job.service.received.items()],
                "knocks": job.knocks,
            }
        case "port":
            with open_listener(0) as free:
                return {"port": free.getsockname()[1]}
        case "collective" if job.workers is not None:
            # The master's address is what this node reaches it by, whatever others call it.
            head = nodes[0]["address"] if order["head"] == 0 else order["address"]
            return {"result": job.workers.collective({**order, "address": head})}
        case "transfer" if job.workers is not None:
            return {"result": job.workers.transfer(order)}
    return {}


def _with_interface(card: Card, result: Facts) -> Facts:
    carrier = interface_of(card, result.get("source"))
    return {**result, "interface": carrier["name"] if carrier else None}
