"""An issue body for GitHub: short enough to be accepted, and nothing in a log can become markup, a mention or a link."""

from __future__ import annotations

import html
import json
import re

from diag.model import Diagnosis, Finding, Fix, Report, Status
from diag.report import wording as say
from diag.report.jsonform import to_json
from diag.report.matrix import draw_lines

LIMIT = 60_000
"""GitHub refuses issue bodies above 65,536 characters; the rest is left for what the reporter adds."""

SHOWN_EVIDENCE = 10
_MARKS = {"ok": "OK", "warn": "WARN", "fail": "FAIL", "unknown": "UNKNOWN", "skip": "SKIP"}


def draw_markdown(report: Report) -> str:
    """Return the report as GitHub Markdown of at most LIMIT characters; the longest parts give way first."""
    text = ""
    for budget in (20_000, 6_000, 1_500, 400):
        text = _draw(report, budget)
        if len(text) <= LIMIT:
            return text
    return _cut(text)


def _cut(text: str) -> str:
    """Cut at a line end, leaving no fence and no details block open."""
    lines: list[str] = []
    room = LIMIT - 400
    for line in text.splitlines():
        room -= len(line) + 1
        if room < 0:
            break
        lines.append(line)
    fence = ""
    depth = 0
    for line in lines:
        mark = re.match(r"(`{3,})", line)
        if mark and not fence:
            fence = mark[1]
        elif mark and line.strip() == fence:
            fence = ""
        elif not fence:
            depth += line.count("<details>") - line.count("</details>")
    tail = ([fence] if fence else []) + ["", "</details>"] * depth
    return "\n".join([*lines, *tail, "", "*Cut here: the whole report is in report.json.*", ""])


def _draw(report: Report, budget: int) -> str:
    parts: list[str] = [f"## {_inline(say.headline(report))}", ""]
    answers, echoes = say.causes(report)
    known = [one for one in answers if not one.guessed]
    if known:
        parts += _answer(known[0], told=report.command != "run", budget=budget)
        parts += _others(known[1:], budget)
    if report.unexplained is not None and not known:
        parts += _unexplained(report, budget)
    parts += _others([one for one in answers if one.guessed], budget, say.RESEMBLES)
    if report.command == "check":
        parts += _services(report)
    lines = draw_lines(report)
    if lines:
        parts += ["", "**Links between the nodes**", "", *_fence("\n".join(lines))]
    parts += _findings(report, budget)
    if echoes:
        parts += [f"Consequences, not causes: {', '.join(f'`{one.id}`' for one in echoes)}", ""]
    parts += _gaps(report, budget)
    parts += _rest(report, budget)
    return "\n".join(parts).rstrip() + "\n"


def _inline(text: str, limit: int = 600) -> str:
    """Return text in which no character means anything to Markdown, HTML or GitHub."""
    flat = html.escape(say.one_line(text, limit), quote=False)
    flat = re.sub(r"([\\`*_{}\[\]#!|~$])", r"\\\1", flat)
    flat = re.sub(r"^([-+=]|\d+(?=[.)]))", r"\\\1" if not flat[:1].isdigit() else r"\1\\", flat)
    return re.sub(r"@(?=\w)", "&#64;", flat).replace("://", ":&#47;/")


def _cell(text: str, limit: int = 300) -> str:
    return _inline(text, limit) or " "


def _fence(text: str, language: str = "text", limit: int = 0) -> list[str]:
    """Return a code block whose fence is longer than any run of backticks inside."""
    body = say.clean(text).rstrip("\n")
    if limit and len(body) > limit:
        body = body[:limit].rsplit("\n", 1)[0] + "\n... (cut)"
    longest = max((len(run) for run in re.findall(r"`+", body)), default=0)
    mark = "`" * max(3, longest + 1)
    return [mark + language, body, mark, ""]


def _details(title: str, body: list[str]) -> list[str]:
    return ["<details>", f"<summary>{html.escape(title)}</summary>", "", *body, "</details>", ""]


def _answer(one: Diagnosis, *, told: bool, budget: int) -> list[str]:
    parts = [] if told else [f"**{_inline(one.summary)}**", ""]
    parts += [f"**Cause:** `{one.id}`: {_inline(one.title)} ({say.STRENGTHS[one.strength.value]})", ""]
    who = say.who(one)
    if who:
        parts += [f"**Where:** {_inline(who)}", ""]
    if one.evidence:
        shown = one.evidence[:SHOWN_EVIDENCE]
        lines = []
        for line in shown:
            origin = say.origin(line)
            lines += [
                say.place(line) + (f"  ({origin})" if origin else ""),
                f"    {say.one_line(line.text, min(budget, 1_000))}",
            ]
        parts += ["### Evidence", "", *_fence("\n".join(lines))]
    if one.fixes:
        parts += ["### Change", ""]
        for number, fix in enumerate(one.fixes, 1):
            parts += _fix(number, fix, budget)
    if one.confirm:
        parts += ["### What would confirm it", "", *(f"- {_inline(text)}" for text in one.confirm), ""]
    if one.echoes:
        parts += [f"Explained by this: {', '.join(f'`{echo}`' for echo in one.echoes)}", ""]
    if one.explanation and budget > 1_000:
        parts += _details("Why this happens", [_inline(one.explanation, 4_000), ""])
    return parts


