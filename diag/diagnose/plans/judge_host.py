"""What the container and the pod grant: shared memory, locked memory, probes that wait long enough."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from diag.diagnose.plans.case import Case, absent, gib, judged, notes_of, ranks_of
from diag.diagnose.plans.hardware import GIB
from diag.diagnose.plans.settings import as_int, engine_of, pp_of, text_of, tp_of
from diag.diagnose.plans.weights import weights_per_gpu
from diag.model import Finding, Status
from diag.observe.plans.values import as_bytes

SHM_NEEDED = 1 * GIB
"""NCCL's user guide gives 1 GB to containers; the 64 MB that docker and pods start with are not enough for several ranks."""
FASTEST_LOAD = 3 * GIB
"""Bytes a second: local NVMe or page cache into GPU memory. Real loads from network storage take ten times as long."""
FASTEST_START_S = 25
"""Imports, profiling and graph capture of a small model, at the very best."""
USUAL_START_S, USUAL_LOAD = 30.0, 1.5 * GIB
"""The same as it mostly is: a local NVMe disk, compilation and graphs of a small batch (what liveness must wait for)."""


def judge_shm(case: Case) -> Iterator[Finding]:
    """/dev/shm of a container that holds several ranks."""
    for service in case.services:
        notes = notes_of(service)
        text = notes.get("shm")
        if text is None or text == "unlimited" or absent(service) or notes.get("accelerator"):
            continue
        if notes.get("workload") == "LLMInferenceService":
            continue  # KServe's controller mounts a /dev/shm of its own
        ranks = (
            ranks_of(service) // max(1, service.nodes_per_replica or 1)
            if engine_of(service)
            else as_int(text_of(service, "nproc-per-node")) or 1
        )
        size = as_bytes(text, binary=bool(notes.get("docker")))
        if ranks < 2 or size is None or size >= SHM_NEEDED:
            continue
        how = (
            "mount an emptyDir with medium: Memory at /dev/shm"
            if notes.get("kubernetes")
            else "give --ipc=host or --shm-size=16g"
        )
        default = " (the default)" if text in ("64Mi", "64m") else ""
        yield judged(
            "shm-too-small",
            service,
            Status.WARN,
            f"{service.name}: {ranks} ranks in a container with {text} of /dev/shm{default}; NCCL and the engine's own queues need more",
            certain=False,
            shm_bytes=size,
            ranks=ranks,
            cure="shm-too-small",
            do=how[0].upper() + how[1:],
        )


def judge_memlock(case: Case) -> Iterator[Finding]:
    """RDMA in a docker container without the right to lock memory."""
    for service in case.services:
        notes = notes_of(service)
        if not notes.get("docker") or not notes.get("rdma") or notes.get("privileged"):
            continue
        limit = notes.get("ulimit.memlock")
        if limit is None or (
            (as_int(limit.split(":")[0]) or 0) >= 0 and (as_int(limit.split(":")[0]) or 0) < 32 * GIB
        ):
            yield judged(
                "ulimit-memlock",
                service,
                Status.WARN,
                f"{service.name} has InfiniBand devices, but memlock is {limit or 'at its default of 64 KiB to 8 MiB'}: registering buffers will fail",
                certain=False,
                cure="ulimit-memlock",
                do="Give --ulimit memlock=-1 (and --cap-add IPC_LOCK)",
            )


def judge_probes(case: Case) -> Iterator[Finding]:
    """A probe whose patience ends before the weights can be loaded."""
    for service in case.engines:
        notes = notes_of(service)
        startup, liveness = notes.get("startupProbe"), notes.get("livenessProbe")
        kind, text = ("startupProbe", startup) if startup is not None else ("livenessProbe", liveness)
        if text is None or absent(service) or (startup is None and case.plan.kind.startswith("dgd")):
            continue  # Dynamo's operator adds a startup probe of two hours of its own
        weights = weights_per_gpu(service, case.facts(service))
        if weights is None:
            continue
        total = weights * tp_of(service) * pp_of(service)
        share = total / max(1, service.nodes_per_replica or 1)  # every node loads its part at the same time
        least, usual = FASTEST_START_S + share / FASTEST_LOAD, USUAL_START_S + share / USUAL_LOAD
        patience = _patience(text)
        if patience >= least and (patience >= usual or kind == "startupProbe"):
            continue
        line = as_int(notes.get(f"{kind}.line"))
        found = judged(
            "probe-killed",
            service,
            Status.FAIL if patience < least else Status.WARN,
            f"{service.name}: its {kind} gives up after {patience} s, and loading {gib(total)} of weights takes "
            + (
                f"{least:.0f} s at the very best: the container is restarted again and again"
                if patience < least
                else f"{usual:.0f} s from a good local disk, with no startupProbe to wait for it"
            ),
            certain=False,
            patience_s=patience,
            least_s=int(least),
            settings={f"{kind}.failureThreshold": _threshold(text, least)},
            do=f"Raise failureThreshold of the {kind}"
            + ("" if kind == "startupProbe" else ", or add a startupProbe")
            + " so that it waits for the slowest load you expect",
        )
        yield found if line is None else _at(found, line)


def _threshold(text: str, least: float) -> int:
    """Failures to wait for: ten times the best case, as loads from network storage take, and twenty minutes at least."""
    values = {key: as_int(value) for key, value in re.findall(r"(\w+)=([^,]+)", text)}
    wait = max(10 * least, 1200) - (values.get("initialDelaySeconds") or 0)
    return max(3, -(-int(wait) // (values.get("periodSeconds") or 10)))


def _at(found: Finding, line: int) -> Finding:
    return replace(found, data={**found.data, "line": line})


def _patience(text: str) -> int:
    """Seconds until the last failure that counts; Kubernetes' defaults: period 10 s, 3 failures, no delay."""
    values = {key: as_int(value) for key, value in re.findall(r"(\w+)=([^,]+)", text)}
    return (values.get("initialDelaySeconds") or 0) + (values.get("periodSeconds") or 10) * (
        values.get("failureThreshold") or 3
    )


JUDGES = (judge_shm, judge_memlock, judge_probes)
