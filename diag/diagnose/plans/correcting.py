"""A plan that is wrong, changed as little as can be until nothing is wrong with it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from diag.diagnose.plans.case import Case
from diag.diagnose.plans.checking import check_plan
from diag.diagnose.plans.layout import (
    LAYOUT_CAUSES,
    ONE_NODE,
    Layout,
    alternatives,
    sentence,
    settings_of,
    solve,
)
from diag.diagnose.plans.model_facts import ModelFacts
from diag.model import Finding, Status
from diag.model.launch import Hardware, LaunchPlan, Service, Setting
from diag.observe.plans import read_plan_text
from diag.observe.plans.edit import (
    Splice,
    apply,
    cure,
    remove_option,
    remove_service,
    rename_option,
    rename_variable,
    set_option,
    set_value,
)
from diag.observe.plans.interface import PlacedService, PlacedSetting
from diag.observe.plans.reading import read_text
from diag.system import UserError

LAYOUT_OPTIONS = ("tensor-parallel-size", "resources.gpu", "service.workers")
"""Sizes that hang together: they are solved for all services at once."""
MAX_ROUNDS = 8
"""One change may uncover the next (a smaller TP leaves less for the cache); more rounds than this is a circle."""


@dataclass(frozen=True, slots=True)
class Correction:
    """One file's change. `diff` is empty where nothing could be changed; `reasons` then say why."""

    path: str
    old_text: str
    new_text: str
    diff: str
    reasons: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()
    remaining: tuple[str, ...] = ()
    """What the checker still says about the changed plan."""


def correct(
    paths: Sequence[str],
    plans: Sequence[LaunchPlan],
    findings: Sequence[Finding],
    hardware: Hardware | None,
    model: ModelFacts | None = None,
) -> list[Correction]:
    """A correction for every file of `paths` with something wrong in it. Files that cannot be read are passed over."""
    wrong = {str(finding.data.get("file")) for finding in findings if _is_wrong(finding)}
    corrections = []
    for path in paths:
        if path not in wrong:
            continue
        try:
            text = read_text(path)
            corrections.append(correct_text(text, path, hardware, model))
        except UserError:
            continue
    return corrections


def _is_wrong(finding: Finding) -> bool:
    return finding.status in (Status.FAIL, Status.WARN)


def correct_text(
    text: str, path: str, hardware: Hardware | None, model: ModelFacts | None = None
) -> Correction:
    """The correction of one plan's text. Raises UserError if it is no plan."""
    old, reasons, other = text, [], []
    for _ in range(MAX_ROUNDS):
        plan = read_plan_text(text, path)
        case = Case(plan, hardware, model)
        bad = [finding for finding in check_plan(plan, hardware, model) if _is_wrong(finding)]
        if not bad:
            break
        splices, why, ways = _round(case, bad, text)
        changed = apply(text, splices)
        other += [way for way in ways if way not in other]
        if changed == text:
            reasons += [each for each in why if each not in reasons]
            break
        reasons += [each for each in why if each not in reasons]
        text = changed
    remaining = tuple(
        finding.summary
        for finding in check_plan(read_plan_text(text, path), hardware, model)
        if _is_wrong(finding)
    )
    return Correction(path, old, text, unified(old, text, path), tuple(reasons), tuple(other), remaining)


