"""The upper rungs: what judges say of their results, and the real workers on this machine (gloo instead of NCCL, main memory)."""

from __future__ import annotations

import importlib.util
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from link_facts_examples import Facts, able, card, healthy

from diag.diagnose.nodes.localise import localise
from diag.model import Finding, Reason, Status
from diag.observe.links.rungs import climb, transfer
from diag.observe.probes.between import Between
from diag.observe.probes.interface import Setup

HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_NIXL = any(importlib.util.find_spec(name) for name in ("nixl", "nixl_cu12", "nixl_cu13"))
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed beside diag")
needs_nixl = pytest.mark.skipif(not HAS_NIXL, reason="nixl is not installed beside diag")
BUSY = {"hardware": {"process.gpu-users": {"users": [], "gpus": [], "hidden": 0}}}


def of(facts: Facts, test: str) -> list[Finding]:
    return [one for one in localise(facts) if one.probe == f"link.{test}"]


def stuck(phase: str = "NCCL communicator", message: str = "no end before the deadline") -> Facts:
    return {"right": None, "phase": phase, "message": message, "said": []}


def result(right: dict[str, Facts], **more: Any) -> Facts:
    return {"all": right, "pairs": {}, "changed": [], "untried": [], **more}


# judging


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"gpus": 0}, Reason.NOT_APPLICABLE, "no node has a GPU"),
        ({"busy": True}, Reason.NOT_ASKED, "processes are on the GPUs"),
        ({"busy": None}, Reason.NOT_ASKED, "not known"),
        ({"torch": False}, Reason.TOOL_MISSING, "no torch"),
        ({"rungs": []}, Reason.NOT_ASKED, "not asked for"),
    ],
)
def test_nccl_that_was_not_tried_says_why(changes: Facts, reason: Reason, words: str) -> None:
    (told,) = of(able(healthy(), **changes), "nccl")

    assert (told.status, told.reason) == (Status.SKIP, reason)
    assert words in told.summary


def test_collectives_above_a_closed_link_are_said_not_to_be_tried() -> None:
    facts = able(healthy())
    facts["links"]["1>2"] = {"stage": "tcp", "outcome": "timeout", "chosen": {}}

    assert {one.reason for test in ("nccl", "all-reduce") for one in of(facts, test)} == {
        Reason.NOT_APPLICABLE
    }


def test_nccl_that_works_says_what_was_done_and_that_it_is_unproven() -> None:
    facts = able(healthy(2))
    facts["collectives"]["nccl"] = result(
        {rank: {"right": True, "ring": True, "captured": True} for rank in "01"}
    )

    (told,) = of(facts, "nccl")

    assert told.status is Status.OK
    assert "inside a CUDA graph" in told.summary
    assert told.data["proven_on_gpu"] is False


@pytest.mark.parametrize(
    ("setting", "cause"),
    [
        ({"NCCL_IB_DISABLE": "1"}, "ib-roce-failure"),
        ({"NCCL_SOCKET_IFNAME": "=eth0"}, "nccl-wrong-interface"),
    ],
)
def test_the_variable_that_helps_names_the_cause(setting: dict[str, str], cause: str) -> None:
    facts = able(healthy())
    changed = [
        {
            "set": {"NCCL_NET_GDR_LEVEL": "LOC"},
            "cause": "gpudirect-rdma-failure",
            "right": False,
            "results": {},
        },
        {"set": setting, "cause": cause, "right": True, "results": {}},
    ]
    facts["collectives"]["nccl"] = result({str(rank): stuck() for rank in range(4)}, changed=changed)

    (told,) = of(facts, "nccl")

    assert (told.status, told.data["cause"], told.data["fix"]["settings"]) == (Status.FAIL, cause, setting)


