"""What findings on processes mean together: pure, on written-down looks."""

from __future__ import annotations

from typing import Any

import pytest

from diag.diagnose.stuck import judge_gpus, judge_jobs, judge_processes
from diag.diagnose.stuck.sites import phase_of, site_of
from diag.model import Finding, Status

C10D = "(torch/distributed/distributed_c10d.py:3252)"
WAITS = [
    f"all_reduce {C10D}",
    "wrapper (torch/distributed/c10d_logger.py:83)",
    "train_step (srv/app/train.py:40)",
    "<module> (srv/app/train.py:9)",
]
WORKS = ["tokenize (srv/app/data.py:12)", "train_step (srv/app/train.py:30)"]
RECV = [f"recv {C10D}", "forward (srv/app/pipe.py:7)"]


def look(
    rank: int,
    frames: list[str],
    *,
    world: int = 4,
    port: int = 29500,
    moved: bool = False,
    still: float | None = 60.0,
    **more: Any,
) -> dict[str, Any]:
    """One process, looked at twice."""

    def sample(at: float, count: int) -> dict[str, Any]:
        main = {
            "name": "MainThread",
            "main": True,
            "active": False,
            "gil": more.get("gil", False),
            "frames": frames,
        }
        if "peer" in more:
            main["peer"] = more["peer"]
        return {
            "at": at, "state": more.get("state", "S"), "still_s": still if not moved else 0.0, "switches": 100 + count, "main_cpu_s": 1.0 + count / 100,
            "wchan": more.get("wchan", "futex_do_wait"), "rchar": 0, "read_bytes": 0, "wchar": 0, "rss_kib": 1000, "compilers": [],
            "stacks": {"reason": None, "message": "", "threads": [main] if frames else []},
        }  # fmt: skip

    environment = {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_PORT": str(port)}
    return {
        "pid": 100 + rank, "who": f"rank {rank}: train.py (pid {100 + rank})", "framework": "torch", "role": more.get("role", "rank"), "rank": rank,
        "launch": 1, "environment": environment | more.get("environment", {}), "samples": [sample(0.0, 0), sample(1.0, 50 if moved else 0)],
        "connecting": more.get("connecting", []), "cgroup": more.get("cgroup", {}),
    }  # fmt: skip


def verdicts(*looks: dict[str, Any], host: str = "node-1") -> list[Finding]:
    return [one for one in judge_jobs(judge_processes(looks, host)) if one.probe == "attach.verdict"]


@pytest.mark.parametrize("culprit", range(4))
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("stuck", {"frames": ["acquire (threading.py:10)", "step (srv/app/x.py:3)"]}),
        ("stopped", {"frames": WAITS, "state": "T"}),
        ("blocked", {"frames": WAITS, "state": "D", "wchan": "rpc_wait_bit_killable"}),
        ("gil", {"frames": ["call (srv/app/x.py:3)"], "gil": True}),
    ],
)
def test_whoever_waits_for_nobody_holds_up_the_rest(culprit: int, kind: str, more: dict[str, Any]) -> None:
    options = dict(more)
    frames = options.pop("frames")
    (one,) = verdicts(
        *[look(rank, frames, **options) if rank == culprit else look(rank, WAITS) for rank in range(4)]
    )

    assert (one.status, one.data["cause"], one.data["rank"], one.data["kind"]) == (
        Status.FAIL,
        "collective-timeout-slow-rank",
        culprit,
        kind,
    )


@pytest.mark.parametrize("still", [0.3, 3.0])
def test_a_short_pause_is_no_hang(still: float) -> None:
    assert verdicts(*[look(rank, WAITS if rank else WORKS, still=still) for rank in range(4)]) == []


def test_a_rank_that_works_is_slow_not_stuck() -> None:
    (one,) = verdicts(*[look(rank, WORKS if rank == 2 else WAITS, moved=rank == 2) for rank in range(4)])

    assert one.status is Status.WARN
    assert "cause" not in one.data
    assert "slow, not stuck" in one.summary


def test_everybody_at_the_same_place_accuses_nobody() -> None:
    (one,) = verdicts(*[look(rank, WAITS) for rank in range(4)])

    assert (one.status, "cause" in one.data, one.data["kind"]) == (Status.WARN, False, "equal")


def test_ranks_of_other_nodes_that_were_not_looked_at_are_asked_for() -> None:
    (one,) = verdicts(*[look(rank, WAITS, world=8) for rank in range(4)])

    assert (one.data["kind"], one.data["absent"]) == ("absent", [4, 5, 6, 7])
    assert "cause" not in one.data