def _fix(number: int, fix: Fix, budget: int) -> list[str]:
    parts = [f"{number}. **{_inline(fix.do)}** ({_inline(say.risk(fix))})", ""]
    lines = [say.setting(name, value) for name, value in fix.settings.items()]
    if fix.command:
        lines += say.clean(fix.command).splitlines()
    if lines:
        parts += _fence("\n".join(lines), limit=budget)
    if fix.patch:
        parts += _fence(fix.patch, "diff" if re.search(r"(?m)^@@ ", fix.patch) else "yaml", limit=budget)
    tail = [f"{word}: {_inline(text)}" for word, text in (("Verify", fix.verify), ("Undo", fix.undo)) if text]
    return parts + ([". ".join(tail), ""] if tail else [])


def _others(others: list[Diagnosis], budget: int, title: str = "Also seen") -> list[str]:
    if not others:
        return []
    shown = others[: 30 if budget > 1_000 else 5]
    rows = [
        f"| `{one.id}` | {one.role.value} | {one.strength.value} | {_cell(one.summary)} | {_cell(one.fixes[0].do if one.fixes else '')} |"
        for one in shown
    ]
    more = [f"and {len(others) - len(shown)} more", ""] if len(others) > len(shown) else []
    return [
        f"### {title}",
        "",
        "| cause | role | strength | what | change |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
        *more,
    ]


def _unexplained(report: Report, budget: int) -> list[str]:
    open_question = report.unexplained
    if open_question is None:
        return []
    parts = []
    if open_question.phase:
        parts += [f"It happened {say.PHASES.get(open_question.phase, _inline(open_question.phase))}.", ""]
    if open_question.odd_rank:
        parts += [f"**{_inline(open_question.odd_rank)}** failed unlike the others.", ""]
    if open_question.first_failures:
        parts += [
            "### First failure of each rank",
            "",
            *_fence("\n".join(map(say.one_line, open_question.first_failures)), limit=budget),
        ]
    if open_question.next_steps:
        parts += [
            "### Next",
            "",
            *(f"{number}. {_inline(step)}" for number, step in enumerate(open_question.next_steps, 1)),
            "",
        ]
    return parts


def _services(report: Report) -> list[str]:
    rows = []
    for one in filter(say.needs_gpus, say.services(report)):
        verdict = {True: "fits", False: "**does not fit**", None: "not known"}[say.fits(one)]
        figures = (
            "<br>".join(f"{_cell(name)} {_cell(figure)}" for name, figure in say.memory_rows(one)) or " "
        )
        rows.append(
            f"| {_cell(str(one.get('name') or '?'))} | {_cell(say.shape(one))} | {figures} | {verdict} |"
        )
    if not rows:
        return []
    return [
        "### Services",
        "",
        "| service | size | on each GPU | memory |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
    ]


def _findings(report: Report, budget: int) -> list[str]:
    if not report.findings:
        return []
    loud = [one for status in (Status.FAIL, Status.WARN) for one in report.findings if one.status is status]
    unmeasured = [one for one in report.findings if not one.status.measured]
    fine = [one for one in report.findings if one.status is Status.OK]
    limit = max(5, budget // 150)
    parts = ["### Checks", "", _inline(say.tally(report.findings).sentence()), ""]
    if loud:
        parts += _table(loud, limit)
    if unmeasured:
        parts += _details(f"Not measured ({len(unmeasured)})", _table(unmeasured, limit))
    if fine:
        parts += _details(f"Measured and fine ({len(fine)})", _table(fine, limit))
    return parts


def _table(findings: list[Finding], limit: int) -> list[str]:
    rows = []
    for one in findings[:limit]:
        status = _MARKS[one.status.value] + (f" ({one.reason.value})" if one.reason is not None else "")
        took = "" if one.duration_s is None else f"{one.duration_s:.1f}"
        rows.append(
            f"| {status} | `{one.probe}` | {_cell(say.about(one), 400)}{_spot(one)} | {_cell(say.remedy(one))} | {took} |"
        )
    more = [f"and {len(findings) - limit} more", ""] if len(findings) > limit else []
    return ["| status | check | what | remedy | s |", "| --- | --- | --- | --- | --- |", *rows, "", *more]


def _spot(one: Finding) -> str:
    return f" (at {_cell(say.spot(one))})" if say.spot(one) else ""


def _gaps(report: Report, budget: int) -> list[str]:
    if not report.gaps:
        return []
    shown = report.gaps[: max(5, budget // 300)]
    lines = []
    for gap in shown:
        tail = f" -> {_inline(gap.remedy)}" if gap.remedy else ""
        lines.append(f"- {_inline(gap.what)} ({_inline(say.REASONS.get(gap.reason, gap.reason))}){tail}")
    if len(report.gaps) > len(shown):
        lines.append(f"- and {len(report.gaps) - len(shown)} more")
    return _details(f"What could not be seen ({len(report.gaps)})", [*lines, ""])


def _rest(report: Report, budget: int) -> list[str]:
    parts = [f"- {_inline(note)}" for note in report.notes[:20]]
    if parts:
        parts.append("")
    if report.inputs:
        shown = report.inputs[: max(5, budget // 200)]
        rows = [
            f"| {_cell(one.path)} | {_cell(one.kind)} | {one.bytes} | {'' if one.lines is None else one.lines} |"
            for one in shown
        ]
        body = ["| input | kind | bytes | lines |", "| --- | --- | --- | --- |", *rows, ""]
        parts += _details(f"Read: {say.what_was_read(report)}", body)
    data = to_json(report)
    facts = {
        section: value for section, value in data["facts"].items() if value and value != {"services": []}
    }
    if facts:
        parts += _details(
            "Facts", _fence(json.dumps(facts, indent=1, ensure_ascii=False), "json", limit=budget)
        )
    return [
        *parts,
        f"<sub>diag {html.escape(report.version)}, {html.escape(report.created)}; {html.escape(say.redaction_note(report))}</sub>",
    ]
