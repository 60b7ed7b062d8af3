"""Reports as the pipeline makes them, built by hand: one per screen."""

from __future__ import annotations

from diag.model import (
    Culprit,
    Diagnosis,
    Evidence,
    Finding,
    Fix,
    Gap,
    InputFile,
    Reason,
    Redaction,
    Report,
    Role,
    Status,
    Strength,
    Unexplained,
    Verdict,
)

WHEN = "2026-11-21T03:04:05Z"


def explained() -> Report:
    """A launch whose log names the cause, with echoes and a rival."""
    return Report(
        command="explain",
        verdict=Verdict.FAIL,
        created=WHEN,
        version="0.1.0",
        exit_code=1,
        diagnoses=(
            Diagnosis(
                id="shm-too-small",
                title="/dev/shm is too small",
                strength=Strength.PROVEN,
                role=Role.ROOT,
                summary="The shared-memory file system /dev/shm is full on dgx-a17: /dev/shm/nccl-Xy12 could not grow to 9637892 bytes.",
                explanation="NCCL keeps its buffers in /dev/shm, of which containers get 64 MB by default.",
                culprit=Culprit(rank=3, host="dgx-a17", process="Worker_TP3 pid=812", gpu=3, phase="communicator"),
                evidence=(
                    Evidence(
                        "logs/dgx-a17.log", 1812,
                        "dgx-a17:812:901 [3] misc/shmutils.cc:72 NCCL WARN Error: failed to extend /dev/shm/nccl-Xy12 to 9637892 bytes",
                        rank=3, host="dgx-a17", time="12:30:01",
                    ),
                    Evidence("logs/dgx-b02.log", 99, "socketProgress: Connection closed by remote peer dgx-a17<41022>", rank=9, host="dgx-b02"),
                ),
                echoes=("network-unreachable", "worker-died"),
                fixes=(
                    Fix("Give the container a larger /dev/shm.", {"shm-size": "16g"}, "docker run --shm-size=16g IMAGE COMMAND",
                        verify="df -h /dev/shm", undo="start the container as before"),
                    Fix("In Kubernetes mount a memory-backed emptyDir at /dev/shm.",
                        patch="volumes:\n  - name: dshm\n    emptyDir: {medium: Memory, sizeLimit: 16Gi}\n", risk="touches-others"),
                ),
                confirm=("df -h /dev/shm inside the container of rank 3",),
            ),
            Diagnosis("worker-died", "A worker died first", Strength.LIKELY, Role.ECHO, "Rank 3 ended with code 1."),
            Diagnosis("open-files-limit", "Too few open files", Strength.POSSIBLE, Role.CONTRIBUTING,
                      "Only 1024 files may be open in rank 3.", fixes=(Fix("Raise the limit: ulimit -n 131072."),)),
            Diagnosis("peer-slow", "A peer is slow", Strength.POSSIBLE, Role.ECHO, "Rank 9 waited for 12 s."),
        ),
        facts={"launch": {"services": [], "model": "org/model-7B", "master_addr": "dgx-a17"}, "software": {"nccl": "2.21.5"}},
        gaps=(Gap("logs of ranks 4 to 7", "not given", "give diag the logs of all ranks"),),
        inputs=(InputFile("logs/dgx-a17.log", "log", 210_311, 2000), InputFile("logs/dgx-b02.log", "log", 9_311, 120)),
    )  # fmt: skip


def healthy() -> Report:
    """A log in which nothing is wrong."""
    return Report("explain", Verdict.OK, WHEN, "0.1.0", inputs=(InputFile("run.log", "log", 18_000, 312),))


def unknown() -> Report:
    """A failure that no playbook knows."""
    return Report(
        "explain", Verdict.UNKNOWN, WHEN, "0.1.0", exit_code=3, inputs=(InputFile("run.log", "log", 18_000, 312),),
        unexplained=Unexplained(
            first_failures=("rank 0: run.log:300: ValueError: boom", "rank 1: run.log:120: FrobnicateError: cannot frobnicate the engine"),
            odd_rank="rank 1", phase="graph-capture",
            next_steps=("start again with --enforce-eager", "diag playbook new --from LOG:LINE ID"),
        ),
    )  # fmt: skip


