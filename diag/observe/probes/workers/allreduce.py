"""All-reduce between processes of this node, the numbers checked: gloo over given interfaces, NCCL over the GPUs.

Stand-alone: run by the patient's interpreter with torch and the standard library only.
    allreduce.py '{"rounds": [{"name", "backend", "interface"}], "ranks", "gpus", "deadline_s", "round_s"}'
The answer, as JSON on DIAG_ANSWER_FD: {"python", "ranks": [...]}, each rank with its rounds or where it stopped.
The NCCL part has not been proven on a GPU yet.
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


def check_numbers(values: list[float], world: int) -> bool:
    """Whether the sum over all ranks of `index % 97 + rank` came out."""
    base = sum(range(world))
    return all(value == (index % 97) * world + base for index, value in enumerate(values))


def run_round(rank: Rank, torch: Any, one: dict[str, Any], number: int) -> None:
    """One backend over one interface: meet, add, compare, part."""
    dist = torch.distributed
    nccl = one["backend"] == "nccl"
    world = rank.job["gpus"] if nccl else rank.world
    if rank.rank >= world:
        return
    if nccl and torch.version.cuda is None and torch.version.hip is None:
        rank.report(round=one["name"], right=None, absent="built without CUDA")
        return
    if one["interface"]:
        os.environ["GLOO_SOCKET_IFNAME"] = one["interface"]
    elif not nccl:
        os.environ.pop("GLOO_SOCKET_IFNAME", None)
    rank.enter(f"{one['name']}: communicator")
    if nccl:
        os.environ.setdefault("NCCL_DEBUG", "WARN")
        torch.cuda.set_device(rank.rank)
    dist.init_process_group(
        one["backend"],
        init_method=f"file://{rank.store}.{number}",
        rank=rank.rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=rank.job["round_s"]),
    )
    rank.enter(f"{one['name']}: all-reduce")
    device = "cuda" if nccl else "cpu"
    tensor = (torch.arange(COUNT, device=device) % 97 + rank.rank).to(torch.float32)
    dist.all_reduce(tensor)
    if nccl:
        torch.cuda.synchronize()
    right = check_numbers(tensor.cpu().tolist(), world)
    rank.report(round=one["name"], right=right, world=world)
    if not nccl:
        dist.destroy_process_group()


def body(rank: Rank) -> None:
    """All rounds, one after the other; a failed gloo round does not keep the next one from running."""
    rank.enter("import torch")
    import torch
    import torch.distributed

    nccl = torch.cuda.nccl.version() if torch.cuda.is_available() else None
    rank.report(
        torch=torch.__version__,
        nccl=list(nccl) if isinstance(nccl, tuple) else nccl,
        gpus=torch.cuda.device_count(),
    )
    for number, one in enumerate(rank.job["rounds"]):
        if one["backend"] == "nccl":
            run_round(rank, torch, one, number)
            continue
        try:
            run_round(rank, torch, one, number)
        except Exception as error:
            rank.report(
                round=one["name"],
                right=None,
                failed={"type": type(error).__name__, "message": str(error)[:800], "phase": rank.phase},
            )
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def main() -> None:
    """As a rank, run the rounds; else start the ranks and answer."""
    if sys.argv[1] == "--rank":
        guard(float(sys.argv[6]))
        Rank(sys.argv[2:6]).run(body)
    job = json.loads(sys.argv[1])
    guard(job["deadline_s"] + 3)
    ranks = coordinate(str(Path(__file__).resolve()), job["ranks"], job, job["deadline_s"])
    send({"python": sys.executable, "ranks": ranks})


if __name__ == "__main__":
    main()
