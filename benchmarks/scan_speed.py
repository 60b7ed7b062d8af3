"""`diag explain` on a large healthy log against `rg -F -f` with every string of every playbook.

Usage: python benchmarks/scan_speed.py [MIB]. Aims: no slower than ripgrep; a string on a million lines costs no more.
Both read the same file in turn; the best of three counts.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from diag.observe.logs.reading import build_reader
from diag.playbooks.base import load_base

HEALTHY = "INFO 04-28 08:{0:02d}:{0:02d} [loggers.py:80] Engine 000: step {1} tokens {1} cache usage: 1.5%, prefix hit 3.3%\n"
OOM = "[rank3]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 39.39 GiB\n"


def best_s(argv: list[str]) -> float:
    """Shortest wall time of three runs in seconds."""
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        subprocess.run(argv, capture_output=True, check=False)
        times.append(time.perf_counter() - begin)
    return min(times)


def peak_mb(argv: list[str]) -> float:
    """Most memory that the command, or one of the processes it waited for, held at once."""
    small = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL); "
    small += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"  # (a child begins with its parent's peak)
    told = subprocess.run([sys.executable, "-c", small, *argv], capture_output=True, text=True, check=True)
    return int(told.stdout) / 1024


def main(mib: int) -> int:
    """Print the seconds; return 1 where diag is slower than ripgrep."""
    with tempfile.TemporaryDirectory() as folder:
        log, many, strings = (Path(folder) / name for name in ("healthy.log", "million.log", "strings"))
        block = "".join(HEALTHY.format(number % 60, number) for number in range(20_000)).encode()
        with log.open("wb") as file:
            while file.tell() < mib << 20:
                file.write(block)
        many.write_text(OOM * 1_000_000)
        found = build_reader(load_base()).scanner.literals
        strings.write_bytes(b"\n".join(found) + b"\n")
        explain = [sys.executable, "-m", "diag", "explain", "--quiet"]
        ripgrep = best_s(["rg", "-F", "-f", str(strings), "-c", str(log)])
        ours = best_s([*explain, str(log)])
        print(
            f"{mib} MiB healthy: rg with {len(found)} strings {ripgrep:.2f} s, diag {ours:.2f} s, {ours / ripgrep:.2f} x"
        )
        print(f"peak memory: diag {peak_mb([*explain, str(log)]):.0f} MB")
        print(f"one string on a million lines ({len(OOM)} MB): diag {best_s([*explain, str(many)]):.2f} s")
    return 1 if ours > ripgrep else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1024))
