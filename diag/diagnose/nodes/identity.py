"""Host names and addresses that occur twice, or that others do not know. Pure."""

from __future__ import annotations

from diag.diagnose.nodes.view import View, found
from diag.model import Finding, Status


def judge_identity(view: View) -> list[Finding]:
    """Host names and addresses that occur twice."""
    result: list[Finding] = []
    cards = view.cards
    names: dict[str, list[int]] = {}
    machines: dict[str, list[int]] = {}
    for rank, card in cards.items():
        names.setdefault(str(card["hostname"]), []).append(rank)
        machines.setdefault(str(card.get("machine")), []).append(rank)
    for ranks in machines.values():
        if len(ranks) > 1:
            text = f"nodes {', '.join(map(str, ranks))} run on one machine, {view.host(ranks[0])}: no network lies between them"
            result.append(found("identity", Status.WARN, text, subject=view.host(ranks[0])))
    for name, ranks in names.items():
        if len(ranks) > 1 and len({str(cards[rank].get("machine")) for rank in ranks}) > 1:
            text = f"nodes {' and '.join(map(str, ranks))} have the same host name {name}: libraries that compare names take them for one machine"
            fix = {"do": f"Give each node its own host name (both are {name}).", "risk": "needs-root"}
            result.append(
                found(
                    "identity",
                    Status.FAIL,
                    text,
                    subject=name,
                    cause="hostname-collision",
                    host=name,
                    certain=False,
                    fix=fix,
                )
            )
    result += [*_same_address(view), *_translated(view)]
    for rank, card in cards.items():
        if card.get("address_conflict"):
            one = card["address_conflict"]
            text = f"another machine ({one['other']}) also has the address {one['address']} of {view.name(rank)}: packets reach now one, now the other"
            result.append(
                found(
                    "identity",
                    Status.FAIL,
                    text,
                    subject=one["address"],
                    cause="host-ip-wrong",
                    host=view.host(rank),
                )
            )
    return result


def _same_address(view: View) -> list[Finding]:
    """Two nodes that came from one address, on different machines."""
    result = []
    owners: dict[str, list[int]] = {}
    for rank, card in view.cards.items():
        if card.get("address"):
            owners.setdefault(str(card["address"]), []).append(rank)
    for address, ranks in owners.items():
        if len(ranks) > 1 and len({str(view.cards[rank].get("machine")) for rank in ranks}) > 1:
            text = f"{view.names(ranks)} share the address {address}"
            result.append(
                found(
                    "identity",
                    Status.FAIL,
                    text,
                    subject=address,
                    cause="host-ip-wrong",
                    host=view.host(ranks[-1]),
                )
            )
    return result


def _translated(view: View) -> list[Finding]:
    """Nodes whose address the others do not know by itself: behind NAT, as in a container without the host's network."""
    result = []
    for rank, card in view.cards.items():
        address = view.translated(rank)
        if address is None:
            continue
        own = [
            one["address"]
            for interface in card["interfaces"]
            if interface["kind"] != "loopback"
            for one in interface["addresses"]
        ]
        into = [link for link in view.links if link.b == rank]
        closed = not into or any(not link.open for link in into)
        text = (
            f"{view.name(rank)} is behind address translation: it calls itself {', '.join(own[:3])}, the others see {address}; "
            + (
                "they cannot connect to it"
                if closed
                else "they reach it all the same, but libraries hand out its own address"
            )
        )
        fix = {
            "do": "Give the container or VM the host's network (hostNetwork: true, docker run --network=host) or a routed address.",
            "risk": "restarts-job",
        }
        result.append(
            found(
                "identity",
                Status.FAIL if closed else Status.WARN,
                text,
                subject=address,
                cause="network-unreachable",
                host=view.host(rank),
                fix=fix,
            )
        )
    return result
