"""Who did it: the rank, host, process or GPU that the telling lines name and the others do not."""

from __future__ import annotations

from collections.abc import Sequence

from diag.diagnose.evidence import Evidence
from diag.diagnose.matching import ClauseMatch
from diag.diagnose.whois import distinct
from diag.model import Culprit, Finding, Observation

MAX_WORLD = 100_000
NODE_LAYERS = ("driver", "hardware")
"""Layers whose causes lie in the machine, not in the pod or container that met them."""


def find_culprit(matches: Sequence[ClauseMatch], findings: Sequence[Finding], evidence: Evidence) -> Culprit:
    """Name what the evidence names. A cause that shows on every rank has no culprit rank."""
    lines = [line for match in matches for line in match.primary]
    if not lines:
        seen = [finding for match in matches for hit in match.hits for finding in hit.findings]
        return _of_findings([*findings, *seen])
    first = _first(lines)
    item = evidence.file_of(first)
    ended = item.first_exit if item is not None else None
    blame = matches[0].playbook.culprit
    rank = _rank(lines, evidence, ended)
    if blame == "ended":
        ended = evidence.killed_exit or ended
        named = any(_number(line, name) is not None for line in lines for name in ("rank", "culprit_rank"))
        blame = "" if named else "silent" if ended is None or _number(ended, "rank") is None else ""
        if not named and ended is not None and _number(ended, "rank") is not None:
            rank = _number(ended, "rank")
            lines = [line for line in lines if line.origin.rank == rank] or [ended]
    if blame and _number(first, "culprit_rank") is None:
        missing = _silent(lines, evidence) if blame == "silent" else _odd(lines)
        rank = missing.pop() if len(missing) == 1 else _busy(matches, lines) if blame == "silent" else None
        ended = None
    if rank is None and not blame:
        rank = _rank_of_gpu(lines, evidence)
    if ended is not None and rank is None and not any(evidence.who.rank_of(line) is not None for line in lines):
        told = [_number(ended, name) for name in ("rank", "rank2", "local_rank")]
        rank = next((number for number in told if number is not None), None)
    host = _whose_host(lines, rank, ended, blame, evidence)
    if host is not None and matches[0].playbook.layer in NODE_LAYERS:
        host = evidence.who.node_of(host)
    phase = item.phase_at(first) if item is not None else None
    processes = {line.origin.process for line in lines if line.origin.process}
    return Culprit(
        rank=rank,
        host=host,
        process=processes.pop() if len(processes) == 1 else None,
        component=None,
        gpu=_gpu(lines),
        link=_link(lines),
        phase=phase.value if phase is not None else None,
    )


def _whose_host(
    lines: Sequence[Observation], rank: int | None, ended: Observation | None, blame: str, evidence: Evidence
) -> str | None:
    host = _host(lines, rank, evidence)
    if blame:
        host = evidence.host_of_rank(rank) if rank is not None else _quiet_host(lines, evidence)
    if host is None and ended is not None and "host" in ended.fields:
        host = str(ended.fields["host"])
    if host is None and (not blame or rank is not None) and len(evidence.all_hosts) == 1:
        host = next(iter(evidence.all_hosts))
    return host


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
    named = [_number(line, "culprit_rank") for line in lines]
    told = {rank for rank in named if rank is not None}
    if len(told) == 1:
        return told.pop()
    captured = {rank for line in lines if (rank := _number(line, "rank")) is not None}
    if len(captured) == 1:
        return captured.pop()
    who = evidence.who
    processes = {
        who.rank_of_pid(line.origin.source, line.origin.host, pid)
        for line in lines
        if (pid := _number(line, "pid")) is not None
    } - {None}
    if len(processes) == 1:
        return processes.pop()
    ranks = {rank for line in lines if (rank := who.rank_of(line)) is not None}
    if len(ranks) == 1:
        return ranks.pop()
    if ended is not None and _number(ended, "rank") in ranks:
        return _number(ended, "rank")  # several ranks show it; the launcher says which ended first
    everyone = {
        one.origin.rank for item in evidence.files for one in item.observations if one.origin.rank is not None
    }
    return _first_of_some(lines, evidence) if 1 < len(ranks) < len(everyone) else None


