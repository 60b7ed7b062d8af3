"""Who did it: the rank, host, process or GPU that the telling lines name and the others do not."""

from __future__ import annotations

from collections.abc import Sequence

from diag.diagnose.awaited import (
    absent_rank,
    busy,
    late_rank,
    lost_peer,
    number,
    odd,
    of_idle_gpu,
    quiet_host,
    silent,
)
from diag.diagnose.differing import (
    NOBODY,
    SHARED,
    all_alike,
    one_machine_of_several,
    repeated,
    telling_host,
    telling_rank,
)
from diag.diagnose.evidence import Evidence
from diag.diagnose.matching import ClauseMatch
from diag.diagnose.testimony import refusing, serves_store, told_places
from diag.diagnose.whois import distinct
from diag.model import Culprit, Finding, Observation

NODE_LAYERS = ("driver", "hardware")
"""Layers whose causes lie in the machine, not in the pod or container that met them."""
LOCAL_LAYERS = (*NODE_LAYERS, "environment", "memory", "network", "plan")
"""Layers whose causes can be those of one node."""


REACHING_LAYERS = ("network", "scheduler", "transfer")
"""Layers whose causes show where one machine does not reach another."""


def find_culprit(matches: Sequence[ClauseMatch], findings: Sequence[Finding], evidence: Evidence) -> Culprit:
    """Name what the evidence names. A cause that shows on every rank has no culprit rank."""
    lines = [line for match in matches for line in match.primary]
    if not lines:
        seen = [finding for match in matches for hit in match.hits for finding in hit.findings]
        return _of_findings([*findings, *seen])
    first = _first(lines)
    playbook = matches[0].playbook
    rank, host = _whose(playbook.culprit, matches, lines, evidence)
    rank = telling_rank(rank, playbook, lines, evidence)
    host = telling_host(host, playbook, lines, evidence)
    if rank is None and host is None and playbook.layer in REACHING_LAYERS:
        host = refusing(lines, evidence)
    if rank is None:  # whom somebody saw standing
        standing = _of_findings([one for one in findings if one.data.get("culprit")])
        rank, host = standing.rank, host if standing.rank is None else standing.host or host
    host = _node(host, playbook.layer, evidence)
    if playbook.layer == "scheduler" and len(evidence.who.unready) == 1 and rank is None:
        host = next(iter(evidence.who.unready))  # the one pod that does not come up is what all wait for
    item = evidence.file_of(first)
    phase = item.phase_at(first) if item is not None else None
    processes = {line.origin.process for line in lines if line.origin.process}
    return Culprit(
        rank=rank,
        host=evidence.who.name_of(host) if host is not None else None,
        process=processes.pop() if len(processes) == 1 else None,
        component=None,
        gpu=_gpu(lines),
        link=_link(lines),
        phase=phase.value if phase is not None else None,
    )


def _node(host: str | None, layer: str, evidence: Evidence) -> str | None:
    """The machine below a pod or container; where no line tells, the only node that somebody looked at."""
    looked_at = evidence.who.looked_at
    node = evidence.who.node_of(host) if host is not None and layer in NODE_LAYERS else host
    if len(looked_at) != 1 or layer not in LOCAL_LAYERS or node != host or host in evidence.all_hosts:
        return node
    return next(iter(looked_at))


def _whose(
    blame: str, matches: Sequence[ClauseMatch], lines: Sequence[Observation], evidence: Evidence
) -> tuple[int | None, str | None]:
    """(rank, host), by whom the playbook blames."""
    if blame == "peer":
        peer = _peer(lines, evidence)
        if peer is not None:
            return None, peer
    if blame == "busy":
        lines = _work(matches) or lines
    if blame == "ended":
        return _ended(lines, evidence)
    if blame == "silent" and _asks_itself(lines):
        blame = ""
    if blame in ("silent", "odd") and all(number(line, "culprit_rank") is None for line in lines):
        idle = of_idle_gpu(evidence) if blame == "silent" else None
        if idle is not None:
            return idle
        missing = silent(lines, evidence) if blame == "silent" else odd(lines)
        rank = missing.pop() if len(missing) == 1 else absent_rank(evidence)
        if rank is None and blame == "silent":
            rank = late_rank(lines, evidence)
            rank = busy(matches, lines) if rank is None else rank
        if rank is not None:
            return rank, evidence.host_of_rank(rank) or _only_host(evidence)
        peer = _peer(lines, evidence)
        if peer is not None:  # everybody waits for the store, which is rank 0's
            return 0, evidence.host_of_rank(0) or peer
        return None, quiet_host(lines, evidence)
    shared = blame == SHARED and len(evidence.all_hosts) < 2 and not one_machine_of_several(lines, evidence)
    ended = None if shared or repeated(lines, evidence) else _exit_of(lines, evidence)
    return _writer(lines, ended, evidence)


