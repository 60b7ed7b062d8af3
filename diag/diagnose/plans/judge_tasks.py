"""Tasks of a batch script: values that every node must have alike, or of its own; launchers in every task, or on one node only."""

from __future__ import annotations

from collections.abc import Iterator

from diag.diagnose.plans.case import Case, judged, notes_of, where
from diag.diagnose.plans.settings import integer, setting_of, text_of
from diag.model import Finding, Status
from diag.model.launch import Service
from diag.observe.plans.tasks import DRAWN, HERE, TASK
from diag.observe.plans.values import as_int

RANKS = ("node-rank", "machine-rank")
PORTS = ("master-port", "main-process-port", "rdzv-id", "rdzv-endpoint", "dist-init-addr")
ADDRESSES = ("master-addr", "main-process-ip", "rdzv-endpoint", "dist-init-addr")
LAUNCHERS = ("torchrun", "accelerate", "deepspeed")
OWN_TASKS = ("launcher", "no-ssh", "no_ssh")
"""Options with which DeepSpeed's launcher starts nothing on other nodes."""


def _nodes(service: Service) -> int:
    return max(integer(service, name) or 1 for name in ("slurm.nodes", "nnodes", "num-machines"))


def judge_node_values(case: Case) -> Iterator[Finding]:
    """Ranks that the batch script itself fills in, and meeting points that every node makes up for itself."""
    for service in case.services:
        notes = notes_of(service)
        if _nodes(service) < 2 or not notes.get("task.start"):
            continue
        rank = next((name for name in RANKS if TASK.search(str(text_of(service, name) or ""))), None)
        given_out = text_of(service, "rdzv-backend") or "static"  # c10d and etcd number the nodes themselves
        if rank is not None and notes.get("task.expand") == "once" and given_out == "static":
            yield judged(
                "launcher-layout",
                service,
                Status.FAIL,
                f"{service.name}: --{rank} {text_of(service, rank)} is filled in by the batch script on its first node, so all "
                f"{_nodes(service)} nodes get the same rank",
                setting=where(service, rank),
                do=f"Let every task expand it: srun bash -c '... --{rank} $SLURM_NODEID ...' in single quotes",
            )
        drawn = next((name for name in PORTS if DRAWN.search(str(text_of(service, name) or ""))), None)
        if drawn is not None and "task.draws" in notes:
            yield judged(
                "rendezvous-timeout",
                service,
                Status.FAIL,
                f"{service.name}: every node draws its own --{drawn} ({text_of(service, drawn)}), so they never meet",
                setting=where(service, drawn),
                do="Draw it once in the batch script, export it, and use the variable in the tasks",
            )
        here = next((name for name in ADDRESSES if HERE.search(str(text_of(service, name) or ""))), None)
        if here is not None and "task.here" in notes:
            yield judged(
                "launcher-layout",
                service,
                Status.FAIL,
                f"{service.name}: every node takes itself for the first: --{here} {text_of(service, here)} is evaluated on each",
                setting=where(service, here),
                do='Set it once in the batch script: scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1',
            )


def judge_one_node_only(case: Case) -> Iterator[Finding]:
    """A launch over several nodes that nothing starts on the others."""
    for service in case.services:
        nodes = integer(service, "slurm.nodes") or 1
        many = next((name for name in ("nnodes", "num-machines") if setting_of(service, name)), None)
        starts = service.framework in ("torchrun", "accelerate") or (
            service.framework == "sglang" and many is not None
        )
        if nodes < 2 or "task.alone" not in notes_of(service) or not starts or many is None:
            continue
        if (integer(service, many) or nodes) < 2 or notes_of(service).get("docker"):
            continue
        yield judged(
            "launcher-layout",
            service,
            Status.FAIL,
            f"{service.name} waits for {integer(service, many) or nodes} nodes, and the script starts it on the first one only: nothing "
            "in it runs srun, mpirun or ssh",
            setting=where(service, many),
            do="Put srun --ntasks-per-node=1 before it, so that every node starts its part",
        )


def judge_nested(case: Case) -> Iterator[Finding]:
    """A launcher that starts all ranks of a node, started by several tasks of that node."""
    for service in case.services:
        notes = notes_of(service)
        if service.framework not in LAUNCHERS or "task.open" in notes or notes.get("task.start") != "srun":
            continue
        tasks, total = integer(service, "slurm.ntasks-per-node"), integer(service, "slurm.ntasks")
        nodes = integer(service, "slurm.nodes") or 1
        if tasks is None and total is not None and total > nodes and total % nodes == 0:
            tasks = total // nodes
        each = integer(service, "nproc-per-node") or integer(service, "num-gpus")
        if service.framework == "accelerate":
            each = integer(service, "num-processes")
        if service.framework == "deepspeed" and any(name in service.options for name in OWN_TASKS):
            continue
        if not tasks or tasks < 2 or (each is not None and each < 2):
            continue
        if each is None and service.framework != "deepspeed":
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
            f"Ray's head listens on port {notes['ray.head.port']}, the workers join port {notes['ray.join']} (line {as_int(notes['ray.join.line'])})",
            do=f"Use port {notes['ray.head.port']} in ray start --address",
        )


JUDGES = (judge_node_values, judge_one_node_only, judge_nested, judge_ray_port)
