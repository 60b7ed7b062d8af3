"""Whom the others wait for, where the telling lines are the victims': who is silent, odd, idle, late or named as missing."""

from __future__ import annotations

from collections.abc import Sequence

from diag.diagnose.differing import MAX_WORLD
from diag.diagnose.evidence import Evidence
from diag.diagnose.matching import ClauseMatch
from diag.model import Observation
from diag.system.lazy import lazily

PEER_GONE = lazily(
    r"Connection closed by (?:remote )?peer|Connection reset by peer|remote process exited|Broken pipe|ncclRemoteError"
)


def silent(lines: Sequence[Observation], evidence: Evidence) -> set[int]:
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


def busy(matches: Sequence[ClauseMatch], lines: Sequence[Observation]) -> int | None:
    """The rank whose own work the others wait for; what is printed without a rank is mostly rank 0's."""
    complaining = {line.origin.rank for line in lines if line.origin.rank is not None}
    work = [
        line for match in matches for hit in match.hits if hit.signal.says == "context" for line in hit.lines
    ]
    workers = {line.origin.rank or 0 for line in work}
    return workers.pop() if complaining and len(workers) == 1 and not workers & complaining else None


def odd(lines: Sequence[Observation]) -> set[int]:
    """The one rank of three or more whose captures differ from all others'."""
    groups: dict[str, set[int]] = {}
    for line in lines:
        if line.origin.rank is not None:
            groups.setdefault(str(sorted(line.fields.items())), set()).add(line.origin.rank)
    single = [ranks for ranks in groups.values() if len(ranks) == 1]
    everyone = {rank for ranks in groups.values() for rank in ranks}
    return set(single[0]) if len(groups) == 2 and len(single) == 1 and len(everyone) > 2 else set()


def quiet_host(lines: Sequence[Observation], evidence: Evidence) -> str | None:
    """The one machine whose file holds no complaint, where others' do."""
    loud = {line.origin.source for line in lines}
    quiet = [item.own_host for item in evidence.files if item.reading.name not in loud]
    return quiet[0] if len(quiet) == 1 and len(evidence.files) > 1 else None


def of_idle_gpu(evidence: Evidence) -> tuple[int | None, str | None] | None:
    """The rank and machine of the one GPU that idles while all others spin."""
    if evidence.who.idle_gpu is None:
        return None
    source, gpu = evidence.who.idle_gpu
    item = next(item for item in evidence.files if item.reading.name == source)
    host = item.own_host
    alone = gpu if len(evidence.all_hosts) <= 1 else None
    return evidence.who.rank_of_gpu(host, gpu) if host is not None and alone is None else alone, host


def number(line: Observation, name: str) -> int | None:
    """A captured number, if the line has it."""
    value = str(line.fields.get(name, ""))
    return int(value) if value.isdigit() else None


def lost_peer(rank: int, evidence: Evidence) -> bool:
    """True if all that a rank complains of is that another one went away."""
    mine = [one for item in evidence.files for one in item.exceptions if evidence.who.rank_of(one) == rank]
    failures = [one for one in mine if not one.fields.get("ignored")]
    return bool(failures) and all(PEER_GONE.search(one.text) for one in failures)


def absent_rank(evidence: Evidence) -> int | None:
    """The rank that a launcher's list of missing ranks names by far the most often."""
    told = evidence.who.absent.most_common(2)
    return told[0][0] if told and (len(told) == 1 or told[0][1] >= 2 * told[1][1]) else None


def late_rank(lines: Sequence[Observation], evidence: Evidence) -> int | None:
    """The one rank that does not give up waiting but finds its peers gone: it came when they had left."""
    waited = {rank for line in lines if (rank := evidence.who.rank_of(line)) is not None}
    alone = {
        rank
        for item in evidence.files
        for one in item.observations
        if PEER_GONE.search(one.text) and (rank := evidence.who.rank_of(one)) is not None
    } - waited
    return alone.pop() if len(waited) > 1 and len(alone) == 1 else None