def test_what_fails_only_inside_a_graph_is_a_capture_hang() -> None:
    facts = able(healthy(2))
    facts["collectives"]["nccl"] = result(
        {rank: stuck("NCCL all-reduce in a CUDA graph") | {"right": None} for rank in "01"}
    )

    (told,) = of(facts, "nccl")

    assert told.data["cause"] == "cudagraph-capture-hang"
    assert "passes eagerly" in told.summary


def test_pairs_point_at_the_node_they_share() -> None:
    facts = able(healthy())
    pairs = {
        f"{a}-{b}": {str(rank): stuck() if 2 in (a, b) else {"right": True} for rank in (a, b)}
        for a in range(4)
        for b in range(a + 1, 4)
    }
    facts["collectives"]["nccl"] = result({str(rank): stuck() for rank in range(4)}, pairs=pairs)

    (told,) = of(facts, "nccl")

    assert told.data["host"] == "gpu2"


def test_what_shows_at_full_size_only_is_said() -> None:
    facts = able(healthy())
    pairs = {
        "0-1": {"0": {"right": True}, "1": {"right": True}},
        "2-3": {"2": {"right": True}, "3": {"right": True}},
    }
    facts["collectives"]["nccl"] = result({str(rank): stuck() for rank in range(4)}, pairs=pairs)

    (told,) = of(facts, "nccl")

    assert "full size only" in told.summary
    assert "host" not in told.data


def test_wrong_numbers_are_never_fine() -> None:
    facts = able(healthy(2))
    facts["collectives"]["gloo"] = result(
        {"0": {"right": True, "ring": True}, "1": {"right": True, "ring": False}}
    )

    (told,) = of(facts, "all-reduce")

    assert told.status is Status.FAIL
    assert "gpu1" in told.summary


def test_a_torch_that_loads_too_slowly_is_no_broken_collective() -> None:
    facts = able(healthy(2))
    slow = {
        "right": None,
        "phase": "import torch",
        "message": "torch was still being imported",
        "slow_start": True,
    }
    facts["collectives"]["gloo"] = result({"0": stuck("TCPStore"), "1": slow})

    (told,) = of(facts, "all-reduce")

    assert (told.status, told.reason) == (Status.UNKNOWN, Reason.TIMEOUT)
    assert "gpu1" in told.summary


def test_a_nixl_that_starts_too_slowly_is_no_broken_backend() -> None:
    facts = able(healthy(2))
    late = {"error": "NIXL did not start within 12 s", "phase": "start", "slow_start": True}
    facts["transfer"] = {"nodes": {"0": late, "1": {"lanes": []}}, "links": {}}

    (told,) = of(facts, "nixl")

    assert (told.status, told.reason) == (Status.UNKNOWN, Reason.TIMEOUT)


def reads(facts: Facts, bad: dict[str, Facts]) -> Facts:
    links = {f"{a}>{b}": {"outcome": "ok", "ms": 20.0} for a in range(4) for b in range(4) if a != b}
    facts["transfer"] = {
        "nodes": {str(rank): {"lanes": ["inter-node: rma(tcp/eth0)"]} for rank in range(4)},
        "links": links | bad,
    }
    return facts


def test_kv_reads_that_work_name_the_devices() -> None:
    (told,) = of(reads(able(healthy()), {}), "nixl")

    assert told.status is Status.OK
    assert "tcp/eth0" in told.summary


@pytest.mark.parametrize(
    ("outcome", "settings", "cause"),
    [
        ("timeout", {}, "kv-transfer-hang"),
        ("error", {}, "nixl-ucx-error"),
        ("timeout", {"UCX_NET_DEVICES": "docker0"}, "ucx-wrong-interface"),
    ],
)
def test_a_kv_read_that_fails_is_told_with_its_node(
    outcome: str, settings: dict[str, str], cause: str
) -> None:
    bad = {
        name: {"outcome": outcome, "state": "PROC", "message": "m"}
        for name in ("2>0", "2>1", "2>3", "0>2", "1>2", "3>2")
    }

    told = [
        one for one in of(reads(able(healthy(), settings=settings), bad), "nixl") if one.status is Status.FAIL
    ]

    assert [(one.data["cause"], one.data["host"]) for one in told] == [(cause, "gpu2")]


