"""Which launcher started us, and our place in the job: one table over the environment. Pure.

Sources: torch elastic (GROUP_RANK, GROUP_WORLD_SIZE), Slurm's srun (SLURM_*; only inside a step), Open MPI
(OMPI_COMM_WORLD_*), MPICH and Intel MPI's hydra (PMI_*, MPI_LOCALRANKID), LeaderWorkerSet (LWS_*), Kubeflow's PyTorchJob
(PET_*), Kubernetes indexed Jobs and JobSet (JOB_COMPLETION_INDEX).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

DEFAULT_PORT = 29511
"""Where nodes meet if nobody names a port: beside torchrun's 29500, which a launcher may hold."""
MOST_HOSTS = 4096


@dataclass(frozen=True, slots=True)
class Layout:
    """A process's place in its job. None: the launcher does not tell."""

    launcher: str
    nnodes: int | None = None
    node_rank: int | None = None
    local_rank: int = 0
    master_host: str | None = None
    port: int | None = None
    rank: int | None = None
    world_size: int | None = None
    hosts: tuple[str, ...] = ()
    """Node names by node rank, where the launcher tells them."""
    spare_ports: tuple[int, ...] = ()
    """Where the nodes meet instead if another program holds `port`: only where we, not the launcher, have chosen it."""
    note: str = ""

    @property
    def many(self) -> bool:
        """True for a job of more than one node."""
        return (self.nnodes or 0) > 1

    def name_of(self, node_rank: int) -> str | None:
        """What the launcher calls that node."""
        return self.hosts[node_rank] if node_rank < len(self.hosts) else None


def by_hand(nnodes: int, node_rank: int, master: str, env: Mapping[str, str]) -> Layout:
    """The layout of `--nnodes --node-rank --master HOST:PORT`. Raises ValueError for a master that is no HOST:PORT."""
    host, port = split_address(master)
    return Layout(
        "by hand",
        nnodes,
        node_rank,
        0,
        host,
        port or DEFAULT_PORT,
        _number(env, "RANK"),
        _number(env, "WORLD_SIZE"),
    )


def split_address(text: str) -> tuple[str, int | None]:
    """(host, port) of `host`, `host:port`, `[v6]:port` or a bare IPv6 address. Raises ValueError."""
    found = re.fullmatch(r"\[([^\]]+)\](?::(\d+))?|([^:\s]+)(?::(\d+))?|([^\s:]*:[^\s:]*:\S*)", text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no HOST:PORT")
    port = found[2] or found[4]
    if port is not None and not 0 < int(port) < 65536:
        raise ValueError(f"{port} is no port")
    return found[1] or found[3] or found[5], int(port) if port else None


def recognise(env: Mapping[str, str], hostname: str = "") -> Layout | None:
    """Our place as the innermost launcher tells it; None if no launcher is at work."""
    for fits, read in _TABLE:
        if fits(env):
            layout = read(env, hostname)
            return _common(layout, env) if layout is not None else None
    return None


def _common(layout: Layout, env: Mapping[str, str]) -> Layout:
    """What every launcher's user may set beside it: the address of the master."""
    host, port = layout.master_host, layout.port
    if host is None and env.get("MASTER_ADDR"):
        host = env["MASTER_ADDR"].strip("[]")
    if host is None and layout.hosts:
        host = layout.hosts[0]
    if port is None:
        port = _number(env, "MASTER_PORT") or DEFAULT_PORT
    return replace(layout, master_host=host, port=port)


def _torchrun(env: Mapping[str, str], hostname: str) -> Layout:
    port = _number(env, "MASTER_PORT")
    taken = env.get("TORCHELASTIC_USE_AGENT_STORE", "").lower() == "true" and port is not None
    return Layout(
        "torchrun", _number(env, "GROUP_WORLD_SIZE"), _number(env, "GROUP_RANK"), _number(env, "LOCAL_RANK") or 0,
        rank=_number(env, "RANK"), world_size=_number(env, "WORLD_SIZE"),
        port=port + 1 if port is not None and taken else None,
        spare_ports=(port + 2, port + 3) if port is not None and taken else (),
        note=f"torchrun's own store holds port {port}; the nodes meet on {port + 1}" if port is not None and taken else "",
    )  # fmt: skip


def _open_mpi(env: Mapping[str, str], hostname: str) -> Layout:
    return _mpi(
        "Open MPI", env, *(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))
    )


