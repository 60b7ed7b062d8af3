"""All judges over all plans. Judges are found by looking: every module `judge_*.py` with an attribute `JUDGES`."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator, Sequence
from functools import cache

import diag.diagnose.plans as package
from diag.diagnose.plans.case import Case, Judge, JudgeTogether, judged
from diag.diagnose.plans.judge_control import judge_control_plane, judge_data_parallel_ranks, judge_ucx
from diag.diagnose.plans.judge_launcher import judge_node_ranks
from diag.diagnose.plans.judge_network import OWN_ENV
from diag.diagnose.plans.judge_router import judge_one_set_of_gpus, judge_targets
from diag.diagnose.plans.model_facts import ModelFacts
from diag.model import Finding, Reason, Status
from diag.model.launch import Hardware, LaunchPlan, Service

ACROSS: tuple[Judge, ...] = (
    judge_node_ranks,
    judge_targets,
    judge_one_set_of_gpus,
    judge_control_plane,
    judge_ucx,
    judge_data_parallel_ranks,
)
"""Judges that also look at all files of a call together: nodes and servers often have a script each."""


@cache
def judges() -> tuple[Judge, ...]:
    """Every judge, in the order of the files' names."""
    found: list[Judge] = []
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda each: each.name):
        if module.name.startswith("judge_"):
            found += importlib.import_module(f"{package.__name__}.{module.name}").JUDGES
    return tuple(found)


@cache
def judges_together() -> tuple[JudgeTogether, ...]:
    """Every judge of files that belong to one launch: the attribute `TOGETHER` of the same modules."""
    found: list[JudgeTogether] = []
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda each: each.name):
        if module.name.startswith("judge_"):
            found += getattr(importlib.import_module(f"{package.__name__}.{module.name}"), "TOGETHER", ())
    return tuple(found)


def check_plans(
    plans: Sequence[LaunchPlan], hardware: Hardware | None, model: ModelFacts | None = None
) -> list[Finding]:
    """Judge every plan on its own. Findings are `ok` where all is well, `skip` where something was not known."""
    findings: list[Finding] = []
    for plan in plans:
        findings += check_plan(plan, hardware, model)
    return findings + _across(plans) + _together(plans, hardware, model)


def _together(
    plans: Sequence[LaunchPlan], hardware: Hardware | None, model: ModelFacts | None
) -> list[Finding]:
    """Files against each other: a launcher's line and the configurations it names, the scripts of several nodes."""
    if len(plans) < 2:
        return []
    cases = [Case(plan, hardware, model) for plan in plans]
    return _distinct([finding for judge in judges_together() for finding in judge(cases)])


def _across(plans: Sequence[LaunchPlan]) -> list[Finding]:
    """The nodes' lines against each other where every node has its own file."""
    if len(plans) < 2:
        return []
    own = {
        (finding.probe, finding.summary)
        for plan in plans
        for judge in ACROSS
        for finding in judge(Case(plan, None))
    }
    together = LaunchPlan(
        "several", plans[0].source, tuple(service for plan in plans for service in plan.services)
    )
    found = [
        finding
        for judge in ACROSS
        for finding in judge(Case(together, None))
        if (finding.probe, finding.summary) not in own
    ]
    return found + list(_same_address(plans))


def _same_address(plans: Sequence[LaunchPlan]) -> Iterator[Finding]:
    """One own address in the files of two nodes."""
    seen: dict[tuple[str, str], LaunchPlan] = {}
    for plan in plans:
        for service in plan.services:
            for name in OWN_ENV:
                setting = service.env.get(name)
                value = str(setting.value) if setting is not None else ""
                if not re.fullmatch(r"\d+(?:\.\d+){3}", value):
                    continue
                first = seen.setdefault((name, value), plan)
                if first.source != plan.source and (
                    (service.nodes_per_replica or 1) > 1 or _joins(service, first)
                ):
                    yield judged(
                        "host-ip-wrong",
                        service,
                        Status.FAIL,
                        f"{name} is {value} in {first.source} and in {plan.source}: each node needs its own",
                        setting=setting,
                        do=f"Set {name} to each node's own address",
                    )


def _joins(service: Service, first: LaunchPlan) -> bool:
    """A node that joins the Ray cluster whose head another file starts."""
    head = any(each.framework == "ray" and "head" in each.options for each in first.services)
    return head and service.framework == "ray" and "address" in service.options


def check_plan(plan: LaunchPlan, hardware: Hardware | None, model: ModelFacts | None = None) -> list[Finding]:
    """Judge one plan. At least one finding, also for a plan without any service that we know."""
    case = Case(plan, hardware, model)
    found: list[Finding] = []
    for judge in judges():
        found += judge(case)
    found = _distinct(found)
    for problem in plan.problems:
        found.append(
            judged(
                "plan-unreadable-part",
                None,
                Status.WARN if "twice" in problem else Status.OK,
                problem,
                note=True,
                certain=False,
            )
        )
    if case.engines and (hardware is None or hardware.gpus_per_node is None):
        found.append(
            judged(
                "gpu-count",
                None,
                Status.SKIP,
                "GPUs wanted were not compared: how many there are is not known (give --gpus)",
                reason=Reason.NOT_APPLICABLE,
            )
        )
    if not plan.services:
        summary = f"{plan.source or plan.kind}: no service that diag knows, so nothing was judged"
        found.append(judged("plan", None, Status.SKIP, summary, reason=Reason.NOT_APPLICABLE))
    elif not any(finding.status in (Status.FAIL, Status.WARN) for finding in found):
        found.append(judged("plan", None, Status.OK, _all_clear(plan, found)))
    return found


def _distinct(findings: list[Finding]) -> list[Finding]:
    seen: set[tuple[str, str, str]] = set()
    kept = []
    for finding in findings:
        key = (finding.probe, finding.subject, finding.summary)
        if key not in seen:
            seen.add(key)
            kept.append(finding)
    return kept


def _all_clear(plan: LaunchPlan, found: list[Finding]) -> str:
    """What was looked at; never greener than that."""
    names = ", ".join(service.name for service in plan.services[:6])
    count = len(plan.services)
    services = f"{count} service{'s' if count != 1 else ''} ({names})"
    lacking = sum(finding.status in (Status.SKIP, Status.UNKNOWN) for finding in found)
    where = plan.source or plan.kind
    if lacking:
        return f"{where}: nothing wrong found in what could be judged of {services}; {lacking} check{'s' if lacking > 1 else ''} lacked facts"
    return f"{where}: nothing wrong found in {services}"
