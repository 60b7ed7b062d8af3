"""1,024 nodes: what the schedule costs, and whether sampled links still name the culprit."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from link_facts_examples import CLOSED, OPEN, Facts, card

from diag.diagnose.nodes.localise import link_facts, localise, matrix_rows
from diag.model import Finding, Status
from diag.observe.links.lead import public
from diag.observe.links.rungs import climb
from diag.observe.links.schedule import plan_rounds

COUNT = 1024
REACH_S, ROUND_S = 1.0, 0.6
"""What a healthy lab of eight nodes takes; both do not depend on the number of nodes."""


def sampled() -> Facts:
    pairs = [pair for one in plan_rounds(range(COUNT)) for pair in one]
    links = {f"{a}>{b}": dict(OPEN) for x, y in pairs for a, b in ((x, y), (y, x))}
    return {
        "nnodes": COUNT, "node_rank": 0, "launcher": "Slurm", "met": True, "steps": None, "taken": None,
        "nodes": {str(rank): card(rank, COUNT) for rank in range(COUNT)}, "missing": [], "sent_away": [], "knocks": [],
        "links": links, "silent": {}, "collectives": {}, "transfer": {}, "master": {"host": "gpu0", "port": 29511}, "meeting_s": 9.0,
    }  # fmt: skip


def test_the_schedule_of_a_thousand_nodes_takes_about_ten_pairs_times() -> None:
    """Rounds run one after the other, pairs of a round side by side: simulated node by node."""
    rounds = plan_rounds(range(COUNT))
    clock = dict.fromkeys(range(COUNT), REACH_S)
    for pairs in rounds:
        begin = max(clock.values())  # the master waits for a whole round
        for a, b in pairs:
            clock[a] = clock[b] = begin + ROUND_S

    links = sum(map(len, rounds))
    busiest = max(sum(rank in pair for one in rounds for pair in one) for rank in (0, 1, 511, 512, 1023))
    assert len(rounds) <= 20
    assert max(clock.values()) < 15
    assert links < 11 * COUNT
    assert busiest <= 20


def test_what_a_node_must_be_told_stays_small() -> None:
    roster = {
        str(rank): public({**card(rank, COUNT), "spread_ports": list(range(6))}) for rank in range(COUNT)
    }

    assert len(json.dumps(roster)) < 1_000_000


def dead_link(facts: Facts) -> None:
    facts["links"]["512>513"] = dict(CLOSED)
    facts["links"]["513>512"] = dict(CLOSED)


def isolated(facts: Facts) -> None:
    for name in facts["links"]:
        if "700" in name.split(">"):
            facts["links"][name] = dict(CLOSED)


def deaf(facts: Facts) -> None:
    for name in facts["links"]:
        if name.endswith(">700"):
            facts["links"][name] = dict(CLOSED)


def slow(facts: Facts) -> None:
    for name in facts["links"]:
        if "700" in name.split(">"):
            facts["links"][name]["mbps"] = 40.0


def lossy(facts: Facts) -> None:
    for name in facts["links"]:
        if name.endswith(">700"):
            facts["links"][name] |= {"there": 180, "back": 180}


def small_packets(facts: Facts) -> None:
    for name in facts["links"]:
        if "700" in name.split(">"):
            facts["links"][name] |= {
                "largest_bytes": 64,
                "vanished_bytes": 8192,
                "mtu_bytes": 1400,
                "mbps": None,
            }


def halves(facts: Facts) -> None:
    for name in facts["links"]:
        a, b = map(int, name.split(">"))
        if (a < COUNT // 2) != (b < COUNT // 2):
            facts["links"][name] = dict(CLOSED)


def nothing(facts: Facts) -> None:
    pass


@pytest.mark.parametrize(
    ("inject", "cause", "culprit"),
    [
        (nothing, None, None),
        (dead_link, "network-unreachable", ["gpu512", "gpu513"]),
        (isolated, "network-unreachable", "gpu700"),
        (deaf, "network-unreachable", "gpu700"),
        (slow, "slow-link", "gpu700"),
        (lossy, "slow-link", "gpu700"),
        (small_packets, "mtu-mismatch", "gpu700"),
        (halves, "network-unreachable", None),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_sampled_links_name_the_culprit(
    inject: Callable[[Facts], None], cause: str | None, culprit: object
) -> None:
    facts = sampled()
    inject(facts)
    begin = time.monotonic()

    told: list[Finding] = [one for one in localise(facts) if one.status in (Status.FAIL, Status.WARN)]

    assert time.monotonic() - begin < 20
    assert [(one.data["cause"], one.data.get("host") or one.data.get("link")) for one in told] == (
        [(cause, culprit)] if cause else []
    )
    assert all(len(one.summary) < 2000 for one in told)
    assert sum(map(len, matrix_rows(facts))) < 20_000
    assert link_facts(facts)["nnodes"] == COUNT


def test_a_collective_that_fails_is_bisected() -> None:
    """Node 700 spoils every group it is in; groups answer as the workers do."""
    cards = {
        rank: card(rank, COUNT)
        | {"abilities": {"torch": True, "rungs": ["link.all-reduce"]}, "interfaces": []}
        for rank in range(COUNT)
    }
    sizes = []

    def order(orders: dict[int, Facts], within_s: float, phase: str) -> dict[int, Facts]:
        if all(one["do"] == "port" for one in orders.values()):
            return {rank: {"port": 1} for rank in orders}
        sizes.append(len(orders))
        spoilt = orders.get(700, {}).get("head")
        return {
            rank: {
                "result": {"right": None, "phase": "gloo communicator", "message": "m"}
                if one["head"] == spoilt
                else {"right": True}
            }
            for rank, one in orders.items()
        }

    told = climb("gloo", range(COUNT), cards, order, deep=True)

    failing = [
        group for group, results in told["pairs"].items() if not all(one["right"] for one in results.values())
    ]
    assert "700" in failing[-1].split("-")
    assert len(failing[-1].split("-")) == 2
    assert len(sizes) <= 12
