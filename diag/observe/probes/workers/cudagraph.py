"""Capture and replay a small CUDA graph on every GPU, alone and then with an all-reduce inside, numbers checked.

Stand-alone: run by the patient's interpreter with torch and the standard library only.
    cudagraph.py '{"gpus", "deadline_s", "round_s"}'
The answer, as JSON on DIAG_ANSWER_FD: {"python", "ranks": [...]}. Beyond the CUDA context that every process pays, a
rank allocates a few MB. Every step is done eagerly before it is captured, so that what fails only when captured is
told apart. It has not been proven on a GPU yet.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
from pathlib import Path
from typing import Any

from diag_ranks import Rank, coordinate, guard, send  # type: ignore[import-not-found]  # beside this script

SIZE = 256


def same(torch: Any, left: Any, right: Any) -> bool:
    """Equal up to rounding."""
    return bool(torch.allclose(left, right, rtol=1e-3, atol=1e-3))


def alone(rank: Rank, torch: Any) -> None:
    """One GPU: a few kernels eagerly, captured, replayed with new input."""
    rank.enter("eager")
    weight = torch.eye(SIZE, device="cuda") * 2
    static = torch.ones(SIZE, SIZE, device="cuda")

    def step(value: Any) -> Any:
        return torch.relu(value @ weight) + 1

    expected = step(static)
    torch.cuda.synchronize()
    rank.report(step="eager", right=same(torch, expected, torch.full_like(expected, 3)))

    rank.enter("capture")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step(static)  # cuBLAS takes its workspace outside of the capture
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step(static)
    torch.cuda.synchronize()

    rank.enter("replay")
    right = True
    for factor in (1.0, 5.0, -4.0):
        static.fill_(factor)
        graph.replay()
        torch.cuda.synchronize()
        right = right and same(torch, result, torch.full_like(result, max(0.0, 2 * factor) + 1))
    rank.report(step="captured", right=right)


def together(rank: Rank, torch: Any) -> None:
    """All GPUs: an all-reduce eagerly, captured, replayed."""
    import torch.distributed as dist

    rank.enter("communicator")
    os.environ.setdefault("NCCL_DEBUG", "WARN")
    dist.init_process_group(
        "nccl",
        init_method=f"file://{rank.store}",
        rank=rank.rank,
        world_size=rank.world,
        timeout=datetime.timedelta(seconds=rank.job["round_s"]),
    )
    rank.enter("eager all-reduce")
    static = torch.full((SIZE,), float(rank.rank + 1), device="cuda")
    total = float(sum(range(1, rank.world + 1)))
    eager = static.clone()
    dist.all_reduce(eager)
    torch.cuda.synchronize()
    rank.report(step="eager all-reduce", right=same(torch, eager, torch.full_like(eager, total)))

    rank.enter("capture all-reduce")
    graph = torch.cuda.CUDAGraph()
    buffer = torch.empty_like(static)
    with torch.cuda.graph(graph):
        buffer.copy_(static)
        dist.all_reduce(buffer)
    torch.cuda.synchronize()

    rank.enter("replay all-reduce")
    right = True
    for factor in (1.0, 3.0):
        static.fill_(factor * (rank.rank + 1))
        graph.replay()
        torch.cuda.synchronize()
        right = right and same(torch, buffer, torch.full_like(buffer, factor * total))
    rank.report(step="captured all-reduce", right=right)


def body(rank: Rank) -> None:
    """The steps in order; the first that fails or hangs is the answer."""
    rank.enter("import torch")
    import torch

    rank.report(torch=torch.__version__, cuda=torch.version.cuda, gpus=torch.cuda.device_count())
    rank.enter("CUDA start")
    torch.cuda.init()
    torch.cuda.set_device(rank.rank)
    torch.zeros(1, device="cuda")
    alone(rank, torch)
    if rank.world > 1:
        together(rank, torch)


def main() -> None:
    """As a rank, run the steps; else start one rank a GPU and answer."""
    if sys.argv[1] == "--rank":
        guard(float(sys.argv[6]))
        Rank(sys.argv[2:6]).run(body)
    job = json.loads(sys.argv[1])
    guard(job["deadline_s"] + 3)
    ranks = coordinate(str(Path(__file__).resolve()), job["gpus"], job, job["deadline_s"])
    send({"python": sys.executable, "ranks": ranks})


if __name__ == "__main__":
    main()
