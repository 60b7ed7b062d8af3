"""observe -> diagnose -> Report. Every command is a short line through here."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diag
from diag.diagnose.asides import run_notes
from diag.diagnose.engine import diagnose
from diag.diagnose.evidence import Evidence, prepare
from diag.diagnose.facts import add_probe_facts, flatten, nested_facts
from diag.diagnose.gathering import Given, Progress, gather
from diag.diagnose.machine import hardware_facts as _hardware_facts
from diag.diagnose.machine import hardware_of_facts, known_hardware, plans_of_logs, probed_hardware
from diag.diagnose.matching import STACKS
from diag.diagnose.standing import standing_in
from diag.diagnose.stillness import standing_still
from diag.diagnose.unexplained import unexplained
from diag.model import (
    Diagnosis,
    Finding,
    Gap,
    InputFile,
    Report,
    Role,
    Status,
    Strength,
    Unexplained,
    Verdict,
)
from diag.observe.logs.opening import Opening
from diag.observe.logs.reading import LogReader, LogReading
from diag.observe.reports import NodeReport, read_report
from diag.playbooks.base import Base, load_base
from diag.system import UserError

if TYPE_CHECKING:
    from diag.diagnose.plans import Correction
    from diag.model.launch import Hardware, LaunchPlan

PLAN_CAUSES_FROM_LOGS = (
    "gpu-count-exceeded",
    "tp-not-divisible",
    "disagg-prefill-not-enabled",
    "tp-mismatch-disagg",
)
"""Contradictions within a printed configuration that stand on their own; anything else only supports what the log says."""


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """`diag check`: the report, and for `--fix` the corrected files."""

    report: Report
    corrections: tuple[Correction, ...] = ()


def explain(
    paths: Sequence[str],
    *,
    playbook_dirs: Sequence[Path] = (),
    on_progress: Progress | None = None,
    crowd: bool = False,
) -> Report:
    """Diagnose from evidence left behind: logs, folders, archives, reports, plans. Raises UserError for bad input.

    With `crowd`, processes of our own read large folders: only for a main module that may be imported again.
    """
    base = load_base(playbook_dirs)
    given = gather(paths, base, on_progress, refuse=True, crowd=playbook_dirs if crowd else None)
    return conclude_given("explain", base, given, (), {})


def conclude_given(
    command: str,
    base: Base,
    given: Given,
    findings: Sequence[Finding],
    facts: Mapping[str, Any],
    gaps: Sequence[Gap] = (),
) -> Report:
    """Join what logs, probes, reports and plans say, and conclude."""
    everything = list(findings)
    links = None
    if given.reports:
        from diag.diagnose.nodes.apart import join_reports, links_of

        everything += join_reports(given.reports)
        links = links_of(given.reports)
    if any(one.probe == STACKS for one in everything):
        from diag.diagnose.stuck import judge_together

        everything = judge_together(everything)
    everything += standing_in(given.logs.files)
    if given.dumps:
        from diag.diagnose.flight import judge_dumps

        waiting, missing = judge_dumps(given.dumps)
        everything += waiting
        gaps = (*gaps, *missing)
    extra: dict[str, list[str]] = {}
    sections: dict[str, Any] = dict(facts)
    if links is not None and "network" not in sections:
        sections["network"] = {"links": links}
    for seen in [facts, *(report.facts for report in given.reports)]:
        add_probe_facts(extra, seen)
    hardware = known_hardware(given.logs.files, extra, facts, given.reports)
    printed = plans_of_logs(given.logs.files)
    if given.plans or printed:
        from diag.diagnose.plans import check_plans, launch_facts

        everything += check_plans(given.plans, hardware) if given.plans else []
        everything += [_from_log(one) for one in check_plans(printed, hardware) if one.status is Status.FAIL]
        sections["launch"] = launch_facts([*given.plans, *printed], hardware)
    table, names = flatten(given.logs.files, everything, extra)
    evidence = prepare(given.logs.files, everything, table, names)
    return conclude(
        command,
        base,
        evidence,
        inputs=tuple(given.inputs),
        gaps=(*gaps, *_log_gaps(given.logs)),
        facts=sections,
    )


def _from_log(one: Finding) -> Finding:
    alone = bool(one.data.get("certain")) and one.data.get("cause") in PLAN_CAUSES_FROM_LOGS
    return replace(one, data={**one.data, "supports_only": not alone})


def evidence_of(paths: Sequence[str], reader: LogReader) -> Evidence:
    """Logs to evidence with an already compiled reader (for measuring many cases)."""
    files = [reader.read(source) for source in Opening(paths)]
    printed = plans_of_logs(files)
    findings: list[Finding] = []
    if printed:
        from diag.diagnose.plans import check_plans

        findings = [
            _from_log(one)
            for one in check_plans(printed, known_hardware(files, {}, {}, ()))
            if one.status is Status.FAIL
        ]
    findings += standing_in(files)
    table, names = flatten(files, findings, {})
    return prepare(files, findings, table, names)


def check(
    paths: Sequence[str],
    *,
    gpus: str | None = None,
    nodes: int | None = None,
    hardware_report: str | None = None,
    params: str | None = None,
    config: str | None = None,
    playbook_dirs: Sequence[Path] = (),
) -> CheckOutcome:
    """Judge launch plans against hardware that is given, reported or probed. Raises UserError for bad input."""
    from diag.diagnose.plans import (
        check_plans,
        correct,
        facts_of_folder,
        facts_of_size,
        launch_facts,
        parse_gpus,
        parse_parameters,
    )
    from diag.observe.plans import read_plans

    base = load_base(playbook_dirs)
    model = facts_of_folder(config) if config else facts_of_size(parse_parameters(params)) if params else None
    hardware: Hardware | None
    if gpus:
        hardware = parse_gpus(gpus, nodes)
    elif hardware_report:
        earlier = _read_report_file(hardware_report)
        hardware = hardware_of_facts(earlier.facts, f"report:{hardware_report}", nodes)
    else:
        hardware = probed_hardware(nodes)
    plans, errors = read_plans(paths)
    if not plans:
        raise (
            errors[0]
            if errors
            else UserError("holds no launch plan", where=", ".join(paths), code="plan-unknown")
        )
    findings = check_plans(plans, hardware, model)
    table, names = flatten([], findings, {})
    evidence = prepare([], findings, table, names)
    inputs = tuple(
        InputFile(
            plan.source,
            f"plan ({plan.kind})",
            Path(plan.source).stat().st_size if Path(plan.source).is_file() else 0,
        )
        for plan in plans
    )
    report = conclude(
        "check",
        base,
        evidence,
        inputs=inputs,
        gaps=tuple(Gap(error.where, error.what, error.help) for error in errors),
        facts={"launch": launch_facts(plans, hardware, model), "hardware": _hardware_facts(hardware)},
    )
    if errors:
        report = replace(report, exit_code=2)  # the rest of the files is judged all the same
    return CheckOutcome(report, tuple(correct(_files_of(plans), plans, findings, hardware, model)))


def _read_report_file(path: str) -> NodeReport:
    try:
        return read_report(path, Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path, code="unreadable") from None


def _files_of(plans: Sequence[LaunchPlan]) -> list[str]:
    return list(dict.fromkeys(plan.source for plan in plans))


def run_node(
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    timeout_s: float = 25.0,
    python: str | None = None,
    deep: bool = False,
    plan: str | None = None,
    logs: Sequence[str] = (),
    on_event: Callable[[Any], None] | None = None,
    playbook_dirs: Sequence[Path] = (),
) -> Report:
    """Probe this node, and judge a plan and explain logs with what was probed."""
    from diag.observe.probes.interface import Setup
    from diag.observe.probes.runner import run_probes

    base = load_base(playbook_dirs)
    given = gather(logs, base) if logs else Given()
    if plan:
        from diag.observe.plans import read_plan

        given.plans.append(read_plan(plan))
        given.inputs.append(InputFile(plan, "plan", Path(plan).stat().st_size))
    setup = Setup(env=dict(os.environ), python=python, deep=deep, models=models_of_plans(given.plans))
    run = run_probes(setup, only=only, skip=skip, timeout_s=timeout_s, on_event=on_event)
    report = conclude_given("run", base, given, run.findings, run.facts, run.gaps)
    note = (
        (f"interrupted after {run.duration_s:.1f} s: the rest was not looked at",) if run.interrupted else ()
    )
    return replace(report, notes=(*report.notes, *note))


def models_of_plans(plans: Sequence[LaunchPlan]) -> tuple[str, ...]:
    """The models that plans name, each once."""
    return tuple(dict.fromkeys(service.model for plan in plans for service in plan.services if service.model))


def conclude(
    command: str,
    base: Base,
    evidence: Evidence,
    *,
    inputs: tuple[InputFile, ...] = (),
    gaps: tuple[Gap, ...] = (),
    facts: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Diagnose and make the report with its verdict and exit code."""
    diagnoses = diagnose(base, evidence)
    unknown = all(one.guessed for one in diagnoses)
    open_question = unexplained(evidence) if unknown and evidence.has_failure else None
    if (
        not diagnoses
        and open_question is None
        and any(one.data.get("unexplained") for one in evidence.findings)
    ):
        from diag.diagnose.stuck import standing_unexplained

        open_question = standing_unexplained(evidence.findings)
    if not diagnoses and open_question is None:
        open_question = standing_still(evidence)
    verdict, code = judge(diagnoses, evidence.findings, open_question)
    return Report(
        command=command,
        verdict=verdict,
        created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        version=diag.__version__,
        diagnoses=diagnoses,
        findings=tuple(evidence.findings),
        facts=nested_facts(evidence, facts or {}),
        gaps=gaps,
        inputs=inputs,
        unexplained=open_question,
        notes=(*notes, *run_notes(evidence)),
        exit_code=code,
    )


def judge(
    diagnoses: Sequence[Diagnosis], findings: Sequence[Finding], open_question: Unexplained | None
) -> tuple[Verdict, int]:
    """The verdict and the exit code (CONTRACT: 0 nothing wrong, 1 named, 3 wrong or unmeasured and unknown)."""
    roots = [
        one for one in diagnoses if one.role is not Role.ECHO and one.severity != "note" and not one.guessed
    ]
    if any(one.strength is not Strength.POSSIBLE for one in roots) or any(
        one.status is Status.FAIL for one in findings
    ):
        return Verdict.FAIL, 1
    if roots:
        return Verdict.WARN, 1
    if open_question is not None:
        return Verdict.UNKNOWN, 3
    if findings and not any(one.status.measured for one in findings):
        return Verdict.UNKNOWN, 3
    if any(one.status is Status.WARN for one in findings):
        return Verdict.WARN, 0
    return Verdict.OK, 0


def _log_gaps(reading: LogReading) -> tuple[Gap, ...]:
    gaps = [Gap(one.name, one.why) for one in reading.skipped]
    gaps += [Gap(one.name, one.problem, "copy the file again") for one in reading.files if one.problem]
    return tuple(gaps)
