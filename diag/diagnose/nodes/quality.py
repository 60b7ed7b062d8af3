"""Links that are open but bad: large packets that vanish, loss, low bandwidth, clocks apart. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from diag.diagnose.nodes.blame import blame
from diag.diagnose.nodes.view import Link, View, found
from diag.model import Finding, Status
from diag.observe.links.lead import usual_rate

LOSS_FAIL, LOSS_LEAST = 0.01, 5
"""From 1 % TCP's throughput collapses (Mathis et al. 1997: ~ 1/sqrt(loss)); fewer than five datagrams may be chance."""
CLOSED = 0.98
"""Whoever loses all is closed, which is another finding."""
SLOW_SHARE = 0.2
"""A link below a fifth of what is usual is no scatter: neighbouring classes of NICs differ by 2.5 or more, and busy tests by 2 or 3."""
SLOW_OF_NIC, SLOW_MBPS = 0.05, 300.0
"""Without others to compare with: below 5 % of what the NIC says and below 300 Mbit/s."""
CLOCK_WARN_S, CLOCK_TELL_S = 30.0, 1.0
"""Primus warns from 30 s; from 1 s logs of two nodes can no longer be put in order."""


def judge_quality(view: View) -> list[Finding]:
    """Loss first: it makes everything else look broken."""
    loss = _judge_loss(view)
    lossy = [link for link in view.links if link.lossy]
    sound = [link for link in view.links if link.open and link not in lossy]
    return [*loss, *_judge_mtu(view, sound), *_judge_bandwidth(view, sound), *_judge_clock(view)]


def _judge_loss(view: View) -> list[Finding]:
    """Loss on one direction of a link is charged to both ends; who has it on all links is the one."""
    counts: dict[tuple[int, int], tuple[int, int]] = {}
    for link in view.links:
        sent, there, back = (int(link.seen.get(key) or 0) for key in ("sent", "there", "back"))
        if not there:
            continue  # closed for UDP, or for everything: not loss
        one, other = counts.get((link.a, link.b), (0, 0)), counts.get((link.b, link.a), (0, 0))
        counts[link.a, link.b] = (one[0] + sent, one[1] + sent - there)
        counts[link.b, link.a] = (other[0] + there, other[1] + max(0, there - back))
    bad = {
        ends: lost / sent
        for ends, (sent, lost) in counts.items()
        if sent and LOSS_FAIL <= lost / sent < CLOSED and lost >= LOSS_LEAST
    }
    if not counts:
        return []
    if not bad:
        return [
            found(
                "loss",
                Status.OK,
                f"no loss worth the name in {sum(sent for sent, _ in counts.values())} datagrams",
            )
        ]
    result = []
    for rank, ends in blame(view.ranks, list(bad), list(counts)):
        share = statistics.mean(bad[one] for one in ends)
        ways = (
            {"loses what it receives" if b == rank else "loses what it sends" for _, b in ends}
            if rank is not None
            else set()
        )
        way = " and ".join(sorted(ways)) or "loses"
        if rank is not None:
            text = f"{view.name(rank)} {way}: about {share:.0%} of small datagrams on {len(ends)} directions; TCP crawls, collectives stall"
            result.append(
                found(
                    "loss",
                    Status.FAIL,
                    text,
                    subject=f"node {rank}",
                    cause="slow-link",
                    host=view.host(rank),
                    loss=round(share, 3),
                )
            )
        else:
            a, b = ends[0]
            text = (
                f"the link from {view.name(a)} to {view.name(b)} loses about {share:.0%} of small datagrams"
            )
            result.append(
                found(
                    "loss",
                    Status.FAIL,
                    text,
                    subject=f"{view.host(a)} - {view.host(b)}",
                    cause="slow-link",
                    link=[view.host(a), view.host(b)],
                    loss=round(share, 3),
                )
            )
    return result


