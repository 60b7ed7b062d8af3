"""The link laboratory: hosts as network namespaces on a bridge, each running the real `diag run`, broken on purpose.

    python benchmarks/lab_links.py                    every fault, a table at the end
    python benchmarks/lab_links.py --fault node-missing --nodes 5 --keep-logs DIR
    python benchmarks/lab_links.py --apart             the same faults through the nodes' separate reports, a second table
    python benchmarks/lab_links.py --curve             how long healthy jobs of 1, 2, 4 and 8 nodes take
    python benchmarks/lab_links.py --list

Needs root, iproute2, nftables and tc. Faults of NIXL need an interpreter that has it (DIAG_LAB_PYTHON, else our own).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from lab_hosts import LIMIT_S, ROOT, Lab, laboratory, needs, report_of, run_all, sh


@dataclass(frozen=True)
class Fault:
    """One way to break the lab, and what must be said about it."""

    name: str
    what: str
    inject: Callable[[Lab], None]
    cause: str | None
    """The id that must be named; None: nothing may be."""
    culprit: tuple[str, ...] = ()
    """Host names that must be the culprit (one host, or the two ends of a link); empty: not asked."""
    teller: int = 0
    """The node whose report is judged."""
    probe: str = "link."
    nodes: int | None = None
    ipv6: bool = False
    verdict: str = "fail"
    also: tuple[str, ...] = ()
    """Causes that must be named besides: two faults at once."""
    alone: str | None = None
    """The cause that reports show even if node 0 never ran. None: it lies in links, which nobody tests then; and where nothing is
    wrong, only that the master is missing may be said."""
    needs: Callable[[], str | None] = lambda: None
    """Why this fault cannot be tried here."""


NOT_SHOWN = "-"


@dataclass(frozen=True)
class Told:
    """What came of one fault."""

    right: bool
    said: str
    took_s: float = 0.0


def judge(fault: Fault, report: dict[str, Any] | None) -> Told:
    """The cause by diagnosis or, where no playbook has that id yet, by the finding."""
    if report is None:
        return Told(False, "no report")
    told = [
        one
        for one in report["findings"]
        if one["status"] in ("fail", "warn") and one["probe"].startswith(fault.probe)
    ]
    failing = sorted(
        (one for one in told if one["status"] == "fail"), key=lambda one: not one["data"].get("certain", True)
    )
    causes = [str(one["data"].get("cause")) for one in failing]
    roots = [one["id"] for one in report["diagnoses"] if one["role"] == "root"]
    said = "; ".join(one["summary"] for one in failing or told)[:300] or "nothing"
    if fault.cause is None:
        fine = report["verdict"] in ("ok", "warn") if fault.verdict == "warn" else not told
        named = not fault.culprit or any(fault.culprit[0] in one["summary"] for one in told)
        return Told(fine and named, said)
    mine = [one["data"] for one in failing if one["data"].get("cause") == fault.cause]
    culprits = {str(data["host"]) for data in mine if data.get("host")}
    culprits = culprits or {str(end) for data in mine for end in data.get("link", ())}
    right = report["verdict"] == "fail" and fault.cause in (roots or causes[:1])
    named = [one["id"] for one in report["diagnoses"] if one["role"] != "echo"]
    right = right and all(one in named for one in fault.also)
    right = right and (not fault.culprit or culprits == set(fault.culprit))
    return Told(right, said)


def judge_apart(fault: Fault, report: dict[str, Any] | None, cause: str | None) -> Told:
    """By the diagnoses of the joined reports: `cause` leads, or is among the roots; where None, no other cause may be named."""
    if report is None:
        return Told(False, "no report")
    roots = [one for one in report["diagnoses"] if one["role"] != "echo" and one["strength"] != "possible"]
    said = "; ".join(f"{one['id']} ({_whom(one['culprit'])})" for one in roots) or "nothing"
    if cause is None:
        return Told(not roots, said)
    mine = [one["culprit"] for one in roots if one["id"] == cause]
    whom = {
        str(end)
        for culprit in mine
        for end in ([culprit["host"]] if culprit["host"] else culprit["link"] or ())
    }
    right = (
        bool(mine)
        and (not fault.culprit or whom <= set(fault.culprit))
        and all(one in [root["id"] for root in roots] for one in fault.also)
    )
    return Told(right, said)


def _whom(culprit: dict[str, Any]) -> str:
    return str(culprit["host"] or " - ".join(map(str, culprit["link"] or ())) or "nobody named")


def explain(folder: Path, ranks: Sequence[tuple[int, int]]) -> dict[str, Any] | None:
    """`diag explain` over the nodes' own reports, (number, rank) each, never the job's."""
    paths = [folder / f"out{number}" / f"report-node{rank}.json" for number, rank in ranks]
    there = [str(path) for path in paths if path.exists()]
    if not there:
        return None
    done = subprocess.run(
        [sys.executable, "-m", "diag.cli.main", "explain", "--json", "--raw", "--quiet", *there],
        capture_output=True, text=True, check=False, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=folder,
    )  # fmt: skip
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


def places(folder: Path) -> list[tuple[int, int]]:
    """(number, rank) of every node that left a report in a folder of the laboratory."""
    found = (
        (int(path.parent.name.removeprefix("out")), int(path.stem.removeprefix("report-node")))
        for path in folder.glob("out*/report-node*.json")
    )
    return sorted(found)


def run_fault(fault: Fault, count: int, keep: Path | None = None, options: Sequence[str] = ()) -> Told:
    """Build, break, run, judge, remove."""
    with laboratory(fault.nodes or count, ipv6=fault.ipv6) as lab:
        return _run(lab, fault, keep, options)


def _run(lab: Lab, fault: Fault, keep: Path | None, options: Sequence[str]) -> Told:
    fault.inject(lab)
    took = run_all(lab, options)
    told = judge(fault, report_of(lab, lab.nodes[fault.teller]))
    right, said = told.right, told.said
    without = [node.hostname for node in lab.nodes if not node.absent and report_of(lab, node) is None]
    if without:
        right, said = False, f"no report on {', '.join(without)}; {said}"
    left = [pid for node in lab.nodes for pid in sh("ip", "netns", "pids", node.space).split() if _alive(pid)]
    helpers = {str(one.pid) for one in lab.helpers}
    stopped = any(node.freeze_after_s is not None for node in lab.nodes)
    if set(left) - helpers and not stopped:
        right, said = False, f"{len(left)} processes left behind; {said}"
    if took > LIMIT_S:
        right, said = False, f"took {took:.0f} s; {said}"
    if keep is not None:
        shutil.copytree(lab.folder, keep / fault.name, dirs_exist_ok=True)
    return Told(right, said, took)


def _alive(pid: str) -> bool:
    """A process that was killed and not collected yet is none."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1] not in ("Z", "X")
    return False


