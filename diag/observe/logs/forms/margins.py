"""Quoted (`> `) and indented logs: mails, replies, lists and code blocks in Markdown."""

from __future__ import annotations

import re

from diag.observe.logs.forms.interface import FRESH, Form
from diag.system.lazy import lazily

SAMPLE = 32 << 10
_QUOTE = lazily(rb"^[ ]{0,3}> ?", re.MULTILINE)
_QUOTED = lazily(rb"[ ]{0,3}>(?: |$|\r)")
_FENCE = lazily(rb"(?m)^([ \t]{1,12})(?:```|~~~)\w*\s*$(?=[\s\S]*^\1(?:```|~~~)\s*$)")
_TELLING = lazily(rb"(?:[\w.]*(?:Error|Exception): |\d\d:\d\d:\d\d|\[\w+\] |\d{1,3}: )")


class Margin(Form):
    """Takes the same margin off every line that has it."""

    def __init__(self, margin: re.Pattern[bytes]) -> None:
        super().__init__()
        self._margin = margin

    def feed(self, block: bytes, *, last: bool) -> bytes:
        """Take the margin off."""
        return self._margin.sub(b"", block)

    def again(self) -> Margin:
        """The same margin."""
        return Margin(self._margin)


def recognise_quoted(sample: bytes) -> Form | None:
    """Nearly all lines are quoted, or those are that look like a log's (Megatron begins many of its own with `> `)."""
    if b"\n>" not in sample[:SAMPLE] and not sample.startswith(b">"):
        return None
    lines = _filled(sample)
    quoted = [line for line in lines if _QUOTED.match(line)]
    telling = [line for line in lines if _tells(_QUOTE.sub(b"", line))]
    told = sum(1 for line in telling if _QUOTED.match(line))
    if len(quoted) >= 0.9 * len(lines) or (told >= 2 and told >= 0.8 * len(telling)):
        return Margin(_QUOTE)
    return None


def recognise_indented(sample: bytes) -> Form | None:
    """Every line that looks like a log's own begins further right, and so do most others."""
    sample = sample[:SAMPLE]
    right = sample.count(b"\n ") + sample.count(b"\n\t")
    if not right:
        return None
    fence = _FENCE.search(sample) if b"```" in sample or b"~~~" in sample else None
    if right < 0.4 * sample.count(b"\n") and fence is None:
        return None
    if fence:
        return Margin(re.compile(rb"^[ \t]{1,%d}" % len(fence[1]), re.MULTILINE))
    lines = _filled(sample)
    telling = [line for line in lines if _tells(line)]
    least = min(map(_indent, telling or lines), default=0)
    if least == 0 or (len(telling) < 2 and len(telling) != len(lines) and min(map(_indent, lines)) == 0):
        return None
    if sum(_indent(line) >= least for line in lines) < 0.6 * len(lines):
        return None
    return Margin(re.compile(rb"^[ \t]{1,%d}" % least, re.MULTILINE))


def _filled(sample: bytes) -> list[bytes]:
    lines = sample[:SAMPLE].split(b"\n")
    if len(sample) >= SAMPLE:
        lines.pop()
    return [line for line in lines if line.strip()]


def _tells(line: bytes) -> bool:
    return bool(FRESH.match(line) and not line.lstrip().startswith(b"File ")) or bool(
        _TELLING.match(line.lstrip())
    )


def _indent(line: bytes) -> int:
    return len(line) - len(line.lstrip(b" \t"))
