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
