"""Who is named: the rank that the others wait for, the first of those that fail, nobody where everybody does."""

from __future__ import annotations

from pathlib import Path

import pytest

from diag.diagnose.pipeline import explain
from diag.model import Culprit


def culprit_of(tmp_path: Path, text: str, cause: str) -> Culprit:
    log = tmp_path / "log.txt"
    log.write_text(text)
    first = explain([str(log)]).diagnoses[0]
    assert first.id == cause
    return first.culprit


UNIQUE_ID = (
    "RuntimeError: [3] is setting up NCCL communicator and retrieving ncclUniqueId from [{}] via c10d key-value store by "
    "key '0', but store->get('0') got error: Socket Timeout\n"
)


@pytest.mark.parametrize("awaited", [0, 2])
def test_the_rank_whose_id_is_awaited_is_the_slow_one(tmp_path: Path, awaited: int) -> None:
    text = (
        "Running tokenizer on dataset:  46%|####6     | 97/207 [30:11<34:03, 5.48 examples/s]\n"
        + UNIQUE_ID.format(awaited)
    )

    assert culprit_of(tmp_path, text, "collective-timeout-slow-rank").rank == awaited


def test_work_printed_without_a_rank_is_rank_zeros(tmp_path: Path) -> None:
    text = (
        "Saving checkpoint. This may take some time.\n"
        "[rank4]:[E512 11:00:01.2 ProcessGroupNCCL.cpp:616] [Rank 4] Watchdog caught collective operation timeout: "
        "WorkNCCL(SeqNum=9, OpType=ALLREDUCE, NumelIn=1, NumelOut=1, Timeout(ms)=600000) ran for 600004 milliseconds before timing out.\n"
    )

    assert culprit_of(tmp_path, text, "collective-timeout-slow-rank").rank == 0


FAULT = "[rank{}]: torch.AcceleratorError: CUDA error: an illegal memory access was encountered\n"


def test_the_first_of_some_ranks_began_it(tmp_path: Path) -> None:
    alive = "".join(
        f"[rank{rank}]:[W512 11:00:01.2 socket.cpp:16] [Rank {rank}] using GPU {rank}\n" for rank in range(8)
    )
    others = "".join(FAULT.format(rank) for rank in (5, 0, 7))
    bystander = "[rank2]: torch.distributed.DistBackendError: NCCL error: remote process exited or there was a network error\n"

    assert culprit_of(tmp_path, alive + others + bystander, "illegal-memory-access").rank == 5


def oom(gpu: int) -> str:
    return (
        f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU {gpu} has a total capacity of 21.96 GiB "
        "of which 1.29 GiB is free. Process 30218 has 20.67 GiB memory in use. Of the allocated memory 19.02 GiB is allocated by PyTorch, "
        "and 1.00 GiB is reserved by PyTorch but unallocated.\n"
    )


@pytest.mark.parametrize(("gpu", "rank"), [(3, 3), (0, None)])
def test_on_one_node_the_gpu_tells_the_rank_unless_it_is_gpu_zero(
    tmp_path: Path, gpu: int, rank: int | None
) -> None:
    text = (
        'step 10 loss 2.1\nstep 11 loss 2.0\n  File "train.py", line 3, in <module>\n    loss.backward()\n'
        + oom(gpu)
    )

    assert culprit_of(tmp_path, text, "gpu-oom-runtime").rank == rank


def test_a_prompt_with_the_hosts_name_alone_places_what_follows(tmp_path: Path) -> None:
    text = "[gpu-b1] $ python serve.py\n/usr/lib/libnccl.so: undefined symbol: ncclCommWindowRegister\n"

    assert culprit_of(tmp_path, text, "abi-mismatch").host == "gpu-b1"


BUS = "enqueue.cc:1 NCCL WARN Cuda failure 700 'an illegal memory access was encountered'\n"


def test_the_process_tells_the_rank_when_another_line_introduced_it(tmp_path: Path) -> None:
    text = (
        "h1:41:90 [0] NCCL INFO comm 0x1 rank 4 nranks 8 cudaDev 0 busId 1b000 - Init COMPLETE\n"
        "h1:42:91 [1] NCCL INFO comm 0x2 rank 5 nranks 8 cudaDev 1 busId 2b000 - Init COMPLETE\n"
        f"h1:42:95 [1] {BUS}"
    )

    assert culprit_of(tmp_path, text, "illegal-memory-access").rank == 5


def test_a_rank_of_a_small_group_is_no_rank_of_the_launch(tmp_path: Path) -> None:
    text = "torchrun --nproc_per_node=8 t.py\n" + "".join(
        f"h1:{40 + pid}:90 [{pid}] NCCL INFO comm 0x{pid} rank {pid % 2} nranks 2 cudaDev {pid} busId 1b000 - Init COMPLETE\n"
        for pid in range(8)
    )

    assert culprit_of(tmp_path, text + f"h1:46:95 [6] {BUS}", "illegal-memory-access").rank is None


def test_the_peer_that_nobody_reaches_is_named(tmp_path: Path) -> None:
    text = "".join(
        f"h{node}:7:8 [0] NCCL WARN socketStartConnect: Connect to 10.0.0.9<4000> failed : No route to host\n"
        for node in (1, 2)
    )

    assert culprit_of(tmp_path, text, "network-unreachable").host == "10.0.0.9"


def stack(pid: int, rank: int, *calls: str, state: str = "idle") -> str:
    frames = "".join(f"    {call}\n" for call in calls)
    return f'=== rank {rank}\nProcess {pid}: python t.py\nPython v3.11.9 (/usr/bin/python3.11)\n\nThread {pid} ({state}): "MainThread"\n{frames}\n'


REDUCE = ("all_reduce (torch/distributed/distributed_c10d.py:2501)", "step (t.py:4)")


def test_pasted_stacks_name_the_rank_at_which_the_waiting_ends(tmp_path: Path) -> None:
    late = stack(
        12, 1, "get (queue.py:171)", "_next_data (torch/utils/data/dataloader.py:1482)", "main (t.py:9)"
    )
    text = "step 4 of 90\n" + stack(11, 0, *REDUCE) + late + stack(13, 2, *REDUCE)

    assert culprit_of(tmp_path, text, "collective-timeout-slow-rank").rank == 1


@pytest.mark.parametrize(
    "after", ["loss: 2.1 step 5\nloss: 2.0 step 6\nTraining completed\n", ""], ids=["outlived", "computes"]
)
def test_pasted_stacks_of_a_launch_that_gets_on_accuse_nobody(tmp_path: Path, after: str) -> None:
    at_work = "main (t.py:9)" if not after else "_next_data (torch/utils/data/dataloader.py:1482)"
    text = stack(11, 0, *REDUCE) + stack(12, 1, at_work, state="active") + stack(13, 2, *REDUCE) + after
    log = tmp_path / "log.txt"
    log.write_text(text)

    assert explain([str(log)]).diagnoses == ()


def test_a_slow_launch_is_only_possibly_at_fault_and_a_failure_silences_it(tmp_path: Path) -> None:
    slow = "loss: 2.1 step 5\n        HW Thermal Slowdown               : Active\n"
    log = tmp_path / "log.txt"
    log.write_text(slow)
    (alone,) = explain([str(log)]).diagnoses
    log.write_text(slow + FAULT.format(3))

    assert (alone.id, alone.strength.value) == ("slow-gpu", "possible")
    assert "slow-gpu" not in [one.id for one in explain([str(log)]).diagnoses]
