"""Separate reports of one job's nodes, put together: how they differ, who is missing, what failed meetings say together. Pure.

Names and addresses in reports are stand-ins, other ones in each report whose node met nobody; what has to be compared
travels as short keyed marks beside them (`marks_of`).
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from diag.diagnose.nodes.compare import compare_traits, traits_of
from diag.diagnose.nodes.view import found
from diag.model import Finding, Status
from diag.observe.reports import NodeReport

MARK_CHARACTERS, MASTER_CHARACTERS = 6, 4
"""24 bits under a key that a reader of the report does not know; 16 bits of the master's address, which is the key."""


def marks_of(card: Mapping[str, Any]) -> dict[str, Any]:
    """What lets separate reports be compared without saying it: {master, name, machine, addresses}, each a short mark."""
    key = str(card.get("master")).encode()

    def mark(text: object) -> str:
        return hmac.new(key, str(text).encode(), hashlib.sha256).hexdigest()[:MARK_CHARACTERS]

    own = [
        one["address"]
        for each in card.get("interfaces", ())
        if each["kind"] in ("ethernet", "bond", "infiniband")
        for one in each["addresses"]
    ]
    return {
        "master": hashlib.sha256(key).hexdigest()[:MASTER_CHARACTERS], "name": mark(card.get("hostname")),
        "machine": mark(card.get("machine")), "addresses": sorted(map(mark, own)),
    }  # fmt: skip


def compare_nodes(reports: Sequence[NodeReport]) -> list[Finding]:
    """Reports of several nodes: how they differ, which nodes sent none, and what their failed meetings say together."""
    labels = _labels(reports)
    result = compare_traits(
        {label: traits_of(one.facts) for label, one in labels.items()},
        hosts={label: one.host for label, one in labels.items()},
    )
    places = {label: place for label, one in labels.items() if (place := _place(one))}
    expected = max((int(place["nnodes"]) for place in places.values() if place.get("nnodes")), default=0)
    present = {place.get("node_rank") for place in places.values()}
    absent = [rank for rank in range(expected) if rank not in present]
    if absent and places:
        text = (
            f"reports of {len(present)} of {expected} nodes: none of node {', '.join(map(str, absent[:12]))}"
        )
        result.append(found("nodes", Status.WARN, text, subject="missing reports"))
    return [*result, *_master_alone(labels, places), *_layouts(labels, places)]


def join_reports(reports: Sequence[NodeReport]) -> list[Finding]:
    """All findings of the reports, each told once and under its node's name, and how the nodes differ."""
    if len(reports) < 2:
        return [one for report in reports for one in report.findings]
    result: dict[tuple[str, str, str], Finding] = {}
    for label, report in _labels(reports).items():
        for one in report.findings:
            shared = one.probe.startswith("link.")  # who met has the same findings as all others
            data = (
                one.data
                if shared or "host" in one.data or not one.status.measured
                else {**one.data, "host": label}
            )
            if shared and not _met(report) and label != report.host and one.data.get("host") == report.host:
                data = {**data, "host": label}  # a stand-in that other reports use for other nodes
            key = (
                (one.probe, one.subject, one.summary)
                if shared
                else (one.probe, f"{label}: {one.subject}", one.summary)
            )
            result.setdefault(
                key, replace(one, data=data, subject=one.subject if shared else key[1].removesuffix(": "))
            )
    told = [one for one in result.values() if one.probe != "link.nodes"]
    return _meetings_together(told) + compare_nodes(reports)


def _met(report: NodeReport) -> bool:
    """Whether that node met others."""
    network = report.facts.get("network")
    links = network.get("links") if isinstance(network, Mapping) else None
    return isinstance(links, Mapping) and bool(links.get("met"))


def links_of(reports: Sequence[NodeReport]) -> Mapping[str, Any] | None:
    """The most that any of the reports knows of the links."""
    networks = [network for one in reports if isinstance(network := one.facts.get("network"), Mapping)]
    told = [links for network in networks if isinstance(links := network.get("links"), Mapping)]
    return max(told, key=lambda links: len(links.get("links") or ()), default=None)


def _meetings_together(told: Sequence[Finding]) -> list[Finding]:
    """A node's own word on why it did not come stands for the master's word that it never came."""
    own = {
        one.data.get("node_rank") for one in told if one.probe == "link.meeting" and one.data.get("outcome")
    }
    missed = {one.data.get("node_rank") for one in told if _is_missed(one)}
    result = []
    for one in told:
        rank = one.data.get("node_rank")
        if _is_missed(one) and rank in own:
            continue
        if (
            one.probe == "link.meeting"
            and one.data.get("outcome") in ("timeout", "refused")
            and rank in missed
        ):
            one = replace(one, data={**one.data, "certain": True})  # noqa: PLW2901 - the master did listen: the way is closed
        result.append(one)
    return result


def _is_missed(one: Finding) -> bool:
    """The master's finding that a node never came."""
    return (
        one.probe == "link.meeting"
        and one.status is Status.FAIL
        and "outcome" not in one.data
        and one.data.get("missed") is True
    )


