"""`diag explain` over a folder of rank files against `rg -F -f` with every string of every playbook.

Usage: python benchmarks/many_files.py [FILES] [KB]   (default 4096 files of 200 kB). Aim: no slower than ripgrep over the folder.
Both read the same folder in turn; the best of three counts. Peak memory is that of the largest of diag's processes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from scan_speed import HEALTHY, best_s, peak_mb

from diag.observe.logs.reading import build_reader
from diag.playbooks.base import load_base


def main(files: int, kilobytes: int) -> int:
    """Print the seconds; return 1 where diag is slower than ripgrep."""
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder) / "logs"
        top.mkdir()
        text = "".join(HEALTHY.format(number % 60, number) for number in range(kilobytes * 10))
        for rank in range(files):
            (top / f"rank{rank}.log").write_text(text[: kilobytes << 10])
        strings = Path(folder) / "strings"
        literals = build_reader(load_base()).scanner.literals
        strings.write_bytes(b"\n".join(literals) + b"\n")
        rg = best_s(["rg", "-F", "-c", "-f", str(strings), str(top)])
        explain = [sys.executable, "-m", "diag", "explain", "--json", "--quiet", str(top)]
        ours = best_s(explain)
        print(
            f"{files} files of {kilobytes} kB: diag {ours:.2f} s, rg with {len(literals)} strings {rg:.2f} s, ratio {ours / rg:.2f}"
        )
        print(f"peak memory: diag {peak_mb(explain):.0f} MB")
        return ours > rg


if __name__ == "__main__":
    sys.exit(main(*(int(one) for one in (*sys.argv[1:], "4096", "200")[:2])))
