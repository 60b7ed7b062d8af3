"""From the matrix of who can open a connection to whom, to the node, link or direction that is broken. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from diag.diagnose.nodes.view import Link, View, found
from diag.model import Finding, Status

OWN_NAME = "the own host name"
_HOW = {
    "timeout": "packets vanish (dropped)",
    "refused": "connections are refused",
    "unroutable": "there is no route",
}


def judge_reach(view: View) -> list[Finding]:
    """Closed links, each failing one in exactly one finding."""
    broken = [link for link in view.links if (not link.open or link.closed_ports) and not link.lossy]
    if not view.links:
        return []
    if not broken:
        return [
            found(
                "tcp",
                Status.OK,
                f"connections open between all {len(view.ranks)} nodes, in {len(view.links)} directions",
            )
        ]
    result: list[Finding] = []
    left = {(link.a, link.b): link for link in broken}
    for rule in (_wrong_host, _everything, _groups, _nodes, _pairs):
        result += rule(view, left)
    return result


Left = dict[tuple[int, int], Link]


def _wrong_host(view: View, left: Left) -> list[Finding]:
    """Another machine answers at a node's address."""
    astray = [link for link in left.values() if link.seen.get("outcome") in ("wrong-host", "own-loopback")]
    result = []
    for rank in sorted({link.b for link in astray}):
        mine = [link for link in astray if link.b == rank]
        text = f"at the address {mine[0].seen['address']} of {view.name(rank)} another node answers ({mine[0].seen['detail']})"
        result.append(
            found(
                "identity",
                Status.FAIL,
                text,
                subject=str(mine[0].seen["address"]),
                cause="host-ip-wrong",
                host=view.host(rank),
            )
        )
    for link in astray:
        left.pop((link.a, link.b), None)
    return result


def _everything(view: View, left: Left) -> list[Finding]:
    if len(view.ranks) < 3 or len(left) < len(view.links):
        return []
    links = list(left.values())
    left.clear()
    what = (
        "reach every port of any other"
        if any(link.open for link in links)
        else "open a connection to any other"
    )
    text = f"no node can {what} ({_how(links)}){_ports(view, links)}"
    return [_blocked(view, text, "all links", links)]


def _groups(view: View, left: Left) -> list[Finding]:
    """Two or more groups, open within, closed between."""
    joined = {rank: {rank} for rank in view.ranks}
    for link in view.links:
        if (
            (link.a, link.b) not in left
            and (link.b, link.a) not in left
            and joined[link.a] is not joined[link.b]
        ):
            joined[link.a] |= joined[link.b]
            for rank in joined[link.b]:
                joined[rank] = joined[link.a]
    groups = list({id(group): sorted(group) for group in joined.values()}.values())
    if len(groups) < 2 or any(len(group) < 2 for group in groups):
        return []
    where = {rank: number for number, group in enumerate(groups) for rank in group}
    between = [link for link in view.links if where[link.a] != where[link.b]]
    if any((link.a, link.b) not in left for link in between):
        return []
    for link in between:
        left.pop((link.a, link.b))
    sides = " | ".join(view.names(group) for group in groups)
    text = f"the job is split into {len(groups)} groups that cannot reach each other: {sides} ({_how(between)}){_ports(view, between)}"
    return [
        _blocked(
            view, text, "groups", between, groups=[[view.host(rank) for rank in group] for group in groups]
        )
    ]


def _nodes(view: View, left: Left) -> list[Finding]:
    """Nodes none of whose links work, in both directions or in one."""
    result = []
    if len(view.ranks) < 3:
        return []
    for kind in ("both", "in", "out"):
        for rank in view.ranks:
            into = [link for link in view.links if link.b == rank]
            out = [link for link in view.links if link.a == rank]
            wanted = [*into, *out] if kind == "both" else into if kind == "in" else out
            gone = [link for link in wanted if (link.a, link.b) in left]
            if len(gone) < len(wanted) or (len(gone) < 2):
                continue
            for link in gone:
                left.pop((link.a, link.b))
            heard = _heard(gone, rank)
            name = view.name(rank)
            if any(link.open for link in gone):
                way = {"both": "to and from", "in": "to", "out": "from"}[kind]
                text = f"some ports {way} {name} are closed for all other nodes ({_how(gone)})"
            elif kind == "both":
                text = f"{name} is isolated: no connection to or from any of the other {len(into)} nodes opens ({_how(gone)}){heard}"
            elif kind == "in":
                text = f"no node can open a connection to {name} ({_how(gone)}); connections from it open: its own firewall, or rules in front of it"
            else:
                text = (
                    f"{name} can open no connection to any other node ({_how(gone)}); connections to it open"
                )
            result.append(
                _blocked(view, text + _ports(view, gone), f"node {rank}", gone, host=view.host(rank))
            )
    return result


