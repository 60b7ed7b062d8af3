"""Records of logging services: JSON lines (docker, fluentd, Loki, Rust and Python loggers) and JSON documents."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from diag.observe.logs.forms.interface import Form, LineWriter
from diag.system.lazy import lazily

MAX_DOCUMENT = 16 << 20
"""A JSON document is read as a whole up to this size; a larger one line by line, without its times."""
PARTIAL = 16 << 10
"""Container runtimes split longer lines into records of this size, only the last of which ends the line."""

_WRAPPERS = (
    "log",
    "textPayload",
    "@message",
    "MESSAGE",
    "message",
    "msg",
    "line",
    "body",
    "text",
    "content",
    "Message",
)
_NESTED = ("jsonPayload", "fields", "_source", "result", "structuredPayload")
_TIMES = ("timestamp", "time", "@timestamp", "ts", "asctime", "date", "Date", "__REALTIME_TIMESTAMP")
_LEVELS = ("level", "levelname", "lvl")
_FAILURES = ("error", "err", "exc_info", "exception", "stack", "stacktrace", "stack_trace", "traceback")
_MESSAGE_LINE = lazily(rb'^\s*"(?:log|textPayload|@message|MESSAGE|message)": ("(?:[^"\\]|\\.)*"),?\s*$')
_KEY = lazily(r'"(?:log|textPayload|@message|MESSAGE|message|msg|line|body|text|content|Message)"\s*:\s*"')


def message_of(record: Mapping[str, Any]) -> tuple[str, str] | None:
    """What a record's program wrote, and the key it stands under; None where it is no log record."""
    for key in _WRAPPERS:
        value = record.get(key)
        if isinstance(value, str):
            return value, key
    for key in _NESTED:
        inner = record.get(key)
        if isinstance(inner, dict) and (found := message_of(inner)) is not None:
            return found
    return None


def plain_record(record: Mapping[str, Any], *, places: bool = True) -> str | None:
    """A record as the line that a program would have printed; None where it is no log record."""
    found = message_of(record)
    if found is None:
        return None
    text, key = found
    text = text.rstrip("\n")
    level = next((record[name] for name in _LEVELS if isinstance(record.get(name), str)), None)
    if level is not None and key not in ("log", "textPayload") and level.upper()[:4] not in text[:60].upper():
        text = f"{level.upper()} {text}"
    for name in _FAILURES:
        more = record.get(name)
        if isinstance(more, str) and more and more not in text:
            text += ("\n" if "\n" in more else f" {name}=") + more.rstrip("\n")
    return head_of(record, places=places) + text


def head_of(record: Mapping[str, Any], *, places: bool) -> str:
    """When and where: the time, and pod and container where the service knows them."""
    time = next((clock(record[name]) for name in _TIMES if name in record), "")
    pod, container = _place(record) if places else ("", "")
    return (f"{time} " if time else "") + (f"[pod/{pod}/{container or 'main'}] " if pod else "")


def _place(record: Mapping[str, Any]) -> tuple[str, str]:
    resource = record.get("resource")
    labels = resource.get("labels") if isinstance(resource, dict) else None
    for known in (record.get("kubernetes"), labels, record.get("labels"), record.get("stream")):
        if isinstance(known, dict):
            pod = known.get("pod_name") or known.get("pod") or ""
            container = known.get("container_name") or known.get("container") or ""
            if isinstance(pod, str) and re.fullmatch(r"[\w.-]+", pod) and isinstance(container, str):
                return pod, container if re.fullmatch(r"[\w.-]+", container) else ""
    return "", ""


