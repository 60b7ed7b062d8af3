"""The ladder's upper rungs as the master climbs them: collectives over all nodes, then over pairs, then with one variable
changed; KV transfers between the nodes. What runs them on a node is given as `Workers`; this module only gives orders.

`collectives[backend]`: {all: {rank: result}, pairs: {"a-b": {rank: result}}, changed: [{set, ranks, right, results}],
untried: [what there was no time for]}; `transfer`: {nodes: {rank: what it opened}, links: {"a>b": result}}, b being read from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diag.observe.links.schedule import plan_rounds
from diag.observe.links.wire import Message

COLLECTIVE_S = 26.0
"""Starting torch everywhere takes most of it."""
CLIMB_S, DEEP_CLIMB_S = 24.0, 150.0
"""For telling causes apart after a first failure; a hang costs a whole round each time."""
OPEN_S, READ_S = 14.0, 12.0
"""Starting NIXL takes a second or two, on a cold disk more."""
RUNG_OF = {"gloo": "link.all-reduce", "nccl": "link.nccl"}
PAIRS_UP_TO = 8
"""Nodes up to which every pair is tried after a failure; beyond, halves are bisected."""

Facts = dict[str, Any]
Results = dict[int, Message]


@dataclass(frozen=True, slots=True)
class Workers:
    """What runs the upper rungs on this node, in the launch's own interpreter.

    `collective(order)` takes part in one group and returns its result; `transfer(order)` opens, reads or closes.
    """

    abilities: Mapping[str, Any]
    """For the card: {torch, gpus, busy, rdma, nixl, variables}."""
    collective: Callable[[Message], Facts]
    transfer: Callable[[Message], Facts]


Order = Callable[[dict[int, Message], float, str], Results]
"""(orders by rank, seconds, name of the phase) -> answers of those who answered in time."""


def climb(
    backend: str, ranks: Sequence[int], cards: Mapping[int, Facts], order: Order, *, deep: bool
) -> Facts:
    """One backend: all nodes together; on failure one variable changed, then smaller groups."""
    able = [rank for rank in ranks if _able(cards[rank], backend)]
    if len(able) < 2:
        return {}
    steps = ["ring", "captured"] if backend == "nccl" else ["ring"]
    begin = time.monotonic()
    told: Facts = {
        "all": _named(_run([able], backend, steps, cards, order)),
        "pairs": {},
        "changed": [],
        "untried": [],
    }
    if _right(told["all"]) or any(one.get("absent") or one.get("slow_start") for one in told["all"].values()):
        return told
    # An experiment takes about as long as the first one; who starts one later than that is not done in time.
    now = time.monotonic()
    end = now + (DEEP_CLIMB_S if deep else CLIMB_S) - min(now - begin, COLLECTIVE_S)
    for change in _changes(backend, able, cards):
        if time.monotonic() > end:
            told["untried"].append(", ".join(change["set"]))
            continue
        results = _named(_run([able], backend, steps, cards, order, change["by_rank"]))
        if any(one.get("slow_start") for one in results.values()):
            told["untried"].append(
                ", ".join(change["set"])
            )  # it tells nothing, and the next one would not either
            end = 0.0
            continue
        told["changed"].append(
            {"set": change["set"], "cause": change["cause"], "right": _right(results), "results": results}
        )
        if _right(results):
            break
    if len(able) > 2 and not any(one["right"] for one in told["changed"]):
        _smaller(told, able, backend, cards, order, end)
    return told


def _able(card: Mapping[str, Any], backend: str) -> bool:
    if not _has(card, "torch") or RUNG_OF[backend] not in card["abilities"].get("rungs", ()):
        return False
    return backend == "gloo" or (_has(card, "gpus") and _free(card))


def _named(results: Results) -> dict[str, Message]:
    return {str(rank): one for rank, one in results.items()}


def _right(results: Mapping[str, Message]) -> bool:
    return bool(results) and all(
        one.get("right") and one.get("ring") is not False and one.get("captured") is not False
        for one in results.values()
    )


def _run(
    groups: Sequence[Sequence[int]],
    backend: str,
    steps: Sequence[str],
    cards: Mapping[int, Facts],
    order: Order,
    env: Mapping[int, Mapping[str, str]] | None = None,
) -> Results:
    """Disjoint groups side by side, each with a store on its first rank."""
    ports = order({group[0]: {"do": "port"} for group in groups}, 5.0, "finding a free port")
    orders: dict[int, Message] = {}
    for group in groups:
        if group[0] not in ports:
            continue
        for place, rank in enumerate(group):
            orders[rank] = {
                "do": "collective", "backend": backend, "steps": list(steps), "head": group[0], "address": cards[group[0]].get("address"), "port": ports[group[0]]["port"],
                "rank": place, "world": len(group), "env": dict((env or {}).get(rank, {})),
            }  # fmt: skip
    answers = (
        order(orders, COLLECTIVE_S, f"the {'NCCL' if backend == 'nccl' else backend} all-reduce")
        if orders
        else {}
    )
    return {rank: answer.get("result") or {} for rank, answer in answers.items()}


def _changes(backend: str, ranks: Sequence[int], cards: Mapping[int, Facts]) -> list[Facts]:
    """Variables worth changing, the most specific first: each is one experiment, whatever passes names the cause."""
    carriers = {rank: _carrier(cards[rank]) for rank in ranks}
    set_now = {name for rank in ranks for name in (cards[rank].get("abilities") or {}).get("variables", ())}

    def same(name: str, value: str, cause: str | None) -> Facts:
        return {"set": {name: value}, "by_rank": {rank: {name: value} for rank in ranks}, "cause": cause}

    def interface(name: str, mark: str) -> Facts:
        found = {rank: {name: f"{mark}{carrier}"} for rank, carrier in carriers.items() if carrier}
        return {
            "set": {name: " or ".join(sorted({one[name] for one in found.values()}))},
            "by_rank": found,
            "cause": "nccl-wrong-interface",
        }

    if backend == "gloo":
        return [interface("GLOO_SOCKET_IFNAME", "")]
    result = []
    if (
        any((cards[rank].get("abilities") or {}).get("rdma") for rank in ranks)
        and "NCCL_IB_DISABLE" not in set_now
    ):
        result += [
            same("NCCL_NET_GDR_LEVEL", "LOC", "gpudirect-rdma-failure"),
            same("NCCL_IB_DISABLE", "1", "ib-roce-failure"),
        ]
    result += [interface("NCCL_SOCKET_IFNAME", "="), same("NCCL_NVLS_ENABLE", "0", "nccl-nvls-cumem"),
               same("NCCL_CUMEM_ENABLE", "0", "nccl-nvls-cumem"), same("NCCL_NET_PLUGIN", "none", None)]  # fmt: skip
    return result


def _carrier(card: Mapping[str, Any]) -> str | None:
    """The interface that carries the address by which the others know a node."""
    return next(
        (
            str(one["name"])
            for one in card.get("interfaces", ())
            if any(a["address"] == card.get("address") for a in one["addresses"])
        ),
        None,
    )


def _smaller(
    told: Facts, able: Sequence[int], backend: str, cards: Mapping[int, Facts], order: Order, end: float
) -> None:
    """Pairs in rounds; with many nodes halves, then the halves of one that fails: log2(n) steps."""
    if len(able) <= PAIRS_UP_TO:
        for pairs in plan_rounds(able):
            if time.monotonic() > end:
                told["untried"] += [f"nodes {a} and {b}" for a, b in pairs]
                continue
            results = _run(pairs, backend, [], cards, order)
            for a, b in pairs:
                told["pairs"][f"{a}-{b}"] = _named(
                    {rank: results[rank] for rank in (a, b) if rank in results}
                )
        return
    groups = [list(able)]
    while groups and len(groups[0]) > 2:
        if time.monotonic() > end:
            told["untried"].append(f"halves of nodes {groups[0][0]} to {groups[0][-1]}")
            return
        middle = (len(groups[0]) + 1) // 2
        halves = [half for half in (groups[0][:middle], groups[0][middle:]) if len(half) > 1]
        results = _run(halves, backend, [], cards, order)
        groups = []
        for half in halves:
            mine = _named({rank: results[rank] for rank in half if rank in results})
            told["pairs"]["-".join(map(str, half))] = mine
            if not _right(mine):
                groups.append(half)


def transfer(
    ranks: Sequence[int], cards: Mapping[int, Facts], is_open: Callable[[int, int], bool], order: Order
) -> Facts:
    """Main memory between all nodes that have NIXL; then GPU memory, where GPUs are there and free: {**facts, vram: facts}."""
    able = [rank for rank in ranks if _has(cards[rank], "nixl")]
    if len(able) < 2:
        return {}
    told = _transfers("DRAM", able, is_open, order)
    on_gpu = [
        rank
        for rank in able
        if _has(cards[rank], "gpus") and _has(cards[rank], "torch") and _free(cards[rank])
    ]
    if len(on_gpu) > 1 and _all_ok(told):
        told["vram"] = _transfers("VRAM", on_gpu, is_open, order)
    return told


def _has(card: Mapping[str, Any], what: str) -> bool:
    return bool((card.get("abilities") or {}).get(what))


def _free(card: Mapping[str, Any]) -> bool:
    return (card.get("abilities") or {}).get("busy") is False


def _all_ok(told: Facts) -> bool:
    return bool(told["links"]) and all(one["outcome"] == "ok" for one in told["links"].values())


def _transfers(memory: str, able: Sequence[int], is_open: Callable[[int, int], bool], order: Order) -> Facts:
    """Each node reads from its partners, over links that are open: all at once, and on failure pair by pair with fresh agents.

    One peer that cannot be reached holds up a whole agent, as a reader and for those that read from it; only pairs tell
    which link it is.
    """
    partners = {rank: [other for other in _partners(rank, able) if is_open(rank, other)] for rank in able}
    told = _read(memory, able, partners, order)
    first = told["links"]
    if len(able) == 2 or _all_ok(told):
        return told
    end = time.monotonic() + CLIMB_S
    told["links"] = {name: one for name, one in first.items() if one["outcome"] == "ok"}
    ready = [rank for rank in able if not told["nodes"][str(rank)].get("error")]
    for pairs in plan_rounds(ready):
        open_pairs = [(a, b) for a, b in pairs if is_open(a, b) and is_open(b, a) and f"{a}>{b}" in first]
        if time.monotonic() > end or not open_pairs:
            continue
        both_ways = {a: [b] for one in open_pairs for a, b in (one, one[::-1])}
        again = _read(memory, sorted(both_ways), both_ways, order)
        told["links"] |= again["links"]
        told["nodes"] |= {rank: {**told["nodes"][rank], **one} for rank, one in again["nodes"].items()}
    return told


def _read(memory: str, able: Sequence[int], partners: Mapping[int, Sequence[int]], order: Order) -> Facts:
    """Open an agent on every node, let each read, end them all."""
    nodes: dict[int, Facts] = {}
    links: Facts = {}
    try:
        opened = order(
            {rank: {"do": "transfer", "step": "open", "memory": memory} for rank in able},
            OPEN_S,
            "starting NIXL",
        )
        nodes = {rank: answer["result"] for rank, answer in opened.items()}
        ready = {rank for rank, one in nodes.items() if one.get("metadata")}
        wanted = ("metadata", "address", "bytes", "fill", "name")
        orders = {
            rank: {"do": "transfer", "step": "read",
                   "peers": {str(other): {key: nodes[other][key] for key in wanted} for other in partners[rank] if other in ready}}
            for rank in ready
        }  # fmt: skip
        for rank, answer in order(
            {rank: one for rank, one in orders.items() if one["peers"]}, READ_S, "a KV transfer"
        ).items():
            links |= {f"{rank}>{other}": one for other, one in answer["result"].get("reads", {}).items()}
            nodes[rank] = {
                **nodes[rank],
                **{key: value for key, value in answer["result"].items() if key != "reads"},
            }
    finally:
        order({rank: {"do": "transfer", "step": "close"} for rank in able}, 5.0, "ending NIXL")
    shown = {
        str(rank): {key: value for key, value in one.items() if key != "metadata"}
        for rank, one in nodes.items()
    }
    return {"nodes": {str(rank): shown.get(str(rank), {}) for rank in able}, "links": links}


def _partners(rank: int, ready: Sequence[int]) -> list[int]:
    """All others of up to eight nodes, else ring neighbours with steps 1, 2, 4 ..., so that every link is read in O(log n)."""
    if len(ready) <= PAIRS_UP_TO:
        return [other for other in ready if other != rank]
    place, count = list(ready).index(rank), len(ready)
    steps = [1 << power for power in range(count.bit_length() - 1)]
    return [ready[(place + step) % count] for step in steps if step % count]
