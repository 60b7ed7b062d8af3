"""`diag run` against `python -m torch.utils.collect_env` for what both do: versions, driver, GPUs, CPU, memory.

Usage: python benchmarks/run_vs_collect_env.py [ROUNDS]; torch must be installed beside diag. Aim: no slower.
The two run in turn; the median of each counts.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

COMMON = "software.versions,driver.versions,gpu.inventory,gpu.visibility,host.cpu,host.memory,env.variables"
"""What collect_env reports too."""


def seconds(argv: list[str], folder: str) -> float:
    """Wall time of one run."""
    begin = time.perf_counter()
    subprocess.run(argv, capture_output=True, check=False, cwd=folder)
    return time.perf_counter() - begin


def main(rounds: int) -> int:
    """Print the medians; return 1 where the common part is slower."""
    with tempfile.TemporaryDirectory() as folder:
        diag = [sys.executable, "-m", "diag.cli.main", "run", "--quiet", "--out", folder]
        rows = {
            "torch.utils.collect_env": [sys.executable, "-m", "torch.utils.collect_env"],
            "diag run, what both do": [
                *diag,
                *[part for name in COMMON.split(",") for part in ("--only", name)],
            ],
            "diag run, everything": diag,
        }
        times: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(rounds):
            for name, argv in rows.items():
                times[name].append(seconds(argv, folder))
    medians = {name: statistics.median(seen) for name, seen in times.items()}
    base = medians["torch.utils.collect_env"]
    for name, median in medians.items():
        print(f"{name:<26} {median:6.2f} s  {median / base:5.2f} x")
    return 1 if medians["diag run, what both do"] > base else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