def unified(old: str, new: str, path: str) -> str:
    """A unified diff that `patch -p0` takes."""
    lines = []
    for line in difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), path, path
    ):
        lines.append(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n")
    return "".join(lines)


def _round(case: Case, bad: list[Finding], text: str) -> tuple[list[Splice], list[str], list[str]]:
    """One round: the simple cures first, since sizes are reckoned with them; then the layout."""
    simple = [
        finding
        for finding in bad
        if finding.data.get("cause") not in LAYOUT_CAUSES or not _is_layout(finding)
    ]
    changes: list[tuple[Service, str, object]] = []
    further: list[tuple[Splice, str]] = []
    why: list[str] = []
    for finding in simple:
        settings = (finding.data.get("fix") or {}).get("settings") or {}
        for service in _named(case, finding):
            changes += [
                (service, name, value)
                for name, value in settings.items()
                if (service, name) not in [(one, two) for one, two, _ in changes]
            ]
        further += _further(case, finding, text)
        if settings:
            why.append(f"{finding.summary}. {finding.data['fix']['do']}")
    splices = [*_splices(case, changes, text), *(splice for splice, _ in further)]
    why += [reason for reason in dict.fromkeys(reason for _, reason in further) if reason not in why]
    if splices:
        return splices, why, []
    layout_bad = [finding for finding in bad if finding not in simple]
    if not layout_bad:
        return (
            [],
            [
                f"{finding.summary}. {(finding.data.get('fix') or {}).get('do', 'No change of the plan cures it')}"
                for finding in bad
            ],
            [],
        )
    return _layout_round(case, layout_bad, text)


def _further(case: Case, finding: Finding, text: str) -> list[tuple[Splice, str]]:
    """What is no option's value: a name written right, a variable, something around the command."""
    fix = finding.data.get("fix") or {}
    reason = f"{finding.summary}. {fix.get('do', '')}"
    found: list[Splice | None] = []
    for service in _named(case, finding):
        if not isinstance(service, PlacedService):
            continue
        if fix.get("rename"):
            written, meant = fix["rename"]
            found.append(rename_option(service, written, meant, text))
        for name, value in (fix.get("variables") or {}).items():
            variable = service.env.get(name)
            found.append(set_value(variable, value, text) if isinstance(variable, PlacedSetting) else None)
        if fix.get("rename_variable"):
            wrong, right = fix["rename_variable"]
            found.append(rename_variable(service, wrong, right, text))
        if fix.get("remove"):
            found.append(remove_option(service, fix["remove"], text))
        if fix.get("cure"):
            found += cure(service, fix["cure"])
    return [(splice, reason) for splice in found if splice is not None]


def _is_layout(finding: Finding) -> bool:
    """Parallel sizes are solved together; other settings of a pair have their own cure."""
    settings = set((finding.data.get("fix") or {}).get("settings") or {})
    if str(finding.data.get("cause")).startswith("gpu-oom"):
        return True
    solved = any(name.endswith(LAYOUT_OPTIONS) for name in settings)
    if finding.data.get("alike") or (settings and not solved):
        return False
    return finding.data.get("cause") != "tp-mismatch-disagg" or bool(settings & {"tensor-parallel-size"})


def _named(case: Case, finding: Finding) -> list[Service]:
    return [
        service for service in case.services if service.name == finding.subject and service.line is not None
    ][:1]


def _layout_round(case: Case, bad: list[Finding], text: str) -> tuple[list[Splice], list[str], list[str]]:
    layout = solve(case)
    ways = alternatives(case, layout)
    summaries = [finding.summary for finding in bad]
    if layout is None:
        return [], [*summaries, "No layout of these services fits the GPUs there"], ways
    changes = [
        (place.service, name, value)
        for place in layout.places
        for name, value in settings_of(place, one_node=case.plan.kind.startswith(ONE_NODE)).items()
    ]
    splices = _splices(case, changes, text)
    why = [*summaries, sentence(layout)]
    for service in layout.removed:
        splice = remove_service(service) if isinstance(service, PlacedService) else None
        if splice is None:
            return (
                [],
                [*summaries, f"{service.name} must go, the GPUs there do not hold it beside the rest"],
                ways,
            )
        splices.append(splice)
    if layout.removed:
        splices += _switch_off(case, layout, text)
        why.append(
            f"{' and '.join(each.name for each in layout.removed)} cannot stand beside the rest on these GPUs: serve aggregated "
            "(start the aggregated graph, graphs.agg:Frontend or graphs.agg_router:Frontend, with this file)"
        )
    if not splices:
        gentle = [finding for finding in bad if (finding.data.get("fix") or {}).get("settings")]
        changes = [
            (service, name, value)
            for finding in gentle
            for service in _named(case, finding)
            for name, value in finding.data["fix"]["settings"].items()
        ]
        splices = _splices(case, changes, text)
    return splices, why, ways


def _switch_off(case: Case, layout: Layout, text: str) -> list[Splice]:
    """Without a prefill worker nothing may be sent to one."""
    splices = []
    for place in layout.places:
        for name in ("remote-prefill", "conditional-disagg"):
            setting = place.service.options.get(name)
            if (
                isinstance(setting, PlacedSetting)
                and setting.value is True
                and (splice := set_value(setting, False, text)) is not None
            ):
                splices.append(splice)
    return splices


def _splices(case: Case, changes: list[tuple[Service, str, object]], text: str) -> list[Splice]:
    splices: list[Splice] = []
    for service, name, value in changes:
        if not isinstance(service, PlacedService):
            continue
        setting = service.options.get(name)
        if (
            isinstance(setting, PlacedSetting)
            and setting.inherited
            and _all_agree(case, setting, name, value, changes)
        ):
            splice = set_value(setting, value, text)
        elif name in ("service.workers", "resources.gpu") and setting is None:
            splice = None
        else:
            splice = set_option(service, name, value, text)
        if splice is not None and splice not in splices:
            splices.append(splice)
    return splices


def _all_agree(
    case: Case, setting: Setting, name: str, value: object, changes: list[tuple[Service, str, object]]
) -> bool:
    """True if every service that takes this setting from the shared block is to change alike."""
    heirs = [
        service
        for service in case.services
        if service.options.get(name) is setting
        or (name in service.options and service.options[name] == setting)
    ]
    return all(
        any(each is heir and key == name and new == value for each, key, new in changes) for heir in heirs
    )