def node() -> Report:
    """A run on one node without GPUs, with every status."""

    def one(
        probe: str, status: Status, text: str, reason: Reason | None = None, subject: str = "", **data: object
    ) -> Finding:
        return Finding(probe, subject, status, text, reason, data, 0.21)

    return Report(
        "run", Verdict.FAIL, WHEN, "0.1.0", exit_code=1,
        findings=(
            one("driver.versions", Status.SKIP, "no NVIDIA driver here", Reason.NOT_APPLICABLE),
            one("gpu.memory", Status.OK, "71.2 GiB of 79.6 GiB free", subject="GPU 0"),
            one("gpu.memory", Status.FAIL, "2.1 GiB of 79.6 GiB free; pid 812 holds 77 GiB", subject="GPU 1",
                remedy="end the left-over process 812, if nobody needs it"),
            one("host.shm", Status.WARN, "/dev/shm has 64 MiB; NCCL alone wants 9 MiB a rank", remedy="docker run --shm-size=16g"),
            one("host.memory", Status.OK, "412 GiB of 503 GiB free"),
            one("kernel.xid", Status.UNKNOWN, "the kernel log may not be read", Reason.PERMISSION, remedy="run diag as root"),
            one("net.dns", Status.UNKNOWN, "hung and was killed after 5 s; that it hangs is itself a finding", Reason.TIMEOUT),
            one("collective.cudagraph", Status.SKIP, "left out", Reason.NOT_ASKED),
        ),
        gaps=(Gap("kernel.xid: the kernel log may not be read", "permission", "run diag as root"),),
        facts={"hardware": {"gpu.memory": {"gpus": 2}}},
    )  # fmt: skip


def plan() -> Report:
    """A plan that does not fit."""
    gib = 1 << 30
    return Report(
        "check", Verdict.FAIL, WHEN, "0.1.0", exit_code=1,
        findings=(
            Finding("plan.gpu-count-exceeded", "", Status.FAIL, "32 GPUs wanted (VllmWorker 4 × 4 + PrefillWorker 4 × 4), 4 there",
                    data={"file": "disagg.yaml", "line": 12, "fix": {"do": "Set workers: 1.", "alternatives": ["use 8 × T4"]}}),
            Finding("plan.dtype-unsupported", "VllmWorker", Status.OK, "VllmWorker: float16 runs on T4"),
        ),
        facts={"launch": {"services": [
            {"name": "Frontend", "role": "frontend", "replicas": None, "gpus": None, "model": None, "memory": None},
            {"name": "VllmWorker", "role": "worker", "tensor_parallel_size": 4, "replicas": 4, "gpus": 4, "model": "org/model-14B",
             "memory": {"weights_bytes_per_gpu": 7 * gib, "kv_cache_bytes_per_gpu": 4 * gib, "kv_cache_tokens": 87381,
                        "activation_bytes": 2 * gib, "other_bytes": gib // 2, "margin_bytes": gib, "fits": True}},
            {"name": "PrefillWorker", "role": "prefill", "replicas": 4, "gpus": 4, "model": "org/model-14B",
             "memory": {"weights_bytes_per_gpu": 28 * gib, "kv_cache_bytes_per_gpu": -16 * gib, "kv_cache_tokens": 0,
                        "activation_bytes": None, "other_bytes": None, "margin_bytes": -14 * gib, "fits": False}},
        ]}},
        inputs=(InputFile("disagg.yaml", "plan", 900),),
    )  # fmt: skip


def redacted(report: Report) -> Report:
    """The same, marked as redacted without changing a word (for golden screens)."""
    from dataclasses import replace

    return replace(report, redaction=Redaction(applied=True, counts={"hosts": 2, "addresses": 1}))


def linked(count: int = 5) -> Report:
    """A job: one link closed, one node slow, one that loses packets."""

    def link(a: int, b: int) -> dict[str, object]:
        if {a, b} == {1, 2}:
            return {"state": "closed", "outcome": "timeout"}
        slow = 4 in (a, b)
        return {"state": "slow" if slow else "lossy" if b == 3 else "open", "outcome": "ok", "rtt_ms": 0.1, "mtu_bytes": 1500, "interface": "eth0",
                "mbps": 40.0 if slow else 9400.0, "share": 0.004 if slow else 1.0}  # fmt: skip

    finding = Finding(
        "link.tcp",
        "dgx-a1 - dgx-a2",
        Status.FAIL,
        "the link between dgx-a1 (node 1) and dgx-a2 (node 2) is closed: packets vanish (dropped) in both directions",
        data={"cause": "network-unreachable", "link": ["dgx-a1", "dgx-a2"]},
    )
    return Report(
        command="run",
        verdict=Verdict.FAIL,
        created=WHEN,
        version="0.1.0",
        exit_code=1,
        findings=(finding,),
        facts={
            "network": {
                "links": {
                    "nodes": {str(rank): {"hostname": f"dgx-a{rank}"} for rank in range(count)},
                    "links": {f"{a}>{b}": link(a, b) for a in range(count) for b in range(count) if a != b},
                }
            }
        },
    )


ALL = {
    "explained": explained,
    "healthy": healthy,
    "unknown": unknown,
    "node": node,
    "plan": plan,
    "linked": linked,
}
