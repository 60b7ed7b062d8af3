"""Logs that end in the same sentence again and again: a launch that waits, whatever it waits for."""

from __future__ import annotations

from collections.abc import Sequence

from diag.diagnose.evidence import Evidence, FileEvidence
from diag.diagnose.unexplained import NEXT
from diag.model import Phase, Unexplained
from diag.observe.logs.heads import clean, parse_head
from diag.system.lazy import lazily

LEAST_TIMES, LEAST_S = 10, 240.0
"""Ten times in four minutes: engines say once a minute that they wait, loaders every ten seconds."""

_WAITS = lazily(
    r"(?i)\bwait(?:s|ing|ed)?\b|\bretry(?:ing)?\b|\bnot (?:yet )?(?:ready|connected|joined|available|reachable)\b|\bpending\b|\bconnecting\b|"
    r"\btrying to\b|\bunable to\b|\bstill\b|等待|重试"
)
_IDLE = lazily(
    r"(?i)waiting for (?:new )?(?:requests?|jobs?|messages?|connections?|work|tasks|events)\b|heartbeat|keep-?alive|metrics|/health"
)
_CHANGING = lazily(r"0x[0-9a-f]+|\d+(?:\.\d+)?")


def standing_still(evidence: Evidence) -> Unexplained | None:
    """What is known of files whose last words are one waiting sentence; None where nothing stands or something works."""
    if evidence.works:
        return None
    found = [told for item in evidence.files if (told := _told(item)) is not None]
    if not found:
        return None
    phase = next((phase for _, phase in found if phase is not None), None)
    steps = [NEXT[phase]] if phase in NEXT else []
    steps.append(
        "`diag attach` on the node while it waits shows what each process stands in, `diag run` on every node what lies between them"
    )
    return Unexplained(
        tuple(text for text, _ in found), None, phase.value if phase is not None else None, tuple(steps)
    )


def _told(item: FileEvidence) -> tuple[str, Phase | None] | None:
    lines = [(number, parse_head(clean(text))) for number, text in item.reading.tail if text.strip()]
    if len(lines) < LEAST_TIMES:
        return None
    shapes = [_CHANGING.sub("#", head.text.strip()) for _, head in lines]
    last = shapes[-1]
    same = [pair for pair, shape in zip(lines, shapes, strict=True) if shape == last]
    since = _trailing(shapes, last)
    if since < LEAST_TIMES or not _WAITS.search(last) or _IDLE.search(last):
        return None
    run = lines[-since:]
    times = [head.time_s for _, head in run if head.time_s is not None]
    spent = times[-1] - times[0] if len(times) > 1 else None
    if spent is not None and spent < LEAST_S:
        return None
    number, head = run[-1]
    lasted = f" for {spent / 60:.0f} min" if spent else ""
    phase = max(
        (mark.phase for mark in item.phases if mark.phase is not None),
        key=lambda one: one.order,
        default=None,
    )
    text = f"{item.reading.name}:{number}: nothing but this, {len(same)} times or more{lasted}: {head.text.strip()[:200]}"
    return text, phase


def _trailing(shapes: Sequence[str], last: str) -> int:
    """How many of the last lines are the same sentence; one other line in ten may stand between."""
    count = others = 0
    for shape in reversed(shapes):
        if shape == last:
            count += 1
        else:
            others += 1
            if others > count // 10:
                break
    return count