def _writer(
    lines: Sequence[Observation], ended: Observation | None, evidence: Evidence
) -> tuple[int | None, str | None]:
    """Whoever prints the telling lines; where they tell no rank, whom the launcher says to have ended first."""
    rank = _rank(lines, evidence, ended)
    if rank is None:
        rank = _rank_of_gpu(lines, evidence)
    if rank is None and serves_store(lines, evidence):
        rank = 0
    if (
        ended is not None
        and rank is None
        and not any(evidence.who.rank_of(line) is not None for line in lines)
    ):
        told = [number(ended, name) for name in ("rank", "rank2", "local_rank")]
        rank = next((number for number in told if number is not None), None)
    host = _host(lines, rank, evidence)
    if host is None and ended is not None and "host" in ended.fields:
        host = str(ended.fields["host"])
    return rank, host if host is not None else _only_host(evidence)


def _ended(lines: Sequence[Observation], evidence: Evidence) -> tuple[int | None, str | None]:
    """Whom the launcher says to have ended first; where that one only lost its peer, whoever did not complain."""
    item = evidence.file_of(_first(lines))
    ended = evidence.killed_exit or (item.first_exit if item is not None else None)
    if any(number(line, name) is not None for line in lines for name in ("rank", "culprit_rank")):
        return _writer(lines, ended, evidence)
    rank = number(ended, "rank") if ended is not None else None
    if ended is not None and rank is not None and not lost_peer(rank, evidence):
        return _writer_of(
            rank, [line for line in lines if line.origin.rank == rank] or [ended], ended, evidence
        )
    victims = lines
    if rank is not None:
        victims = [one for item in evidence.files for one in item.exceptions]
    missing = silent(victims, evidence)
    if len(missing) == 1:
        rank = missing.pop()
        return rank, evidence.host_of_rank(rank)
    if rank is None and ended is not None and "host" in ended.fields:
        return None, str(ended.fields["host"])
    return None, quiet_host(lines, evidence)


def _writer_of(
    rank: int, lines: Sequence[Observation], ended: Observation, evidence: Evidence
) -> tuple[int, str | None]:
    host = _host(lines, rank, evidence) or (str(ended.fields["host"]) if "host" in ended.fields else None)
    return rank, host or _only_host(evidence)


def _exit_of(lines: Sequence[Observation], evidence: Evidence) -> Observation | None:
    """The launcher's word on who ended first: in the file of the first line, else in the only file that has one."""
    item = evidence.file_of(_first(lines))
    if item is None or item.first_exit is not None:
        return item.first_exit if item is not None else None
    if any(evidence.who.rank_of(line) is not None for line in lines):
        return None
    exits = [
        found
        for other in evidence.files
        if (found := other.first_exit) is not None and "rank" in found.fields
    ]
    return exits[0] if len(exits) == 1 else None


def _only_host(evidence: Evidence) -> str | None:
    hosts = evidence.all_hosts
    return next(iter(hosts)) if len(hosts) == 1 else None


def _peer(lines: Sequence[Observation], evidence: Evidence) -> str | None:
    """The one machine that the telling lines cannot reach."""
    peers = {str(line.fields["peer"]) for line in lines if line.fields.get("peer")} - set(NOBODY)
    writers = {line.origin.host for line in lines if line.origin.host}
    others = [
        peer
        for peer in distinct(peers, evidence.who)
        if not any(evidence.who.same(peer, one) for one in writers)
    ]
    return others[0] if len(others) == 1 else None


def _asks_itself(lines: Sequence[Observation]) -> bool:
    """True if whoever waits, waits for an address of its own: it has the wrong one."""
    peers = {str(line.fields["peer"]) for line in lines if line.fields.get("peer")}
    return bool(peers) and peers <= set(NOBODY)


def _work(matches: Sequence[ClauseMatch]) -> list[Observation]:
    """The lines of work that others wait for, where both are there."""
    hits = [hit for match in matches for hit in match.hits]
    work = [line for hit in hits if hit.signal.says in ("hint", "context") for line in hit.lines]
    return work if any(hit.lines and hit.signal.says == "effect" for hit in hits) else []


def _of_findings(findings: Sequence[Finding]) -> Culprit:
    """The one host or link that the findings name; where one of them says that it names the culprit, that one alone."""
    chosen = [one for one in findings if one.data.get("culprit")] or list(findings)
    hosts = {str(one.data["host"]) for one in chosen if one.data.get("host")}
    links = {
        (str(one.data["link"][0]), str(one.data["link"][1]))
        for one in chosen
        if len(one.data.get("link") or ()) == 2
    }
    rank = _only_number(chosen, "rank")
    component = (
        str(chosen[0].data.get("component") or ("" if rank is not None else chosen[0].subject))
        if chosen
        else ""
    )
    return Culprit(
        rank=rank,
        host=hosts.pop() if len(hosts) == 1 else None,
        process=_only_text(chosen, "process"),
        component=component or None,
        gpu=_only_number(chosen, "gpu"),
        link=links.pop() if len(links) == 1 else None,
        phase=_only_text(chosen, "phase"),
    )


