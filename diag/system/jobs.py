"""Which processes belong to a launch, and what they are in it. Recognised by program, module or title, never by substring:
`vim torchrun.py` and `tail -f vllm.log` are nobody's rank."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from diag.system.files import Root
from diag.system.processes import Process, is_gone, list_processes, read_environment

RANK_VARIABLES = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
"""Where launchers tell a process its global rank: torchrun, Open MPI, MPICH/Intel MPI, PMIx, Slurm."""

_TITLES = (
    # (pattern on a renamed process, framework, role)
    (r"VLLM::(EngineCore|DPCoordinator)", "vllm", "engine"),
    (r"VLLM::Worker", "vllm", "worker"),
    (r"VLLM::", "vllm", "server"),
    (r"sglang::(scheduler|data_parallel_controller)", "sglang", "worker"),
    (r"sglang::", "sglang", "server"),
    (r"ray::IDLE", "ray", "idle"),
    (r"ray::(DashboardAgent|RuntimeEnvAgent|LogMonitor|JobSupervisor)", "ray", "control"),
    (r"ray::", "ray", "worker"),
)
_PROGRAMS = {
    # program, script or module name -> framework, role
    "torchrun": ("torchrun", "launcher"), "torch.distributed.run": ("torchrun", "launcher"),
    "torch.distributed.launch": ("torchrun", "launcher"),
    "deepspeed": ("deepspeed", "launcher"), "deepspeed.launcher.launch": ("deepspeed", "launcher"),
    "deepspeed.launcher.runner": ("deepspeed", "launcher"), "accelerate.commands.launch": ("accelerate", "launcher"),
    "mpirun": ("mpi", "launcher"), "mpiexec": ("mpi", "launcher"), "mpiexec.hydra": ("mpi", "launcher"),
    "orterun": ("mpi", "launcher"), "prterun": ("mpi", "launcher"), "orted": ("mpi", "launcher"),
    "prted": ("mpi", "launcher"), "hydra_pmi_proxy": ("mpi", "launcher"),
    "srun": ("slurm", "launcher"), "slurmstepd": ("slurm", "launcher"),
    "raylet": ("ray", "control"), "gcs_server": ("ray", "control"),
    "trtllm-serve": ("trtllm", "server"), "trtllm-llmapi-launch": ("trtllm", "launcher"),
    "trtllm-bench": ("trtllm", "server"),
    "etcd": ("dynamo", "control"), "nats-server": ("dynamo", "control"), "dynamo-run": ("dynamo", "server"),
    "mooncake_master": ("mooncake", "control"),
}  # fmt: skip
_WITH_COMMAND = {
    "vllm": ("serve", "bench"),
    "accelerate": ("launch",),
    "dynamo": ("serve", "run"),
    "sglang": ("serve",),
}
"""Programs that do many things; only these sub-commands start a launch."""
_MODULES = (
    (r"vllm\.entrypoints", "vllm", "server"),
    (r"sglang\.(launch_server|srt|bench_one_batch)", "sglang", "server"),
    (r"sglang_router", "sglang", "router"),
    (r"dynamo\.frontend", "dynamo", "frontend"),
    (r"dynamo\.(planner|router)", "dynamo", "router"),
    (r"dynamo\.sdk\.cli", "dynamo", "launcher"),
    (r"dynamo\.", "dynamo", "worker"),
    (r"tensorrt_llm\.", "trtllm", "worker"),
)
_PYTHON = re.compile(r"(python|pypy)[\d.]*$")
_OPTIONS_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")


@dataclass(frozen=True, slots=True)
class JobProcess:
    """A process of a launch and its place in it."""

    process: Process
    framework: str
    role: str
    """launcher, server, frontend, router, engine, worker, rank, control (Ray, etcd ...) or idle (a spare Ray worker)."""
    rank: int | None = None
    launch: int = 0
    """Pid of the topmost process of the same launch that still lives; two processes with different ones are strangers."""

    @property
    def label(self) -> str:
        """How a reader knows it: `VLLM::Worker_TP3 (pid 4711)`, `rank 3: train.py (pid 12)`."""
        argv = self.process.argv
        first = argv[0] if argv else self.process.name
        entry = (
            first.split()[0] if "::" in first else PurePosixPath(entry_point(argv) or self.process.name).name
        )
        return f"{'' if self.rank is None else f'rank {self.rank}: '}{entry} (pid {self.process.pid})"

    @property
    def computes(self) -> bool:
        """True for the processes that hold GPUs or take part in collectives."""
        return self.role in ("worker", "rank", "engine", "server")


def entry_point(argv: tuple[str, ...]) -> str:
    """What really runs: the module or script of an interpreter's command line, else the program itself."""
    if not argv or not _PYTHON.search(argv[0]):
        return argv[0] if argv else ""
    words = iter(argv[1:])
    for word in words:
        if word == "-m":
            return next(words, "")
        if word == "-c":
            return "-c"
        if word in _OPTIONS_WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            return word
    return argv[0]


