"""Records what NCCL's own RAS threads answer, without GPUs: fixtures/ras.

    python benchmarks/record_ras.py NCCL_CHECKOUT CUDA_HOME OUTPUT_FOLDER

Builds src/ras and the sockets below it from a checkout of NCCL (2.30.7 was used) with `ras_job.cc`, whose processes start NCCL's RAS
threads and report counters that are set by hand; then sets them, stops processes, and writes down the service's answers. Needs g++
and CUDA's headers (with cccl); no device.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

SOURCES = (
    "src/ras/ras.cc", "src/ras/client_support.cc", "src/ras/collectives.cc", "src/ras/peers.cc", "src/ras/rasnet.cc",
    "src/misc/socket.cc", "src/misc/utils.cc", "src/misc/param.cc", "src/os/linux.cc", "src/os/linux_socket_pair.cc",
)  # fmt: skip
PORT = 28200
RANKS = 8


def build(nccl: Path, cuda: Path, program: Path) -> None:
    header = (nccl / "src" / "nccl.h.in").read_text()
    for name, value in (
        ("Major", "2"),
        ("Minor", "30"),
        ("Patch", "7"),
        ("Suffix", ""),
        ("Version", "23007"),
    ):
        header = header.replace(f"${{nccl:{name}}}", value)
    (nccl / "src" / "include" / "nccl.h").write_text(header)
    include = [
        nccl / "src/include",
        nccl / "src/include/plugin",
        nccl / "src/ras",
        cuda / "include",
        cuda / "include/cccl",
    ]
    own = Path(__file__).with_name("ras_job.cc")
    words = ["g++", "-std=c++17", "-O1", "-w", "-fpermissive", *(f"-I{one}" for one in include), "-DCUDA_MAJOR=13", "-DCUDA_MINOR=0",
             "-DNCCL_OS_LINUX", "-DPROFAPI", str(own), *(str(nccl / one) for one in SOURCES), f"-L{cuda / 'lib64'}",
             "-lcudart_static", "-lpthread", "-ldl", "-lrt", "-o", str(program)]  # fmt: skip
    subprocess.run(words, check=True)


class Job:
    """Processes with RAS threads, on nodes of addresses 127.0.N.1."""

    def __init__(self, program: Path, nodes: int, each: int, communicators: int) -> None:
        words = [str(program), str(nodes), str(each), str(PORT), str(communicators)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.pids = [int(word) for word in self.process.stdout.readline().split()[1:]]
        time.sleep(1.5)

    def do(self, *words: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        self.process.stdout.readline()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


def answer(*commands: str) -> str:
    """Say the commands, hear a line for each but the last, whose answer ends the connection."""
    with socket.create_connection(("127.0.0.1", PORT), 2) as sock, sock.makefile("rb") as lines:
        sock.settimeout(15)
        for command in commands:
            sock.sendall(command.encode() + b"\n")
            if command is not commands[-1]:
                lines.readline()
        return lines.read().decode()


def record(job: Job, folder: Path, name: str) -> None:
    told = {
        "pids": job.pids,
        "json": answer("CLIENT PROTOCOL 2", "TIMEOUT 3", "SET FORMAT json", "STATUS"),
        "text": answer("CLIENT PROTOCOL 2", "TIMEOUT 3", "VERBOSE STATUS"),
    }
    (folder / f"{name}.json").write_text(json.dumps(told))
    print(name, flush=True)


def main() -> None:
    nccl, cuda, folder = map(Path, sys.argv[1:4])
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "ras_job"
    build(nccl, cuda, program)
    job = Job(program, 2, 4, 3)
    for rank in range(RANKS):
        job.do("set", 0, rank, "AllReduce", 120)
        job.do("set", 1 + rank // 4, rank, "AllGather", 40)
    record(job, folder, "healthy")
    for name, changes, back in (
        ("late", [(5, "AllReduce", 119)], [(5, "AllReduce", 120)]),
        ("desync", [(5, "AllReduce", 119), (5, "Broadcast", 1)], [(5, "AllReduce", 120), (5, "Broadcast", 0)]),
        ("init", [(3, "init", 7)], [(3, "init", 0)]),
        ("error", [(3, "async", 1), (2, "async", 6), (1, "async", 6)], [(rank, "async", 0) for rank in (1, 2, 3)]),
        ("abort", [(4, "abort", 1)], [(4, "abort", 0)]),
    ):  # fmt: skip
        for change in changes:
            job.do("set", 0, *change)
        record(job, folder, name)
        for change in back:
            job.do("set", 0, *change)
    job.do("stop", 0, 6)
    record(job, folder, "unresponsive")
    while '"considered_dead": true' not in answer("CLIENT PROTOCOL 2", "SET FORMAT json", "STATUS"):
        time.sleep(5)
    record(job, folder, "dead")
    job.end()
    job = Job(program, 1, 3, 1)
    for name, counts in (
        ("three-equal", (120, 120, 120)),
        ("three-later", (131, 131, 131)),
        ("three-late-1", (131, 130, 131)),
    ):
        for rank, count in enumerate(counts):
            job.do("set", 0, rank, "AllReduce", count)
        record(job, folder, name)
    job.do("set", 0, 1, "Broadcast", 1)
    record(job, folder, "three-other-1")
    job.end()
    program.unlink()


if __name__ == "__main__":
    main()
