"""This node's one rank of an all-reduce over several nodes: TCPStore on the master, gloo, numbers checked.

Stand-alone: run by the patient's interpreter with torch and the standard library only.
    meet.py '{"address", "port", "rank", "world", "deadline_s", "round_s"}'
GLOO_SOCKET_IFNAME is obeyed as the launch's own ranks obey it. The answer, as JSON on DIAG_ANSWER_FD: {"python",
"ranks": [one rank with its phases, its result or where it stopped]}.
"""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path

from diag_ranks import Rank, coordinate, guard, send  # type: ignore[import-not-found]  # beside this script

COUNT = 4096


def body(rank: Rank) -> None:
    """Meet at the store, add, compare, part."""
    job = rank.job
    rank.enter("import torch")
    import torch
    import torch.distributed as dist

    timeout = datetime.timedelta(seconds=job["round_s"])
    rank.enter("TCPStore")
    store = dist.TCPStore(job["address"], job["port"], job["world"], job["rank"] == 0, timeout=timeout)
    rank.enter("gloo communicator")
    dist.init_process_group("gloo", store=store, rank=job["rank"], world_size=job["world"], timeout=timeout)
    rank.enter("gloo all-reduce")
    tensor = (torch.arange(COUNT) % 97 + job["rank"]).to(torch.float32)
    dist.all_reduce(tensor)
    base = sum(range(job["world"]))
    right = all(value == (index % 97) * job["world"] + base for index, value in enumerate(tensor.tolist()))
    rank.report(right=right, torch=torch.__version__)
    rank.enter("parting")
    dist.barrier()  # the store lives on the master: nobody leaves while others still need it
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
