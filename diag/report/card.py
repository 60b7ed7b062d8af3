"""A playbook as a card to read: what it looks for, what to change, what it is mistaken for."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diag.report import wording as say
from diag.report.screen import Screen

Card = Mapping[str, Any]
"""A playbook as the plain values of its YAML (or of its dataclass)."""


def draw_list(cards: Sequence[Card], fmt: str, *, width: int = 100) -> str:
    """Return one line per playbook: id, layer, title."""
    rows = [
        (str(card.get("id", "?")), str(card.get("layer", "")), say.one_line(str(card.get("title", ""))))
        for card in cards
    ]
    if fmt == "markdown":
        return (
            "\n".join(
                [
                    "| id | layer | title |",
                    "| --- | --- | --- |",
                    *(f"| `{a}` | {b} | {c.replace('|', chr(92) + '|')} |" for a, b, c in rows),
                ]
            )
            + "\n"
        )
    if fmt == "html":
        return _page(
            "Playbooks",
            "".join(
                f"<p><code>{html.escape(a)}</code> ({html.escape(b)}) {html.escape(c)}</p>"
                for a, b, c in rows
            ),
        )
    wide = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    room = max(width - wide[0] - wide[1] - 4, 20)
    return "".join(f"{a:<{wide[0]}}  {b:<{wide[1]}}  {say.one_line(c, room)}\n" for a, b, c in rows)


def draw_card(card: Card, fmt: str, *, width: int = 100, color: bool = False) -> str:
    """Return one playbook as text, markdown or html."""
    text = _text(card, 100 if fmt != "text" else width, color and fmt == "text")
    if fmt == "markdown":
        return f"````text\n{text.replace('````', '` ` ` `')}````\n"
    if fmt == "html":
        return _page(
            str(card.get("id", "playbook")), f"<pre style='white-space: pre-wrap'>{html.escape(text)}</pre>"
        )
    return text


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>:root {{ color-scheme: light dark }}</style>\n{body}\n</html>\n"
    )


def _text(card: Card, width: int, color: bool) -> str:
    screen = Screen(width, color)
    screen.put(f"{card.get('id', '?')}: {say.one_line(str(card.get('title', '')))}", style="bold")
    head = [str(card[key]) for key in ("layer", "severity", "status") if card.get(key)]
    if card.get("since"):
        head.append(f"since {card['since']}")
    screen.put(", ".join(head), style="dim")
    for key, title in (("summary", "Says"), ("explanation", "Why")):
        if card.get(key):
            screen.title(title)
            screen.put(say.one_line(str(card[key]).replace("[[", "").replace("]]", "")), indent=2)
    _signals(screen, card)
    _when(screen, card)
    fixes = card.get("fixes") or ()
    if fixes:
        screen.title("Change")
    for number, fix in enumerate(fixes, 1):
        _fix(screen, number, fix)
    for key, title in (("confirm", "What would confirm it"), ("explains", "Explains (its echoes)"), ("looks_like", "Looks like"),
                       ("false_positives", "False positives"), ("references", "References")):  # fmt: skip
        lines = list(_pairs(card.get(key)) if key == "looks_like" else _lines(card.get(key)))
        if lines:
            screen.title(title)
        for line in lines:
            screen.put(f"- {line}", indent=2, hang=2)
    return screen.text()


def _signals(screen: Screen, card: Card) -> None:
    signals = card.get("signals") or {}
    if not signals:
        return
    screen.title("Looks for")
    for name, signal in signals.items():
        screen.put(str(name), indent=2, style="bold")
        for key, value in signal.items() if isinstance(signal, Mapping) else (("", signal),):
            if value and key not in ("name", "literals", "parts"):
                for line in _lines(value):
                    screen.put(f"{key}: {line}" if key else line, indent=4, hang=2)


def _fix(screen: Screen, number: int, fix: Mapping[str, Any]) -> None:
    screen.put(f"{number}. {say.one_line(str(fix.get('do', '')))}", indent=2, hang=3, style="bold")
    for name, value in (fix.get("settings") or {}).items():
        screen.put(say.setting(str(name), str(value)), indent=5, style="green", whole=True)
    for key in ("command", "patch"):
        for line in say.clean(str(fix.get(key) or "")).rstrip().splitlines():
            screen.put(line, indent=5, style="green", whole=True)
    for key in ("risk", "verify", "undo"):
        if fix.get(key):
            told = say.RISKS.get(str(fix[key]), str(fix[key])) if key == "risk" else str(fix[key])
            screen.put(f"{key}: {say.one_line(told)}", indent=5, hang=2, style="dim")


def _when(screen: Screen, card: Card) -> None:
    clauses = card.get("when") or ()
    if not clauses:
        return
    screen.title("Fires when (any of these)")
    for clause in clauses:
        parts = [f"{key}: {', '.join(_lines(value))}" for key, value in clause.items() if value]
        screen.put(f"- {'; '.join(parts)}", indent=2, hang=2)


def _pairs(value: Any) -> Iterable[str]:
    """Yield `id: how to tell them apart` from a list of pairs or of one-entry mappings."""
    for item in value or ():
        if isinstance(item, (list, tuple)) and len(item) == 2:
            yield f"{say.one_line(str(item[0]))}: {say.one_line(str(item[1]))}"
        else:
            yield from _lines(item)


def _lines(value: Any) -> Iterable[str]:
    """Yield what a field holds, one entry a line, however it is nested."""
    if value is None or value in ("", (), [], {}):
        return
    if isinstance(value, Mapping):
        for name, item in value.items():
            told = ", ".join(_lines(item))
            if told:
                yield f"{name}: {told}"
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _lines(item)
    else:
        yield say.one_line(str(value))