@pytest.mark.parametrize("culprit", range(4))
def test_the_odd_call_of_four_is_named(culprit: int) -> None:
    (one,) = verdicts(*[look(rank, RECV if rank == culprit else WAITS, peer=0) for rank in range(4)])

    assert (one.data["cause"], one.data["rank"]) == ("collective-desync", culprit)


def test_of_two_neither_is_named() -> None:
    (one,) = verdicts(look(0, WAITS, world=2), look(1, RECV, world=2, peer=0))

    assert one.data["cause"] == "collective-desync"
    assert "rank" not in one.data


def test_a_victim_of_a_victim_is_no_culprit() -> None:
    """TP 2, PP 2: rank 1 is stuck before TP, 0 waits for it, 2 and 3 wait for what 0 and 1 would send."""
    stuck = ["acquire (threading.py:10)", "step (srv/app/x.py:3)"]
    (one,) = verdicts(look(0, WAITS), look(1, stuck), look(2, RECV, peer=0), look(3, RECV, peer=1))

    assert one.data["rank"] == 1


def test_a_rank_that_is_gone_is_named() -> None:
    looks = [
        look(rank, WAITS, environment={"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "4"})
        for rank in (0, 1, 3)
    ]
    (one,) = verdicts(*looks)

    assert (one.data["cause"], one.data["rank"]) == ("worker-died", 2)


def test_two_jobs_on_a_node_are_kept_apart() -> None:
    stuck = ["acquire (threading.py:10)", "step (srv/app/x.py:3)"]
    first = [look(rank, stuck if rank == 1 else WAITS, world=2) for rank in range(2)]
    second = [look(rank, WORKS, world=2, port=29501, moved=True) for rank in range(2)]
    (one,) = verdicts(*first, *second)

    assert one.data["rank"] == 1


def test_the_culprit_of_another_node_is_found_when_the_looks_are_joined() -> None:
    stuck = ["acquire (threading.py:10)", "step (srv/app/x.py:3)"]
    here = judge_processes([look(0, WAITS), look(1, WAITS)], "node-1")
    there = judge_processes([look(2, WAITS), look(3, stuck)], "node-2")
    (one,) = [one for one in judge_jobs(here + there) if one.probe == "attach.verdict"]

    assert (one.data["rank"], one.data["host"]) == (3, "node-2")


def test_a_connection_that_nobody_answers_is_a_cause() -> None:
    calls = [{"to": "10.0.0.7:29500", "retransmits": 5}]
    found = judge_processes([look(0, WAITS, connecting=calls)], "node-1")
    (one,) = [one for one in found if one.probe == "attach.connection"]

    assert (one.status, one.data["cause"], one.data["link"]) == (
        Status.FAIL,
        "network-unreachable",
        ["node-1", "10.0.0.7:29500"],
    )


def test_ranks_crowded_on_one_processor() -> None:
    looks = [look(rank, WAITS, moved=True) | {"cpus_allowed": "0", "cpus": 64} for rank in range(4)]
    (one,) = verdicts(*looks)

    assert (one.status, one.data["cause"]) == (Status.FAIL, "numa-cpu-starvation")


@pytest.mark.parametrize(
    ("frames", "site", "kind"),
    [
        (WAITS, "collective", "waits"),
        ([f"barrier {C10D}"], "barrier", "waits"),
        (RECV, "transfer", "waits"),
        (["_create_c10d_store (torch/distributed/rendezvous.py:190)", "init_process_group (torch/distributed/distributed_c10d.py:1700)"], "rendezvous", "waits"),
        (["acquire_read (vllm/distributed/device_communicators/shm_broadcast.py:640)", "dequeue (vllm/distributed/device_communicators/shm_broadcast.py:700)", "worker_busy_loop (vllm/v1/executor/multiproc_executor.py:700)"], "idle", "idle"),
        (["acquire_read (vllm/distributed/device_communicators/shm_broadcast.py:640)", "dequeue (vllm/distributed/device_communicators/shm_broadcast.py:700)", "get_response (vllm/v1/executor/multiproc_executor.py:300)", "collective_rpc (vllm/v1/executor/multiproc_executor.py:310)"], "ring", "waits"),
        (["get (queue.py:171)", "_process_input_queue (vllm/v1/engine/core.py:900)", "run_busy_loop (vllm/v1/engine/core.py:880)"], "idle", "idle"),
        (["select (selectors.py:468)", "_run_once (asyncio/base_events.py:1909)", "run_forever (asyncio/base_events.py:607)"], "idle", "idle"),
        ([f"broadcast {C10D}", "broadcast_pyobj (sglang/srt/utils.py:1000)", "recv_requests (sglang/srt/managers/scheduler.py:900)", "event_loop_overlap (sglang/srt/managers/scheduler.py:700)"], "idle", "idle"),
        (["read (ssl.py:1165)", "http_get (huggingface_hub/file_download.py:418)", "load_model (vllm/v1/worker/gpu_worker.py:283)"], "download", "local"),
        (["load_file (safetensors/torch.py:336)", "load_model (x/model_runner.py:1)"], "weights", "local"),
        (["wait (torch/utils/file_baton.py:49)"], "build-lock", "local"),
        (["replay (torch/cuda/graphs.py:90)", "capture_model (vllm/v1/worker/gpu_model_runner.py:3900)"], "graph-capture", "local"),
        (["getaddrinfo (socket.py:962)", "connect (srv/app/x.py:3)"], "dns", "local"),
        (["acquire (threading.py:10)", "step (srv/app/x.py:3)"], "lock", "local"),
    ],
)  # fmt: skip
def test_where_a_stack_stands(frames: list[str], site: str, kind: str) -> None:
    found = site_of(frames)

    assert found is not None
    assert (found.name, found.kind) == (site, kind)


def test_the_phase_is_told_by_the_innermost_call() -> None:
    assert phase_of(["capture_model (a.py:1)", "compile_or_warm_up_model (b.py:1)"]) == "graph-capture"
    assert phase_of(["x (a.py:1)", "load_model (b.py:1)"]) == "weights"
    assert phase_of(["x (a.py:1)"]) is None


@pytest.mark.parametrize(
    ("utilization", "power", "words"),
    [(100, 120, "spins"), (100, 600, "computing"), (0, 80, "idle"), (60, 300, "busy")],
)
def test_what_the_gpus_do(utilization: int, power: int, words: str) -> None:
    gpus = [{"index": 0, "utilization_percent": utilization, "power_w": power, "power_limit_w": 700}]
    (one,) = judge_gpus({"hardware": {"gpu.inventory": {"gpus": gpus}}})

    assert words in one.summary
    assert judge_gpus({"hardware": {"gpu.inventory": {"gpus": []}}}) == []


def test_who_waits_for_the_lock_of_a_stopped_builder_is_its_victim() -> None:
    lock = ["acquire (filelock/_core/_lock.py:195)", "compile (torch/_inductor/codecache.py:1)"]
    builds = ["communicate (python3.11/subprocess.py:1196)", "compile (torch/_inductor/cpp_builder.py:696)"]
    found = judge_processes([look(0, builds, state="T"), look(1, lock)], "node-1")

    assert [one.data["kind"] for one in found] == ["stopped", "waits"]
    (one,) = [one for one in judge_jobs(found) if one.probe == "attach.verdict"]
    assert one.data["rank"] == 0


def test_a_lock_that_nobody_living_holds_is_the_cause() -> None:
    (one,) = judge_processes([look(0, ["wait (torch/utils/file_baton.py:49)"], world=1)], "node-1")

    assert (one.data["kind"], one.data["stuck"], one.data["site"]) == ("stuck", "true", "build-lock")


@pytest.mark.parametrize(
    ("title", "rank"),
    [
        ("VLLM::Worker_TP3", 3),
        ("VLLM::Worker_PP1_TP0", None),
        ("sglang::scheduler_TP2", 2),
        ("VLLM::EngineCore", None),
    ],
)
def test_titles_that_tell_a_rank(title: str, rank: int | None) -> None:
    seen = look(0, WAITS) | {"who": f"{title} (pid 7)", "rank": None}
    (one,) = judge_processes([seen], "node-1")

    assert one.data.get("rank") == rank


def test_a_wait_that_spins_is_a_wait() -> None:
    """NCCL's and shared memory's waits burn a CPU: time on the CPU is no sign of progress there, waking up again and again is."""
    spins = look(0, WAITS, still=0.0)
    for seen, cpu_s in zip(spins["samples"], (1.0, 6.9), strict=True):
        seen["main_cpu_s"] = cpu_s
    spins["samples"][1]["at"] = 6.0
    (one,) = judge_processes([spins], "node-1")
    assert (one.data["kind"], one.data["still_s"]) == ("waits", 6.0)

    works = look(0, WORKS, still=0.0)
    works["samples"][1]["main_cpu_s"] = 6.9
    (one,) = judge_processes([works], "node-1")
    assert one.data["kind"] == "busy"


def test_who_is_kept_waiting_for_a_processor_is_not_stuck() -> None:
    """On a crowded node a thread that would run may not have run for seconds."""
    (one,) = judge_processes([look(0, WORKS, state="R", still=9.0)], "node-1")

    assert one.data["kind"] == "busy"


def test_a_slow_disk_is_not_a_dead_one() -> None:
    (one,) = judge_processes([look(0, WORKS, state="D", still=1.5)], "node-1")

    assert one.data["kind"] == "pause"
