"""All judges of the links, and the matrix as a reader sees it. Pure functions over `run_links`' facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diag.diagnose.nodes.identity import judge_identity
from diag.diagnose.nodes.meeting import judge_meeting
from diag.diagnose.nodes.quality import LOSS_FAIL, SLOW_SHARE, judge_quality
from diag.diagnose.nodes.reachability import judge_choice, judge_reach
from diag.diagnose.nodes.upper import judge_upper
from diag.diagnose.nodes.view import Link, View, found
from diag.model import Finding, Reason, Status
from diag.observe.links.lead import ends_of, usual_rate

MOST_ROWS = 16


def localise(facts: Mapping[str, Any]) -> list[Finding]:
    """Findings `link.*` of one job. `data.cause` is a cause id, `data.host` or `data.link` the culprit."""
    view = View(facts)
    return [
        *judge_meeting(view), *judge_identity(view), *judge_reach(view), *judge_choice(view), *judge_quality(view),
        *judge_upper(view), *_unmeasured(view),
    ]  # fmt: skip


def _unmeasured(view: View) -> list[Finding]:
    if not view.facts.get("unmeasured"):
        return []
    text = f"{view.facts['unmeasured']} pairs of nodes were not measured: bad links had used up the time"
    remedy = "repair what was found and run again, or use --deep"
    return [found("pairs", Status.UNKNOWN, text, reason=Reason.TIMEOUT, remedy=remedy)]


def link_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """`facts.network.links` of the report: the matrix, by node rank; {nodes, matrix, rtt_ms, mbps, ...} ready for JSON."""
    view = View(facts)
    rates = {ends_of(name): float(seen["mbps"]) for name, seen in facts["links"].items() if seen.get("mbps")}
    usual = usual_rate(rates) if rates else None
    return {
        "nnodes": facts["nnodes"], "node_rank": facts["node_rank"], "launcher": facts.get("launcher"), "met": facts["met"],
        "missing": facts["missing"], "silent": {rank: dict(one) for rank, one in facts["silent"].items()}, "meeting": facts.get("steps"),
        "nodes": {
            str(rank): {"hostname": card.get("hostname"), "address": card.get("address"), "version": card.get("version"),
                        "nnodes": card.get("nnodes"), "world_size": card.get("world_size")}
            for rank, card in sorted(view.cards.items())
        },
        "links": {
            name: _state_of(view, name, seen, usual) | {
                key: seen[key]
                for key in ("stage", "outcome", "rendezvous_port", "ports", "services", "interface", "rtt_ms", "clock_ahead_s", "largest_bytes", "mtu_bytes", "mbps", "sent", "there", "back")
                if key in seen
            }
            for name, seen in facts["links"].items()
        },
        "collectives": {backend: dict(one) for backend, one in facts["collectives"].items()}, "transfer": dict(facts["transfer"]),
        "took_s": facts.get("took_s"),
    }  # fmt: skip


def _state_of(view: View, name: str, seen: Mapping[str, Any], usual: float | None) -> dict[str, Any]:
    """{state, share of this job's usual bandwidth}, as the grid of a report shows it."""
    link = Link(*ends_of(name), seen)
    share = round(float(seen["mbps"]) / usual, 3) if usual and seen.get("mbps") else None
    lossy = link.lossy or any(
        lost is not None and lost >= LOSS_FAIL * 2 for lost in (link.lost_there, link.lost_back)
    )
    if "stage" not in seen and "outcome" not in seen:
        state = "unmeasured"
    elif lossy:
        state = "lossy"
    elif not link.open:
        state = "closed"
    elif link.closed_ports:
        state = "part"
    elif seen.get("vanished_bytes"):
        state = "cut"
    else:
        state = "slow" if share is not None and share < SLOW_SHARE else "open"
    return {"state": state, "share": share}


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
