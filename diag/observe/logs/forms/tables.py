"""CSV downloads of logging services: CloudWatch, Datadog, Kibana, Grafana."""

from __future__ import annotations

import csv
import re

from diag.observe.logs.forms.interface import Form, LineWriter
from diag.observe.logs.forms.records import clock

MAX_RECORD = 4 << 20
"""Bytes of one record with line breaks; beyond, a stray quote is assumed."""

_MESSAGE = ("message", "@message", "log", "line", "content", "textpayload", "body", "msg", "event")
_TIME = ("timestamp", "@timestamp", "time", "date", "datetime", "ts")
_PLACE = (
    "pod",
    "pod_name",
    "kubernetes.pod_name",
    "resource.labels.pod_name",
    "@logstream",
    "logstream",
    "logstreamname",
)


class Table(Form):
    """Rows to lines: time, pod, message."""

    def __init__(self, header: list[str], delimiter: str) -> None:
        super().__init__()
        self._header = header
        self._delimiter = delimiter
        self._message = _column(header, _MESSAGE)
        self._time = _column(header, _TIME)
        self._place = _column(header, _PLACE)
        self._writer = LineWriter(self.lines)
        self._number = 0
        self._begin = 1
        self._open: list[str] = []
        self._size = 0
        self._quotes = 0

    def feed(self, block: bytes, *, last: bool) -> bytes:
        """Messages instead of rows; a row with line breaks waits for its end."""
        lines = block.split(b"\n")
        if not lines[-1]:
            lines.pop()
        for raw in lines:
            self._number += 1
            line = raw.decode("utf-8", "replace").rstrip("\r")
            if not self._open:
                self._begin, self._size, self._quotes = self._number, 0, 0
            self._open.append(line)
            self._size += len(line) + 1
            self._quotes += line.count('"')
            if self._quotes % 2 == 0 or self._size > MAX_RECORD:
                self._row()
        if last and self._open:
            self._row()
        return self._writer.take()

    def _row(self) -> None:
        text = "\n".join(self._open)
        self._open = []
        try:
            row = next(csv.reader([text], delimiter=self._delimiter), [])
        except csv.Error:
            row = []
        if self._begin == 1 or self._message is None:
            return  # the header
        if len(row) != len(self._header):
            self._writer.write(text, self._begin, spread=True)
            return
        head = ""
        if self._time is not None and (time := clock(row[self._time])):
            head = f"{time} "
        if self._place is not None and re.fullmatch(r"[\w.-]+", row[self._place]):
            head += f"[pod/{row[self._place]}/main] "
        self._writer.write(head + row[self._message].rstrip("\n"), self._begin, spread=True)

    def again(self) -> Table:
        """From the start."""
        return Table(self._header, self._delimiter)


def _column(header: list[str], names: tuple[str, ...]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def recognise_table(sample: bytes) -> Form | None:
    """A header that names a message and one thing more."""
    first = sample[:4096].split(b"\n", 1)[0].decode("utf-8", "replace").strip().lstrip("\ufeff")
    delimiter = next((one for one in (",", "\t", ";") if one in first), None)
    if delimiter is None or len(first) > 1000 or b"\n" not in sample:
        return None
    header = [name.strip().strip('"').strip().lower() for name in first.split(delimiter)]
    if _column(header, _MESSAGE) is None or not all(
        re.fullmatch(r"@?[\w .:/@-]{1,60}", name) for name in header
    ):
        return None
    return Table(header, delimiter) if _column(header, _TIME) is not None or len(header) > 2 else None