def _heard(gone: Iterable[Link], rank: int) -> str:
    """Which way datagrams still pass, where only one way does."""
    out = sum(link.seen.get("there") or 0 for link in gone if link.a == rank)
    into = sum(link.seen.get("there") or 0 for link in gone if link.b == rank)
    if out and not into:
        return "; what it sends arrives, nothing reaches it"
    if into and not out:
        return "; it hears the others, what it sends does not arrive"
    return ""


def _pairs(view: View, left: Left) -> list[Finding]:
    result = []
    while left:
        key = min(left)
        link = left.pop(key)
        back = left.pop((link.b, link.a), None)
        a, b = view.name(link.a), view.name(link.b)
        gone = [link, *([back] if back else [])]
        ends, arrow = (link.a, link.b), ""
        if any(one.open for one in gone):
            way = "between" if back else "from"
            text = f"some ports {way} {a} {'and' if back else 'to'} {b} are closed ({_how(gone)})"
        elif back is None:
            text = f"{a} cannot open connections to {b} ({_how(gone)}); {b} to {a} works"
        else:
            there, here = link.seen.get("there") or 0, back.seen.get("there") or 0
            if there and not here:
                ends, arrow = (link.b, link.a), f"packets from {b} to {a} vanish, the other direction passes"
            elif here and not there:
                arrow = f"packets from {a} to {b} vanish, the other direction passes"
            text = f"the link between {a} and {b} is closed: " + (arrow or f"{_how(gone)} in both directions")
        text += _ports(view, gone)
        result.append(
            _blocked(
                view,
                text,
                f"{view.host(link.a)} - {view.host(link.b)}",
                gone,
                link=[view.host(end) for end in ends],
            )
        )
    return result


def _how(links: Iterable[Link]) -> str:
    outcomes = []
    for link in links:
        outcome = str(link.seen.get("outcome"))
        if link.open:  # the link passes, a part of its ports does not
            outcome = next(str(link.seen["ports"][str(port)]) for port in link.closed_ports)
        outcomes.append(outcome)
    return ", ".join(_HOW.get(one, f"it ends at the {one} step") for one in dict.fromkeys(outcomes))


def _ports(view: View, links: Sequence[Link]) -> str:
    """Where a part of the ports passes: the rendezvous port alone, or a part of the ephemeral range."""
    part = _port_range(links)
    if part:
        return f"; {part}: a firewall opens only a part of the ephemeral ports, NCCL and Gloo need all"
    told = [link.seen["rendezvous_port"] for link in links if link.seen.get("rendezvous_port")]
    if told and all(one == "ok" for one in told):
        return f"; port {view.facts['master']['port']} passes, ephemeral ports do not: the firewall opens only the rendezvous port, NCCL and Gloo need all"
    return ""


def _port_range(links: Sequence[Link]) -> str:
    """`ports 32,768 to 44,061 are closed, 49,706 to 60,716 open`, as far as the tried ports tell."""
    if not links or not all(link.closed_ports for link in links):
        return ""
    closed = sorted({port for link in links for port in link.closed_ports})
    opened = sorted({port for link in links for port in link.open_ports} - set(closed))
    return f"ports {_runs(closed, opened)} are closed, {_runs(opened, closed)} open" if opened else ""


