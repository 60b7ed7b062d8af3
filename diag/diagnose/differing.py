"""Whether naming somebody tells anything: a culprit is who differs from the others, not who printed the first line."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from diag.diagnose.evidence import Evidence, FileEvidence
from diag.diagnose.whois import distinct
from diag.model import Observation
from diag.playbooks.schema import Playbook
from diag.system.lazy import lazily

SHARED = "shared"
"""What playbooks say of a cause that lies in what all ranks have in common."""
MACHINE_LAYERS = ("collective", "driver", "environment", "hardware", "memory", "transfer")
"""Layers whose causes lie in one machine, which is to be mended even if no other is known; transfers have two ends."""
NOBODY = ("localhost", "localhost.localdomain", "127.0.0.1", "0.0.0.0", "::1")  # noqa: S104  (addresses in logs, nothing is bound)
ONE_NODE = 8
"""Processes that one machine runs: a bigger launch has several machines."""


MAX_WORLD = 100_000

SPREADING = "hardware"
"""Layer whose failures spread from one rank to the others, so that the first to complain began it."""
MANY = 3
"""Ranks that complain alike."""
NAMED = ("culprit_host", "culprit_host2", "peer")
"""Captures with which lines themselves name a machine, mostly another than their writer's."""
_ADDRESS = lazily(r"\d+\.\d+\.\d+\.\d+\Z|[0-9a-fA-F]*:[0-9a-fA-F:]+\Z")


def seen_ranks(evidence: Evidence) -> set[int]:
    """Every rank that some line speaks for."""
    heads = (one.origin.rank for item in evidence.files for one in item.observations)
    return {rank for rank in heads if rank is not None} | evidence.who.ranks


def all_alike(lines: Sequence[Observation], evidence: Evidence) -> bool:
    """True if every rank that there is prints the telling lines: then none of them is the culprit."""
    mine = {rank for line in lines if (rank := evidence.who.rank_of(line)) is not None}
    return len(mine) > 1 and len(mine) >= max(evidence.who.world or 0, len(seen_ranks(evidence)))


def repeated(lines: Sequence[Observation], evidence: Evidence) -> bool:
    """True if all processes raise the same, as far as lines without a rank can tell."""
    wanted = {line.text for line in lines}
    raised = Counter(one.text for item in evidence.files for one in item.exceptions if one.text in wanted)
    told = evidence.facts.get("launch.nproc_per_node", ("",))[-1]
    size = evidence.who.world or (int(told) if told.isdigit() else 2)
    return max(raised.values(), default=0) >= max(size, 2) and not _others_lived(evidence)


def telling_rank(
    rank: int | None, playbook: Playbook, lines: Sequence[Observation], evidence: Evidence
) -> int | None:
    """The rank, if it is told from others."""
    if rank is None or any(
        str(line.fields.get(name, "")) == str(rank)
        for line in lines
        for name in ("rank", "rank2", "culprit_rank")
    ):
        return rank
    seen = seen_ranks(evidence)
    mine = {told for line in lines if (told := evidence.who.rank_of(line)) is not None}
    writers = playbook.culprit in ("", SHARED) and playbook.layer != SPREADING
    if writers and rank in mine and _befalls_most(mine, evidence):
        return None
    if playbook.culprit == SHARED:
        some = bool(mine) and mine < (seen | set(range(min(evidence.who.world or 0, MAX_WORLD))))
        return rank if some or one_machine_of_several(lines, evidence) else None
    if rank == 0 and seen <= {0} and not _several_processes(evidence):
        return None
    return rank


def _befalls_most(mine: set[int], evidence: Evidence) -> bool:
    """True if so many ranks complain that the first to do so is chance, and no launcher says who ended first."""
    there = max(evidence.who.world or 0, len(seen_ranks(evidence)))
    exits = any(item.first_exit is not None for item in evidence.files)
    return not exits and len(mine) >= MANY and 2 * len(mine) >= there


def one_machine_of_several(lines: Sequence[Observation], evidence: Evidence) -> bool:
    """True if each machine has a file of its own and only one of them holds the telling lines."""
    hosts = {item.reading.name: item.own_host or _exit_host(item) for item in evidence.files}
    known = [host for host in hosts.values() if host is not None]
    sources = {line.origin.source for line in lines}
    return len(hosts) > 1 and len(distinct(known, evidence.who)) == len(hosts) and len(sources) == 1


def _exit_host(item: FileEvidence) -> str | None:
    """The machine whose launcher wrote a file, by its word on who ended first."""
    exits = {
        str(one.fields["host"]) for one in item.observations if one.kind == "exit" and "host" in one.fields
    }
    return exits.pop() if len(exits) == 1 else None


def _several_processes(evidence: Evidence) -> bool:
    """True if anything says that the launch has more than one process."""
    if (evidence.who.world or 1) > 1 or _several_machines(evidence):
        return True
    told = [*evidence.facts.get("launch.world_size", ()), *evidence.facts.get("launch.nproc_per_node", ())]
    if any(one.isdigit() and int(one) > 1 for one in told):
        return True
    return _others_lived(evidence)


def _others_lived(evidence: Evidence) -> bool:
    """True if torchrun had to stop processes that had not failed."""
    return any("closing signal" in one.text for item in evidence.files for one in item.observations)


def telling_host(
    host: str | None, playbook: Playbook, lines: Sequence[Observation], evidence: Evidence
) -> str | None:
    """The machine, if it is told from others or is itself what is broken."""
    if host is None or host in NOBODY:
        return None
    if any(str(line.fields.get(name, "")) == host for line in lines for name in NAMED):
        return host
    if playbook.layer in MACHINE_LAYERS or playbook.culprit == "ended" or host in evidence.who.unready:
        return host
    if playbook.layer == "plan" and playbook.culprit != SHARED:  # it is about the GPUs of that machine
        return host
    others = [one for one in evidence.all_hosts if not evidence.who.same(one, host) and one not in NOBODY]
    return host if others or _several_machines(evidence) else None


def _several_machines(evidence: Evidence) -> bool:
    """True if anything says that the launch has more than one machine."""
    told = evidence.facts.get("launch.nnodes", ())
    ranks = max(evidence.who.world or 0, max(seen_ranks(evidence), default=0) + 1, _sharded_over(evidence))
    if any(one.isdigit() and int(one) > 1 for one in told) or ranks > ONE_NODE:
        return True
    hosts = {host for item in evidence.files if (host := item.own_host) is not None}
    hosts |= set(evidence.facts.get("launch.master_addr", ()))
    if any(_elsewhere(one) for item in evidence.files for one in item.observations):
        return True
    peers = {
        str(one.fields["peer"])
        for item in evidence.files
        for one in item.observations
        if one.fields.get("peer")
    }
    return len(distinct((hosts | peers | evidence.all_hosts) - set(NOBODY), evidence.who)) > 1


def _elsewhere(one: Observation) -> bool:
    """True for what Ray says of a process on another machine than the driver's: it heads the line with an address."""
    return bool(one.origin.host and "pid=" in (one.origin.process or "") and _ADDRESS.match(one.origin.host))


def _sharded_over(evidence: Evidence) -> int:
    """GPUs over which one copy of the model is spread."""
    sizes = [
        int(told[-1])
        for name in ("launch.tensor_parallel_size", "launch.pipeline_parallel_size")
        if (told := evidence.facts.get(name)) and told[-1].isdigit()
    ]
    return math.prod(sizes)
