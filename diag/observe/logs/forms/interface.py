"""What all forms have in common: undoing lines, and remembering where they came from."""

from __future__ import annotations

import bisect
from array import array

from diag.system.lazy import lazily

FRESH = lazily(
    rb"[\s>]*(?:\[?(?:INFO|WARN|WARNING|ERROR|DEBUG|CRITICAL|FATAL|TRACE)\b|\[?20\d\d[-/]\d\d[-/]\d\d[T ]|\[rank\d|\[default\d"
    rb"|\(\w+(?: \w+| rank=\d+)? pid=\d|Traceback \(most|\w+ \d\d-\d\d \d\d:\d\d|\[?[IWEF]\d{4} \d\d:|\[[IWEF]\d{3,4} "
    rb'|File "/|[\w.-]+:\d+:\d+ \[\d+\] |\[\d+,\d+\]<|(?:[A-Z][a-z]{2} )?[A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d |\[ *\d+\.\d{3,6}\] )'
)
"""The beginning of a line that is no continuation of another."""


class LineMap:
    """From numbers of undone lines to numbers of the source's lines (both from 1)."""

    def __init__(self) -> None:
        self._own = array("Q")
        self._source = array("Q")

    def add(self, own: int, source: int) -> None:
        """From `own` on, lines correspond one to one to those from `source` on."""
        if self._own and self.source(own) == source:
            return
        if not self._own and own == source:
            return
        self._own.append(own)
        self._source.append(source)

    def source(self, own: int) -> int:
        """The source's line for one of ours."""
        at = bisect.bisect_right(self._own, own) - 1
        return own if at < 0 else self._source[at] + own - self._own[at]


class Form:
    """Undoes one form. Subclasses keep the number of lines, or tell `lines` where they do not."""

    def __init__(self) -> None:
        self.lines = LineMap()

    def feed(self, block: bytes, *, last: bool) -> bytes:
        """Whole lines in, whole lines out; `last` with what stands after the last line's end."""
        raise NotImplementedError

    def again(self) -> Form:
        """The same form with nothing fed yet."""
        raise NotImplementedError


class LineWriter:
    """Collects undone lines together with where they come from."""

    def __init__(self, lines: LineMap) -> None:
        self._lines = lines
        self._own = 1
        self._parts: list[bytes] = []

    def write(self, text: str, source: int, *, spread: bool = False) -> None:
        """Add a message that stands in the source's line; `spread` where its own line breaks are the source's."""
        for number, line in enumerate(text.split("\n")):
            self._lines.add(self._own, source + number if spread else source)
            self._own += 1
            self._parts.append(line.encode("utf-8", "replace"))

    def take(self) -> bytes:
        """All that was added since the last call."""
        if not self._parts:
            return b""
        text = b"\n".join(self._parts) + b"\n"
        self._parts = []
        return text
