"""The screen: for somebody at three in the morning, so the answer comes first and the change right after it."""

from __future__ import annotations

from diag.model import Diagnosis, Finding, Fix, Report, Status
from diag.report import wording as say
from diag.report.matrix import draw_lines
from diag.report.screen import Screen

SHOWN_EVIDENCE = 3
SHOWN_OTHERS = 8
SHOWN_GAPS = 8
COLOURS = {
    "fail": "bold red",
    "warn": "bold yellow",
    "unknown": "bold magenta",
    "ok": "bold green",
    "skip": "dim",
}


def draw_text(report: Report, *, width: int | None = None, color: bool = False) -> str:
    """Return the report as text of `width` columns (default 100). Copyable lines are never broken."""
    screen = Screen(width or 100, color)
    screen.put(say.headline(report), style=COLOURS[report.verdict.value])
    answers, echoes = say.causes(report)
    known = [one for one in answers if not one.guessed]
    if known:
        _answer(screen, known[0], told=report.command != "run")
        _others(screen, known[1:])
    if report.unexplained is not None and not known:
        _unexplained(screen, report)
    _guesses(screen, [one for one in answers if one.guessed])
    if report.command == "check":
        _services(screen, report)
    _links(screen, report)
    _findings(screen, report)
    if echoes:
        screen.gap()
        screen.put("Consequences, not causes: " + ", ".join(one.id for one in echoes), style="dim", hang=2)
    _gaps(screen, report)
    _foot(screen, report)
    return screen.text()


def _links(screen: Screen, report: Report) -> None:
    lines = draw_lines(report)
    if lines:
        screen.title("Links between the nodes")
        for line in lines:
            screen.put(line, indent=2, whole=True)


def _answer(screen: Screen, one: Diagnosis, *, told: bool) -> None:
    if not told:
        screen.gap()
        screen.put(say.one_line(one.summary) or one.title, style="bold")
    screen.put(f"{one.id}: {say.one_line(one.title)}; {say.STRENGTHS[one.strength.value]}", hang=2)
    who = say.who(one)
    if who:
        screen.put(f"Where: {who}", hang=7, style="bold")
    if one.evidence:
        screen.title("Evidence")
        for line in one.evidence[:SHOWN_EVIDENCE]:
            origin = say.origin(line)
            screen.put(
                say.place(line) + (f"  ({origin})" if origin else ""), indent=2, style="cyan", whole=True
            )
            screen.put(say.one_line(line.text, 320), indent=4)
        if len(one.evidence) > SHOWN_EVIDENCE:
            screen.put(
                f"and {len(one.evidence) - SHOWN_EVIDENCE} more (--format json)", indent=2, style="dim"
            )
    if one.fixes:
        screen.title("Change")
        for number, fix in enumerate(one.fixes, 1):
            _fix(screen, number, fix)
    if one.confirm:
        screen.title("To be sure" if one.strength.value != "proven" else "To check")
        for text in one.confirm:
            screen.put(f"- {say.one_line(text)}", indent=2, hang=2)
    if one.echoes:
        screen.gap()
        screen.put("Explained by this, nothing to do about them: " + ", ".join(one.echoes), hang=2)


def _fix(screen: Screen, number: int, fix: Fix) -> None:
    screen.put(f"{number}. {say.one_line(fix.do)}", indent=2, hang=3, style="bold")
    for name, value in fix.settings.items():
        screen.put(say.setting(name, value), indent=7, style="green", whole=True)
    for label, block in (("", fix.command), ("", fix.patch)):
        for line in say.clean(block or "").rstrip().splitlines():
            screen.put(f"{label}{line}", indent=7, style="green", whole=True)
    screen.put(say.risk(fix), indent=5, style="dim")
    if fix.verify:
        screen.put("verify: ", indent=5, style="dim", rest=say.one_line(fix.verify), whole=True)
    if fix.undo:
        screen.put("undo:   ", indent=5, style="dim", rest=say.one_line(fix.undo), whole=True)


def _others(screen: Screen, others: list[Diagnosis]) -> None:
    if not others:
        return
    screen.title("Also seen")
    for one in others[:SHOWN_OTHERS]:
        role = "contributes" if one.role.value == "contributing" else one.strength.value
        screen.put(f"{role:<11} {one.id}: {say.one_line(one.summary, 300)}", indent=2, hang=12)
        if one.fixes:
            screen.put(f"-> {say.one_line(one.fixes[0].do, 200)}", indent=14, hang=3)
    if len(others) > SHOWN_OTHERS:
        screen.put(f"and {len(others) - SHOWN_OTHERS} more (--format json)", indent=2, style="dim")


def _guesses(screen: Screen, guesses: list[Diagnosis]) -> None:
    if not guesses:
        return
    screen.title(say.RESEMBLES)
    for one in guesses:
        screen.put(f"possible    {one.id}: {say.one_line(one.title)}", indent=2, hang=12)
        screen.put(say.one_line(one.summary, 300), indent=14)
        if one.fixes:
            screen.put(f"-> {say.one_line(one.fixes[0].do, 200)}", indent=14, hang=3)


def _unexplained(screen: Screen, report: Report) -> None:
    open_question = report.unexplained
    if open_question is None:
        return
    if open_question.phase:
        screen.put(f"It happened {say.PHASES.get(open_question.phase, open_question.phase)}.")
    if open_question.odd_rank:
        screen.put(
            f"Look here first: {say.one_line(open_question.odd_rank)} failed unlike the others.", style="bold"
        )
    if open_question.first_failures:
        screen.title("First failure of each rank")
        for line in open_question.first_failures:
            screen.put(say.one_line(line, 500), indent=2, hang=2)
    if open_question.next_steps:
        screen.title("Next")
        for number, step in enumerate(open_question.next_steps, 1):
            screen.put(f"{number}. {say.one_line(step)}", indent=2, hang=3)


