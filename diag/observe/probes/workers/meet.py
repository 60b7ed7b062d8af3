"""This node's one rank of a collective over several nodes: TCPStore, gloo or NCCL, numbers checked.

Stand-alone: run by the patient's interpreter with torch and the standard library only.
    meet.py '{"address", "port", "rank", "world", "backend", "steps": ["ring", "captured"], "deadline_s", "round_s"}'
The launch's own variables are obeyed as its ranks obey them. Steps after the all-reduce: `ring`, each rank sends to the
next; `captured`, the all-reduce once more inside a CUDA graph, replayed with new numbers (after the same call went through
eagerly). Tensors are small; beyond them a rank costs the CUDA context and the communicator's buffers. The answer, as JSON
on DIAG_ANSWER_FD: {"python", "ranks": [one rank with its phases, its results or where it stopped]}.
With gloo all of this is run in tests; with NCCL it has not been proven on a GPU yet.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
from pathlib import Path
from typing import Any

from diag_ranks import Rank, coordinate, guard, send  # type: ignore[import-not-found]  # beside this script

COUNT = 4096


def numbers(torch: Any, device: str, rank: int) -> Any:
    """Different on every rank and at every place, exact in float32."""
    return (torch.arange(COUNT, device=device) % 97 + rank).to(torch.float32)


def summed(torch: Any, tensor: Any, world: int, factor: int = 1) -> bool:
    """Whether the sum over all ranks of `factor` times `numbers` came out."""
    wanted = (torch.arange(COUNT) % 97).to(torch.float32) * world + sum(range(world))
    return bool(torch.equal(tensor.cpu(), wanted * factor))


def ring(torch: Any, device: str, rank: int, world: int) -> bool:
    """Send to the next, receive from the one before, both at once."""
    dist = torch.distributed
    mine, theirs = numbers(torch, device, rank), torch.zeros(COUNT, device=device)
    before = (rank - 1) % world
    calls = [dist.P2POp(dist.isend, mine, (rank + 1) % world), dist.P2POp(dist.irecv, theirs, before)]
    for request in dist.batch_isend_irecv(calls):
        request.wait()
    return bool(torch.equal(theirs.cpu(), numbers(torch, "cpu", before)))


def captured(torch: Any, rank: int, world: int) -> bool:
    """The all-reduce as engines run it: captured once, replayed with what the static buffer then holds."""
    static = numbers(torch, "cuda", rank)
    result = torch.empty_like(static)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result.copy_(static)
        torch.distributed.all_reduce(result)
    right = True
    for factor in (1, 3):
        static.copy_(numbers(torch, "cuda", rank) * factor)
        graph.replay()
        torch.cuda.synchronize()
        right = right and summed(torch, result, world, factor)
    return right


def body(rank: Rank) -> None:
    """Meet at the store, add, pass round, add inside a graph, part."""
    job = rank.job
    backend = job.get("backend", "gloo")
    title = "NCCL" if backend == "nccl" else backend
    rank.enter("import torch")
    import torch
    import torch.distributed as dist

    device = "cuda" if backend == "nccl" else "cpu"
    if backend == "nccl":
        if not torch.cuda.is_available():
            rank.report(absent="torch sees no GPU")
            return
        os.environ.setdefault("NCCL_DEBUG", "WARN")
        rank.enter("CUDA start")
        torch.cuda.set_device(0)
        torch.zeros(1, device="cuda")
        version = torch.cuda.nccl.version()
        rank.report(nccl=list(version) if isinstance(version, tuple) else version)
    timeout = datetime.timedelta(seconds=job["round_s"])
    me, world = job["rank"], job["world"]
    rank.enter("TCPStore")
    store = dist.TCPStore(job["address"], job["port"], world, me == 0, timeout=timeout)
    rank.enter(f"{title} communicator")
    dist.init_process_group(backend, store=store, rank=me, world_size=world, timeout=timeout)
    rank.enter(f"{title} all-reduce")
    tensor = numbers(torch, device, me)
    dist.all_reduce(tensor)
    rank.report(right=summed(torch, tensor, world), torch=torch.__version__)
    if "ring" in job["steps"]:
        rank.enter(f"{title} send and receive")
        rank.report(ring=ring(torch, device, me, world))
    if "captured" in job["steps"] and backend == "nccl":
        rank.enter(f"{title} all-reduce in a CUDA graph")
        rank.report(captured=captured(torch, me, world))
    rank.enter("parting")
    dist.barrier()  # the store lives on the first rank: nobody leaves while others still need it
    if backend != "nccl":  # ncclCommAbort may wait for ever; the process ends anyway
        dist.destroy_process_group()


def main() -> None:
    """As a rank, take part; else start the one rank and answer."""
    if sys.argv[1] == "--rank":
        guard(float(sys.argv[6]))
        Rank(sys.argv[2:6]).run(body)
    job = json.loads(sys.argv[1])
    guard(job["deadline_s"] + 3)
    send(
        {
            "python": sys.executable,
            "ranks": coordinate(str(Path(__file__).resolve()), 1, job, job["deadline_s"]),
        }
    )


if __name__ == "__main__":
    main()
