"""Who could not meet, and why: the launch's layout, names, the master's port. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from diag.diagnose.nodes.view import View, found
from diag.model import Finding, Reason, Status

_ENDS: dict[str, tuple[str, str]] = {
    "unresolved": ("dns-failure", "the master's name does not resolve on this node"),
    "unroutable": ("network-unreachable", "there is no way to the master from this node"),
    "nobody-home": (
        "rendezvous-timeout",
        "no machine answers to the master's address: MASTER_ADDR is wrong on this node, or that machine is off",
    ),
    "loopback": ("host-ip-wrong", "the master's name leads this node to itself"),
    "refused": (
        "network-unreachable",
        "the master's port is closed: no `diag run` listens there, MASTER_ADDR is wrong, or a firewall rejects",
    ),
    "timeout": (
        "network-unreachable",
        "packets to the master vanish: a firewall drops them, or the address is wrong",
    ),
    "silent": (
        "port-in-use",
        "another program holds the master's port (or the master's process stands still)",
    ),
    "wrong-program": ("port-in-use", "another program holds the master's port"),
    "closed": ("port-in-use", "another program holds the master's port"),
    "not-the-master": ("rendezvous-timeout", "MASTER_ADDR of this node names a node that is not the master"),
    "wrong-protocol": ("version-skew", "the nodes run versions of diag that do not understand each other"),
    "own-loopback": ("host-ip-wrong", "the master's address leads this node to itself"),
    "too-late": ("rendezvous-timeout", "this node came after the others had begun without it"),
    "rank-taken": ("launcher-layout", "this node's rank is used twice"),
    "rank-out-of-range": (
        "launcher-layout",
        "this node's rank is larger than the master's number of nodes allows",
    ),
}
"""How an attempt to meet can end -> (cause, what that means)."""

MOST_NAMED = 12
"""Nodes that get a finding of their own; of a thousand missing ones nobody reads a thousand sentences."""
OTHERS_FAULT = ("silent", "wrong-program", "closed")


def judge_meeting(view: View) -> list[Finding]:
    """What this node knows about who met whom; one OK finding where all did."""
    facts = view.facts
    result = [*_taken(view), *_not_met(view)]
    if facts.get("lost"):
        lost = facts["lost"]
        text = f"the master stopped talking during {lost['after']} ({lost['how']}): it died, froze or was cut off"
        result.append(
            found("meeting", Status.FAIL, text, cause="rendezvous-timeout", certain=False, component="node 0")
        )
    result += [*_sizes(view), *_sent_away(view), *_missing(view), *_silent(view)]
    if facts["met"] and not result:
        count = len(facts["nodes"])
        waited = f", the last after {facts['meeting_s']:.0f} s" if facts.get("meeting_s", 0) >= 3 else ""
        result.append(found("meeting", Status.OK, f"all {count} nodes met{waited}"))
    return result


def _taken(view: View) -> list[Finding]:
    taken = view.facts["taken"]
    if not taken:
        return []
    port = view.facts["master"]["port"]
    text = (
        f"port {port} on the master {view.host(0)} is already taken by {taken['who']}: nobody can meet here"
    )
    fix = {
        "do": f"End that process, or choose another port (MASTER_PORT, --master HOST:PORT) than {port}.",
        "risk": "restarts-job",
    }
    return [found("meeting", Status.FAIL, text, cause="port-in-use", host=view.host(0), port=port, fix=fix)]


def _not_met(view: View) -> list[Finding]:
    steps = view.facts["steps"]
    if not steps or view.facts["met"] or view.facts.get("lost"):
        return []
    outcome = steps["outcome"]
    cause, meaning = _ENDS.get(outcome, ("rendezvous-timeout", "the meeting failed"))
    rank, own = view.own_rank, view.host(view.own_rank)
    tried = " → ".join(f"{step['stage']}: {step['detail'] or step['outcome']}" for step in steps["steps"])
    text = f"{own} (node {rank}) cannot meet the master at {steps['host']}:{steps['port']}: {meaning}; {tried} ({steps['tries']} tries in {steps['took_s']:.0f} s)"
    data: dict[str, Any] = {
        "ended_at": steps["ended_at"],
        "outcome": outcome,
        "node_rank": rank,
        "master": steps["host"],
        "port": steps["port"],
    }
    if outcome not in OTHERS_FAULT:
        data["host"] = own
    if outcome in ("timeout", "refused", "unroutable"):
        data["link"] = [own, steps["host"]]
        data["certain"] = False
    return [found("meeting", Status.FAIL, text, subject=f"node {rank}", cause=cause, **data)]


def _sizes(view: View) -> list[Finding]:
    """Nodes that believe in another number of nodes or ranks than most."""
    claims = {f"node {rank}": card for rank, card in view.cards.items()}
    claims |= {f"node {one.get('node_rank')} (sent away)": one for one in view.facts["sent_away"]}
    result = []
    for key, what in (("nnodes", "nodes"), ("world_size", "ranks (WORLD_SIZE)")):
        told = {who: card[key] for who, card in claims.items() if card.get(key) is not None}
        if len(set(told.values())) < 2:
            continue
        usual, votes = Counter(told.values()).most_common(1)[0]
        odd = [who for who, value in told.items() if value != usual]
        hosts = [str(claims[who].get("hostname")) for who in odd]
        tie = votes * 2 <= len(told)
        sides = "; ".join(
            f"{claims[who].get('hostname')} ({who}): {value}"
            for who, value in told.items()
            if tie or value != usual
        )
        rest = "" if tie else f"; the other {votes} say {usual}"
        text = f"the nodes disagree about the number of {what}: {sides}{rest}"
        data: dict[str, Any] = {"host": hosts[0]} if len(hosts) == 1 and not tie else {}
        fix = {
            "do": f"Give every node the same number of {what}" + ("." if tie else f": {usual}."),
            "risk": "restarts-job",
        }
        result.append(
            found("layout", Status.FAIL, text, subject=key, cause="launcher-layout", fix=fix, **data)
        )
    return result


def _sent_away(view: View) -> list[Finding]:
    result = []
    for one in view.facts["sent_away"]:
        rank, host = one.get("node_rank"), one.get("hostname")
        if one["why"] == "rank-taken":
            free = ", ".join(map(str, view.facts["missing"]))
            text = f"node rank {rank} is used twice: by {one.get('first')} and by {host}" + (
                f"; nobody is node {free}" if free else ""
            )
            fix = {
                "do": f"Give {host} its own node rank" + (f" ({free})." if free else "."),
                "risk": "restarts-job",
            }
            result.append(
                found(
                    "layout",
                    Status.FAIL,
                    text,
                    subject=f"node rank {rank}",
                    cause="launcher-layout",
                    host=host,
                    first=one.get("first"),
                    fix=fix,
                )
            )
        elif not any(finding.data.get("host") == host for finding in _sizes(view)):
            text = f"{host} says it is node {rank}, but the master expects {view.facts['nnodes']} nodes"
            result.append(
                found(
                    "layout",
                    Status.FAIL,
                    text,
                    subject=f"node rank {rank}",
                    cause="launcher-layout",
                    host=host,
                )
            )
    return result


def _missing(view: View) -> list[Finding]:
    facts = view.facts
    if view.facts["taken"] or (view.own_rank != 0 and not facts["met"]):
        return []
    astray = {one["node_rank"]: one for one in facts["knocks"] if one.get("node_rank") is not None}
    result = []
    for rank, one in sorted(astray.items()):
        if rank in view.cards:
            continue
        same = one["master"] == f"{facts['master']['host']}:{facts['master']['port']}" and not _numeric(
            str(facts["master"]["host"])
        )
        text = (
            f"{one['hostname']} (node {rank}) looks for the master at {one['master']}, where another node answers: "
            + ("the name leads it to another address than the others" if same else "its MASTER_ADDR is wrong")
        )
        result.append(
            found(
                "meeting",
                Status.FAIL,
                text,
                subject=f"node {rank}",
                cause="host-ip-wrong" if same else "rendezvous-timeout",
                host=one["hostname"],
                node_rank=rank,
            )
        )
    away = len(facts["sent_away"])
    missing = [rank for rank in facts["missing"] if rank not in astray]
    if away >= len(missing):  # they came under another number
        return result
    came = f"{len(view.cards)} of {facts['nnodes']} nodes came"
    named = facts.get("expected_hosts") or []
    if len(missing) > MOST_NAMED:
        who = ", ".join(named[rank] if rank < len(named) else str(rank) for rank in missing[:12])
        text = f"{len(missing)} nodes never came within {facts.get('meeting_s', 0):.0f} s ({came}): {who} and {len(missing) - 12} more"
        more: dict[str, Any] = {"node_ranks": missing, "missed": True}
        return [
            *result,
            found("meeting", Status.FAIL, text, subject="many nodes", cause="rendezvous-timeout", **more),
        ]
    for rank in missing:
        who = f"{named[rank]} (node {rank})" if rank < len(named) else f"node {rank}"
        data = {"host": named[rank]} if rank < len(named) else {"component": f"node {rank}"}
        text = f"{who} never came within {facts.get('meeting_s', 0):.0f} s ({came}): not started, started with another master address, or cut off"
        result.append(
            found(
                "meeting",
                Status.FAIL,
                text,
                subject=f"node {rank}",
                cause="rendezvous-timeout",
                missed=True,
                node_rank=rank,
                **data,
            )
        )
    return result


def _numeric(host: str) -> bool:
    """True for an address, which needs no name resolution."""
    return ":" in host or all(part.isdigit() for part in host.split("."))


def _silent(view: View) -> list[Finding]:
    result = []
    for rank, one in sorted(view.silent.items())[:MOST_NAMED]:
        phase = one["phase"]
        links = {name: seen for name, seen in view.facts["links"].items() if name.endswith(f">{rank}")}
        kernel = any(seen.get("stage") in ("greeting", "ok") for seen in links.values())
        state = (
            "its connection ended: diag was killed there, crashed, or the node went down"
            if one["how"] == "closed"
            else "its kernel still accepts connections, its process stands still (stopped, frozen or starved)"
            if kernel
            else "nothing on it answers any more"
        )
        text = f"{view.name(rank)} stopped answering in the middle, at {phase}: {state}"
        result.append(
            found(
                "meeting",
                Status.FAIL,
                text,
                subject=f"node {rank}",
                cause="rendezvous-timeout",
                host=view.host(rank),
                node_rank=rank,
                frozen=kernel and one["how"] != "closed",
            )
        )
    if len(view.silent) > MOST_NAMED:
        rest = sorted(view.silent)[MOST_NAMED:]
        text = f"{len(rest)} more nodes stopped answering: {view.names(rest, 12)}"
        result.append(
            found(
                "meeting",
                Status.FAIL,
                text,
                subject="more nodes",
                cause="rendezvous-timeout",
                node_ranks=rest,
            )
        )
    return result


def single(layout: Mapping[str, Any]) -> Finding:
    """For a launcher that says there are several nodes, but not where to meet."""
    text = f"{layout['launcher']} runs {layout['nnodes']} nodes, but where node 0 is, it does not tell: the links were not tested"
    remedy = "set MASTER_ADDR (and MASTER_PORT) for all nodes, or give --master HOST:PORT"
    return found("meeting", Status.UNKNOWN, text, reason=Reason.NOT_ASKED, remedy=remedy)
