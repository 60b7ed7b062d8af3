"""Start a few ranks on this node, watch how far each gets, and never outlive a deadline.

Stand-alone: run by the patient's interpreter, Python 3.8 or later, standard library only. The coordinator starts
each rank as a process of its own, so that a rank stuck inside CUDA or NCCL can be killed; every rank reports its
phases as JSON lines on a private pipe, and the last phase reported tells where it hangs.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TAIL_BYTES = 4000


def guard(deadline_s: float) -> None:
    """Die with the parent, and at the latest at the deadline: the kernel's alarm needs no interpreter lock."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, deadline_s)


def send(answer: dict[str, Any]) -> None:
    """The coordinator's whole answer, on the descriptor that diag gave."""
    text = json.dumps(answer).encode()
    with os.fdopen(int(os.environ["DIAG_ANSWER_FD"]), "wb") as pipe:
        pipe.write(text)


class Rank:
    """What a rank knows about itself, and how it reports."""

    def __init__(self, argv: list[str]) -> None:
        self.rank, self.world = int(argv[0]), int(argv[1])
        self.store = argv[2]
        self.job = json.loads(argv[3])
        self.phase = "start"
        self._begin = time.monotonic()
        self._fd = int(os.environ["DIAG_RANK_FD"])

    def report(self, **event: Any) -> None:
        """One line for the coordinator."""
        event["at_s"] = round(time.monotonic() - self._begin, 3)
        os.write(self._fd, (json.dumps(event) + "\n").encode())

    def enter(self, phase: str) -> None:
        """Say what comes next, before it can hang."""
        self.phase = phase
        self.report(phase=phase)

    def run(self, body: Callable[[Rank], None]) -> None:
        """Run `body(self)`; whatever it raises is reported, and nobody's exit handlers run."""
        try:
            body(self)
            self.report(done=True)
        except BaseException as error:  # whatever ends a rank is the answer
            self.report(
                error={"phase": self.phase, "type": type(error).__name__, "message": str(error)[:1500]}
            )
        finally:
            os._exit(0)


def coordinate(script: str, world: int, job: dict[str, Any], deadline_s: float) -> list[dict[str, Any]]:
    """Run `world` ranks of `script` until all have ended or the deadline; one dict a rank."""
    folder = tempfile.mkdtemp(prefix="diag-ranks-")
    ranks: list[dict[str, Any]] = []
    try:
        for rank in range(world):
            ranks.append(_start(script, rank, world, json.dumps({**job, "folder": folder}), deadline_s))
        _watch(ranks, time.monotonic() + deadline_s)
        return [_outcome(one) for one in ranks]
    finally:
        for one in ranks:
            if one["process"].poll() is None:
                one["process"].kill()
        shutil.rmtree(folder, ignore_errors=True)


def _start(script: str, rank: int, world: int, job: str, deadline_s: float) -> dict[str, Any]:
    folder = Path(json.loads(job)["folder"])
    read_fd, write_fd = os.pipe()
    env = dict(os.environ, DIAG_RANK_FD=str(write_fd))
    env.pop("DIAG_ANSWER_FD", None)
    said = (folder / f"rank{rank}.out").open("w+b")
    process = subprocess.Popen(
        [
            sys.executable,
            script,
            "--rank",
            str(rank),
            str(world),
            str(folder / "store"),
            job,
            str(deadline_s),
        ],
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=said,
        env=env,
        pass_fds=(write_fd,),
    )
    os.close(write_fd)
    return {"rank": rank, "process": process, "fd": read_fd, "said": said, "text": b"", "open": True}


def _watch(ranks: list[dict[str, Any]], deadline: float) -> None:
    while any(one["open"] for one in ranks):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        ready, _, _ = select.select([one["fd"] for one in ranks if one["open"]], [], [], min(left, 0.5))
        for one in ranks:
            if one["fd"] in ready:
                chunk = os.read(one["fd"], 65536)
                one["text"] += chunk
                one["open"] = bool(chunk)


def _outcome(one: dict[str, Any]) -> dict[str, Any]:
    events = []
    for line in one["text"].decode("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError):  # a line cut by the kill
            events.append(json.loads(line))
    process = one["process"]
    ended = not one["open"]
    if ended:
        try:
            process.wait(1.0)
        except subprocess.TimeoutExpired:
            ended = False
    one["said"].seek(0, os.SEEK_END)
    one["said"].seek(max(0, one["said"].tell() - TAIL_BYTES))
    tail = one["said"].read().decode("utf-8", "replace")
    one["said"].close()
    phases = [event["phase"] for event in events if "phase" in event]
    return {
        "rank": one["rank"],
        "ended": ended,
        "code": process.returncode if ended else None,
        "done": any(event.get("done") for event in events),
        "phase": phases[-1] if phases else "start",
        "error": next(
            ({**event["error"], "at_s": event["at_s"]} for event in events if "error" in event), None
        ),
        "events": [event for event in events if "phase" not in event and "error" not in event],
        "said": tail.splitlines()[-12:],
    }
