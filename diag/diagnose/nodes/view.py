"""The facts of `run_links` as judges look at them: nodes with names, links with ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from diag.model import Finding, Reason, Status

LOSSY = 0.03
"""Above this share a broken test may be loss alone, no closed port."""


@dataclass(frozen=True)
class Link:
    """What node `a` found of node `b`."""

    a: int
    b: int
    seen: Mapping[str, Any]

    @property
    def open(self) -> bool:
        """A connection was opened and the right node answered."""
        return self.seen.get("stage") == "ok"

    @property
    def closed_ports(self) -> list[int]:
        """Ports of the ephemeral range that did not open, where others did."""
        ports = self.seen.get("ports") or {}
        closed = [
            int(port) for port, outcome in ports.items() if outcome in ("timeout", "refused", "unroutable")
        ]
        return sorted(closed) if self.open or len(closed) < len(ports) else []

    @property
    def open_ports(self) -> list[int]:
        """Ports of the ephemeral range that opened."""
        return sorted(
            int(port) for port, outcome in (self.seen.get("ports") or {}).items() if outcome == "ok"
        )

    @property
    def lost_there(self) -> float | None:
        """Share of datagrams that did not arrive; None where none did (then UDP may simply be closed)."""
        sent, there = self.seen.get("sent") or 0, self.seen.get("there") or 0
        return 1 - there / sent if sent and there else None

    @property
    def lost_back(self) -> float | None:
        """Share of the answers that did not come home."""
        there, back = self.seen.get("there") or 0, self.seen.get("back") or 0
        return max(0.0, 1 - back / there) if there and back else None

    @property
    def lossy(self) -> bool:
        """Some datagrams pass, some do not."""
        return any(lost is not None and lost > LOSSY for lost in (self.lost_there, self.lost_back))


@dataclass(frozen=True)
class View:
    """One job's links."""

    facts: Mapping[str, Any]

    @cached_property
    def cards(self) -> dict[int, Mapping[str, Any]]:
        """Node rank -> what that node told of itself."""
        return {int(rank): card for rank, card in self.facts["nodes"].items()}

    @cached_property
    def silent(self) -> dict[int, Mapping[str, str]]:
        """Node rank -> {phase, how}: when it stopped answering, and whether its connection ended (closed) or it went quiet."""
        return {int(rank): one for rank, one in self.facts["silent"].items()}

    @cached_property
    def links(self) -> list[Link]:
        """Every tested direction between nodes that stayed."""
        found = []
        for name, seen in self.facts["links"].items():
            a, b = map(int, name.split(">"))
            if a not in self.silent and b not in self.silent:
                found.append(Link(a, b, seen))
        return sorted(found, key=lambda link: (link.a, link.b))

    @cached_property
    def ranks(self) -> list[int]:
        """Nodes that took part to the end."""
        return sorted({rank for link in self.links for rank in (link.a, link.b)})

    @property
    def own_rank(self) -> int:
        """The node whose report this is."""
        return int(self.facts.get("node_rank") or 0)

    def translated(self, rank: int) -> str | None:
        """The address under which the others see a node that has none like it: something translates addresses on the way."""
        card = self.cards.get(rank, {})
        address, interfaces = card.get("address"), card.get("interfaces")
        if not address or not interfaces:
            return None
        own = {one["address"] for interface in interfaces for one in interface["addresses"]}
        return (
            str(address)
            if own and address not in own and not str(address).startswith(("127.", "::1"))
            else None
        )

    def host(self, rank: int) -> str:
        """A node's host name, else its number."""
        return str(self.cards.get(rank, {}).get("hostname") or f"node {rank}")

    def name(self, rank: int) -> str:
        """How a reader knows a node: `gpu3 (node 3)`."""
        card = self.cards.get(rank)
        return f"{card['hostname']} (node {rank})" if card else f"node {rank}"

    def names(self, ranks: Iterable[int], most: int = 6) -> str:
        """Several nodes in a sentence."""
        every = [self.name(rank) for rank in sorted(ranks)]
        return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def found(
    test: str,
    status: Status,
    summary: str,
    *,
    subject: str = "",
    reason: Reason | None = None,
    cause: str | None = None,
    **data: Any,
) -> Finding:
    """A finding of `link.<test>`; `host` and `link` in the data name the culprit."""
    if cause is not None:
        data["cause"] = cause
    return Finding(
        probe=f"link.{test}", subject=subject, status=status, summary=summary, reason=reason, data=data
    )