def _judge_mtu(view: View, sound: Sequence[Link]) -> list[Finding]:
    mtus = {rank: _mtu_of(view, rank) for rank in view.ranks}
    vanished = [
        link
        for link in sound
        if link.seen.get("vanished_bytes") and (link.seen.get("largest_bytes") or 0) > 0
    ]
    short = [
        link for link in sound if link not in vanished and link.seen.get("mtu_bytes")
        and link.seen["mtu_bytes"] < (mtus[link.a] or 0) - 8
    ]  # fmt: skip
    every = [(link.a, link.b) for link in sound]
    result = []
    for group, hard in ((vanished, True), (short, False)):
        seen = {(link.a, link.b): link for link in group}
        for rank, ends in blame(view.ranks, list(seen), every):
            result.append(_mtu_finding(view, rank, [seen[one] for one in ends], mtus, hard=hard))
    known = {rank: mtu for rank, mtu in mtus.items() if mtu}
    if not result and len(set(known.values())) > 1:
        usual = statistics.mode(known.values())
        odd = [rank for rank, mtu in known.items() if mtu != usual]
        text = f"{view.names(odd)}: MTU {', '.join(str(known[rank]) for rank in odd)}, the others {usual}; all packets passed"
        result.append(found("mtu", Status.WARN, text, subject="MTU", cause="mtu-mismatch"))
    if not result and sound:
        result.append(
            found(
                "mtu",
                Status.OK,
                f"messages of {max(link.seen.get('largest_bytes') or 0 for link in sound) // 1024} KiB pass everywhere",
            )
        )
    return result


def _mtu_finding(
    view: View, rank: int | None, links: Sequence[Link], mtus: dict[int, int | None], *, hard: bool
) -> Finding:
    passes = min((link.seen["mtu_bytes"] for link in links if link.seen.get("mtu_bytes")), default=None)
    a, b = links[0].a, links[0].b
    own = mtus.get(a if rank is None else rank)
    others = sorted({mtu for one, mtu in mtus.items() if one != rank and mtu})
    where = f"between {view.name(a)} and {view.name(b)}" if rank is None else f"to or from {view.name(rank)}"
    limit = (
        f" (packets up to {passes} bytes pass, the interfaces are set to {'/'.join(map(str, sorted({own or 0, *others})))})"
        if passes
        else ""
    )
    differs = rank is not None and own is not None and others and own not in others
    if hard:
        size = links[0].seen["vanished_bytes"]
        text = f"small messages pass {where}, {size // 1024} KiB vanish without a word{limit}"
    elif differs:
        text = f"{view.name(rank or 0)} has MTU {own}, the others {'/'.join(map(str, others))}: full packets {where} vanish{limit}; TCP adapts, RDMA and UDP do not"
    else:
        text = f"the path {where} carries less than the interfaces say, and nobody reports it{limit}"
    fix = {"do": "Set one MTU on all interfaces, switches and tunnels of the path" + (f" ({passes} passes now)" if passes else "") + ", and let ICMP 'fragmentation needed' through.",
           "command": f"ip link set dev IFACE mtu {passes}" if passes else None, "risk": "needs-root"}  # fmt: skip
    data = {"host": view.host(rank)} if rank is not None else {"link": [view.host(a), view.host(b)]}
    status = Status.FAIL if hard or differs else Status.WARN
    subject = f"node {rank}" if rank is not None else f"{view.host(a)} - {view.host(b)}"
    return found(
        "mtu",
        status,
        text,
        subject=subject,
        cause="mtu-mismatch",
        path_mtu_bytes=passes,
        certain=hard,
        fix=fix,
        **data,
    )


def _mtu_of(view: View, rank: int) -> int | None:
    card = view.cards.get(rank, {})
    for one in card.get("interfaces", []):
        if any(address["address"] == card.get("address") for address in one["addresses"]):
            return min(int(one["mtu_bytes"]), 9216) if one["mtu_bytes"] else None  # more is loopback's
    return None