def test_a_service_port_that_is_closed_in_one_direction_names_the_link() -> None:
    facts = able(healthy())
    for name, link in facts["links"].items():
        link["services"] = {
            "NIXL's side channel": {"port": 5600, "outcome": "timeout" if name == "1>3" else "ok"}
        }

    (told,) = of(facts, "services")

    assert (told.status, told.data["cause"], told.data["link"]) == (
        Status.FAIL,
        "network-unreachable",
        ["gpu1", "gpu3"],
    )


# the real workers


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Nodes:
    """Several nodes' own parts in one process; `order` does for them what the master's connections do."""

    def __init__(
        self,
        count: int,
        rungs: tuple[str, ...],
        env: dict[int, dict[str, str]] | None = None,
        facts: Facts | None = None,
    ) -> None:
        self.between = [
            Between(
                Setup(env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {}).get(rank, {})}),
                facts or BUSY,
                rungs,
            )
            for rank in range(count)
        ]
        self.cards = {
            rank: card(rank, count) | {"abilities": dict(one.abilities)}
            for rank, one in enumerate(self.between)
        }
        for one in self.cards.values():
            one["address"] = "127.0.0.1"
            one["interfaces"] = [
                {"name": "lo", "kind": "loopback", "addresses": [{"family": "ipv4", "address": "127.0.0.1"}]}
            ]
        self.phases: list[str] = []
        self.pool = ThreadPoolExecutor(8)  # kept: a worker dies with the thread that started it

    def order(self, orders: dict[int, Facts], within_s: float, phase: str) -> dict[int, Facts]:
        self.phases.append(phase)
        return dict(
            zip(orders, self.pool.map(lambda rank: self.obey(rank, orders[rank]), orders), strict=True)
        )

    def obey(self, rank: int, order: Facts) -> Facts:
        if order["do"] == "port":
            return {"port": free_port()}
        if order["do"] == "collective":
            return {
                "result": self.between[rank].collective({**order, "address": "127.0.0.1", "deadline_s": 90})
            }
        return {"result": self.between[rank].transfer(order)}

    def close(self) -> None:
        for one in self.between:
            one.transfer({"step": "close"})


@needs_torch
def test_a_store_an_all_reduce_and_a_ring_over_three_nodes() -> None:
    nodes = Nodes(3, ("link.all-reduce",))

    told = climb("gloo", [0, 1, 2], nodes.cards, nodes.order, deep=False)

    assert {rank: (one["right"], one["ring"]) for rank, one in told["all"].items()} == dict.fromkeys(
        "012", (True, True)
    )
    assert told["changed"] == [] == told["untried"]


@needs_torch
def test_one_variable_is_changed_to_tell_the_cause() -> None:
    """An interface that is not there: the launch's own variables fail, the one that carries the address passes."""
    nodes = Nodes(2, ("link.all-reduce",), {rank: {"GLOO_SOCKET_IFNAME": "nope0"} for rank in range(2)})

    told = climb("gloo", [0, 1], nodes.cards, nodes.order, deep=True)

    assert all(one["right"] is None and one["phase"] == "gloo communicator" for one in told["all"].values())
    assert [(one["set"], one["right"]) for one in told["changed"]] == [({"GLOO_SOCKET_IFNAME": "lo"}, True)]