def clock(value: object) -> str:
    """A time in the form that heads are read in: ISO as it is, numbers since the epoch by their size."""
    if isinstance(value, str) and re.match(r"20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d", value):
        return re.sub(r"(\.\d{9})\d+", r"\1", value.replace(" UTC", "Z"))
    try:
        number = float(value) if isinstance(value, str | int | float) else 0.0
        while number > 1e11:  # milli-, micro- or nanoseconds
            number /= 1000
        if number < 1e9:
            return ""
        return datetime.fromtimestamp(number, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    except (ValueError, OverflowError, OSError):
        return ""


class JsonLines(Form):
    """One record a line; lines that are none pass as they are."""

    def __init__(self) -> None:
        super().__init__()
        self._writer = LineWriter(self.lines)
        self._number = 0
        self._partial = ""

    def feed(self, block: bytes, *, last: bool) -> bytes:
        """Messages instead of records."""
        lines = block.split(b"\n")
        if not lines[-1]:
            lines.pop()
        for line in lines:
            self._number += 1
            self._record(line)
        if last and self._partial:
            self._writer.write(self._partial, self._number)
        return self._writer.take()

    def _record(self, line: bytes) -> None:
        record = load_record(line)
        text = plain_record(record) if record is not None else None
        if record is None or text is None:
            self._writer.write(line.decode("utf-8", "replace"), self._number)
            return
        if self._partial:
            text = self._partial + str(record.get("log", ""))
            self._partial = ""
        log = record.get("log")
        if isinstance(log, str) and len(log) >= PARTIAL - 1 and not log.endswith("\n"):
            self._partial = text[: 8 * PARTIAL]
            return
        self._writer.write(text.rstrip("\n"), self._number)

    def again(self) -> JsonLines:
        """From the start."""
        return JsonLines()


def load_record(line: bytes) -> dict[str, Any] | None:
    """A line's JSON object, or None."""
    text = line.strip()
    if not (text.startswith(b"{") and text.endswith(b"}")):
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def recognise_json_lines(sample: bytes) -> Form | None:
    """At least half of the lines are records with a message."""
    if b'{"' not in sample[: 16 << 10]:
        return None
    lines = [line for line in sample[: 64 << 10].split(b"\n")[:200] if line.strip()]
    objects = [line for line in lines if line.lstrip().startswith(b'{"')]
    if 2 * len(objects) < len(lines):
        return None
    records = [record for line in objects if (record := load_record(line)) is not None]
    told = sum(message_of(record) is not None for record in records)
    return JsonLines() if told and 2 * told >= len(objects) - 1 else None


class JsonDocument(Form):
    """A list of records, however deep in the document and however it is broken into lines."""

    def __init__(self) -> None:
        super().__init__()
        self._writer = LineWriter(self.lines)
        self._held: list[bytes] = []
        self._size = 0
        self._number = 1
        self._by_line = False

    def feed(self, block: bytes, *, last: bool) -> bytes:
        """Nothing until the document is complete, unless it is too large to wait for."""
        self._held.append(block)
        self._size += len(block)
        if self._size > MAX_DOCUMENT:
            self._by_line = True
        if not self._by_line and not last:
            return b""
        text = b"".join(self._held)
        self._held = []
        if self._by_line or not self._whole(text):
            self._line_by_line(text)
        return self._writer.take()

    def _whole(self, text: bytes) -> bool:
        plain = text.decode("utf-8", "replace")
        try:
            records = list(records_in(json.loads(plain)))
        except (ValueError, RecursionError):
            return False
        places = (
            [plain.count("\n", 0, found.start()) + 1 for found in _KEY.finditer(plain)]
            if len(records) < 3000
            else []
        )
        several = len({_place(record) for record in records}) > 1  # one pod on every line tells nobody apart
        for number, record in enumerate(records):
            said = plain_record(record, places=several)
            if said is not None:
                line = places[number] if len(places) == len(records) else 1
                self._writer.write(said, line)
        return True

    def _line_by_line(self, text: bytes) -> None:
        for line in text.split(b"\n"):
            found = _MESSAGE_LINE.match(line)
            if found:
                with contextlib.suppress(ValueError):
                    self._writer.write(json.loads(found[1]).rstrip("\n"), self._number)
            self._number += 1
        self._number -= 1

    def again(self) -> JsonDocument:
        """From the start."""
        return JsonDocument()


def records_in(data: object, depth: int = 0) -> Iterator[dict[str, Any]]:
    """Every log record of a document, in its order; Loki's streams of [time, line] too."""
    if depth > 8:
        return
    if isinstance(data, list):
        for item in data:
            yield from records_in(item, depth + 1)
    elif isinstance(data, dict):
        if isinstance(data.get("values"), list) and isinstance(data.get("stream"), dict):
            for pair in data["values"]:
                if isinstance(pair, list) and len(pair) >= 2 and isinstance(pair[1], str):
                    yield {"stream": data["stream"], "time": pair[0], "log": pair[1]}
        elif message_of(data) is not None:
            yield data
        else:
            for value in data.values():
                if isinstance(value, list | dict):
                    yield from records_in(value, depth + 1)


_LIST = lazily(rb"\s*(?:\[\s*\{|\{\s*\"(?:events|hits|results?|data|entries|logs|status|took)\"\s*:)")


def recognise_document(sample: bytes) -> Form | None:
    """A list of objects, or an object with one, that holds messages under the keys that logging services use."""
    begin = sample[:4096].removeprefix(b"\xef\xbb\xbf")
    if not _LIST.match(begin):
        return None
    if load_record(sample[: 64 << 10].split(b"\n", 1)[0]) is not None and b"\n{" in sample[: 64 << 10]:
        return None  # JSON lines
    shown = sample[: 64 << 10].decode("utf-8", "replace")
    telling = re.search(r'"(?:log|textPayload|@message|MESSAGE|message|values)"\s*:\s*["\[]', shown)
    timed = re.search(
        r'"(?:timestamp|@timestamp|time|receiveTimestamp|values|_SOURCE_REALTIME_TIMESTAMP)"\s*:', shown
    )
    return JsonDocument() if telling and timed else None