def _first_of_some(lines: Sequence[Observation], evidence: Evidence) -> int | None:
    """The rank that began it, where some of the ranks complain."""
    first = _first(lines)
    rank = evidence.who.rank_of(first)
    if len({line.origin.source for line in lines}) == 1:
        return rank  # into one file: whose line stands first
    others = [line for line in lines if evidence.who.rank_of(line) != rank]
    gap = min((line.origin.time_s or 0.0) for line in others) - (first.origin.time_s or 0.0)
    return rank if first.origin.time_s is not None and gap > 1.0 else None


def _silent(lines: Sequence[Observation], evidence: Evidence) -> set[int]:
    """The ranks of the launch that do not complain."""
    complaining = {rank for line in lines if (rank := evidence.who.rank_of(line)) is not None}
    told = evidence.facts.get("launch.world_size", [])
    size = int(told[-1]) if told and told[-1].isdigit() else evidence.who.world
    if size is not None and size <= MAX_WORLD:
        world = set(range(size))
    else:
        seen = (one.origin.rank for item in evidence.files for one in item.observations)
        world = {rank for rank in seen if rank is not None}
    return {rank for rank in world if rank not in complaining} if complaining else set()


def _busy(matches: Sequence[ClauseMatch], lines: Sequence[Observation]) -> int | None:
    """The rank whose own work the others wait for; what is printed without a rank is mostly rank 0's."""
    complaining = {line.origin.rank for line in lines if line.origin.rank is not None}
    work = [
        line for match in matches for hit in match.hits if hit.signal.says == "context" for line in hit.lines
    ]
    workers = {line.origin.rank or 0 for line in work}
    return workers.pop() if complaining and len(workers) == 1 and not workers & complaining else None


def _gpu(lines: Sequence[Observation]) -> int | None:
    told = {gpu for line in lines if (gpu := _number(line, "gpu")) is not None}
    return told.pop() if len(told) == 1 else None


def _rank_of_gpu(lines: Sequence[Observation], evidence: Evidence) -> int | None:
    """On one node rank N has GPU N; GPU 0 tells nothing, since a process that sees one GPU calls it 0."""
    gpu = _gpu(lines)
    if not gpu or any(evidence.who.rank_of(line) is not None for line in lines):
        return None
    if len(evidence.all_hosts) <= 1:
        return gpu
    hosts = {line.origin.host for line in lines}
    return evidence.who.rank_of_gpu(hosts.pop(), gpu) if len(hosts) == 1 else None


def _quiet_host(lines: Sequence[Observation], evidence: Evidence) -> str | None:
    """The one machine whose file holds no complaint, where others' do."""
    loud = {line.origin.source for line in lines}
    quiet = [item.own_host for item in evidence.files if item.reading.name not in loud]
    return quiet[0] if len(quiet) == 1 and len(evidence.files) > 1 else None


def _odd(lines: Sequence[Observation]) -> set[int]:
    """The one rank of three or more whose captures differ from all others'."""
    groups: dict[str, set[int]] = {}
    for line in lines:
        if line.origin.rank is not None:
            groups.setdefault(str(sorted(line.fields.items())), set()).add(line.origin.rank)
    single = [ranks for ranks in groups.values() if len(ranks) == 1]
    everyone = {rank for ranks in groups.values() for rank in ranks}
    return set(single[0]) if len(groups) == 2 and len(single) == 1 and len(everyone) > 2 else set()


def _host(lines: Sequence[Observation], rank: int | None, evidence: Evidence) -> str | None:
    captured = {
        str(line.fields[name])
        for line in lines
        for name in ("culprit_host", "culprit_host2")
        if line.fields.get(name)
    }
    if len(captured) == 1:
        return captured.pop()
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


def _number(line: Observation, name: str) -> int | None:
    value = str(line.fields.get(name, ""))
    return int(value) if value.isdigit() else None


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
