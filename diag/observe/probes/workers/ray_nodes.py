"""One `diag run` on every node of a Ray cluster, started through Ray itself.

Stand-alone: run by an interpreter that has ray; standard library otherwise.
    ray_nodes.py '{"address", "options": [...], "port", "deadline_s"}'
Each task is bound to its node and asks for no CPU and no GPU, so that it runs while a job holds everything. The answer, as
JSON on DIAG_ANSWER_FD: {"error": text | null, "nodes": [{"address", "rank", "report": text | null, "error": text | null}]}.
Ray's workers must be able to import diag.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

CONNECT_S = 5.0
START_S = 30.0
"""Connecting a driver takes a few seconds, on a busy head ten."""

LAST_S = 20.0
"""The nodes' runs end together: who has not answered so long after half of the others stands still."""


def probe(words: list[str], limit_s: float) -> dict[str, Any]:
    """On a node: run diag with this node's interpreter; its report as JSON text."""
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in ("RANK", "LOCAL_RANK", "CUDA_VISIBLE_DEVICES")
    }
    try:
        with tempfile.TemporaryDirectory(prefix="diag-ray-") as folder:
            done = subprocess.run(
                [sys.executable, "-m", "diag.cli.main", "run", "--json", "--raw", "--quiet", "--out", folder, *words],
                stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s, check=False, env=env,
            )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"report": None, "error": f"diag run did not end within {limit_s:.0f} s"}
    text = done.stdout.decode("utf-8", "replace")
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return {
        "report": text or None,
        "error": None if text else (said[-1][:300] if said else f"ended with code {done.returncode}"),
    }


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Connect, start one task a node, collect what comes before the deadline."""
    begin = time.monotonic()
    host, colon, port = job["address"].rpartition(":")
    if colon and port.isdigit():  # ray.init itself tries for minutes
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    late = threading.Timer(START_S, give_up, (f"Ray did not take us in within {START_S:.0f} s",))
    late.daemon = True
    late.start()
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address=job["address"], log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
    late.cancel()
    alive = sorted((one for one in ray.nodes() if one["Alive"]), key=lambda one: one["NodeManagerAddress"])
    task = ray.remote(num_cpus=0, num_gpus=0, max_retries=0)(probe)
    left = job["deadline_s"] - (time.monotonic() - begin)
    pending = {}
    for rank, node in enumerate(alive):
        master = alive[0]["NodeManagerAddress"]
        place = f"[{master}]:{job['port']}" if ":" in master else f"{master}:{job['port']}"
        words = list(job["options"])
        if len(alive) > 1:
            words += ["--nnodes", str(len(alive)), "--node-rank", str(rank), "--master", place]
        bound = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        pending[task.options(scheduling_strategy=bound).remote(words, left)] = (rank, node)
    references = list(pending)
    ray.wait(references, num_returns=(len(references) + 1) // 2, timeout=left)
    left = job["deadline_s"] - (time.monotonic() - begin)
    ray.wait(references, num_returns=len(references), timeout=max(0.1, min(left, LAST_S)))
    nodes = []
    for reference, (rank, node) in pending.items():
        one: dict[str, Any] = {
            "address": node["NodeManagerAddress"],
            "rank": rank,
            "report": None,
            "error": None,
        }
        try:
            one.update(ray.get(reference, timeout=0.5))
        except Exception as error:
            one["error"] = (
                f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"
            )
        nodes.append(one)
    return {"error": None, "nodes": nodes}


def give_up(error: str) -> None:
    """Answer that nothing could be asked, and end."""
    send({"error": error, "nodes": []})


def send(answer: dict[str, Any]) -> None:
    """The answer on the descriptor that diag gave; nobody's exit handlers run."""
    with os.fdopen(int(os.environ["DIAG_ANSWER_FD"]), "wb") as pipe:
        pipe.write(json.dumps(answer).encode())
    os._exit(0)


def main() -> None:
    """Answer whatever happens."""
    try:
        answer = run(json.loads(sys.argv[1]))
    except BaseException as error:  # also SystemExit: Ray ends processes that cannot connect
        answer = {"error": f"{type(error).__name__}: {str(error)[:400]}", "nodes": []}
    send(answer)


if __name__ == "__main__":
    main()
