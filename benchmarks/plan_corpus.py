"""Runs `diag check` over a folder of real launch plans and lists what it says against them.

Usage: PYTHONPATH=. python benchmarks/plan_corpus.py FOLDER [--quiet] [--sample N]

The plans are other people's (recipes, examples) and stay outside the repository. Each is judged on hardware that its
path or node selector names, otherwise on nodes of 8 H200. Such plans work, so every complaint
has to be judged by hand: a false one is a bug of ours.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from diag.diagnose.plans import check_plans, parse_gpus
from diag.model import Finding, Status
from diag.model.launch import Hardware, LaunchPlan
from diag.observe.plans import read_plan
from diag.observe.plans.reading import PLAN_ENDINGS
from diag.system import UserError

NAMED = (
    # what a path or a text says -> the node it means: products by the sizes their makers ship
    (r"gb300", "4xGB300"),
    (r"gb200|a4x-|a4x", "4xGB200"),
    (r"gh200", "1xGH200-96GB"),
    (r"b300", "8xB300"),
    (r"b200|a4-highgpu|a4", "8xB200"),
    (r"h200|a3-ultra|p5en", "8xH200"),
    (r"h100|a3-mega|a3-high|p5\.48|a3mega", "8xH100"),
    (r"a100-?40|a2-highgpu|p4d\b", "8xA100-40GB"),
    (r"a100|a2-ultra|p4de", "8xA100-80GB"),
    (r"mi355", "8xMI355X"),
    (r"mi300", "8xMI300X"),
    (r"l40s|g6e", "8xL40S"),
    (r"nvidia-l4|g2-standard|g6\.", "8xL4"),
    (r"rtx-?pro-?6000|g4-standard", "8xRTXPRO6000"),
    (r"dgx[-_ ]?spark|gb10", "1xGB10"),
)
DEFAULT = "8xH200"
WRONG = (Status.FAIL, Status.WARN)


@dataclass
class Judged:
    """One file, and what was said of it."""

    path: Path
    plan: LaunchPlan | None = None
    hardware: Hardware | None = None
    error: UserError | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def complaints(self) -> list[Finding]:
        """Failures and warnings."""
        return [finding for finding in self.findings if finding.status in WRONG]


def hardware_named(path: Path, text: str, folder: Path) -> Hardware:
    """The node that a plan was written for: from its path first, then from a node selector."""
    said = "\n".join(
        re.findall(
            r"(?mi)^.*(?:gpu\.product|accelerator|instance-type|machine_type|constraint|gpu-type).*$", text
        )
    )
    for place in (str(path.relative_to(folder)).lower(), said.lower()):
        for pattern, gpus in NAMED:
            if re.search(rf"(?<![a-z0-9]){pattern}(?![0-9])", place):
                return parse_gpus(gpus)
    return parse_gpus(DEFAULT)


def files_of(folder: Path) -> list[Path]:
    """Every file that may hold a plan."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name.endswith(PLAN_ENDINGS))


def judge(path: Path, folder: Path) -> Judged:
    """Read one file and check it alone."""
    try:
        plan = read_plan(str(path))
    except UserError as error:
        return Judged(path, error=error)
    hardware = hardware_named(path, path.read_text("utf-8", "replace"), folder)
    return Judged(path, plan, hardware, findings=check_plans([plan], hardware))


def corpus(folder: Path, sample: int | None = None) -> Iterator[Judged]:
    """Every file of a folder, or some drawn at random with a fixed seed, judged."""
    paths = files_of(folder)
    if sample is not None and sample < len(paths):
        paths = sorted(random.Random(1).sample(paths, sample))
    for path in paths:
        yield judge(path, folder)


def main() -> None:
    """Print the complaints, then how many files were read as what."""
    parser = argparse.ArgumentParser(description="check a folder of real launch plans")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sample", type=int, help="so many files, drawn at random with a fixed seed")
    parser.add_argument("--quiet", action="store_true", help="counts only")
    options = parser.parse_args()
    kinds: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    causes: Counter[str] = Counter()
    accused = services = empty = 0
    for one in corpus(options.folder, options.sample):
        if one.plan is None:
            errors[one.error.code or "?" if one.error is not None else "?"] += 1
            continue
        if not one.plan.services:
            empty += 1
            continue
        kinds[one.plan.kind] += 1
        services += len(one.plan.services)
        accused += bool(one.complaints)
        for finding in one.complaints:
            causes[str(finding.data["cause"])] += 1
            if not options.quiet:
                gpus = f"{one.hardware.gpus_per_node}x{one.hardware.gpu_name}" if one.hardware else "?"
                print(
                    f"{finding.status.value} {one.path.relative_to(options.folder)}:{finding.data.get('line')} [{gpus}] "
                    f"{finding.data['cause']}: {finding.summary}"
                )
    print(
        f"plans: {sum(kinds.values())} with {services} services {dict(kinds.most_common())}; without a known service: {empty}"
    )
    print(f"not read: {sum(errors.values())} {dict(errors.most_common())}")
    print(
        f"plans with a complaint: {accused}; complaints: {sum(causes.values())} {dict(causes.most_common())}"
    )


if __name__ == "__main__":
    main()