def _services(screen: Screen, report: Report) -> None:
    services = say.services(report)
    if not services:
        return
    screen.title("Services")
    bare = [say.one_line(str(one.get("name") or "?")) for one in services if not say.needs_gpus(one)]
    for one in services:
        if not say.needs_gpus(one):
            continue
        verdict = {
            True: ("fits", "green"),
            False: ("does not fit", "bold red"),
            None: ("not known whether it fits", "yellow"),
        }
        word, style = verdict[say.fits(one)]
        shape = say.shape(one)
        screen.put(f"{say.one_line(str(one.get('name') or '?'))}: {word}", indent=2, style=style)
        if shape:
            screen.put(shape, indent=4)
        rows = say.memory_rows(one)
        if rows:
            screen.put(
                "on each GPU: " + "; ".join(f"{name} {figure}" for name, figure in rows), indent=4, hang=2
            )
    if bare:
        screen.put(f"without GPUs: {', '.join(bare)}", indent=2, hang=2, style="dim")


def _findings(screen: Screen, report: Report) -> None:
    groups = {status: [one for one in report.findings if one.status is status] for status in Status}
    for status, title in ((Status.FAIL, "Failed"), (Status.WARN, "Warned")):
        if groups[status]:
            screen.title(title)
            for one in groups[status]:
                _loud(screen, one)
    unmeasured = [*groups[Status.UNKNOWN], *groups[Status.SKIP]]
    if unmeasured:
        screen.title("Not measured")
        _unmeasured(screen, unmeasured)
    if groups[Status.OK]:
        screen.title("Judged and fine" if report.command == "check" else "Measured and fine")
        for probe, found in say.by_probe(groups[Status.OK]).items():
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            screen.put(f"{probe}: {say.one_line(say.about(found[0]), 160)}{more}", indent=2, hang=2)
    _durations(screen, report)


def _loud(screen: Screen, one: Finding) -> None:
    screen.put(f"{one.probe}: ", indent=2, hang=2, style=COLOURS[one.status.value], rest=say.about(one))
    spot = say.spot(one)
    if spot:
        screen.put(f"at {spot}", indent=4, style="cyan", whole=True)
    _advice(screen, one)
    for other in say.alternatives(one):
        screen.put(f"or: {other}", indent=4, hang=4, style="dim")


def _advice(screen: Screen, one: Finding) -> None:
    remedy = say.remedy(one)
    if remedy:
        screen.put(f"-> {remedy}", indent=4, hang=3)


def _unmeasured(screen: Screen, findings: list[Finding]) -> None:
    quiet: dict[str, list[str]] = {}
    for one in findings:
        reason = one.reason.value if one.reason is not None else "unparsable"
        if reason in ("not-applicable", "not-asked") and not say.remedy(one):
            quiet.setdefault(reason, []).append(one.probe)
            continue
        screen.put(
            f"{one.probe}: ",
            indent=2,
            hang=2,
            style="magenta",
            rest=f"{say.about(one)} [{say.REASONS[reason]}]",
        )
        _advice(screen, one)
    for reason, probes in quiet.items():
        screen.put(
            f"{say.REASONS[reason]}: {', '.join(dict.fromkeys(probes))}", indent=2, hang=2, style="dim"
        )


def _durations(screen: Screen, report: Report) -> None:
    spent = {
        probe: max(one.duration_s or 0.0 for one in group)
        for probe, group in say.by_probe(report.findings).items()
    }
    slowest = sorted(((took, probe) for probe, took in spent.items() if took >= 0.05), reverse=True)[:5]
    if slowest:
        screen.gap()
        text = ", ".join(f"{probe} {took:.1f} s" for took, probe in slowest)
        screen.put(f"Slowest: {text}", style="dim", hang=2)


def _gaps(screen: Screen, report: Report) -> None:
    told = {one.probe for one in report.findings if not one.status.measured}
    gaps = [gap for gap in report.gaps if gap.what.split(" ")[0].rstrip(":") not in told]
    if not gaps:
        return
    screen.title("Not seen")
    for gap in gaps[:SHOWN_GAPS]:
        tail = f" -> {say.one_line(gap.remedy)}" if gap.remedy else ""
        reason = f" ({say.REASONS.get(gap.reason, say.one_line(gap.reason))})" if gap.reason else ""
        screen.put(f"{say.one_line(gap.what, 300)}{reason}{tail}", indent=2, hang=2)
    if len(gaps) > SHOWN_GAPS:
        screen.put(f"and {len(gaps) - SHOWN_GAPS} more (--format json)", indent=2, style="dim")


def _foot(screen: Screen, report: Report) -> None:
    screen.gap()
    for note in report.notes:
        screen.put(f"Note: {say.one_line(note)}", hang=6)
    read = say.what_was_read(report)
    if not report.diagnoses and report.unexplained is None and not report.findings and read:
        screen.put("A quiet log proves nothing about the machine: `diag run` measures it.", hang=2)
    parts = [f"read {read}"] if read else []
    screen.put("; ".join([f"diag {report.version}", *parts, say.redaction_note(report)]), style="dim", hang=2)
