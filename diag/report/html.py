"""One page without scripts or anything from outside: opens on a phone, in the dark, from a mail attachment."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable

from diag.model import Diagnosis, Finding, Fix, Report, Status
from diag.report import wording as say
from diag.report.jsonform import to_json
from diag.report.matrix import draw_heat_map

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --soft: #f3f4f6; --line: #d0d7de; --dim: #57606a;
  --fail: #b42318; --warn: #8a5a00; --ok: #1a7f37; --unknown: #7a3ea1; --skip: #57606a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --soft: #161b22; --line: #30363d; --dim: #9198a1;
  --fail: #ff7b72; --warn: #e3b341; --ok: #56d364; --unknown: #d2a8ff; --skip: #9198a1; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.35rem; line-height: 1.35; border-left: .4rem solid currentColor; padding-left: .8rem; }
h2 { font-size: 1.1rem; margin: 1.6rem 0 .5rem; }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem; overflow-x: auto;
  font: 13px/1.45 ui-monospace, monospace; white-space: pre; overflow-wrap: normal; }
pre.log { white-space: pre-wrap; overflow-wrap: anywhere; }
code { font: .9em ui-monospace, monospace; }
.dim { color: var(--dim); } .fail { color: var(--fail); } .warn { color: var(--warn); } .ok { color: var(--ok); }
.unknown { color: var(--unknown); } .skip { color: var(--skip); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid var(--line); }
details { border: 1px solid var(--line); border-radius: 6px; padding: .5rem .8rem; margin: .8rem 0; }
summary { cursor: pointer; font-weight: 600; } ol > li { margin-bottom: .8rem; }
table.grid { width: auto; font: 12px/1.2 ui-monospace, monospace; } table.grid th { white-space: nowrap; border: 0; padding: .15rem .4rem; }
table.grid td { min-width: 2.2rem; text-align: center; border: 1px solid var(--paper); padding: .3rem .2rem; color: #1b1f24; }
.key { color: #1b1f24; padding: 0 .35rem; border-radius: 3px; white-space: nowrap; }
.open, .l4 { background: #7bc47f; } .l3 { background: #a8d08d; } .l2 { background: #d4dc8f; } .l1 { background: #f0d78c; } .l0 { background: #f2b880; }
.closed { background: #e5534b; } .part { background: #e58a4b; } .lossy { background: #e0a030; } .cut { background: #d277c2; }
.slow { background: #f2b880; } .unmeasured { background: #b8bec6; } .self { background: var(--soft); }
@media (max-width: 40rem) { body { padding: .7rem; }
  .wide:not(.grid) :is(table, thead, tbody, tr, td) { display: block; } .wide:not(.grid) th { display: none; }
  .wide:not(.grid) td { border: 0; padding: .1rem 0; } .wide:not(.grid) tr { border-bottom: 1px solid var(--line); padding: .4rem 0; } }
"""


def draw_html(report: Report) -> str:
    """Return the report as one HTML page; every character of it that came from outside is escaped."""
    answers, echoes = say.causes(report)
    title = say.headline(report)
    parts = [f'<h1 class="{report.verdict.value}">{_text(title)}</h1>']
    known = [one for one in answers if not one.guessed]
    if known:
        parts += _answer(known[0], told=report.command != "run")
        parts += _others(known[1:])
    if report.unexplained is not None and not known:
        parts += _unexplained(report)
    parts += _others([one for one in answers if one.guessed], say.RESEMBLES)
    if report.command == "check":
        parts += _services(report)
    parts.append(draw_heat_map(report))
    parts += _findings(report)
    if echoes:
        parts.append(
            f"<p>Consequences, not causes: {', '.join(f'<code>{_text(one.id)}</code>' for one in echoes)}</p>"
        )
    parts += _rest(report)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{_text(title[:120])}</title>\n<style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def _text(value: object) -> str:
    return html.escape(say.clean(str(value)), quote=True)


def _line(value: str) -> str:
    return _text(say.one_line(value))


def _list(items: Iterable[str], kind: str = "ul") -> str:
    return f"<{kind}>" + "".join(f"<li>{item}</li>" for item in items) + f"</{kind}>"


def _details(title: str, body: str) -> str:
    return f"<details><summary>{_text(title)}</summary>{body}</details>"


def _answer(one: Diagnosis, *, told: bool) -> list[str]:
    parts = [] if told else [f"<p><strong>{_line(one.summary)}</strong></p>"]
    parts.append(
        f"<p><code>{_text(one.id)}</code>: {_line(one.title)} <span class=dim>({say.STRENGTHS[one.strength.value]})</span></p>"
    )
    who = say.who(one)
    if who:
        parts.append(f"<p><strong>Where:</strong> {_text(who)}</p>")
    if one.evidence:
        parts.append("<h2>Evidence</h2>")
        for line in one.evidence[:20]:
            origin = say.origin(line)
            said = f" ({_text(origin)})" if origin else ""
            parts.append(
                f"<pre class=log><span class=dim>{_text(say.place(line))}{said}</span>\n{_line(line.text)}</pre>"
            )
    if one.fixes:
        parts += ["<h2>Change</h2>", _list((_fix(fix) for fix in one.fixes), "ol")]
    if one.confirm:
        parts += ["<h2>What would confirm it</h2>", _list(_line(text) for text in one.confirm)]
    if one.echoes:
        parts.append(
            f"<p>Explained by this: {', '.join(f'<code>{_text(echo)}</code>' for echo in one.echoes)}</p>"
        )
    if one.explanation:
        parts.append(_details("Why this happens", f"<p>{_line(one.explanation)}</p>"))
    return parts


