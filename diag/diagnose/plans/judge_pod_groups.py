"""Pods that make one launch: how many there are, whether they find each other, what each of them brings and runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from diag.diagnose.plans.case import Case, absent, judged, notes_of, ranks_of, where
from diag.diagnose.plans.settings import as_int, engine_of, integer, setting_of, text_of
from diag.model import Finding, Status
from diag.model.launch import Service, Setting

ADDRESSES = ("master-addr", "rdzv-endpoint", "dist-init-addr", "main-process-ip")
INDEX = re.compile(r"JOB_COMPLETION_INDEX|job-completion-index")


def judge_pod_count(case: Case) -> Iterator[Finding]:
    """The nodes that a launcher waits for against the pods that run at once."""
    for service in case.services:
        notes, nodes = notes_of(service), integer(service, "nnodes")
        kind = notes.get("workload", "")
        pods = service.nodes_per_replica if kind == "LeaderWorkerSet" else as_int(notes.get("pods"))
        if not nodes or nodes < 2 or not pods or absent(service):
            continue
        if not (engine_of(service) or service.role == "trainer"):
            continue
        exact = kind in ("LeaderWorkerSet", "PyTorchJob")
        if nodes <= pods and (nodes == pods or not exact):
            continue
        counted = {
            "LeaderWorkerSet": f"the group has size {pods}",
            "PyTorchJob": f"its roles, the Master among them, are {pods} pods",
            "Job": f"the Job runs {pods} pod{'s' if pods > 1 else ''} at once (parallelism)",
        }.get(kind, f"there are {pods} pods")
        then = "wait for pods that never come" if nodes > pods else "leave pods with ranks that do not exist"
        right = "$(LWS_GROUP_SIZE)" if kind == "LeaderWorkerSet" else pods
        job = kind == "Job" and nodes > pods
        yield judged(
            "launcher-layout",
            service,
            Status.FAIL,
            f"{service.name}: nnodes {nodes}, but {counted}: those that start {then}",
            setting=where(service, "service.workers" if job else "nnodes", "nnodes"),
            wanted=nodes,
            there=pods,
            do=f"Set parallelism and completions to {nodes}" if job else f"Set nnodes to {right}",
            settings={"service.workers": nodes}
            if job and "service.workers" in service.options
            else {"nnodes": right},
        )


def judge_indexed(case: Case) -> Iterator[Finding]:
    """A Job's pods that ask for an index which only `completionMode: Indexed` gives."""
    for service in case.services:
        notes = notes_of(service)
        if notes.get("job.indexed") != "false" or "JOB_COMPLETION_INDEX" in service.env:
            continue
        asked = next(
            (
                setting
                for setting in (*service.options.values(), *service.env.values())
                if INDEX.search(str(setting.value))
            ),
            None,
        )
        if asked is not None:
            yield judged(
                "launcher-layout",
                service,
                Status.FAIL,
                f"{service.name}: {asked.key} is taken from the completion index, and without completionMode: Indexed the Job's pods have none (nor names that end in it): every rank is empty",
                setting=asked,
                do="Add completionMode: Indexed to the Job's spec",
                cure="indexed",
                alike=True,
            )


def judge_pod_names(case: Case) -> Iterator[Finding]:
    """An address that names a pod of the same object, under a subdomain that the pods do not have."""
    for service in case.services:
        notes = notes_of(service)
        hosts, domain = notes.get("dns.hosts", "").split(","), notes.get("dns.subdomain")
        if domain is None or not (engine_of(service) or service.role == "trainer"):
            continue
        for setting in _addresses(service):
            address = re.sub(r":\d+\Z", "", str(setting.value))
            host, _, rest = address.partition(".")
            own = next(
                (each for each in hosts if re.fullmatch(rf"{re.escape(each)}(-\d+){{1,2}}", host)), None
            )
            said = rest.split(".", maxsplit=1)[0]
            if own is None or not rest or said == domain or "$" in address:
                continue
            what = (
                f"the pods have the subdomain {domain}"
                if domain
                else "the pods have no subdomain, so their names do not resolve"
            )
            right = f"{host}.{domain}" if domain else address
            yield judged(
                "dns-failure",
                service,
                Status.FAIL,
                f"{service.name}: {setting.key} is {address}, but {what}",
                setting=setting,
                do=f"Write {right}"
                if domain
                else f"Give the pods subdomain: {said} and a headless Service of that name",
                variables={setting.key: str(setting.value).replace(address, right)} if domain else None,
            )


def _addresses(service: Service) -> Iterator[Setting]:
    """Where ranks meet: the variable before the option, as an option often holds the variable's value."""
    variable = service.env.get("MASTER_ADDR")
    if variable is not None:
        yield variable
    for name in ADDRESSES:
        option = setting_of(service, name)
        if option is not None and (variable is None or str(variable.value) not in str(option.value)):
            yield option