def _master_alone(labels: Mapping[str, NodeReport], places: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Every other node failed to reach the master, and the master waited: the master's side is closed."""
    failed = {
        label: one.data for label, report in labels.items() for one in report.findings
        if one.probe == "link.meeting" and one.status is Status.FAIL and one.data.get("outcome") in ("timeout", "refused", "unroutable")
    }  # fmt: skip
    master = next((label for label, place in places.items() if place.get("node_rank") == 0), None)
    others = [label for label, place in places.items() if place.get("node_rank")]
    if master is None or len(failed) < 2 or set(failed) != set(others):
        return []
    port = next(iter(failed.values())).get("port")
    text = f"none of {len(others)} nodes can reach the master {master} on port {port}, where it waited: the way to it is closed"
    return [
        found(
            "meeting",
            Status.FAIL,
            text,
            subject="master",
            cause="network-unreachable",
            host=labels[master].host,
            culprit=True,
        )
    ]


def _place(report: NodeReport) -> Mapping[str, Any]:
    host = report.facts.get("host")
    place = host.get("node") if isinstance(host, Mapping) else None
    return place if isinstance(place, Mapping) else {}


def _labels(reports: Sequence[NodeReport]) -> dict[str, NodeReport]:
    """Each report under a name of its own: the host's, with the node's number where names repeat."""
    hosts = Counter(one.host for one in reports)
    labels: dict[str, NodeReport] = {}
    for one in reports:
        rank = _place(one).get("node_rank")
        label = one.host if hosts[one.host] == 1 else f"node {rank}" if rank is not None else one.path
        labels[label if label not in labels else one.path] = one
    return labels


def _layouts(labels: Mapping[str, NodeReport], places: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """What the master would have seen at the meeting: used where nobody met. One master's word is better than this."""
    if any(_met(one) for one in labels.values()):
        return []
    return [
        *_odd_sizes(labels, places, "nnodes", "nodes"), *_odd_sizes(labels, places, "world_size", "ranks (WORLD_SIZE)"),
        *_taken_twice(labels, places), *_other_master(labels, places), *_same_marks(labels, places),
    ]  # fmt: skip


def _odd_sizes(
    labels: Mapping[str, NodeReport], places: Mapping[str, Mapping[str, Any]], key: str, what: str
) -> list[Finding]:
    told = {label: place[key] for label, place in places.items() if place.get(key) is not None}
    if len(set(told.values())) < 2:
        return []
    usual, votes = Counter(told.values()).most_common(1)[0]
    tie = votes * 2 <= len(told)
    odd = [label for label, value in told.items() if value != usual]
    sides = "; ".join(f"{label}: {value}" for label, value in told.items() if tie or value != usual)
    rest = "" if tie else f"; the other {votes} say {usual}"
    data: dict[str, Any] = {"host": labels[odd[0]].host} if len(odd) == 1 and not tie else {}
    text = f"the nodes disagree about the number of {what}: {sides}{rest}"
    return [found("layout", Status.FAIL, text, subject=key, cause="launcher-layout", **data)]


def _taken_twice(labels: Mapping[str, NodeReport], places: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    owners: dict[int, list[str]] = {}
    for label, place in places.items():
        if isinstance(place.get("node_rank"), int):
            owners.setdefault(place["node_rank"], []).append(label)
    result = []
    for rank, who in owners.items():
        machines = {_marks(places[label]).get("machine") for label in who}
        if len(who) > 1 and len(machines) > 1:  # the same node's report twice is no fault
            hosts = [labels[label].host for label in who]
            text = f"node rank {rank} is used twice: by {' and by '.join(who)}"
            result.append(
                found(
                    "layout",
                    Status.FAIL,
                    text,
                    subject=f"node rank {rank}",
                    cause="launcher-layout",
                    host=hosts[-1],
                    first=hosts[0],
                )
            )
    return result


def _other_master(labels: Mapping[str, NodeReport], places: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Nodes that look for the master elsewhere than most."""
    told = {label: mark for label, place in places.items() if (mark := _marks(place).get("master"))}
    counts = Counter(told.values())
    if len(counts) < 2:
        return []
    usual, votes = counts.most_common(1)[0]
    odd = [label for label, mark in told.items() if mark != usual]
    if votes * 2 <= len(told):
        text = f"the nodes look for the master at {len(counts)} different addresses"
        return [
            found("meeting", Status.FAIL, text, subject="master", cause="rendezvous-timeout", certain=False)
        ]
    return [
        found("meeting", Status.FAIL, f"{label} looks for the master at another address than {votes} others: its MASTER_ADDR is wrong",
              subject=label, cause="rendezvous-timeout", host=labels[label].host)
        for label in odd[:6]
    ]  # fmt: skip


def _same_marks(labels: Mapping[str, NodeReport], places: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Different machines under one host name or with one address."""
    result = []
    for key, cause, what in (
        ("name", "hostname-collision", "the same host name"),
        ("addresses", "host-ip-wrong", "the same address"),
    ):
        owners: dict[str, list[str]] = {}
        for label, place in places.items():
            value = _marks(place).get(key)
            for mark in value if isinstance(value, list) else [value] if value else []:
                owners.setdefault(str(mark), []).append(label)
        for who in owners.values():
            machines = {_marks(places[label]).get("machine") for label in who}
            if len(who) > 1 and len(machines) == len(who):
                text = f"{' and '.join(who)} have {what}"
                result.append(
                    found(
                        "identity",
                        Status.FAIL,
                        text,
                        subject=what,
                        cause=cause,
                        host=labels[who[-1]].host,
                        certain=False,
                    )
                )
    return result


def _marks(place: Mapping[str, Any]) -> Mapping[str, Any]:
    marks = place.get("marks")
    return marks if isinstance(marks, Mapping) else {}
