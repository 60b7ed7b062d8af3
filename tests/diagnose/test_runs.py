"""Which run of a file is judged, and what other runs tell about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from diag.diagnose.experiment import settings_of
from diag.diagnose.pipeline import explain
from diag.model import Verdict

STEPS = "".join(f"iters: {n}00, epoch: 1 | loss: 0.3{n}\n" for n in range(1, 9))
OOM = (
    "Traceback (most recent call last):\n"
    '  File "/w/train.py", line 9, in <module>\n    model(x)\n'
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 1.20 GiB is free.\n"
)
HANG = (
    "root@g1:~# ./build/all_reduce_perf -b 8 -e 128M -g 4\n"
    "g1:10:20 [0] NCCL INFO NVLS multicast support is available on dev 0\n"
    "g1:10:20 [0] NCCL INFO NVLS Bind mem 0xa80000000 UC handle 0x7f33 size 1073741824\n"
    "root@g1:~# echo ${PIPESTATUS[0]}\n124\n"
)
WORKS = "# Out of bounds values : 0 OK\n# Avg bus bandwidth    : 96.1\n"


def ids(path: Path) -> list[str]:
    """Ids of the diagnoses, the first first."""
    return [one.id for one in explain([str(path)]).diagnoses]


def written(folder: Path, text: str) -> Path:
    """The text as a log."""
    path = folder / "nohup.out"
    path.write_text(text)
    return path


def test_a_run_that_works_after_a_failed_one_is_what_counts(tmp_path: Path) -> None:
    report = explain([str(written(tmp_path, OOM + STEPS))])
    assert report.verdict is Verdict.OK
    assert any("2 runs" in gap for gap in map(str, [*report.gaps, *report.notes]))


def test_the_last_of_several_failed_runs_is_judged(tmp_path: Path) -> None:
    port = "OSError: [Errno 98] Address already in use\n"
    head = 'Traceback (most recent call last):\n  File "/w/serve.py", line 3, in <module>\n    bind()\n'
    assert ids(written(tmp_path, OOM + STEPS + head + port))[0] == "port-in-use"


def test_other_ranks_that_go_on_for_a_while_are_no_other_run(tmp_path: Path) -> None:
    others = "".join(f"[rank1]: iters: {n}00, epoch: 1 | loss: 0.3{n}\n" for n in range(1, 9))
    failed = "".join(f"[rank0]: {line}\n" for line in OOM.splitlines())
    assert ids(written(tmp_path, failed + others))[0] == "gpu-oom-runtime"


def test_an_experiment_that_works_tells_what_cures_the_failed_run(tmp_path: Path) -> None:
    cure = "root@g1:~# NCCL_NVLS_ENABLE=0 ./build/all_reduce_perf -b 8 -e 128M -g 4\n"
    report = explain([str(written(tmp_path, HANG + cure + WORKS))])
    assert report.diagnoses[0].id == "nccl-nvls-cumem"
    assert report.diagnoses[0].fixes[0].settings == {"NCCL_NVLS_ENABLE": "0"}
    assert any("a later one works with NCCL_NVLS_ENABLE=0" in note for note in report.notes)


def test_the_same_command_that_works_at_last_is_no_experiment(tmp_path: Path) -> None:
    again = "root@g1:~# ./build/all_reduce_perf -b 8 -e 128M -g 4\n"
    assert explain([str(written(tmp_path, HANG + again + WORKS))]).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        (
            "torchrun --nproc_per_node 2 t.py",
            "NCCL_P2P_DISABLE=1 torchrun --nproc_per_node 2 t.py",
            "p2p-broken",
        ),
        ("torchrun --nnodes 2 t.py", "NCCL_IB_DISABLE=1 torchrun --nnodes 2 t.py", "ib-roce-failure"),
        (
            "torchrun --nnodes 2 t.py",
            "NCCL_SOCKET_IFNAME=eth0 torchrun --nnodes 2 t.py",
            "nccl-wrong-interface",
        ),
        ("vllm serve m -tp 2", "vllm serve m -tp 2 --enforce-eager", "cudagraph-capture-hang"),
        ("vllm serve m -tp 2", "vllm serve m -tp 2 --disable-custom-all-reduce", "custom-allreduce-failure"),
    ],
)
def test_known_experiments_name_the_cause(tmp_path: Path, before: str, after: str, cause: str) -> None:
    failed = (
        'Traceback (most recent call last):\n  File "/w/t.py", line 3, in <module>\n    all_reduce(x)\n'
        "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:1970, unhandled system error\n"
    )
    steps = "INFO:     Application startup complete.\n" + STEPS
    log = written(tmp_path, f"me@g1:~$ {before}\n{failed}me@g1:~$ {after}\n{steps}")
    first = explain([str(log)]).diagnoses[0]
    assert first.id == cause
    assert any(after in one.text for one in first.evidence)


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ("NCCL_P2P_DISABLE=1 vllm serve m -tp 2", {"NCCL_P2P_DISABLE": "1", "-tp": "2"}),
        (
            "mpirun -np 8 -x NCCL_DEBUG=INFO -x NCCL_IB_HCA=mlx5_0 ./all_reduce_perf",
            {"-np": "8", "NCCL_IB_HCA": "mlx5_0"},
        ),
        ("vllm serve m --enforce-eager 2>&1 | tail -3", {"--enforce-eager": ""}),
        ("deepspeed --include 'a:0,1@b:0,1' t.py", {"--include": "'a:0,1@b:0,1'"}),
    ],
)
def test_settings_are_variables_and_options(command: str, settings: dict[str, str]) -> None:
    assert settings_of(command) == settings


def test_what_one_host_of_many_shows_is_evidence(tmp_path: Path) -> None:
    speeds = "".join(f"gpu-{n}: \tSpeed: {'10000' if n == 2 else '100000'}Mb/s\n" for n in range(5))
    report = explain([str(written(tmp_path, speeds))])
    assert report.diagnoses[0].id == "slow-link"
    assert report.diagnoses[0].culprit is not None
    assert report.diagnoses[0].culprit.host == "gpu-2"
    same = "".join(f"gpu-{n}: \tSpeed: 100000Mb/s\n" for n in range(5))
    assert not explain([str(written(tmp_path, same))]).diagnoses


def test_half_and_half_has_no_odd_host(tmp_path: Path) -> None:
    speeds = "".join(f"gpu-{n}: \tSpeed: {'10000' if n < 2 else '100000'}Mb/s\n" for n in range(4))
    assert not explain([str(written(tmp_path, speeds))]).diagnoses


RAY_DRIVER = (
    "2026-11-30 10:00:01,000 INFO worker.py:1917 -- Started a local Ray instance.\n"
    "Traceback (most recent call last):\n"
    '  File "/home/user/train/r.py", line 9, in <module>\n    ray.get(actor.step.remote())\n'
    "ray.exceptions.RayTaskError(KeyError): \x1b[36mray::Trainer.step()\x1b[39m (pid=41, ip=10.0.0.2)\n"
    '  File "/home/user/train/r.py", line 5, in step\n    return batch["grad_norm"]\n'
    "KeyError: 'grad_norm'\n"
)


@pytest.mark.parametrize(
    ("late", "expected"),
    [
        ("".join(f"(Trainer pid=41) step {n} loss 0.{n}\n" for n in range(1, 9)), ["application-error"]),
        (STEPS, []),
    ],
)
def test_prints_that_ray_hands_on_are_no_later_life(tmp_path: Path, late: str, expected: list[str]) -> None:
    assert ids(written(tmp_path, RAY_DRIVER + late)) == expected
