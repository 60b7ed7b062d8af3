"""All judges of the links, and the matrix as a reader sees it. Pure functions over `run_links`' facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diag.diagnose.nodes.meeting import judge_identity, judge_meeting
from diag.diagnose.nodes.quality import judge_quality
from diag.diagnose.nodes.reachability import judge_choice, judge_reach
from diag.diagnose.nodes.view import View, found
from diag.model import Finding, Reason, Status

MOST_ROWS = 16


def localise(facts: Mapping[str, Any]) -> list[Finding]:
    """Findings `link.*` of one job. `data.cause` is a cause id, `data.host` or `data.link` the culprit."""
    view = View(facts)
    return [
        *judge_meeting(view), *judge_identity(view), *judge_reach(view), *judge_choice(view), *judge_quality(view),
        *_judge_collective(view), *_rungs_not_climbed(view),
    ]  # fmt: skip


def _judge_collective(view: View) -> list[Finding]:
    combined = view.facts.get("collective")
    if not combined:
        return []
    results = {int(rank): one for rank, one in combined.items()}
    absent = [rank for rank, one in results.items() if one.get("absent")]
    if absent:
        return []  # the node's own all-reduce probe says that torch is missing, and what to do
    if all(one.get("right") for one in results.values()):
        return [
            found(
                "all-reduce",
                Status.OK,
                f"TCPStore and a gloo all-reduce over {len(results)} nodes give the right numbers",
            )
        ]
    wrong = [rank for rank, one in results.items() if one.get("right") is False]
    if wrong:
        return [
            found(
                "all-reduce", Status.FAIL, f"the gloo all-reduce gives wrong numbers on {view.names(wrong)}"
            )
        ]
    bad = {rank: one for rank, one in results.items() if not one.get("right")}
    said = "; ".join(
        f"{view.name(rank)}: {one.get('phase', '?')}: {one.get('message', '')[:160]}"
        for rank, one in list(bad.items())[:3]
    )
    text = f"the gloo all-reduce over {len(results)} nodes fails on {view.names(bad)}: {said}"
    return [found("all-reduce", Status.FAIL, text)]


def _rungs_not_climbed(view: View) -> list[Finding]:
    """The ladder's upper rungs, which this version does not test between nodes: said, never passed over."""
    if not view.links:
        return []
    traits = [card.get("traits", {}) for card in view.cards.values()]
    result = []
    if view.facts.get("unmeasured"):
        text = f"{view.facts['unmeasured']} pairs of nodes were not measured: bad links had used up the time"
        result.append(
            found(
                "pairs",
                Status.UNKNOWN,
                text,
                reason=Reason.TIMEOUT,
                remedy="repair what was found and run again, or use --deep",
            )
        )
    for test, trait, title, remedy in (
        (
            "nccl",
            "GPUs",
            "NCCL between the nodes",
            "run a small torchrun all-reduce with NCCL_DEBUG=INFO and give its log to diag explain",
        ),
        (
            "nixl",
            "nixl",
            "KV transfer with NIXL",
            "start one prefill and one decode worker with UCX_LOG_LEVEL=info and give their logs to diag explain",
        ),
    ):
        if any(trait in one for one in traits):
            text = f"{title} is not tested by this version; TCP, large packets and bandwidth of the same links were"
            result.append(found(test, Status.SKIP, text, reason=Reason.NOT_ASKED, remedy=remedy))
        else:
            what = "no node has a GPU that diag has seen" if test == "nccl" else "nixl was seen on no node"
            result.append(found(test, Status.SKIP, f"{title}: {what}", reason=Reason.NOT_APPLICABLE))
    return result


def link_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """`facts.network.links` of the report: the matrix, by node rank; {nodes, matrix, rtt_ms, mbps, ...} ready for JSON."""
    view = View(facts)
    return {
        "nnodes": facts["nnodes"], "node_rank": facts["node_rank"], "launcher": facts.get("launcher"), "met": facts["met"],
        "missing": facts["missing"], "silent": dict(facts["silent"]), "meeting": facts.get("steps"),
        "nodes": {
            str(rank): {"hostname": card.get("hostname"), "address": card.get("address"), "version": card.get("version"),
                        "nnodes": card.get("nnodes"), "world_size": card.get("world_size")}
            for rank, card in sorted(view.cards.items())
        },
        "links": {
            name: {
                key: seen[key]
                for key in ("stage", "outcome", "rendezvous_port", "interface", "rtt_ms", "clock_ahead_s", "largest_bytes", "mtu_bytes", "mbps", "sent", "there", "back")
                if key in seen
            }
            for name, seen in facts["links"].items()
        },
        "took_s": facts.get("took_s"),
    }  # fmt: skip


def matrix_rows(facts: Mapping[str, Any]) -> list[str]:
    """One sentence a node that has a bad link, fit for a note: `links of gpu1 (node 1): -> 2 timeout`."""
    view = View(facts)
    rows = []
    for rank in view.ranks:
        bad = [
            f"to node {link.b} {link.seen.get('outcome', '?')}"
            for link in view.links
            if link.a == rank and not link.open
        ]
        fine = sum(link.open for link in view.links if link.a == rank)
        if bad:
            more = f" and {len(bad) - 8} more" if len(bad) > 8 else ""
            rows.append(f"links of {view.name(rank)}: {', '.join(bad[:8])}{more}; {fine} open")
    return rows[:MOST_ROWS]