def _judge_bandwidth(view: View, sound: Sequence[Link]) -> list[Finding]:
    rates = {
        (link.a, link.b): float(link.seen.get("mbps") or 0.0)
        for link in sound
        if "mbps" in link.seen and not link.seen.get("vanished_bytes")
    }
    if not rates:
        return []
    middle = usual_rate(rates)
    slow = [ends for ends, rate in rates.items() if rate < SLOW_SHARE * middle]
    result = []
    for rank, ends in blame(view.ranks, slow, list(rates)):
        rate = statistics.median(rates[one] for one in ends)
        tail = f"{_rate(rate)}, usual in this job is {_rate(middle)}"
        if rank is not None:
            sides = {"receives" if b == rank else "sends" for _, b in ends}
            text = f"{view.name(rank)} {' and '.join(sorted(sides))} slowly on all its links: {tail}"
            result.append(
                found(
                    "bandwidth",
                    Status.FAIL,
                    text,
                    subject=f"node {rank}",
                    cause="slow-link",
                    host=view.host(rank),
                    mbps=rate,
                    usual_mbps=middle,
                )
            )
        else:
            a, b = ends[0]
            text = f"the link from {view.name(a)} to {view.name(b)} is slow: {tail}"
            result.append(
                found(
                    "bandwidth",
                    Status.FAIL,
                    text,
                    subject=f"{view.host(a)} - {view.host(b)}",
                    cause="slow-link",
                    link=[view.host(a), view.host(b)],
                    mbps=rate,
                    usual_mbps=middle,
                )
            )
    if not result and middle < SLOW_MBPS:
        speed = min((value for rank in view.ranks if (value := _speed_of(view, rank))), default=None)
        if speed is not None and middle < SLOW_OF_NIC * speed:
            text = f"all links are slow: {_rate(middle)} where the NICs are of {_rate(speed)}"
            ends_data: dict[str, Any] = (
                {"link": [view.host(rank) for rank in view.ranks]} if len(view.ranks) == 2 else {}
            )
            return [
                found(
                    "bandwidth", Status.FAIL, text, cause="slow-link", mbps=middle, certain=False, **ends_data
                )
            ]
    if not result:
        low, high = min(rates.values()), max(rates.values())
        result.append(
            found(
                "bandwidth", Status.OK, f"one TCP stream carries {_rate(low)} to {_rate(high)}", mbps=middle
            )
        )
    return result


def _speed_of(view: View, rank: int) -> float | None:
    card = view.cards.get(rank, {})
    for one in card.get("interfaces", []):
        if any(address["address"] == card.get("address") for address in one["addresses"]):
            return float(one["speed_mbps"]) if one.get("speed_mbps") else None
    return None


def _rate(mbps: float) -> str:
    return (
        f"{mbps / 1000:.1f} Gbit/s"
        if mbps >= 1000
        else f"{mbps:.0f} Mbit/s"
        if mbps >= 10
        else f"{mbps:.1f} Mbit/s"
    )


def _judge_clock(view: View) -> list[Finding]:
    ahead: dict[int, list[float]] = {}
    for link in view.links:
        value = link.seen.get("clock_ahead_s")
        if value is not None:
            ahead.setdefault(link.b, []).append(value)
            ahead.setdefault(link.a, []).append(-value)
    if not ahead:
        return []
    offsets = {rank: statistics.median(values) for rank, values in ahead.items()}
    judge: Callable[[int], bool] = lambda rank: abs(offsets[rank]) >= CLOCK_TELL_S  # noqa: E731 - one line, used twice
    odd = [rank for rank in offsets if judge(rank)]
    if not odd:
        return [found("clock", Status.OK, f"the clocks agree within {max(map(abs, offsets.values())):.3f} s")]
    if len(view.ranks) == 2:
        a, b = view.ranks
        apart = abs(offsets[b])
        text = f"the clocks of {view.name(a)} and {view.name(b)} are {apart:.0f} s apart: their logs cannot be put in order as they stand"
        return [
            found(
                "clock",
                Status.WARN if apart >= CLOCK_WARN_S else Status.OK,
                text,
                offset_s=apart,
                link=[view.host(a), view.host(b)],
            )
        ]
    result = []
    for rank in odd:
        side = "ahead of" if offsets[rank] > 0 else "behind"
        text = f"the clock of {view.name(rank)} is {abs(offsets[rank]):.0f} s {side} the others': its logs must be shifted, leases and certificates may fail"
        status = Status.WARN if abs(offsets[rank]) >= CLOCK_WARN_S else Status.OK
        result.append(
            found(
                "clock",
                status,
                text,
                subject=f"node {rank}",
                host=view.host(rank),
                offset_s=round(offsets[rank], 3),
                remedy="chronyc makestep (or the site's time service) on that node",
            )
        )
    return result