def _only_number(findings: Sequence[Finding], key: str) -> int | None:
    """The one number that the findings name; a finding that accuses several names none."""
    told = {one.data[key] for one in findings if isinstance(one.data.get(key), int)}
    return told.pop() if len(told) == 1 and all(key in one.data for one in findings) else None


def _only_text(findings: Sequence[Finding], key: str) -> str | None:
    told = {str(one.data[key]) for one in findings if one.data.get(key)}
    return told.pop() if len(told) == 1 else None


def _first(lines: Sequence[Observation]) -> Observation:
    timed = [line for line in lines if line.origin.time_s is not None]
    if len(timed) == len(lines):
        return min(timed, key=lambda line: (line.origin.time_s or 0.0, line.order))
    return lines[0]


def _rank(lines: Sequence[Observation], evidence: Evidence, ended: Observation | None) -> int | None:
    named = [number(line, "culprit_rank") for line in lines]
    told = {rank for rank in named if rank is not None}
    if len(told) == 1:
        return told.pop()
    captured = {rank for line in lines if (rank := number(line, "rank")) is not None}
    if len(captured) == 1:
        return captured.pop()
    who = evidence.who
    processes = {
        who.rank_of_pid(line.origin.source, line.origin.host, pid)
        for line in lines
        if (pid := number(line, "pid")) is not None
    } - {None}
    if len(processes) == 1:
        return processes.pop()
    ranks = {rank for line in lines if (rank := who.rank_of(line)) is not None}
    if len(ranks) == 1:
        return ranks.pop()
    if all_alike(lines, evidence):
        return None
    if ended is not None and number(ended, "rank") in ranks:
        return number(ended, "rank")  # several ranks show it; the launcher says which ended first
    everyone = {
        one.origin.rank for item in evidence.files for one in item.observations if one.origin.rank is not None
    }
    world = max(len(everyone), who.world or 0)
    return _first_of_some(lines, evidence) if 1 < len(ranks) < world else None


def _first_of_some(lines: Sequence[Observation], evidence: Evidence) -> int | None:
    """The rank that began it, where some of the ranks complain."""
    first = _first(lines)
    rank = evidence.who.rank_of(first)
    if len({line.origin.source for line in lines}) == 1:
        return rank  # into one file: whose line stands first
    others = [line for line in lines if evidence.who.rank_of(line) != rank]
    gap = min((line.origin.time_s or 0.0) for line in others) - (first.origin.time_s or 0.0)
    return rank if first.origin.time_s is not None and gap > 1.0 else None


def _gpu(lines: Sequence[Observation]) -> int | None:
    named = [line for line in lines if number(line, "gpu") is not None]
    return number(_first(named), "gpu") if named else None


def _rank_of_gpu(lines: Sequence[Observation], evidence: Evidence) -> int | None:
    """On one node rank N has GPU N; GPU 0 tells nothing, since a process that sees one GPU calls it 0."""
    gpu = _gpu(lines)
    if not gpu or any(evidence.who.rank_of(line) is not None for line in lines):
        return None
    if len(evidence.all_hosts) <= 1:
        return gpu
    hosts = {line.origin.host for line in lines}
    return evidence.who.rank_of_gpu(hosts.pop(), gpu) if len(hosts) == 1 else None


def _host(lines: Sequence[Observation], rank: int | None, evidence: Evidence) -> str | None:
    captured = {
        str(line.fields[name])
        for line in lines
        for name in ("culprit_host", "culprit_host2")
        if line.fields.get(name)
    }
    if len(captured) == 1:
        return captured.pop()
    told = told_places(lines, evidence)
    if len(told) == 1:
        return told.pop()
    hosts = distinct({line.origin.host for line in lines if line.origin.host}, evidence.who)
    if len(hosts) > 1:  # who complains of its own device knows more than who complains of a peer
        own = {line.origin.host for line in lines if line.origin.host and "peer" not in line.fields}
        hosts = distinct(own, evidence.who) if own else hosts
    if len(hosts) == 1:
        return hosts.pop()
    known = evidence.host_of_rank(rank)
    if hosts:
        return known if known in hosts else None
    if known:
        return known
    first = _first(lines)
    files = {line.origin.source for line in lines if rank is None or evidence.who.rank_of(line) == rank}
    item = evidence.file_of(first)
    return item.host_at(first.order) if len(files) == 1 and item is not None else None


def _link(lines: Sequence[Observation]) -> tuple[str, str] | None:
    """Both ends, where a line names the peer and its writer is known."""
    pairs = {
        (line.origin.host, str(line.fields["peer"]))
        for line in lines
        if line.fields.get("peer") and line.origin.host
    }
    if len(pairs) == 1:
        writer, peer = pairs.pop()
        return (str(writer), peer)
    return None
