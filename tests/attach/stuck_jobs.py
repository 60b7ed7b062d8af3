"""Real jobs of gloo ranks that really get stuck, each rank a process of its own as a launcher would start it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAM = """
import ctypes, os, signal, sys, threading, time
import torch, torch.distributed as dist

how, culprit, fifo = sys.argv[1], int(sys.argv[2]), sys.argv[3]
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
torch.set_num_threads(1)

def load_model():
    with open(fifo) as weights:
        weights.read()

def deadlock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

def get_stuck():
    if how == "sleep": time.sleep(1000)
    if how == "lock": deadlock()
    if how == "fifo": load_model()
    if how == "stop": os.kill(os.getpid(), signal.SIGSTOP)
    if how == "gil": ctypes.PyDLL(None).sleep(1000)
    if how == "kernel":
        libc = ctypes.CDLL(None)
        if libc.vfork() == 0:  # the parent sleeps uninterruptibly until its child runs something
            libc.sleep(1000)
            os._exit(0)
    if how == "exit": os._exit(7)
    if how == "other": dist.broadcast(torch.ones(4), 0)
    if how == "recv": dist.recv(torch.ones(4), (culprit + 1) % world)

open(f"{fifo}.imported{rank}", "w").close()
if how == "late" and rank == culprit:
    time.sleep(1000)
dist.init_process_group("gloo")
tensor = torch.ones(4)
for _ in range(3):
    dist.all_reduce(tensor)
open(f"{fifo}.ready{rank}", "w").close()
if how == "healthy":
    while True:
        dist.all_reduce(tensor)
        time.sleep(0.02)
if how == "slow":
    while True:
        until = time.monotonic() + (1.5 if rank == culprit else 0.05)
        while time.monotonic() < until:
            sum(range(1000))
        dist.all_reduce(tensor)
if how == "computes" and rank == culprit:
    while True:
        sum(range(1000))
if rank == culprit:
    get_stuck()
dist.all_reduce(tensor)
time.sleep(1000)
"""


class Job:
    """The ranks of one job, and what they printed."""

    def __init__(self, folder: Path, how: str, culprit: int, world: int) -> None:
        self.folder = folder
        self.world = world
        program = folder / "train.py"
        program.write_text(PROGRAM)
        fifo = folder / "weights.fifo"
        os.mkfifo(fifo)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.ranks = []
        for rank in range(world):
            env = {
                **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
            }  # fmt: skip
            argv = [sys.executable, str(program), how, str(culprit), str(fifo)]
            self.ranks.append(
                subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )

    @property
    def pids(self) -> list[int]:
        """In order of ranks."""
        return [one.pid for one in self.ranks]

    def wait_until_running(self, ranks: int, seconds: float = 240.0) -> None:
        """Until so many ranks have passed the rendezvous and the first steps."""
        until = time.monotonic() + seconds
        while len(list(self.folder.glob("*.ready*"))) < ranks:
            assert time.monotonic() < until, "the job did not start"
            time.sleep(0.1)

    def wait_until_imported(self, seconds: float = 240.0) -> None:
        """Until every rank has loaded torch and stands before the rendezvous or in it."""
        until = time.monotonic() + seconds
        while len(list(self.folder.glob("*.imported*"))) < self.world:
            assert time.monotonic() < until, "the job did not start"
            time.sleep(0.1)

    def state(self, rank: int) -> str:
        """R, S, D, T ..."""
        return Path(f"/proc/{self.pids[rank]}/stat").read_text().rpartition(") ")[2][0]

    def end(self) -> None:
        """Kill what this job started, and nothing else."""
        for one in self.ranks:
            with contextlib.suppress(ProcessLookupError):
                children = Path(f"/proc/{one.pid}/task/{one.pid}/children").read_text().split()
                for child in children:
                    os.kill(int(child), signal.SIGKILL)
                one.send_signal(signal.SIGCONT)
            one.kill()
            one.wait()


@contextlib.contextmanager
def running(folder: Path, how: str, culprit: int, world: int = 3) -> Iterator[Job]:
    """A job that has run for a moment and, except for the healthy ones, stands still since two seconds."""
    job = Job(folder, how, culprit, world)
    try:
        if how != "late":
            job.wait_until_running(world)
        else:
            job.wait_until_imported()
            time.sleep(8.0)
        time.sleep(2.0)
        yield job
    finally:
        job.end()
