"""How long `diag --help` and `diag explain` on 100 lines and on 1 MB take, against `python -c "import typer, rich"`.

Usage: python benchmarks/startup.py [ROUNDS]. Aims: at most 1.5 times, 3 times and 2 times (the last is missed). The best of all rounds counts: the
rest is what else the machine was doing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

AIMS = {"diag --help": 1.5, "diag explain, 100 lines": 3.0, "diag explain, 1 MB": 2.0}


def best_s(argv: list[str], rounds: int) -> float:
    """Shortest wall time of a command in seconds."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        subprocess.run(argv, capture_output=True, check=False)
        times.append(time.perf_counter() - begin)
    return min(times)


def main(rounds: int) -> int:
    """Print the table; return 1 where an aim is missed."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "run.log"
        log.write_text(
            "".join(f"INFO 04-28 08:14:{n % 60:02d} [loader.py:12] step {n} done\n" for n in range(100))
        )
        large = Path(folder) / "large.log"
        large.write_text(log.read_text() * (1_000_000 // log.stat().st_size))
        diag = [sys.executable, "-m", "diag"]
        base = best_s([sys.executable, "-c", "import typer, rich"], rounds)
        print(f"{'import typer, rich':<26} {base:.3f} s")
        missed = 0
        for name, argv in (
            ("diag --help", [*diag, "--help"]),
            ("diag explain, 100 lines", [*diag, "explain", str(log)]),
            ("diag explain, 1 MB", [*diag, "explain", str(large)]),
        ):
            took = best_s(argv, rounds)
            missed += took / base > AIMS[name]
            print(f"{name:<26} {took:.3f} s  {took / base:.2f} x  (aim {AIMS[name]} x)")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 7))
