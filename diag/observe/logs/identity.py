"""Who is who: lines that tell which process is which rank, where a rank runs, which names mean one machine.

Most lines of a failure carry less than that: a pid, a pod, an address. These lines are the key to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from diag.observe.logs.heads import Head
from diag.system.lazy import lazily

_HOST = r"[A-Za-z0-9][\w.-]*"

ROWS: tuple[tuple[str, str], ...] = (
    # a process says which rank it is: NCCL, vLLM, torch's store and gloo, Lightning, the environment
    ("rank", r" rank (?P<rank>\d+) nranks (?P<world>\d+)"),
    ("rank", r"NCCL INFO Channel 00(?:/\d+)? : (?P<rank>\d+)\[\w+\] -> \d+\[\w+\] (?:\[send\] )?via "),
    ("rank", r"NCCL INFO Channel 00(?:/\d+)? : \d+\[\w+\] -> (?P<rank>\d+)\[\w+\] \[receive\] via "),
    ("rank", r"world_size=(?P<world>\d+) rank=(?P<rank>\d+) local_rank=\d+"),
    ("rank", r"\brank (?P<rank>\d+) in world size (?P<world>\d+) is assigned as "),
    ("rank", r"\[Gloo\] Rank (?P<rank>\d+) is connected to (?P<peers>\d+) peer ranks"),
    ("self", r"store_based_barrier_key:\d+ to store for rank: (?P<rank>\d+)"),
    ("rank", r"store[- ]based barrier on rank: (?P<rank>\d+), .{0,60}world_size=(?P<world>\d+)"),
    ("self", r"Rank (?P<rank>\d+): Completed store-based barrier"),
    ("self", r"\bWORLD_SIZE=(?P<world>\d+)\b.{0,80} RANK=(?P<rank>\d+)\b"),
    ("speech", r"DeadLock detected from rank: (?P<rank>\d+)"),
    # lists of ranks that have not come: Horovod's, with what they are awaited for, and JAX's
    ("absent", r"^\[(?:allreduce|allgather|broadcast|alltoall|reducescatter)\."),
    ("absent", r"^/job:\w+/replica:\d+/task:(?P<rank>\d+)$"),
    ("world", r"GLOBAL_RANK: (?P<rank>\d+), MEMBER: \d+/(?P<world>\d+)"),
    ("world", r"distributed processes registered\. Starting with (?P<world>\d+) processes"),
    ("world", r"\bdist_world_size=(?P<world>\d+)"),
    ("world", r"\b(?:mpirun|mpiexec|prterun)\b.{0,300}? -(?:n|np) (?P<world>\d+) "),
    # a launcher, a benchmark or the training script says where ranks run
    ("place", r"\bRank +(?P<rank>\d+) +(?:Group +\d+ +)?Pid +(?P<pid>\d+) on +(?P<host>[\w.-]+) device"),
    ("place", rf"\brank (?P<rank>\d+)/(?P<world>\d+) on (?P<host>{_HOST})"),
    ("place", rf"\(rank (?P<rank>\d+)\) on (?P<host>{_HOST}?)(?:\.{{3}}|\s|$)"),
    ("place", rf"\[(?P<host>{_HOST})\]\[rank(?P<rank>\d+)\]"),
    ("place", r"\bname=\w{0,60}_\d+:(?P<rank>\d+), pid=(?P<pid>\d+)"),
    (
        "place",
        rf"\brank[ =:]+(?P<rank>\d+)\b.{{0,12}}\bhost[ =:]+(?P<host>{_HOST})(?:.{{0,60}}\bworld(?:[ _]size)?[ =:]+(?P<world>\d+))?",
    ),
    (
        "place",
        rf"\bhost[ =:]+(?P<host>{_HOST})\b.{{0,30}}\brank[ =:]+(?P<rank>\d+)\b(?:.{{0,30}}\bworld(?:[ _]size)?[ =:]+(?P<world>\d+))?",
    ),
    ("table", r"WORLD INFO DICT: (?P<table>\{.*\})"),
    (
        "table",
        r"\b(?:mpirun|mpiexec|prterun)\b.{0,300}? (?:-H|--host|-host) (?P<table>[\w.-]+:\d+,[\w.,:-]+)",
    ),
    # two names of one machine
    ("alias", r"NCCL INFO Bootstrap ?: Using (?:\[\d+\])?[\w.-]+:(?P<address>\d+\.\d+\.\d+\.\d+)<"),
    ("alias", r"NCCL INFO NET/\w+ : Using .{0,400}(?:OOB |\[0\])[\w.-]+:(?P<address>\d+\.\d+\.\d+\.\d+)<"),
    ("alias", r"^Node: +(?P<host>[\w.-]+)/(?P<address>\d+\.\d+\.\d+\.\d+)$"),
    (
        "alias",
        r"^(?P<host>[a-z0-9][a-z0-9.-]+) +(?:ClusterIP|LoadBalancer|NodePort) +(?P<address>\d+\.\d+\.\d+\.\d+) ",
    ),
    # the node that somebody looks at with kubectl
    (
        "node",
        r"\b(?:kubectl|oc) .{0,80}?(?:debug node/|(?:get|describe) nodes? |(?:get|describe) node/|spec\.nodeName=|cordon |drain )"
        r"(?P<host>[a-z0-9][a-z0-9.-]+)",
    ),
    # a pod or a container, and the machine below it
    ("pod", r"Successfully assigned [\w.-]+/(?P<pod>[\w.-]+) to (?P<host>[\w.-]+)"),
    (
        "pod",
        r"^(?P<pod>[a-z0-9][a-z0-9.-]+) +\d+/\d+ .{3,80} \d+\.\d+\.\d+\.\d+ +(?P<host>[a-z0-9][a-z0-9.-]+) +<none>",
    ),
    (
        "pod",
        r"^(?P<pod>[a-z0-9][a-z0-9.-]+) +\d+/\d+ +(?:Running|Error|Completed|CrashLoopBackOff|OOMKilled) .{3,60} \d+\.\d+\.\d+\.\d+ +"
        r"(?P<host>[a-z0-9][a-z0-9.-]+)$",
    ),
    ("described", r"^Node: +(?P<host>[\w.-]+)/\d+\.\d+\.\d+\.\d+$"),
    # the machine and process of a Ray task that raised: what stands below is that process's
    ("task", r"\bray::.{1,200}?\(pid=(?P<pid>\d+), ip=(?P<host>[\w.:]+)"),
    ("pod", r"pod/(?P<pod>[\w.-]+) .{0,120} on node (?P<host>[\w.-]+)"),
    (
        "unready",
        r"^(?P<pod>[a-z0-9][a-z0-9.-]+) +\d+/\d+ +(?:Init:\S+|Pending|ContainerCreating|CrashLoopBackOff|Error|Unknown|Evicted|"
        r"ImagePullBackOff|ErrImagePull|OOMKilled|Terminating) ",
    ),
    ("container", r"\bcontainer=(?P<pod>[0-9a-f]{12})\b"),
)
"""(what is told, expression). `rank`, `self` and `speech` speak of the writer itself, `self` where the file is its own;
`described` of the pod whose description stands around the line."""

_IN_TABLE = lazily(rf"['\"](?P<host>{_HOST})['\"]: \[(?P<ranks>[\d, ]*)\]")


@dataclass(frozen=True, slots=True)
class Introduction:
    """One line's word on who is who."""

    line: int
    kind: str
    host: str | None = None
    pid: int | None = None
    rank: int | None = None
    world: int | None = None
    address: str | None = None
    pod: str | None = None
    ranks: tuple[tuple[str, int], ...] = ()
    """(machine, number of ranks) in the order of ranks."""


def introduction(kind: str, captures: Mapping[str, str | None], head: Head, line: int) -> Introduction:
    """What a matched line tells, its head included."""

    def number(name: str) -> int | None:
        value = captures.get(name)
        return int(value) if value and len(value) < 10 else None

    return Introduction(
        line,
        kind,
        host=captures.get("host") or head.host,
        pid=number("pid") or head.pid,
        rank=head.rank if kind == "absent" and "rank" not in captures else number("rank"),
        world=number("world") if "peers" not in captures else (number("peers") or 0) + 1,
        address=captures.get("address"),
        pod=captures.get("pod"),
        ranks=_table(captures.get("table") or ""),
    )


def _table(text: str) -> tuple[tuple[str, int], ...]:
    """`{'node1': [0, 1], 'node2': [0, 1]}` and `node1:2,node2:2` say how many ranks each machine has."""
    if text.startswith("{"):
        return tuple(
            (found["host"], len([word for word in found["ranks"].split(",") if word.strip()]))
            for found in _IN_TABLE.finditer(text)
        )
    words = [word.partition(":") for word in text.split(",") if word]
    return tuple((host, int(slots) if slots.isdigit() else 1) for host, _, slots in words)
