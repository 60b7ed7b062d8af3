"""The last words of a process that ended by itself: an error it logged before a plain exit. Pure.

Programs of users check something, log why they give up and leave with a number; no exception is raised and no
message is one that a playbook could know. What the others print (closed connections, a launcher's table) follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from diag.model import Observation
from diag.observe.logs import lexicon
from diag.system.lazy import lazily

if TYPE_CHECKING:
    from diag.diagnose.evidence import FileEvidence

AFTERWORDS = 4
"""Lines that may follow the last words of a process in a file of its own: a newline, `exit status 3`."""

NEAR = 40
"""Lines between the last words and the launcher's first word of a death, in a file that several write to."""

SERVERS = ("vllm", "sglang", "dynamo", "trtllm", "tgi", "triton", "lmdeploy")
"""Frameworks whose launches run nothing of the user's own."""

_OF_A_PROGRAM = lazily(
    r"NCCL|c10d|torch[./]|gloo|\.(?:cpp|cc|cu|hpp|py|rs|go):\d+|^File \"|srun|slurm|mpirun|mpiexec|prte|PRTE|PMI|MPI_|MPI "
    r"|UCX|nixl_|ray\.|raylet|DeepSpeed|deepspeed|Traceback|Exception|Error: |nvidia|NVRM|CUDA|HYDU|HYDRA|kubelet|docker"
    r"|[Cc]onnection (?:closed|reset|refused)|[Bb]roken pipe|[Tt]imed? ?out|[Ss]ignal|SIG[A-Z]{3}"
    r"|(?i:\b(?:worker|child|subprocess|process(?:es)?|crashed|died|dead|killed|exit ?code)\b)"
)
"""Words of launchers and libraries, whose messages are the playbooks' matter, and of who only tells of others."""


def last_words(files: Sequence[FileEvidence]) -> list[Observation]:
    """The own errors with which processes ended, first in time first. Empty unless something of the launch failed."""
    found = []
    for item in files:
        if item.reading.framework in SERVERS:
            continue
        found += [
            one for one in item.observations if one.kind == "failure" and _own(one) and _ends(item, one)
        ]
    unique = {
        (one.origin.source, one.order): replace(
            one,
            origin=replace(one.origin, rank=_rank(one)),
            fields={**one.fields, "words": one.text[:400]},
        )
        for one in found
    }
    return sorted(unique.values(), key=lambda one: (one.origin.time_s or float("inf"), one.order))


_TELLS_RANK = lazily(r"[\"']?\brank[\"']?\s*[:= ]\s*(\d{1,5})\b")
"""A rank that a program's own form of a line tells."""


def _rank(one: Observation) -> int | None:
    if one.origin.rank is not None:
        return one.origin.rank
    found = _TELLS_RANK.search(one.text)
    return int(found[1]) if found else None


def _own(one: Observation) -> bool:
    if one.note or _OF_A_PROGRAM.search(one.text):
        return False
    return one.name in lexicon.OWN_WORDS


def _ends(item: FileEvidence, one: Observation) -> bool:
    """True if the writer did nothing more, and nothing but a plain exit followed."""
    rank = _rank(one)
    for other in (*item.alive, *item.exceptions, *item.phases):
        if rank is not None:
            same = _rank(other) == rank
        else:
            same = one.origin.process in (None, other.origin.process)
        if other.order >= one.order and same and "exit" not in other.text:
            return False
    if item.reading.lines - one.order <= AFTERWORDS:
        return True
    death = min((mark.order for mark in item.dead if mark.order > one.order), default=None)
    if death is None or death - one.order > NEAR:
        return False
    exits = [mark for mark in item.observations if mark.kind == "exit" and "rank" in mark.fields]
    return all(str(rank) == str(mark.fields["rank"]) for mark in exits) if rank is not None else True