def test_an_experiment_on_machines_too_busy_to_start_it_proves_nothing_and_is_the_last() -> None:
    phases: list[str] = []

    def order(orders: dict[int, Facts], within_s: float, phase: str) -> dict[int, Facts]:
        phases.append(phase)
        if phase == "finding a free port":
            return {rank: {"port": 1} for rank in orders}
        failed = {"right": None, "phase": "gloo communicator", "message": "no end before the deadline"}
        late = {"right": None, "phase": "import torch", "message": "still being imported", "slow_start": True}
        return {rank: {"result": late if rank and one["env"] else failed} for rank, one in orders.items()}

    cards = able(healthy(4))["nodes"]
    told = climb("gloo", range(4), {rank: cards[str(rank)] for rank in range(4)}, order, deep=False)

    assert phases.count("the gloo all-reduce") == 2
    assert (told["changed"], told["pairs"]) == ([], {})
    assert told["untried"][0] == "GLOO_SOCKET_IFNAME"
    assert len(told["untried"]) == 1 + 6


@needs_torch
def test_pairs_are_tried_where_no_variable_helps() -> None:
    nodes = Nodes(3, ("link.all-reduce",), {2: {"GLOO_SOCKET_IFNAME": "nope0"}})
    for one in nodes.cards.values():
        one["interfaces"] = []  # so that nothing is known to change

    told = climb("gloo", [0, 1, 2], nodes.cards, nodes.order, deep=True)

    assert {name: all(one.get("right") for one in group.values()) for name, group in told["pairs"].items()} == {
        "0-1": True, "0-2": False, "1-2": False,
    }  # fmt: skip


@needs_torch
def test_nccl_without_a_gpu_is_absent_not_broken() -> None:
    """Nodes that claim GPUs and have a torch without CUDA: the NCCL order goes out, and comes back as not there."""
    facts = {**BUSY, "hardware": {**BUSY["hardware"], "gpu.inventory": {"gpus": [{"name": "T4"}]}}}
    nodes = Nodes(2, ("link.nccl",), facts=facts)
    assert nodes.cards[0]["abilities"]["busy"] is False

    told = climb("nccl", [0, 1], nodes.cards, nodes.order, deep=False)

    assert {one["absent"] for one in told["all"].values()} == {"torch sees no GPU"}


@needs_torch
def test_a_rank_whose_peers_never_come_ends_and_says_where() -> None:
    alone = Between(Setup(env={**os.environ, "OMP_NUM_THREADS": "1"}), BUSY, ("link.all-reduce",))
    begin = time.monotonic()

    told = alone.collective(
        {"backend": "gloo", "steps": [], "rank": 0, "world": 2, "address": "127.0.0.1", "port": free_port()}
    )

    assert time.monotonic() - begin < 60
    assert told["right"] is None
    assert told["phase"] in ("TCPStore", "gloo communicator")


@pytest.fixture
def nixl_nodes() -> Iterator[Nodes]:
    env = {"UCX_TLS": "tcp,self"}
    nodes = Nodes(2, ("link.nixl",), {0: env, 1: env})
    yield nodes
    nodes.close()


@needs_nixl
def test_nixl_reads_both_ways(nixl_nodes: Nodes) -> None:
    told = transfer([0, 1], nixl_nodes.cards, lambda a, b: True, nixl_nodes.order)

    assert {name: one["outcome"] for name, one in told["links"].items()} == {"0>1": "ok", "1>0": "ok"}
    assert "tcp/" in " ".join(told["nodes"]["0"]["lanes"])
    assert "metadata" not in told["nodes"]["0"]
    assert nixl_nodes.phases[-1] == "ending NIXL"


@needs_nixl
def test_a_peer_whose_memory_is_gone_ends_in_time(nixl_nodes: Nodes) -> None:
    """The other agent dies between handing out its memory and being read."""
    first, second = nixl_nodes.between
    opened = second.transfer({"step": "open"})
    assert first.transfer({"step": "open"})["metadata"]
    second.transfer({"step": "close"})
    begin = time.monotonic()

    told = first.transfer({"step": "read", "peers": {"1": opened}})

    assert time.monotonic() - begin < 15
    assert told["reads"]["1"]["outcome"] in ("error", "timeout")
