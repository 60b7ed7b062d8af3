"""Tasks of a batch script: values that every node must have alike, or of its own; launchers in every task, or on one node only."""

from __future__ import annotations

from collections.abc import Iterator

from diag.diagnose.plans.case import Case, judged, notes_of, where
from diag.diagnose.plans.settings import integer, setting_of, text_of
from diag.model import Finding, Status
from diag.model.launch import Service
from diag.observe.plans.tasks import DRAWN, HERE, TASK
from diag.observe.plans.values import long_name

MEETING_POINTS = (
    # the reader's note, the options, what their values show; the cause, what is said, what to do
    (
        "task.draws",
        ("master-port", "main-process-port", "rdzv-id", "rdzv-endpoint", "dist-init-addr"),
        DRAWN,
        "rendezvous-timeout",
        "every node draws its own {option} ({value}), so they never meet",
        "Draw it once in the batch script, export it, and use the variable in the tasks",
    ),
    (
        "task.here",
        ("master-addr", "main-process-ip", "rdzv-endpoint", "dist-init-addr"),
        HERE,
        "launcher-layout",
        "every node takes itself for the first: {option} {value} is evaluated on each",
        'Set it once in the batch script: scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1',
    ),
)
WAIT_FOR_ALL = ("torchrun", "accelerate", "sglang")
LAUNCHERS = ("torchrun", "accelerate", "deepspeed")
OWN_TASKS = ("launcher", "no-ssh", "no_ssh")
"""Options with which DeepSpeed's launcher starts nothing on other nodes."""


def _nodes(service: Service) -> int:
    return max(integer(service, name) or 1 for name in ("slurm.nodes", "nnodes"))


def judge_node_values(case: Case) -> Iterator[Finding]:
    """Ranks that the batch script itself fills in, and meeting points that every node makes up for itself."""
    for service in case.services:
        if _nodes(service) > 1 and notes_of(service).get("task.start"):
            yield from _one_rank_for_all(service)
            yield from _own_meeting_points(service)


def _written(service: Service, name: str) -> str:
    """An option as its launcher calls it (accelerate's node-rank is --machine-rank)."""
    setting = setting_of(service, name)
    return f"--{long_name(setting.key)}" if setting is not None else f"--{name}"


def _one_rank_for_all(service: Service) -> Iterator[Finding]:
    # c10d and etcd number the nodes themselves
    numbered = (text_of(service, "rdzv-backend") or "static") != "static"
    rank = text_of(service, "node-rank") or ""
    if numbered or not TASK.search(rank) or notes_of(service).get("task.expand") != "once":
        return
    option = _written(service, "node-rank")
    yield judged(
        "launcher-layout",
        service,
        Status.FAIL,
        f"{service.name}: {option} {rank} is filled in by the batch script on its first node, so all "
        f"{_nodes(service)} nodes get the same rank",
        setting=where(service, "node-rank"),
        do=f"Let every task expand it: srun bash -c '... {option} $SLURM_NODEID ...' in single quotes",
    )


def _own_meeting_points(service: Service) -> Iterator[Finding]:
    for note, names, pattern, cause, said, do in MEETING_POINTS:
        name = next((name for name in names if pattern.search(text_of(service, name) or "")), None)
        if name is not None and note in notes_of(service):
            yield judged(
                cause,
                service,
                Status.FAIL,
                f"{service.name}: {said.format(option=_written(service, name), value=text_of(service, name))}",
                setting=where(service, name),
                do=do,
            )


def judge_one_node_only(case: Case) -> Iterator[Finding]:
    """A launch over several nodes that nothing starts on the others."""
    for service in case.services:
        reserved, asked = integer(service, "slurm.nodes") or 1, setting_of(service, "nnodes")
        waits = integer(service, "nnodes") or reserved
        if reserved < 2 or asked is None or waits < 2 or service.framework not in WAIT_FOR_ALL:
            continue
        if "task.alone" not in notes_of(service) or notes_of(service).get("docker"):
            continue
        yield judged(
            "launcher-layout",
            service,
            Status.FAIL,
            f"{service.name} waits for {waits} nodes, and the script starts it on the first one only: nothing "
            "in it runs srun, mpirun or ssh",
            setting=asked,
            do="Put srun --ntasks-per-node=1 before it, so that every node starts its part",
        )


def judge_nested(case: Case) -> Iterator[Finding]:
    """A launcher that starts all ranks of a node, started by several tasks of that node."""
    for service in case.services:
        notes = notes_of(service)
        if service.framework not in LAUNCHERS or "task.open" in notes or notes.get("task.start") != "srun":
            continue
        if service.framework == "deepspeed" and any(name in service.options for name in OWN_TASKS):
            continue
        each = integer(service, "num-processes" if service.framework == "accelerate" else "nproc-per-node")
        alone = (
            each is None and service.framework != "deepspeed"
        )  # (which takes all GPUs where nothing is said)
        tasks = _tasks_a_node(service)
        if tasks < 2 or alone or (each is not None and each < 2):
            continue
        yield judged(
            "launcher-layout",
            service,
            Status.FAIL,
            f"{service.name}: srun starts {tasks} tasks a node, and each starts {service.framework}"
            + (f" with {each} ranks" if each else " with all ranks")
            + ", which wants one task a node",
            setting=where(service, "slurm.ntasks-per-node", "slurm.ntasks"),
            do="Set #SBATCH --ntasks-per-node=1, or start the script itself with srun",
            settings={"slurm.ntasks-per-node": 1} if "slurm.ntasks-per-node" in service.options else None,
        )


def _tasks_a_node(service: Service) -> int:
    """Tasks that Slurm starts on every node; 1 where nothing says, or they do not divide evenly."""
    tasks, total = integer(service, "slurm.ntasks-per-node"), integer(service, "slurm.ntasks") or 1
    nodes = integer(service, "slurm.nodes") or 1
    return tasks if tasks is not None else total // nodes if total % nodes == 0 else 1


def judge_ray_port(case: Case) -> Iterator[Finding]:
    """Ray's workers ask for another port than its head listens on."""
    for service in case.services[:1]:
        notes = notes_of(service)
        if "ray.join" not in notes:
            continue
        yield judged(
            "control-plane-unreachable",
            service,
            Status.FAIL,
            f"Ray's head listens on port {notes['ray.head.port']}, the workers join port {notes['ray.join']} (line {notes['ray.join.line']})",
            do=f"Use port {notes['ray.head.port']} in ray start --address",
        )


JUDGES = (judge_node_values, judge_one_node_only, judge_nested, judge_ray_port)
