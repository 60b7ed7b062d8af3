"""Who did it: the rank, host, process or GPU that the telling lines name and the others do not."""

from __future__ import annotations

from collections.abc import Sequence

from diag.diagnose.evidence import Evidence
from diag.diagnose.matching import ClauseMatch, file_hosts
from diag.model import Culprit, Finding, Observation

MAX_WORLD = 100_000


def find_culprit(matches: Sequence[ClauseMatch], findings: Sequence[Finding], evidence: Evidence) -> Culprit:
    """Name what the evidence names. A cause that shows on every rank has no culprit rank."""
    lines = [line for match in matches for line in match.primary]
    if not lines:
        hosts = {str(finding.data["host"]) for finding in findings if "host" in finding.data}
        return Culprit(
            host=hosts.pop() if len(hosts) == 1 else None,
            component=findings[0].subject or None if findings else None,
        )
    first = _first(lines)
    item = evidence.file_of(first)
    ended = item.first_exit if item is not None else None
    blame = matches[0].playbook.culprit
    rank = _rank(lines, evidence, ended)
    if blame and _number(first, "culprit_rank") is None:
        rank = _silent(lines, evidence) if blame == "silent" else _odd(lines)
        ended = None
    if ended is not None and rank is None and not any(line.origin.rank is not None for line in lines):
        told = [_number(ended, name) for name in ("rank", "rank2", "local_rank")]
        rank = next((number for number in told if number is not None), None)
    host = evidence.host_of_rank(rank) if blame else _host(lines, rank, evidence)
    if host is None and ended is not None and "host" in ended.fields:
        host = str(ended.fields["host"])
    if host is None and (not blame or rank is not None) and len(evidence.all_hosts) == 1:
        host = next(iter(evidence.all_hosts))
    item = evidence.file_of(first)
    phase = item.phase_at(first) if item is not None else None
    processes = {line.origin.process for line in lines if line.origin.process}
    return Culprit(
        rank=rank,
        host=host,
        process=processes.pop() if len(processes) == 1 else None,
        component=None,
        gpu=_number(first, "gpu"),
        link=_link(lines),
        phase=phase.value if phase is not None else None,
    )


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
    ranks = {line.origin.rank for line in lines if line.origin.rank is not None}
    if len(ranks) == 1:
        return ranks.pop()
    if ended is not None and _number(ended, "rank") in ranks:
        return _number(ended, "rank")  # several ranks show it; the launcher says which ended first
    everyone = {
        one.origin.rank for item in evidence.files for one in item.observations if one.origin.rank is not None
    }
    if 1 < len(ranks) < len(everyone):
        first = _first(lines)
        others = [line for line in lines if line.origin.rank != first.origin.rank]
        gap = min((line.origin.time_s or 0.0) for line in others) - (first.origin.time_s or 0.0)
        if first.origin.time_s is not None and gap > 1.0:
            return first.origin.rank
    return None


def _silent(lines: Sequence[Observation], evidence: Evidence) -> int | None:
    """The one rank of the launch that does not complain."""
    complaining = {line.origin.rank for line in lines if line.origin.rank is not None}
    told = evidence.facts.get("launch.world_size", [])
    world = (
        set(range(int(told[-1])))
        if told and told[-1].isdigit() and int(told[-1]) <= MAX_WORLD
        else {
            one.origin.rank
            for item in evidence.files
            for one in item.observations
            if one.origin.rank is not None
        }
    )
    missing = world - complaining
    return missing.pop() if len(missing) == 1 and complaining else None


def _odd(lines: Sequence[Observation]) -> int | None:
    """The one rank of three or more whose captures differ from all others'."""
    groups: dict[str, set[int]] = {}
    for line in lines:
        if line.origin.rank is not None:
            groups.setdefault(str(sorted(line.fields.items())), set()).add(line.origin.rank)
    single = [ranks for ranks in groups.values() if len(ranks) == 1]
    everyone = {rank for ranks in groups.values() for rank in ranks}
    return next(iter(single[0])) if len(groups) == 2 and len(single) == 1 and len(everyone) > 2 else None


def _host(lines: Sequence[Observation], rank: int | None, evidence: Evidence) -> str | None:
    captured = {str(line.fields["culprit_host"]) for line in lines if line.fields.get("culprit_host")}
    if len(captured) == 1:
        return captured.pop()
    hosts = {line.origin.host for line in lines if line.origin.host}
    if len(hosts) == 1:
        return hosts.pop()
    if hosts:
        return None
    known = evidence.host_of_rank(rank)
    if known:
        return known
    files = {line.origin.source for line in lines}
    if len(files) == 1:
        item = next((one for one in evidence.files if one.reading.name in files), None)
        return file_hosts(item) if item is not None else None
    return None


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
