"""From a matrix to the culprit: synthetic matrices of many shapes, each with one fault put in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from link_facts_examples import CLOSED, Facts, card, healthy

from diag.diagnose.nodes.apart import join_reports
from diag.diagnose.nodes.compare import compare_traits
from diag.diagnose.nodes.localise import link_facts, localise, matrix_rows
from diag.model import Finding, Status
from diag.observe.reports import NodeReport


def close(facts: Facts, *ends: tuple[int, int], **more: Any) -> None:
    for a, b in ends:
        facts["links"][f"{a}>{b}"] = {**CLOSED, **more}


def wrong(facts: Facts) -> list[Finding]:
    return [one for one in localise(facts) if one.status in (Status.FAIL, Status.WARN)]


@pytest.mark.parametrize("count", [2, 3, 8])
def test_a_healthy_matrix_accuses_nobody(count: int) -> None:
    assert wrong(healthy(count)) == []


def test_every_judge_says_what_it_measured() -> None:
    assert {one.probe for one in localise(healthy())} == {
        "link.meeting", "link.tcp", "link.loss", "link.mtu", "link.bandwidth", "link.clock", "link.nccl", "link.nixl", "link.all-reduce",
    }  # fmt: skip


def dead_link(facts: Facts) -> None:
    close(facts, (1, 2), (2, 1))


def one_direction(facts: Facts) -> None:
    close(facts, (1, 2))


def isolated(facts: Facts) -> None:
    close(facts, *[(2, other) for other in (0, 1, 3)], *[(other, 2) for other in (0, 1, 3)])


def inbound(facts: Facts) -> None:
    close(facts, *[(other, 2) for other in (0, 1, 3)], rendezvous_port="ok")


def two_groups(facts: Facts) -> None:
    close(facts, *[(a, b) for a in (0, 1) for b in (2, 3)], *[(b, a) for a in (0, 1) for b in (2, 3)])


def everything(facts: Facts) -> None:
    close(facts, *[tuple(map(int, name.split(">"))) for name in facts["links"]], rendezvous_port="ok")  # type: ignore[arg-type]


def slow_node(facts: Facts) -> None:
    for name in facts["links"]:
        if "2" in name:
            facts["links"][name]["mbps"] = 10.0


def slow_link(facts: Facts) -> None:
    facts["links"]["1>2"]["mbps"] = 10.0


def lossy_node(facts: Facts) -> None:
    for name in facts["links"]:
        if name.endswith(">2"):
            facts["links"][name] |= {"there": 190, "back": 190}


def black_hole(facts: Facts) -> None:
    for name in facts["links"]:
        if "2" in name:
            facts["links"][name] |= {
                "largest_bytes": 64,
                "vanished_bytes": 8192,
                "mtu_bytes": 1400,
                "mbps": None,
            }


def other_mtu(facts: Facts) -> None:
    facts["nodes"]["2"]["interfaces"][0]["mtu_bytes"] = 1400
    for name in facts["links"]:
        if "2" in name:
            facts["links"][name]["mtu_bytes"] = 1400


def docker_everywhere(facts: Facts) -> None:
    for name in facts["links"]:
        facts["links"][name]["chosen"] = {
            "nccl": {"interface": "docker0", "address": "172.17.0.1", "by": "NCCL_SOCKET_IFNAME=docker0",
                     "outcome": "own-loopback", "detail": ""}
        }  # fmt: skip


def same_name(facts: Facts) -> None:
    facts["nodes"]["2"]["hostname"] = "gpu1"


def other_world(facts: Facts) -> None:
    facts["nodes"]["2"]["world_size"] = 16


def frozen(facts: Facts) -> None:
    facts["silent"] = {"2": {"phase": "measuring", "how": "timeout"}}


def never_came(facts: Facts) -> None:
    facts["nodes"].pop("3")
    facts["missing"] = [3]
    facts["links"] = {name: seen for name, seen in facts["links"].items() if "3" not in name}


def twice(facts: Facts) -> None:
    never_came(facts)
    facts["sent_away"] = [
        {
            "hostname": "gpu3",
            "node_rank": 2,
            "nnodes": 4,
            "world_size": 32,
            "why": "rank-taken",
            "first": "gpu2",
        }
    ]


@pytest.mark.parametrize(
    ("fault", "cause", "culprit"),
    [
        (dead_link, "network-unreachable", ["gpu1", "gpu2"]), (one_direction, "network-unreachable", ["gpu1", "gpu2"]),
        (isolated, "network-unreachable", "gpu2"), (inbound, "network-unreachable", "gpu2"),
        (two_groups, "network-unreachable", None), (everything, "network-unreachable", None),
        (slow_node, "slow-link", "gpu2"), (slow_link, "slow-link", ["gpu1", "gpu2"]), (lossy_node, "slow-link", "gpu2"),
        (black_hole, "mtu-mismatch", "gpu2"), (other_mtu, "mtu-mismatch", "gpu2"),
        (docker_everywhere, "nccl-wrong-interface", None), (same_name, "hostname-collision", "gpu1"),
        (other_world, "launcher-layout", "gpu2"), (frozen, "rendezvous-timeout", "gpu2"),
        (never_came, "rendezvous-timeout", None), (twice, "launcher-layout", "gpu3"),
    ],
)  # fmt: skip
def test_one_fault_is_one_finding_with_its_culprit(
    fault: Callable[[Facts], None], cause: str, culprit: Any
) -> None:
    facts = healthy()
    fault(facts)

    told = wrong(facts)

    assert [(one.status, one.data.get("cause")) for one in told] == [(Status.FAIL, cause)]
    assert told[0].data.get("host", told[0].data.get("link")) == culprit


def test_a_dead_direction_is_told_by_the_datagrams_that_arrived() -> None:
    facts = healthy()
    close(facts, (1, 2), (2, 1))
    facts["links"]["2>1"] |= {"there": 50}

    assert "packets from gpu1 (node 1) to gpu2 (node 2) vanish" in wrong(facts)[0].summary


def test_open_rendezvous_port_is_named() -> None:
    facts = healthy()
    everything(facts)

    assert "port 29511 passes, ephemeral ports do not" in wrong(facts)[0].summary


def test_a_clock_far_off_is_a_warning_without_a_cause() -> None:
    facts = healthy()
    for name in facts["links"]:
        facts["links"][name]["clock_ahead_s"] = (
            600.0 if name.endswith(">2") else -600.0 if name.startswith("2>") else 0.0
        )

    told = wrong(facts)

    assert [(one.status, one.data.get("host"), one.data.get("cause")) for one in told] == [
        (Status.WARN, "gpu2", None)
    ]


@pytest.mark.parametrize(
    ("outcome", "cause", "host"),
    [
        ("unresolved", "dns-failure", "gpu2"), ("timeout", "network-unreachable", "gpu2"), ("refused", "network-unreachable", "gpu2"),
        ("nobody-home", "rendezvous-timeout", "gpu2"), ("loopback", "host-ip-wrong", "gpu2"), ("wrong-program", "port-in-use", None),
        ("silent", "port-in-use", None), ("not-the-master", "rendezvous-timeout", "gpu2"), ("wrong-protocol", "version-skew", "gpu2"),
        ("rank-taken", "launcher-layout", "gpu2"),
    ],
)  # fmt: skip
def test_who_cannot_meet_says_where_it_ended(outcome: str, cause: str, host: str | None) -> None:
    steps = {"host": "gpu0", "port": 29511, "steps": [{"stage": "name", "outcome": "ok", "detail": "gpu0 is 10.0.0.1"}],
             "ended_at": "tcp", "outcome": outcome, "detail": "", "tries": 5, "took_s": 20.0}  # fmt: skip
    facts = {
        **healthy(),
        "met": False,
        "steps": steps,
        "links": {},
        "node_rank": 2,
        "nodes": {"2": card(2, 4)},
    }

    told = wrong(facts)

    assert [(one.data["cause"], one.data.get("host")) for one in told] == [(cause, host)]
    assert "gpu0:29511" in told[0].summary


def test_facts_and_rows_are_plain() -> None:
    facts = healthy()
    dead_link(facts)

    assert link_facts(facts)["links"]["1>2"]["outcome"] == "timeout"
    assert matrix_rows(facts) == [
        "links of gpu1 (node 1): to node 2 timeout; 2 open", "links of gpu2 (node 2): to node 1 timeout; 2 open"
    ]  # fmt: skip


def test_the_odd_node_is_told_in_few_words() -> None:
    nodes = {f"node{rank}": {"driver": "550.127.05", "torch": "2.6.0"} for rank in range(8)}
    nodes["node2"] = {"driver": "550.90.07", "torch": "2.6.0"}

    told = compare_traits(nodes, hosts={"node2": "node2"})

    assert [one.summary for one in told] == [
        "node2 differs from 7 others: driver 550.90.07 (others 550.127.05)"
    ]
    assert told[0].status is Status.WARN


def test_a_version_that_a_job_does_not_survive_is_a_failure() -> None:
    nodes = {f"node{rank}": {"NCCL": "2.27.3"} for rank in range(4)} | {"node9": {"NCCL": "2.21.5"}}

    told = compare_traits(nodes, hosts={"node9": "node9"})

    assert [(one.status, one.data["cause"], one.data["host"]) for one in told] == [
        (Status.FAIL, "nccl-version-mismatch", "node9")
    ]


def test_a_variable_that_is_not_set_differs_and_a_probe_that_could_not_look_does_not() -> None:
    nodes: dict[str, dict[str, str]] = {
        f"node{rank}": {"NCCL_ALGO": "Ring", "torch": "2.6"} for rank in range(3)
    }
    nodes["node3"] = {}

    told = compare_traits(nodes)

    assert [one.summary for one in told] == ["node3 differs from 3 others: NCCL_ALGO not set (others Ring)"]


def test_two_nodes_have_no_majority() -> None:
    told = compare_traits({"a": {"torch": "2.6"}, "b": {"torch": "2.7"}})

    assert [one.summary for one in told] == ["the nodes differ: torch 2.6 on a; 2.7 on b"]


def as_report(name: str, facts: Facts) -> NodeReport:
    rank = facts["node_rank"]
    return NodeReport(
        f"{name}.json",
        tuple(localise(facts)),
        {"host": {"node": {"hostname": name, "node_rank": rank, "nnodes": facts["nnodes"]}}},
    )


def test_a_node_that_says_why_it_did_not_come_stands_for_the_master_that_missed_it() -> None:
    steps = {
        "host": "gpu0",
        "port": 29511,
        "steps": [],
        "ended_at": "tcp",
        "outcome": "timeout",
        "detail": "",
        "tries": 5,
        "took_s": 20.0,
    }
    master = healthy()
    never_came(master)
    stranded = {
        **healthy(),
        "met": False,
        "steps": steps,
        "links": {},
        "node_rank": 3,
        "nodes": {"3": card(3, 4)},
    }

    told = [
        one
        for one in join_reports([as_report("gpu0", master), as_report("gpu3", stranded)])
        if one.status is Status.FAIL
    ]

    assert [(one.data["cause"], one.data["host"], one.data["certain"]) for one in told] == [
        ("network-unreachable", "gpu3", True)
    ]


def test_what_all_nodes_say_is_told_once() -> None:
    facts = healthy(2)
    dead = {**facts, "links": {"0>1": dict(CLOSED), "1>0": dict(CLOSED)}}

    told = join_reports([as_report(f"gpu{rank}", {**dead, "node_rank": rank}) for rank in range(2)])

    assert [one.probe for one in told if one.status is Status.FAIL] == ["link.tcp"]


def test_nodes_without_a_report_are_named() -> None:
    told = join_reports([as_report("gpu0", healthy()), as_report("gpu2", {**healthy(), "node_rank": 2})])

    assert [one.summary for one in told if one.status is Status.WARN] == [
        "reports of 2 of 4 nodes: none of node 1, 3"
    ]