def run_apart(fault: Fault, count: int, kept: Path | None) -> list[Told]:
    """The fault through separate reports: all nodes' own ones; those without the master's; and where node 0 never ran.

    `kept` has the reports of an earlier run with --keep-logs; without it the fault is run first.
    """
    if kept is not None:
        result = _both(fault, kept / fault.name)
    else:
        with laboratory(fault.nodes or count, ipv6=fault.ipv6) as lab:
            _run(lab, fault, None, ())
            result = _both(fault, lab.folder)
    if fault.alone is None and fault.cause is not None:
        return [*result, Told(True, NOT_SHOWN)]  # links that nobody tested say nothing
    with laboratory(fault.nodes or count, ipv6=fault.ipv6) as lab:
        fault.inject(lab)
        lab.nodes[0].absent = True
        run_all(lab, ("--wait", "6"))
        report = explain(lab.folder, places(lab.folder))
        return [*result, _masterless(fault, report)]


def _both(fault: Fault, folder: Path) -> list[Told]:
    """Judged by all nodes' own reports, and by those without the master's."""
    everybody = places(folder)
    sets = (everybody, [place for place in everybody if place[0] != 0])
    return [judge_apart(fault, explain(folder, each), fault.cause) for each in sets]


def _masterless(fault: Fault, report: dict[str, Any] | None) -> Told:
    """That nobody reaches the master must be said; of the fault, what the evidence shows; and nothing else."""
    told = judge_apart(fault, report, fault.alone)
    if fault.alone is not None or report is None:
        return told
    roots = {
        one["id"] for one in report["diagnoses"] if one["role"] == "root" and one["strength"] != "possible"
    }
    return Told(
        bool(roots) and roots <= {"network-unreachable", "rendezvous-timeout", "port-in-use"}, told.said
    )


