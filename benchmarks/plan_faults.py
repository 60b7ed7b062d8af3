"""A second set of faults in launch plans, made after the readers and judges were written: what of it is named?

Usage: PYTHONPATH=.:benchmarks python benchmarks/plan_faults.py [FOLDER...] [--show] [--only FAULT] [--fixes]

Real plans (other people's, kept outside the repository) that nothing is said against are broken in ways that
`plan_mutations.py` does not know (`plan_fault_kinds.py`), a few plans of each repository; plans of our own of kinds that are
rare in repositories are broken word by word (`plan_fault_seeds.py`). Each counts as found with the right cause, found as
something else, or missed. `--fixes` also corrects every broken plan and checks the result again: whatever the correction
could change must be gone.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from plan_corpus import WRONG, corpus
from plan_fault_kinds import FAULTS
from plan_fault_makers import Fault
from plan_fault_seeds import SEEDS

from diag.diagnose.plans import check_plans, parse_gpus
from diag.diagnose.plans.correcting import correct_text
from diag.model import Finding
from diag.model.launch import Hardware
from diag.observe.plans import read_plan_text
from diag.system import UserError

PER_FAULT, PER_REPOSITORY = 12, 3
UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Outcome:
    """One broken plan and what was said of it."""

    fault: str
    where: str
    what: str
    verdict: str
    """right, other or missed."""
    said: tuple[str, ...]
    left: tuple[str, ...] = ()
    """What the corrected plan is still accused of, where corrections were offered."""


@dataclass(frozen=True)
class Sample:
    """One broken text."""

    fault: Fault
    where: str
    what: str
    text: str
    path: str
    hardware: Hardware
    before: Counter[str]


def wrong(text: str, path: str, hardware: Hardware) -> list[Finding]:
    """Failures and warnings of one text."""
    plan = read_plan_text(text, path)
    return [finding for finding in check_plans([plan], hardware) if finding.status in WRONG]


def causes(findings: list[Finding]) -> Counter[str]:
    """How often each cause is named."""
    return Counter(str(finding.data["cause"]) for finding in findings)


def judge(sample: Sample, fixes: bool) -> Outcome:
    """Check one broken plan."""
    fault = sample.fault
    try:
        findings = wrong(sample.text, sample.path, sample.hardware)
    except UserError as error:
        verdict = "right" if UNREADABLE in fault.causes else "other"
        return Outcome(fault.name, sample.where, sample.what, verdict, (f"error: {error}",))
    new = causes(findings) - sample.before
    right = any(new[cause] for cause in fault.causes)
    said = tuple(f"{finding.data['cause']}: {finding.summary}" for finding in findings)
    left = tuple(still_wrong(sample, findings)) if fixes and findings else ()
    return Outcome(
        fault.name, sample.where, sample.what, "right" if right else "other" if new else "missed", said, left
    )


def still_wrong(sample: Sample, findings: list[Finding]) -> Iterator[str]:
    """Accusations against the corrected plan where it was changed at all."""
    correction = correct_text(sample.text, sample.path, sample.hardware)
    if not correction.diff:
        return
    for finding in wrong(correction.new_text, sample.path, sample.hardware):
        yield f"{finding.data['cause']}: {finding.summary}"


def real_samples(folders: list[Path], only: str | None) -> Iterator[Sample]:
    """Every fault in a few plans of every repository."""
    made: Counter[str] = Counter()
    by_repository: Counter[tuple[str, str]] = Counter()
    for folder in folders:
        for one in corpus(folder):
            if one.plan is None or one.hardware is None or not one.plan.services or one.complaints:
                continue
            text = one.path.read_text("utf-8", "replace")
            where = str(one.path.relative_to(folder))
            repository = where.split("/", maxsplit=1)[0]
            for fault in FAULTS:
                key = (fault.name, repository)
                if (
                    (only and fault.name != only)
                    or made[fault.name] >= PER_FAULT
                    or by_repository[key] >= PER_REPOSITORY
                ):
                    continue
                broken = next(iter(fault.make(text)), None)
                if broken is None or broken.text == text:
                    continue
                hardware = parse_gpus(broken.gpus) if broken.gpus else one.hardware
                before = causes(wrong(text, str(one.path), hardware))
                if broken.gpus and before:
                    continue  # wrong there already
                made[fault.name] += 1
                by_repository[key] += 1
                yield Sample(fault, where, broken.what, broken.text, str(one.path), hardware, before)


def seed_samples(only: str | None) -> Iterator[Sample]:
    """The plans of our own: each sound, and broken at one place at a time."""
    for seed in SEEDS:
        hardware = replace(parse_gpus(seed.gpus), nodes=seed.nodes)
        before = causes(wrong(seed.text, seed.path, hardware))
        for name, old, new, right in seed.faults:
            if only and name != only:
                continue
            if old not in seed.text:
                raise SystemExit(f"{seed.path}: {old!r} is not in the plan")
            broken = seed.text.replace(old, new, 1)
            fault = Fault(name, lambda _: iter(()), tuple(right.split()))
            yield Sample(fault, f"seed {seed.path}", f"{old} -> {new}", broken, seed.path, hardware, before)


def report(title: str, outcomes: list[Outcome]) -> None:
    """Counts by fault."""
    tally: dict[str, Counter[str]] = defaultdict(Counter)
    for each in outcomes:
        tally[each.fault][each.verdict] += 1
    print(f"{title:44} {'made':>5} {'right':>6} {'other':>6} {'missed':>7}")
    for name, count in sorted(tally.items()):
        print(f"  {name:42} {count.total():5} {count['right']:6} {count['other']:6} {count['missed']:7}")
    total = Counter(each.verdict for each in outcomes)
    made = max(1, len(outcomes))
    print(
        f"  {'all':42} {len(outcomes):5} {total['right']:6} {total['other']:6} {total['missed']:7}   right {total['right'] / made:.1%}, named at all {(total['right'] + total['other']) / made:.1%}"
    )


def show(outcomes: list[Outcome], chosen: Callable[[Outcome], bool]) -> None:
    """The outcomes that need a look."""
    for each in outcomes:
        if chosen(each):
            print(f"{each.verdict}: {each.fault}: {each.where}: {each.what!r}")
            for said in each.said[:3]:
                print(f"    {said[:300]}")


def main() -> None:
    """Break, check, count."""
    parser = argparse.ArgumentParser(description="break launch plans in further ways and count what is named")
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--show", action="store_true", help="name every miss and every other cause")
    parser.add_argument("--only", help="one fault's name")
    parser.add_argument("--fixes", action="store_true", help="check the corrected plans too")
    options = parser.parse_args()
    for seed in SEEDS:
        for finding in wrong(seed.text, seed.path, replace(parse_gpus(seed.gpus), nodes=seed.nodes)):
            print(f"false complaint: seed {seed.path}: {finding.data['cause']}: {finding.summary}")
    real = [judge(sample, options.fixes) for sample in real_samples(options.folders, options.only)]
    own = [judge(sample, options.fixes) for sample in seed_samples(options.only)]
    if options.show:
        show([*real, *own], lambda each: each.verdict != "right")
    if options.fixes:
        for each in [*real, *own]:
            for left in each.left:
                print(f"left after --fix: {each.fault}: {each.where}: {left}")
    report("real plans", real)
    report("own plans", own)


if __name__ == "__main__":
    main()
