"""`diag explain` on flight-recorder dumps against torchfrtrace on the same files.

Usage: python benchmarks/flight_recorder.py [found|cost|corpora FOLDER]   (needs torch 2.13)

found: eight synthetic ranks in NCCL's form, each kind of fault at each rank: is the culprit named, and an innocent?
  For torchfrtrace the ranks in the first set that it prints count.
cost: 64, 256 and 512 ranks with 2,000 finished calls each.
corpora: folders of real dumps with a fault_injection.log (nvidia-resiliency-ext, tests/attribution/unit/fr_traces; Apache-2.0).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/flight"))
import nccl_jobs as jobs  # noqa: E402

WORLD = 8
DIAG = [sys.executable, "-m", "diag.cli.main", "explain", "--json", "--raw"]
TORCH = [sys.executable, "-m", "torch.distributed.flight_recorder.fr_trace", "--allow-incomplete-ranks"]


def missing(one: jobs.Rank, culprit: int) -> None:
    if one.rank != culprit:
        one.call("all_reduce", state="started")


def differing(op: str, size: int, dtype: str) -> Callable[[jobs.Rank, int], None]:
    def act(one: jobs.Rank, culprit: int) -> None:
        if one.rank == culprit:
            one.call(op, size=size, dtype=dtype, state="started")
        else:
            one.call("all_reduce", state="started")

    return act


def absent(one: jobs.Rank, culprit: int) -> None:
    one.call("all_reduce", state="started")


KINDS = {
    "type": differing("broadcast", 64, "Float"),
    "size": differing("all_reduce", 32, "Float"),
    "dtype": differing("all_reduce", 64, "Half"),
    "missing": missing,
    "file absent": absent,
}


def said(argv: list[str], *, both: bool = False) -> str:
    """What a command prints."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout + (done.stderr if both else "")


def accused_by_diag(folder: Path) -> set[int]:
    """The ranks of diag's first diagnosis."""
    report = json.loads(said([*DIAG, str(folder)]))
    if not report["diagnoses"]:
        return set()
    cause = report["diagnoses"][0]["id"]
    return set(next(one["data"]["ranks"] for one in report["findings"] if one["data"].get("cause") == cause))


def accused_by_torch(folder: Path) -> set[int]:
    """The ranks in the first set that torchfrtrace prints as missing, or as culprits of a mismatch."""
    text = said([*TORCH, "-p", "nccl_trace_rank_", str(folder)], both=True)
    match = re.search(
        r"(?:missing ranks: |missed FR dumps from ranks \()\{([\d, ]+)\}|Culprit rank (\d+)", text
    )
    return {int(number) for number in re.findall(r"\d+", match[1] or match[2])} if match else set()


def found() -> None:
    score: dict[tuple[str, str], list[int]] = {}
    for kind, act in KINDS.items():
        for culprit in range(WORLD):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                ranks = jobs.flat(WORLD)
                jobs.steps(ranks)
                for one in ranks:
                    act(one, culprit)
                jobs.write_all([one for one in ranks if kind != "file absent" or one.rank != culprit], folder)
                for tool, ask in (("diag", accused_by_diag), ("torchfrtrace", accused_by_torch)):
                    row = score.setdefault((kind, tool), [0, 0])
                    accused = ask(folder)
                    row[0] += accused == {culprit}
                    row[1] += len(accused - {culprit})
    print("kind          tool          exactly the culprit   innocents accused")
    for (kind, tool), (right, innocent) in score.items():
        print(f"{kind:13} {tool:13} {right} of {WORLD}                {innocent}")


def cost() -> None:
    for world in (64, 256, 512):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            ranks = jobs.flat(world)
            jobs.steps(ranks, 667)
            for one in ranks:
                for entry in one.entries:
                    entry.pop("frames")
            for one in ranks:
                if one.rank != 5:
                    one.call("all_reduce", state="started")
            jobs.write_all(ranks, folder)
            del ranks
            for tool, argv in (
                ("diag", [*DIAG, str(folder)]),
                ("torchfrtrace", [*TORCH, "-p", "nccl_trace_rank_", str(folder)]),
            ):
                script = (
                    "import resource,subprocess,sys;subprocess.run(sys.argv[1:],stdout=subprocess.DEVNULL,stderr=subprocess.DEVNULL);"
                    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss//1024)"
                )
                begin = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-c", script, *argv], capture_output=True, text=True, check=True
                )
                print(f"{world} ranks, {tool}: {time.perf_counter() - begin:.1f} s, {done.stdout.strip()} MB")


def corpora(folder: Path) -> None:
    right = innocent = 0
    for case in sorted(path.parent for path in folder.glob("*/fault_injection.log")):
        told = re.search(r"Fault ranks: \[([\d, ]+)\]", (case / "fault_injection.log").read_text())
        truth = {int(number) for number in re.findall(r"\d+", told[1])} if told else set()
        begin = time.perf_counter()
        report = json.loads(said([*DIAG, *map(str, sorted(case.glob("_dump_*")))]))
        accused = {
            rank for one in report["findings"] if one["data"].get("cause") for rank in one["data"]["ranks"]
        }
        right += len(accused & truth)
        innocent += len(accused - truth)
        print(
            f"{case.name}: truth {sorted(truth)}, accused {sorted(accused)}, {time.perf_counter() - begin:.2f} s"
        )
    print(f"{right} faults found, {innocent} innocent ranks accused")


if __name__ == "__main__":
    what = sys.argv[1] if len(sys.argv) > 1 else "found"
    if what == "corpora":
        corpora(Path(sys.argv[2]))
    else:
        {"found": found, "cost": cost}[what]()