def judge_worker_gpus(case: Case) -> Iterator[Finding]:
    """A LeaderWorkerSet whose workers bring other GPUs than its leader."""
    for leader in case.engines:
        size = leader.nodes_per_replica or 1
        if notes_of(leader).get("workload") != "LeaderWorkerSet" or notes_of(leader).get("part") == "worker":
            continue
        worker = next(
            (
                each
                for each in case.services
                if notes_of(each).get("part") == "worker"
                and notes_of(each).get("pod") == notes_of(leader).get("pod")
            ),
            None,
        )
        mine = leader.gpus_per_replica
        theirs = worker.gpus_per_replica if worker is not None else None
        if worker is None or mine is None or theirs is None or theirs == mine or size < 2:
            continue
        total, ranks = mine + (size - 1) * theirs, ranks_of(leader)
        if ranks <= total or (integer(leader, "tensor-parallel-size") is None and ranks == 1):
            continue
        ray = engine_of(leader) == "vllm" and integer(leader, "nnodes") is None
        yield judged(
            "ray-resources-pending" if ray else "gpu-count-exceeded",
            worker,
            Status.FAIL,
            f"{leader.name}: the leader's {mine} GPUs and {size - 1} × {theirs} of the workers are {total}; its sizes need {ranks}",
            setting=where(worker, "resources.gpu"),
            wanted=ranks,
            there=total,
            do=f"Give each worker {-(-(ranks - mine) // (size - 1))} GPUs",
            settings={"resources.gpu": -(-(ranks - mine) // (size - 1))},
        )


GROUPS = ("LeaderWorkerSet", "PyTorchJob", "RayCluster", "RayService", "RayJob")
RAY_IMAGE = re.compile(r"(?:^|/)rayproject/ray[\w-]*:(\d+\.\d+\.\d+)")


def judge_images(case: Case) -> Iterator[Finding]:
    """Pods of one launch that run different releases of one image."""
    seen: set[str] = set()
    for service in case.services:
        notes = notes_of(service)
        images, kind = notes.get("group.images", ""), notes.get("workload", "")
        if kind not in GROUPS or images in seen:
            continue
        seen.add(images)
        rows = [line.split(" ", 2) for line in images.splitlines() if line.count(" ") >= 2]
        if len(rows) < 2:
            continue
        _, _, first = rows[0]
        for _, line, image in rows[1:]:
            one, two = _release(first, kind), _release(image, kind)
            if one is None or two is None or one[0] != two[0] or one[1] == two[1]:
                continue
            found = judged(
                "version-skew",
                service,
                Status.FAIL,
                f"{first} and {image} are pods of one {kind}: parts of one launch have to be of one release",
                key="image",
                do=f"Use one tag for all of them ({one[1]})",
            )
            yield replace(found, data={**found.data, "line": as_int(line)})


def _release(image: str, kind: str) -> tuple[str, str] | None:
    """(repository, what must be the same) of an image; None for a tag that says no release."""
    if kind.startswith("Ray"):
        ray = RAY_IMAGE.search(image)
        return ("rayproject", ray.group(1)) if ray else None
    repository, colon, tag = image.partition("@")[0].rpartition(":")
    return (repository, tag) if colon and "/" not in tag and re.search(r"\d", tag) else None


def judge_mpi_slots(case: Case) -> Iterator[Finding]:
    """An MPIJob's ranks against its workers' slots."""
    for service in case.services:
        ranks, slots = integer(service, "mpi.ranks"), integer(service, "mpi.slots")
        if notes_of(service).get("workload") != "MPIJob" or not ranks or service.replicas is None:
            continue
        each = slots or 1  # the operator's default
        there = each * service.replicas
        if ranks <= there or text_of(service, "mpi.launcher-as-worker"):
            continue
        right = -(-ranks // service.replicas) if service.replicas else ranks
        fits = service.gpus_per_replica is None or right <= service.gpus_per_replica
        yield judged(
            "launcher-layout",
            service,
            Status.FAIL,
            f"{service.name}: {service.replicas} workers × {each} slots (slotsPerWorker) = {there}, and mpirun -np {ranks} does not find enough slots",
            setting=where(service, "mpi.slots", "mpi.ranks"),
            wanted=ranks,
            there=there,
            do=f"Set slotsPerWorker: {right}" if fits else f"Start -np {there}",
            settings={"mpi.slots": right} if fits and slots else {"mpi.ranks": there},
        )


JUDGES = (
    judge_pod_count,
    judge_indexed,
    judge_pod_names,
    judge_worker_gpus,
    judge_images,
    judge_mpi_slots,
)