def recognise(argv: tuple[str, ...], name: str = "") -> tuple[str, str] | None:
    """(framework, role) of a command line; None if it is no part of a launch."""
    title = argv[0] if argv else name
    for pattern, framework, role in _TITLES:
        if re.match(pattern, title):
            return framework, role
    entry = entry_point(argv)
    program = PurePosixPath(entry).name
    if program in _WITH_COMMAND and any(word in _WITH_COMMAND[program] for word in argv[1:5]):
        framework = program
        return framework, "launcher" if framework in ("accelerate", "dynamo") else "server"
    if program in _PROGRAMS:
        return _PROGRAMS[program]
    for pattern, framework, role in _MODULES:
        if re.match(pattern, entry):
            return framework, role
    if "/ray/" in entry and program in ("default_worker.py", "setup_worker.py", "monitor.py", "dashboard.py"):
        return "ray", "idle" if "worker" in program else "control"
    return None


def rank_of(environment: Mapping[str, str]) -> int | None:
    """The global rank a launcher gave to a process, from its environment."""
    for name in RANK_VARIABLES:
        if environment.get(name, "").isdigit():
            return int(environment[name])
    return None


def find_job(root: Root, processes: Iterable[Process] | None = None) -> list[JobProcess]:
    """The processes of launches on this node, by pid: recognised ones, and children of launchers with a rank."""
    everything = list(list_processes(root) if processes is None else processes)
    own = {process.pid for process in everything if _is_ours(process)}
    job: dict[int, JobProcess] = {}
    for process in everything:
        found = recognise(process.argv, process.name) if process.pid not in own else None
        if found is not None:
            job[process.pid] = JobProcess(process, *found)
    launchers = {pid for pid, member in job.items() if member.role == "launcher"}
    for process in everything:
        if process.pid in own or not process.argv:
            continue
        below = process.ppid in launchers
        python = bool(_PYTHON.search(process.argv[0]))
        member = job.get(process.pid)
        if not (below or python or member) or (member is not None and member.role in ("launcher", "control")):
            continue
        environment = read_environment(root, process.pid, 0.3) or {}
        rank = rank_of(environment)
        if member is not None:
            job[process.pid] = JobProcess(process, member.framework, member.role, rank)
        elif rank is not None and (python or below) and ("WORLD_SIZE" in environment or below):
            framework = job[process.ppid].framework if below else "torch"
            job[process.pid] = JobProcess(process, framework, "rank", rank)
    return [replace(job[pid], launch=_topmost(pid, job)) for pid in sorted(job)]


def _topmost(pid: int, job: Mapping[int, JobProcess]) -> int:
    seen = {pid}
    while job[pid].process.ppid in job and job[pid].process.ppid not in seen:
        pid = job[pid].process.ppid
        seen.add(pid)
    return pid


def _is_ours(process: Process) -> bool:
    """True for diag itself and its children, which may carry a rank when diag runs under a launcher."""
    entry = entry_point(process.argv)
    return PurePosixPath(entry).name == "diag" or entry.split(".")[0] == "diag" or "diag/observe/" in entry


def spans_nodes(environment: Mapping[str, str]) -> bool:
    """True if the variables a launcher set say that this job has ranks on more than one node."""

    def number(*names: str) -> int:
        return next((int(environment[name]) for name in names if environment.get(name, "").isdigit()), 0)

    world = number("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
    local = number("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
    return (
        number("NNODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES", "GROUP_WORLD_SIZE") > 1 or world > local > 0
    )


def find_patient_python(root: Root, env: Mapping[str, str], given: str | None) -> tuple[str | None, str]:
    """The interpreter the launch uses (or would use from this shell) and how we know; (None, why) if there is none.

    Order: the one given, that of a running rank, the active virtual environment or conda prefix, PATH, our own.
    /proc/PID/exe does not serve: it resolves a virtual environment's python to the one it was made from.
    """
    if given:
        return given, "given with --python"
    for member in find_job(root):
        argv = member.process.argv
        if argv and argv[0].startswith("/") and _PYTHON.search(argv[0]) and os.access(argv[0], os.X_OK):
            return argv[0], f"of {member.label}"
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        candidate = f"{env.get(variable, '')}/bin/python"
        if env.get(variable) and os.access(candidate, os.X_OK):
            return candidate, f"of {variable}"
    for name in ("python3", "python"):
        found = shutil.which(name, path=env.get("PATH", ""))
        if found:
            return found, "first on PATH"
    return None, "no running rank, no virtual environment, and no python on PATH"


def hidden_pythons(root: Root, processes: Iterable[Process], job: Iterable[JobProcess]) -> list[Process]:
    """Python processes whose variables may not be read: a rank among them cannot be told from any other script.

    Scripts of the distribution (/usr/bin, /usr/share ...) are daemons, never ranks.
    """
    known = {member.process.pid for member in job}
    return [
        process
        for process in processes
        if process.argv
        and process.pid not in known
        and _PYTHON.search(process.argv[0])
        and not _is_ours(process)
        and not re.match(r"/usr/(s?bin|lib|libexec|share)/.", entry_point(process.argv))
        and read_environment(root, process.pid, 0.3) is None
        and not is_gone(root, process.pid)
    ]