def _runs(mine: Sequence[int], others: Sequence[int]) -> str:
    """Neighbours in the order of ports, with nothing of the others between, as one range."""
    runs: list[list[int]] = []
    for port in mine:
        if runs and not any(runs[-1][-1] < other < port for other in others):
            runs[-1].append(port)
        else:
            runs.append([port])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def _blocked(view: View, text: str, subject: str, links: Sequence[Link], **data: Any) -> Finding:
    part, ports = _port_range(links), bool(_ports(view, links))
    do = (
        "Open the ephemeral ports too (sysctl net.ipv4.ip_local_port_range), or set that range to one the firewall opens"
        if ports
        else "Open all TCP ports between the nodes"
    )
    fix = {"do": f"{do}: NCCL and Gloo connect every node to every node on ports that the kernel picks.", "risk": "needs-root",
           "verify": "diag run on all nodes again"}  # fmt: skip
    cause = "network-unreachable"
    return found(
        "tcp",
        Status.FAIL,
        text,
        subject=subject,
        cause=cause,
        ephemeral_only=ports and not part,
        port_range=part or None,
        fix=fix,
        **data,
    )


def judge_choice(view: View) -> list[Finding]:
    """Addresses that NCCL or Gloo would hand to peers, where the peers reach somebody else or nobody."""
    worked = _combined(view)
    shared = {
        name for name, count in Counter(card["hostname"] for card in view.cards.values()).items() if count > 1
    }
    result = []
    for library, title in (("nccl", "NCCL"), ("gloo", "Gloo")):
        bad: dict[int, dict[str, Any]] = {}
        for link in view.links:
            seen = (link.seen.get("chosen") or {}).get(library)
            if (
                not view.translated(link.b)
                and seen
                and seen["outcome"] != "ok"
                and not (seen["by"] == OWN_NAME and view.host(link.b) in shared)
            ):
                bad.setdefault(link.b, seen)
        for rank, card in view.cards.items():
            chosen = (card.get("chosen") or {}).get(library)
            if chosen and chosen["address"] is None and chosen["by"] != OWN_NAME:
                bad.setdefault(
                    rank, {**chosen, "outcome": "absent", "detail": "no such interface with an address"}
                )
        if bad:
            result.append(_wrong_choice(view, title, bad, proven_fine=library == "gloo" and worked))
    return result


def _wrong_choice(view: View, title: str, bad: dict[int, dict[str, Any]], *, proven_fine: bool) -> Finding:
    first = next(iter(bad.values()))
    own_name = first["by"] == OWN_NAME
    what = (
        first["address"]
        if own_name
        else f"{first['interface']} ({first['address']})"
        if first["address"]
        else str(first["interface"])
    )
    where = "on every node" if len(bad) == len(view.cards) else f"on {view.names(bad)}"
    ends = (
        "that leads a peer to itself"
        if first["outcome"] == "own-loopback"
        else f"peers cannot use it ({first['detail'] or first['outcome']})"
    )
    said = f"{title} on {view.names(bad)}" if len(bad) < len(view.cards) else f"{title}"
    right = view.cards[min(bad)].get("address")
    carrier = next(
        (
            one["name"]
            for one in view.cards[min(bad)].get("interfaces", ())
            if any(a["address"] == right for a in one["addresses"])
        ),
        None,
    )
    text = f"{where}, {first['by']} makes {said.split(' on ', maxsplit=1)[0]} hand out {what}: {ends}; between the nodes {carrier or 'another interface'} works"
    data: dict[str, Any] = {"interface": first["interface"], "by": first["by"], "certain": not own_name}
    if len(bad) == 1:
        data["host"] = view.host(next(iter(bad)))
    cause = "host-ip-wrong" if own_name else "nccl-wrong-interface"
    variable = "GLOO_SOCKET_IFNAME" if title == "Gloo" else "NCCL_SOCKET_IFNAME"
    if carrier:
        data |= {
            "suggested": carrier,
            "fix": {
                "do": f"Let {title} use {carrier} on every node.",
                "settings": {variable: carrier},
                "risk": "restarts-job",
            },
        }
    status = Status.WARN if proven_fine else Status.FAIL
    return found("interface", status, text, subject=title, cause=cause, **data)


def _combined(view: View) -> bool:
    combined = (view.facts["collectives"].get("gloo") or {}).get("all") or {}
    return bool(combined) and all(one.get("right") for one in combined.values())