def _hydra(env: Mapping[str, str], hostname: str) -> Layout:
    return _mpi("MPICH or Intel MPI", env, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")


def _mpi(launcher: str, env: Mapping[str, str], *names: str) -> Layout:
    """MPI numbers ranks, not nodes: with as many ranks on each node, filled one after the other, both follow."""
    rank, size, local, local_size = (_number(env, name) for name in names)
    each = local_size or 1
    nodes = -(-size // each) if size is not None else None
    first = rank // each if rank is not None else None
    return Layout(launcher, nodes, first, local or 0, rank=rank, world_size=size)


def _slurm(env: Mapping[str, str], hostname: str) -> Layout:
    hosts = expand_hosts(
        env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or env.get("SLURM_NODELIST", "")
    )
    nodes = _number(env, "SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES")
    return Layout(
        "Slurm", nodes, _number(env, "SLURM_NODEID"), _number(env, "SLURM_LOCALID") or 0, rank=_number(env, "SLURM_PROCID"),
        world_size=_number(env, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), hosts=hosts if len(hosts) == nodes else hosts[:1],
    )  # fmt: skip


def _leader_worker_set(env: Mapping[str, str], hostname: str) -> Layout:
    return Layout(
        "LeaderWorkerSet", _number(env, "LWS_GROUP_SIZE"), _number(env, "LWS_WORKER_INDEX"),
        master_host=env.get("LWS_LEADER_ADDRESS") or None,
    )  # fmt: skip


def _pytorch_job(env: Mapping[str, str], hostname: str) -> Layout:
    nodes = env.get("PET_NNODES", "").rpartition(":")[2]
    return Layout(
        "PyTorchJob", int(nodes) if nodes.isdigit() else _number(env, "WORLD_SIZE"),
        _number(env, "PET_NODE_RANK", "RANK"), rank=_number(env, "RANK"), world_size=_number(env, "WORLD_SIZE"),
    )  # fmt: skip


def _indexed_job(env: Mapping[str, str], hostname: str) -> Layout | None:
    """A pod's host name ends in its index; the same name with 0 is the first pod (JobSet's too, with a headless service)."""
    index = env["JOB_COMPLETION_INDEX"]
    nodes = _number(env, "NNODES", "NUM_NODES", "WORLD_SIZE")
    first, dot, domain = hostname.partition(".")
    master = f"{first[: -len(index)]}0{dot}{domain}" if first.endswith(f"-{index}") else None
    kind = "JobSet" if any(name.startswith("JOBSET_") for name in env) else "Kubernetes Job"
    return Layout(
        kind, nodes, int(index), _number(env, "LOCAL_RANK") or 0,
        master_host=env["MASTER_ADDR"].strip("[]") if env.get("MASTER_ADDR") else master,
    )  # fmt: skip


def _plain(env: Mapping[str, str], hostname: str) -> Layout | None:
    """RANK, WORLD_SIZE and MASTER_ADDR set by hand: nodes follow from what is said of them."""
    rank, world, each = _number(env, "RANK"), _number(env, "WORLD_SIZE"), _number(env, "LOCAL_WORLD_SIZE")
    nodes, node = _number(env, "NNODES"), _number(env, "NODE_RANK")
    if nodes is None and world is not None and each:
        nodes = -(-world // each)
    if node is None and rank is not None and each:
        node = rank // each
    if nodes is None or node is None:
        return None
    return Layout(
        "RANK and WORLD_SIZE", nodes, node, _number(env, "LOCAL_RANK") or 0, rank=rank, world_size=world
    )


_TABLE: tuple[
    tuple[Callable[[Mapping[str, str]], bool], Callable[[Mapping[str, str], str], Layout | None]], ...
] = (
    (lambda env: "GROUP_RANK" in env and "GROUP_WORLD_SIZE" in env, _torchrun),
    (lambda env: "OMPI_COMM_WORLD_RANK" in env, _open_mpi),
    (lambda env: "PMI_RANK" in env and "SLURM_PROCID" not in env, _hydra),
    # In a batch script outside srun there is no step: the variables describe the allocation, and one process runs.
    (lambda env: "SLURM_PROCID" in env and "SLURM_STEP_ID" in env and "SLURM_NODEID" in env, _slurm),
    (lambda env: "LWS_LEADER_ADDRESS" in env or "LWS_WORKER_INDEX" in env, _leader_worker_set),
    (lambda env: "PET_NNODES" in env and ("PET_NODE_RANK" in env or "RANK" in env), _pytorch_job),
    (lambda env: env.get("JOB_COMPLETION_INDEX", "").isdigit(), _indexed_job),
    (lambda env: bool(env.get("MASTER_ADDR")) and "RANK" in env, _plain),
)
"""(whether this launcher is at work, how to read it), innermost launcher first: torchrun under srun is torchrun."""


def expand_hosts(text: str) -> tuple[str, ...]:
    """Slurm's host list `gpu[01-03,7],login1` in full, at most MOST_HOSTS names."""
    names: list[str] = []
    for part in re.findall(r"[^,\[\]]*(?:\[[^\]]*\][^,\[\]]*)*", text):
        if part:
            names += _expand(part)
        if len(names) > MOST_HOSTS:
            break
    return tuple(names[:MOST_HOSTS])


def _expand(part: str) -> list[str]:
    found = re.search(r"\[([^\]]*)\]", part)
    if found is None:
        return [part]
    names: list[str] = []
    for piece in found[1].split(","):
        low, dash, high = piece.partition("-")
        if not (low.isdigit() and (high.isdigit() or not dash)):
            continue
        for number in range(int(low), min(int(high or low), int(low) + MOST_HOSTS) + 1):
            names += _expand(f"{part[: found.start()]}{number:0{len(low)}d}{part[found.end() :]}")
    return names


def _number(env: Mapping[str, str], *names: str) -> int | None:
    return next((int(env[name]) for name in names if env.get(name, "").isdigit()), None)
