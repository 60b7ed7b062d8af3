"""Nobody is named who does not differ from the others: one process, one machine, all ranks alike, a cause that all share."""

from __future__ import annotations

from pathlib import Path

import pytest

from diag.diagnose.pipeline import explain
from diag.model import Culprit


def culprit_of(tmp_path: Path, cause: str, *texts: str) -> Culprit:
    paths = []
    for number, text in enumerate(texts):
        paths.append(tmp_path / f"part{number}.log")
        paths[-1].write_text(text)
    first = explain([str(path) for path in paths]).diagnoses[0]
    assert first.id == cause
    return first.culprit


def failure(rank: int, sentence: str) -> str:
    lines = [
        "Traceback (most recent call last):",
        '  File "train.py", line 9, in <module>',
        "    main()",
        sentence,
    ]
    return "".join(f"[rank{rank}]: {line}\n" for line in lines)


def table(rank: int, host: str) -> str:
    return (
        "train.py FAILED\nRoot Cause (first observed failure):\n[0]:\n  time      : 2026-11-21_10:00:01\n"
        f"  host      : {host}\n  rank      : {rank} (local_rank: {rank})\n  exitcode  : 1 (pid: 501)\n  error_file: <N/A>\n"
    )


KEY = "KeyError: 'labels'"
SHARD = "safetensors_rust.SafetensorError: Error while deserializing header: MetadataIncompleteBuffer"
OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU {} has a total capacity of 21.96 GiB "
    "of which 1.29 GiB is free. Process 30218 has 20.67 GiB memory in use. Of the allocated memory 19.02 GiB is allocated by PyTorch, "
    "and 1.00 GiB is reserved by PyTorch but unallocated."
)


def test_no_rank_is_named_where_every_rank_fails_alike(tmp_path: Path) -> None:
    text = failure(1, KEY) + failure(0, KEY) + table(1, "gpu-a01")

    assert culprit_of(tmp_path, "application-error", text).rank is None


def test_the_rank_that_alone_raises_is_named(tmp_path: Path) -> None:
    text = "[rank0]: step 1 loss 2.0\n" + failure(1, KEY) + table(1, "gpu-a01")

    assert culprit_of(tmp_path, "application-error", text).rank == 1


@pytest.mark.parametrize(("world", "rank"), [("world_size=1\n", None), ("", None), ("world_size=4\n", 0)])
def test_rank_zero_is_named_only_where_there_are_others(tmp_path: Path, world: str, rank: int | None) -> None:
    text = world + "step 1 loss: 2.1\n" + failure(0, KEY)

    assert culprit_of(tmp_path, "application-error", text).rank == rank


def test_the_same_exception_from_every_process_has_no_culprit_rank(tmp_path: Path) -> None:
    raised = (
        f'Traceback (most recent call last):\n  File "train.py", line 9, in <module>\n    main()\n{KEY}\n'
    )
    start = "torchrun --nproc_per_node=2 train.py\n"

    assert culprit_of(tmp_path, "application-error", start + raised * 2 + table(1, "gpu-a01")).rank is None
    assert culprit_of(tmp_path, "application-error", start + raised + table(1, "gpu-a01")).rank == 1


def test_who_fails_while_torchrun_has_to_stop_others_is_named(tmp_path: Path) -> None:
    raised = (
        f'Traceback (most recent call last):\n  File "train.py", line 9, in <module>\n    main()\n{KEY}\n'
    )
    stopped = (
        "WARNING:torch.distributed.elastic.multiprocessing.api:Sending process 20881 closing signal SIGTERM\n"
    )

    assert culprit_of(tmp_path, "application-error", raised * 2 + stopped + table(2, "gpu-a01")).rank == 2


def test_who_first_stumbles_over_shared_weights_is_no_culprit(tmp_path: Path) -> None:
    raised = (
        f'Traceback (most recent call last):\n  File "train.py", line 9, in <module>\n    main()\n{SHARD}\n'
    )

    culprit = culprit_of(tmp_path, "weights-corrupt", raised + table(1, "gpu-a01"))
    assert (culprit.rank, culprit.host) == (None, None)


def test_one_rank_of_several_that_stumbles_over_its_own_copy_is_named(tmp_path: Path) -> None:
    text = "[rank0]: resumed at step 400\n" + failure(1, SHARD)

    assert culprit_of(tmp_path, "weights-corrupt", text).rank == 1