def _fix(fix: Fix) -> str:
    parts = [f"<strong>{_line(fix.do)}</strong> <span class=dim>({_text(say.risk(fix))})</span>"]
    lines = [say.setting(name, value) for name, value in fix.settings.items()]
    if fix.command:
        lines.append(fix.command.rstrip())
    for block in ("\n".join(lines), fix.patch or ""):
        if block:
            parts.append(f"<pre>{_text(block.rstrip())}</pre>")
    for word, text in (("Verify", fix.verify), ("Undo", fix.undo)):
        if text:
            parts.append(f"<div>{word}: <code>{_line(text)}</code></div>")
    return "".join(parts)


def _others(others: list[Diagnosis], title: str = "Also seen") -> list[str]:
    if not others:
        return []
    rows = (
        f"<tr><td><code>{_text(one.id)}</code></td><td>{one.role.value}, {one.strength.value}</td><td>{_line(one.summary)}</td>"
        f"<td>{_line(one.fixes[0].do) if one.fixes else ''}</td></tr>"
        for one in others
    )
    return [f"<h2>{_text(title)}</h2>", _table(("cause", "role", "what", "change"), rows)]


def _table(heads: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th>{name}</th>" for name in heads)
    return (
        f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _unexplained(report: Report) -> list[str]:
    open_question = report.unexplained
    if open_question is None:
        return []
    parts = []
    if open_question.phase:
        parts.append(f"<p>It happened {_text(say.PHASES.get(open_question.phase, open_question.phase))}.</p>")
    if open_question.odd_rank:
        parts.append(f"<p><strong>{_line(open_question.odd_rank)}</strong> failed unlike the others.</p>")
    if open_question.first_failures:
        lines = "\n".join(_line(line) for line in open_question.first_failures)
        parts += ["<h2>First failure of each rank</h2>", f"<pre class=log>{lines}</pre>"]
    if open_question.next_steps:
        parts += ["<h2>Next</h2>", _list((_line(step) for step in open_question.next_steps), "ol")]
    return parts


def _services(report: Report) -> list[str]:
    rows = []
    for one in filter(say.needs_gpus, say.services(report)):
        word, style = {True: ("fits", "ok"), False: ("does not fit", "fail"), None: ("not known", "unknown")}[
            say.fits(one)
        ]
        figures = "<br>".join(f"{_text(name)}: {_text(figure)}" for name, figure in say.memory_rows(one))
        rows.append(
            f"<tr><td><strong>{_text(one.get('name') or '?')}</strong></td><td>{_text(say.shape(one))}</td><td>{figures}</td>"
            f"<td class={style}>{word}</td></tr>"
        )
    return ["<h2>Services</h2>", _table(("service", "size", "on each GPU", "memory"), rows)] if rows else []


def _findings(report: Report) -> list[str]:
    if not report.findings:
        return []
    parts = ["<h2>Checks</h2>", f"<p>{_text(say.tally(report.findings).sentence())}</p>"]
    loud = [one for status in (Status.FAIL, Status.WARN) for one in report.findings if one.status is status]
    unmeasured = [one for one in report.findings if not one.status.measured]
    fine = [one for one in report.findings if one.status is Status.OK]
    if loud:
        parts.append(_checks(loud))
    if unmeasured:
        parts.append(_details(f"Not measured ({len(unmeasured)})", _checks(unmeasured)))
    if fine:
        parts.append(_details(f"Measured and fine ({len(fine)})", _checks(fine)))
    return parts


def _checks(findings: list[Finding]) -> str:
    rows = []
    for one in findings:
        reason = (
            f"<br><span class=dim>{_text(say.REASONS[one.reason.value])}</span>"
            if one.reason is not None
            else ""
        )
        remedy = say.remedy(one)
        tail = f"<br>&rarr; {_text(remedy)}" if remedy else ""
        if say.spot(one):
            tail = f"<br><code>{_text(say.spot(one))}</code>{tail}"
        took = "" if one.duration_s is None else f"{one.duration_s:.1f} s"
        rows.append(
            f"<tr><td class={one.status.value}>{one.status.value}{reason}</td><td><code>{_text(one.probe)}</code></td>"
            f"<td>{_text(say.about(one))}{tail}</td><td class=dim>{took}</td></tr>"
        )
    return _table(("status", "check", "what", "took"), rows)


def _rest(report: Report) -> list[str]:
    parts = []
    if report.gaps:
        items = (
            f"{_line(gap.what)} <span class=dim>({_text(say.REASONS.get(gap.reason, gap.reason))})</span> {_line(gap.remedy)}"
            for gap in report.gaps
        )
        parts.append(_details(f"What could not be seen ({len(report.gaps)})", _list(items)))
    if report.notes:
        parts.append(_list(_line(note) for note in report.notes))
    if report.inputs:
        rows = (
            f"<tr><td>{_line(one.path)}</td><td>{_line(one.kind)}</td><td>{one.bytes:,} bytes</td>"
            f"<td>{'' if one.lines is None else f'{one.lines:,} lines'}</td></tr>"
            for one in report.inputs
        )
        parts.append(
            _details(f"Read: {say.what_was_read(report)}", _table(("input", "kind", "size", "lines"), rows))
        )
    facts = {
        section: value
        for section, value in to_json(report)["facts"].items()
        if value and value != {"services": []}
    }
    if facts:
        shown = json.dumps(facts, indent=1, ensure_ascii=False)
        parts.append(_details("Facts", f"<pre>{_text(shown)}</pre>"))
    parts.append(
        f"<p class=dim>diag {_text(report.version)}, {_text(report.created)}; {_text(say.redaction_note(report))}</p>"
    )
    return parts
