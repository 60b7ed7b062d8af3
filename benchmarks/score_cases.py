"""Score `diag explain` on folders of labelled cases: top-1, top-3, false alarms, culprits wrong or named for nothing.

    python benchmarks/score_cases.py ../shared/cases [MORE...] [--misses] [--min-top1 0.9]

A case is a folder with case.yaml (label, also, culprit, must_not) and log files.
"""

from __future__ import annotations

import argparse
import collections
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diag.diagnose.engine import diagnose
from diag.diagnose.pipeline import evidence_of
from diag.diagnose.whois import Whois
from diag.model import Role
from diag.observe.logs.reading import build_reader
from diag.playbooks.base import load_base
from diag.system import UserError


@dataclass
class Score:
    """Counts over one or more folders."""

    total: int = 0
    broken: int = 0
    healthy: int = 0
    top1: int = 0
    top3: int = 0
    false_alarms: list[str] = field(default_factory=list)
    misses: list[tuple[str, str, list[str]]] = field(default_factory=list)
    forbidden: list[str] = field(default_factory=list)
    culprits: int = 0
    wrong_culprits: list[str] = field(default_factory=list)
    nobody: int = 0
    """Cases whose label names no culprit."""
    over_named: list[str] = field(default_factory=list)
    """Those in which one is named all the same. For information: some labels are merely silent."""
    by_label: dict[str, list[bool]] = field(default_factory=lambda: collections.defaultdict(list))
    by_difficulty: dict[str, list[bool]] = field(default_factory=lambda: collections.defaultdict(list))

    @property
    def share_top1(self) -> float:
        """Share of broken cases whose first answer is right."""
        return self.top1 / max(1, self.broken)


def read_case(folder: Path) -> dict[str, Any]:
    """case.yaml as plain data."""
    from ruamel.yaml import YAML

    data = YAML(typ="safe").load((folder / "case.yaml").read_text())
    return dict(data)


def _cases(top: Path) -> list[Path]:
    """Every case.yaml below a folder; links to case folders count."""
    return [
        Path(base) / "case.yaml" for base, _, names in os.walk(top, followlinks=True) if "case.yaml" in names
    ]


def score(folders: list[Path]) -> Score:
    """Diagnose every case below the folders."""
    broken: list[UserError] = []
    base = load_base(broken=broken)
    for error in broken:
        print(f"left out: {error}", file=sys.stderr)
    reader = build_reader(base)
    result = Score()
    for folder in sorted(path.parent for top in folders for path in _cases(top)):
        case = read_case(folder)
        logs = [str(path) for path in sorted(folder.iterdir()) if path.name != "case.yaml" and path.is_file()]
        evidence = evidence_of(logs, reader)
        found = diagnose(base, evidence)
        roots = [one for one in found if one.role is not Role.ECHO]
        ids = [one.id for one in found]
        label, also = case["label"], case.get("also") or []
        result.total += 1
        name = str(folder.relative_to(folder.parents[1]))
        if label == "healthy":
            result.healthy += 1
            if [one for one in roots if one.severity != "note"] and not set(ids) & set(also):
                result.false_alarms.append(f"{name}: {ids}")
            continue
        result.broken += 1
        right = bool(ids) and ids[0] in [label, *also]
        result.by_label[label].append(right)
        result.by_difficulty[str(case.get("difficulty"))].append(right)
        result.top1 += right
        result.top3 += bool(set(ids[:3]) & {label, *also})
        if not right:
            result.misses.append((name, label, ids))
        if ids and ids[0] in (case.get("must_not") or []):
            result.forbidden.append(f"{name}: {ids[0]}")
        _score_culprit(result, name, case, found, evidence.who)
    return result


def _score_culprit(result: Score, name: str, case: dict[str, Any], found: Any, who: Whois) -> None:
    wanted = case.get("culprit") or {}
    if not found:
        return
    got = found[0].culprit
    if not isinstance(wanted, dict) or not any(value is not None for value in wanted.values()):
        result.nobody += 1
        if got.rank is not None or got.host is not None:
            result.over_named.append(f"{name}: {found[0].id} rank {got.rank} host {got.host}")
        return
    result.culprits += 1
    for key in ("rank", "host"):
        want, have = wanted.get(key), getattr(got, key)
        if (
            want is not None
            and str(have) != str(want)
            and not (key == "host" and have is not None and who.same(str(have), str(want)))
        ):
            result.wrong_culprits.append(f"{name}: {key} {have} instead of {want}")
            return


def main() -> int:
    """Print the table; exit 1 below the floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--misses", action="store_true")
    parser.add_argument("--min-top1", type=float, default=0.0)
    options = parser.parse_args()
    begin = time.perf_counter()
    result = score(options.folders)
    print(
        f"cases {result.total}: broken {result.broken}, healthy {result.healthy}, {time.perf_counter() - begin:.1f} s"
    )
    print(
        f"top-1 {result.top1}/{result.broken} = {result.share_top1:.1%}   top-3 {result.top3}/{result.broken} = {result.top3 / max(1, result.broken):.1%}"
    )
    print(
        f"false alarms on healthy {len(result.false_alarms)}/{result.healthy}   must-not first {len(result.forbidden)}   "
        f"culprit wrong {len(result.wrong_culprits)}/{result.culprits}   "
        f"named where the label has none {len(result.over_named)}/{result.nobody}"
    )
    print(
        "by difficulty",
        {key: f"{sum(value)}/{len(value)}" for key, value in sorted(result.by_difficulty.items())},
    )
    if options.misses:
        for name, label, ids in result.misses:
            print(f"  MISS {name}: {label} <- {ids[:4]}")
        for line in result.false_alarms:
            print(f"  FALSE ALARM {line}")
        for line in result.wrong_culprits:
            print(f"  CULPRIT {line}")
        for line in result.over_named:
            print(f"  OVER-NAMED {line}")
    return 1 if result.share_top1 < options.min_top1 or (options.min_top1 and result.false_alarms) else 0


if __name__ == "__main__":
    sys.exit(main())