def test_the_one_machine_of_two_that_lacks_the_script_is_named(tmp_path: Path) -> None:
    lost = "torch.distributed.DistStoreError: wait timeout after 60000ms, keys: /default_pg/0//cpu//0/1\n"
    waits = f'Traceback (most recent call last):\n  File "train.py", line 9, in <module>\n    main()\n{lost}'
    lacks = "/usr/bin/python3: can't open file '/home/user/train.py': [Errno 2] No such file or directory\n"

    culprit = culprit_of(
        tmp_path, "launch-script-missing", waits + table(0, "gpu-a01"), lacks + table(1, "gpu-a02")
    )
    assert culprit.host == "gpu-a02"


@pytest.mark.parametrize(
    ("more", "host"),
    [
        ("", None),
        ("torchrun --nnodes=2 train.py\n", "gpu-a01"),
        ("export MASTER_ADDR=gpu-a09\n", "gpu-a01"),
        ("(Worker pid=7, ip=10.0.0.7) step 1\n", "gpu-a01"),
        ("tensor_parallel_size=8, pipeline_parallel_size=2\n", "gpu-a01"),
    ],
)
def test_the_only_machine_is_named_where_the_launch_has_others(
    tmp_path: Path, more: str, host: str | None
) -> None:
    text = more + "[rank0]: step 1 loss 2.0\n" + failure(1, KEY) + table(1, "gpu-a01")

    assert culprit_of(tmp_path, "application-error", text).host == host


def test_a_machine_that_is_itself_short_of_something_is_named(tmp_path: Path) -> None:
    text = (
        "[rank0]: step 1 loss 2.0\n"
        + failure(1, "OSError: [Errno 28] No space left on device")
        + table(1, "gpu-a01")
    )

    assert culprit_of(tmp_path, "disk-full", text).host == "gpu-a01"


def test_localhost_is_nobody(tmp_path: Path) -> None:
    text = (
        "localhost: [rank0]: step 1 loss 2.0\n"
        + failure(1, "OSError: [Errno 28] No space left on device")
        + table(1, "localhost")
    )

    assert culprit_of(tmp_path, "disk-full", text).host is None


@pytest.mark.parametrize(("ranks", "named"), [((5, 0, 7), None), ((5, 0), 5)])
def test_what_befalls_half_of_the_ranks_did_not_begin_with_the_first(
    tmp_path: Path, ranks: tuple[int, ...], named: int | None
) -> None:
    alive = "".join(f"[rank{rank}]: loading weights\n" for rank in (0, 1, 2))
    text = alive + "step 1 loss: 2.1\n" + "".join(failure(rank, OOM.format(rank)) for rank in ranks)

    assert culprit_of(tmp_path, "gpu-oom-runtime", text).rank == named


def test_a_file_named_after_a_model_tells_no_machine(tmp_path: Path) -> None:
    text = 'Traceback (most recent call last):\n  File "train.py", line 9, in <module>\n    main()\nOSError: [Errno 28] No space left on device\n'
    for name, host in (("vllm_llama3_70b_startup.log", None), ("vllm-cn142.log", "cn142")):
        (tmp_path / name).write_text(text)
        assert explain([str(tmp_path / name)]).diagnoses[0].culprit.host == host


def test_the_node_that_reports_a_preemption_is_not_its_culprit(tmp_path: Path) -> None:
    text = "[rank0]: step 9 loss 2.0\nslurmstepd: error: *** JOB 77 ON gn14 CANCELLED AT 2026-11-21T10:00:01 DUE TO PREEMPTION ***\n"

    assert culprit_of(tmp_path, "preempted", text).host is None


def test_the_machine_whose_gpus_do_not_suffice_is_named(tmp_path: Path) -> None:
    text = (
        "[rank0]: step 1 loss 2.0\n"
        + failure(3, "RuntimeError: CUDA error: invalid device ordinal")
        + table(3, "gpu-a01")
    )

    assert culprit_of(tmp_path, "gpu-count-exceeded", text).host == "gpu-a01"


def test_the_pod_that_somebody_looks_at_is_named_where_several_do_not_come_up(tmp_path: Path) -> None:
    listing = "NAME        READY   STATUS    RESTARTS   AGE\ntrainer-0   0/1     Pending   0          4m\ntrainer-1   0/1     Pending   0          4m\n"
    event = (
        "$ kubectl describe pod trainer-1\nName:             trainer-1\n"
        "  Warning  FailedScheduling  4m  default-scheduler  0/36 nodes are available: 36 Insufficient nvidia.com/gpu.\n"
    )

    assert culprit_of(tmp_path, "pod-unschedulable", listing + event).host == "trainer-1"