def curve(counts: Sequence[int]) -> None:
    """Seconds of healthy jobs of several sizes, each the better of two."""
    print("| nodes | seconds |\n| --- | --- |")
    for count in counts:
        times = []
        for _ in range(2):
            with laboratory(count) as lab:
                times.append(run_all(lab))
        print(f"| {count} | {min(times):.1f} |", flush=True)


def main() -> int:
    """Run faults and print the table."""
    from lab_faults import FAULTS  # beside this script

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fault", action="append", help="only this one; may be given again")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--list", action="store_true")
    parser.add_argument(
        "--apart", action="store_true", help="judge what the nodes' separate reports tell together"
    )
    parser.add_argument("--kept", type=Path, help="with --apart: use the reports an earlier run kept here")
    parser.add_argument("--curve", action="store_true", help="time healthy jobs of 1, 2, 4 and 8 nodes")
    parser.add_argument("--keep-logs", type=Path, help="copy what each node wrote to this folder")
    asked = parser.parse_args()
    if asked.list:
        for fault in FAULTS:
            print(f"{fault.name:24} {fault.what}")
        return 0
    why_not = needs()
    if why_not:
        print(f"the laboratory {why_not}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if asked.curve:
        curve((1, 2, 4, 8))
        return 0
    chosen = [fault for fault in FAULTS if not asked.fault or fault.name in asked.fault]
    if not chosen:
        print("no such fault; --list", file=sys.stderr)
        return 2
    return (
        table_apart(chosen, asked.nodes, asked.kept)
        if asked.apart
        else table(chosen, asked.nodes, asked.keep_logs)
    )


def table(chosen: Sequence[Fault], nodes: int, keep: Path | None) -> int:
    """Fault, said, right or wrong, seconds."""
    wrong = skipped = 0
    print("| fault | said | right | seconds |\n| --- | --- | --- | --- |")
    for fault in chosen:
        why_not = fault.needs()
        if why_not:
            skipped += 1
            print(f"| {fault.name} | not tried: {why_not} | | |", flush=True)
            continue
        told = run_fault(fault, nodes, keep)
        wrong += not told.right
        print(
            f"| {fault.name} | {_cell(told.said)} | {'right' if told.right else 'WRONG'} | {told.took_s:.1f} |",
            flush=True,
        )
    print(
        f"\n{len(chosen) - wrong - skipped} of {len(chosen) - skipped} right, {skipped} not tried",
        file=sys.stderr,
    )
    return 1 if wrong else 0


def table_apart(chosen: Sequence[Fault], nodes: int, kept: Path | None) -> int:
    """Fault, and what three sets of separate reports say."""
    wrong = 0
    print(
        "| fault | the nodes' own reports | without the master's | node 0 never ran |\n| --- | --- | --- | --- |"
    )
    for fault in chosen:
        if fault.needs():
            continue
        every = run_apart(fault, nodes, kept)
        wrong += sum(not one.right for one in every)
        cells = (
            one.said
            if one.said == NOT_SHOWN
            else f"{_cell(one.said)[:110]}: {'right' if one.right else 'WRONG'}"
            for one in every
        )
        print(f"| {fault.name} | {' | '.join(cells)} |", flush=True)
    print(f"\n{wrong} answers wrong", file=sys.stderr)
    return 1 if wrong else 0


def _cell(text: str) -> str:
    return text.replace("|", "/")


if __name__ == "__main__":
    sys.exit(main())
