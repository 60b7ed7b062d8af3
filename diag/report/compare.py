"""What differs between a report of what works and one of what does not, in the fewest words."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diag.model import Report
from diag.report import wording as say
from diag.report.jsonform import plain

NOISE = frozenset(
    [
        "pid",
        "pids",
        "free_bytes",
        "available_bytes",
        "used_bytes",
        "uptime_s",
        "duration_s",
        "load",
        "loadavg",
        "start_s",
        "cpu_s",
        "power_w",
        "temperature_c",
    ]
)
"""Fields that differ between any two looks at the same healthy node."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not the same. `good` or `bad` is None where that report has nothing of it."""

    what: str
    good: str | None
    bad: str | None


@dataclass(frozen=True, slots=True)
class Differences:
    """Everything that is not the same."""

    diagnoses: tuple[Difference, ...]
    findings: tuple[Difference, ...]
    facts: tuple[Difference, ...]
    unmeasured: tuple[str, ...]
    """Checks that only one of the two could make: nothing can be said about them."""

    @property
    def any(self) -> bool:
        """True where something differs."""
        return bool(self.diagnoses or self.findings or self.facts)


def compare(good: Report, bad: Report) -> Differences:
    """Return what differs, the likely reasons first: diagnoses, checks, then facts."""
    findings, unmeasured = _findings(good, bad)
    return Differences(
        diagnoses=_pairs(
            {one.id: one.summary for one in good.diagnoses},
            {one.id: one.summary for one in bad.diagnoses},
            only_presence=True,
        ),
        findings=findings,
        facts=_pairs(_flat(plain(good.facts)), _flat(plain(bad.facts))),
        unmeasured=unmeasured,
    )


def _findings(good: Report, bad: Report) -> tuple[tuple[Difference, ...], tuple[str, ...]]:
    sides = [{(one.probe, one.subject): one for one in report.findings} for report in (good, bad)]
    rows, unmeasured = [], []
    for probe, subject in sorted({*sides[0], *sides[1]}):
        left, right = (side.get((probe, subject)) for side in sides)
        name = f"{probe} {subject}".strip()
        if (left is None or not left.status.measured) != (right is None or not right.status.measured):
            unmeasured.append(name)
        told = [None if one is None else f"{one.status.value}: {one.summary}" for one in (left, right)]
        if (left and left.status) != (right and right.status):
            rows.append(Difference(name, *told))
    order = {"fail": 0, "warn": 1, "unknown": 2}
    rows.sort(key=lambda row: order.get((row.bad or "").split(":")[0], 3))
    return tuple(rows), tuple(unmeasured)


def _pairs(
    good: Mapping[str, str], bad: Mapping[str, str], *, only_presence: bool = False
) -> tuple[Difference, ...]:
    return tuple(
        Difference(name, good.get(name), bad.get(name))
        for name in sorted({*good, *bad})
        if (name in good) != (name in bad) or (not only_presence and good[name] != bad[name])
    )


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Return nested facts as `section.name` -> value; a list of plain values is one value."""
    if isinstance(value, Mapping):
        rows: dict[str, str] = {}
        for name, item in value.items():
            if name not in NOISE:
                rows.update(_flat(item, f"{path}.{name}" if path else str(name)))
        return rows
    if isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value):
        rows = {}
        for number, item in enumerate(value):
            label = (
                str(item["name"])
                if isinstance(item, Mapping) and isinstance(item.get("name"), str)
                else str(number)
            )
            rows.update(_flat(item, f"{path}[{label}]"))
        return rows
    return {path: json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value)}


def draw(differences: Differences, fmt: str, *, color: bool = False) -> str:
    """Return the differences as text, json, markdown or html, ending in a line break."""
    if fmt == "json":
        parts = {
            title: [{"what": row.what, "good": row.good, "bad": row.bad} for row in rows]
            for title, rows in _sections(differences)
        }
        return (
            json.dumps(
                {"schema": "diag.diff/1", **parts, "unmeasured": list(differences.unmeasured)}, indent=2
            )
            + "\n"
        )
    text = _draw_text(differences, color and fmt == "text")
    if fmt == "markdown":
        mark = "`" * (3 + text.count("```"))
        return f"{mark}diff\n{text}{mark}\n"
    if fmt == "html":
        return f'<!doctype html>\n<meta charset="utf-8"><title>diag diff</title>\n<pre style="white-space: pre-wrap">{html.escape(text)}</pre>\n'
    return text


def _sections(differences: Differences) -> Sequence[tuple[str, tuple[Difference, ...]]]:
    return (
        ("diagnoses", differences.diagnoses),
        ("findings", differences.findings),
        ("facts", differences.facts),
    )


def _draw_text(differences: Differences, color: bool) -> str:
    red, green, end = ("\x1b[31m", "\x1b[32m", "\x1b[0m") if color else ("", "", "")
    lines: list[str] = []
    for title, rows in _sections(differences):
        if rows:
            lines += [f"{title}: {len(rows)} differ"]
        for row in rows:
            lines.append(f"  {say.one_line(row.what)}")
            lines += (
                [f"{green}  - good: {say.one_line(row.good, 300)}{end}"]
                if row.good is not None
                else [f"{green}  - good: nothing{end}"]
            )
            lines += (
                [f"{red}  + bad:  {say.one_line(row.bad, 300)}{end}"]
                if row.bad is not None
                else [f"{red}  + bad:  nothing{end}"]
            )
    if not lines:
        lines.append("Nothing that both reports hold differs.")
    if differences.unmeasured:
        lines.append(
            f"Measured on one side only, so not comparable: {', '.join(map(say.one_line, differences.unmeasured))}"
        )
    return "\n".join(lines) + "\n"
