"""Logs to observations: one pass, everything that any playbook or the engine itself asks for."""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diag.model import InputFile, Observation, Origin, Phase
from diag.observe.logs import facts as fact_table
from diag.observe.logs import lexicon, printed
from diag.observe.logs.heads import clean, parse_head, rank_of_file
from diag.observe.logs.printed import PRINTED, PrintedArguments, parse_printed
from diag.observe.logs.opening import Skipped, Source
from diag.observe.logs.scanner import Counter, LinePattern, Scanner, build_scanner, candidates, compiled
from diag.observe.logs.tracebacks import Traceback, read_traceback
from diag.playbooks import literals as literals_module
from diag.playbooks.base import Base, write_private
from diag.playbooks.literals import PatternError, required_literals, split_alternatives

MAX_KEPT = 400
"""Observations kept per pattern and file: the first ones, and the last few for what happened at the end."""

IGNORED_BEFORE = (b"Exception ignored in", b"Error in atexit", b"Exception ignored on")
"""Python prints these above tracebacks that end nothing."""

MAX_PRINTED = 32
MAX_TRACEBACKS = 300
TRACEBACK_BYTES = 96 << 10
TAIL_LINES = 40
TAIL_BYTES = 8 << 10

Raw = bytes
"""`bytes` by another name, for a class whose field is called so."""

INTERNAL = "@"
"""Owner prefix of the log reader's own patterns."""


@dataclass(slots=True)
class FileReading:
    """What one log file said."""

    name: str
    bytes: int = 0
    lines: int = 0
    observations: list[Observation] = field(default_factory=list)
    end: Raw = b""
    """The end of the file, for its last lines."""
    run_starts: list[int] = field(default_factory=list)
    facts: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """Dotted fact -> (line, value) in order."""
    framework: str | None = None
    printed: list[PrintedArguments] = field(default_factory=list)
    problem: str = ""


    @property
    def last_lines(self) -> list[tuple[int, str]]:
        """The last lines as (number, cleaned text); of a progress bar its last state."""
        lines = self.end.split(b"\n")
        if lines and not lines[-1]:
            lines.pop()
        kept = [line.rstrip(b"\r").rsplit(b"\r", 1)[-1][:4000] for line in lines[-TAIL_LINES:]]
        return [(self.lines - len(kept) + 1 + index, clean(line.decode("utf-8", "replace"))) for index, line in enumerate(kept)]


@dataclass(slots=True)
class LogReading:
    """All logs of one call."""

    files: list[FileReading] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def inputs(self) -> tuple[InputFile, ...]:
        """For the report."""
        return tuple(InputFile(one.name, "log", one.bytes, one.lines) for one in self.files)


@dataclass(slots=True)
class LogReader:
    """Compiled patterns of a base of playbooks together with the reader's own."""

    scanner: Scanner
    patterns: list[LinePattern]
    on_bytes: Callable[[int], None] | None = None

    def read(self, source: Source) -> FileReading:
        """Read one source to its end. Broken-off streams keep what came before and say so."""
        state = _FileState(self, source.name)
        carry = b""
        for block, last in _with_last(source.blocks()):
            if self.on_bytes:
                self.on_bytes(len(block))
            whole = carry + block if carry else block
            if b"\x1b" in whole:
                whole = _ANSI.sub(b"", whole)
            cut = len(whole) if last else _cut(whole)
            if cut:
                state.feed(whole[:cut])
            carry = whole[cut:]
        return state.finish(source)


def build_reader(base: Base, on_bytes: Callable[[int], None] | None = None) -> LogReader:
    """Compile everything that lines are searched for."""
    patterns = _stored_internal_patterns(base.cache)
    for playbook in base.playbooks.values():
        for signal in playbook.signals.values():
            if signal.kind == "log":
                patterns += [
                    LinePattern(playbook.id, signal.name, expression, literals)
                    for expression, literals in zip(signal.parts, signal.literals, strict=True)
                ]
    scanner = build_scanner(patterns, cache=base.cache, key=base.key)
    return LogReader(scanner, patterns, on_bytes)


def _stored_internal_patterns(cache: Path | None) -> list[LinePattern]:
    """The reader's own patterns with their strings; working the strings out costs more than reading them back."""
    if cache is None:
        return _internal_patterns()
    digest = hashlib.sha256()
    for module in (lexicon, fact_table, printed, literals_module):
        place = Path(str(module.__file__))
        digest.update(f"{place}:{place.stat().st_mtime_ns}:{place.stat().st_size}".encode())
    stored = cache / f"reader-{digest.hexdigest()[:20]}.json"
    try:
        return [LinePattern(owner, name, text, tuple(found)) for owner, name, text, found in json.loads(stored.read_bytes())]
    except (OSError, ValueError, TypeError):
        patterns = _internal_patterns()
        rows = [[one.owner, one.name, one.expression, list(one.literals)] for one in patterns]
        write_private(stored, json.dumps(rows).encode())
        return patterns


def _internal_patterns() -> list[LinePattern]:
    rows: list[tuple[str, str, str]] = []
    rows += [("@phase", f"{phase.value}/{edge}", expression) for phase, edge, expression in lexicon.PHASES]
    rows += [("@alive", str(number), expression) for number, expression in enumerate(lexicon.ALIVE)]
    rows += [("@dead", str(number), expression) for number, expression in enumerate(lexicon.DEAD)]
    rows += [("@failure", str(number), expression) for number, expression in enumerate(lexicon.FAILURE)]
    rows += [("@run", "start", expression) for expression in lexicon.RUN_STARTS]
    rows += [("@fact", f"{path}|{kind}", expression) for path, expression, kind in fact_table.FACTS]
    rows += [("@exit", str(number), expression) for number, expression in enumerate(lexicon.EXITS)]
    rows += [("@printed", program, expression) for program, expression in PRINTED]
    rows += [("@framework", name, expression) for name, expression in fact_table.FRAMEWORKS]
    found = []
    for owner, name, expression in rows:
        for part in split_alternatives(expression):
            found.append(LinePattern(owner, name, part, _literals(part)))
    return found


def _literals(expression: str) -> tuple[str, ...]:
    try:
        return required_literals(expression)
    except PatternError as error:   # our own table: a bug, caught by the first test
        raise ValueError(f"{expression!r}: {error}") from error


_ANSI = re.compile(rb"\x1b\[[0-9;?]*[ -/]*[@-~]")


def _with_last(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each block with whether it is the last one."""
    held: bytes | None = None
    for block in blocks:
        if held is not None:
            yield held, False
        held = block
    if held is not None:
        yield held, True


def _cut(block: bytes) -> int:
    """Where to cut a block: after its last line, and before a traceback that may go on in the next block."""
    end = block.rfind(b"\n") + 1
    if end == 0:
        end = max(0, len(block) - 64) if len(block) > (1 << 20) else 0
        return end
    start = block.rfind(b"Traceback (most recent call last)", max(0, end - TRACEBACK_BYTES), end)
    if start > 0:
        line = block.rfind(b"\n", 0, start) + 1
        if line > 0:
            return line
    return end


class _FileState:
    """Working memory for one file."""

    def __init__(self, reader: LogReader, name: str) -> None:
        self.reader = reader
        self.reading = FileReading(name)
        self.counters: dict[int, Counter] = {}
        self.kept: dict[int, int] = {}
        self.last: dict[int, deque[Observation]] = {}
        self.line_number = 1
        self.tail_bytes = b""
        self.ends_with_newline = False
        self.tracebacks = 0
        self.frameworks: dict[str, int] = {}
        self.file_rank = rank_of_file(name)
        self.processes: dict[tuple[str | None, int], int] = {}
        """(host, pid) -> rank, learned from lines that name both."""

    def feed(self, block: bytes) -> None:
        position = 0
        for start, end, users in candidates(self.reader.scanner, block, self.counters):
            self.line_number += block.count(b"\n", position, start)
            position = start
            self._line(block, start, end, users)
        self.line_number += block.count(b"\n", position)
        self.reading.bytes += len(block)
        self.tail_bytes = (self.tail_bytes + block)[-TAIL_BYTES:] if len(block) < TAIL_BYTES else block[-TAIL_BYTES:]
        self.ends_with_newline = block.endswith(b"\n")

    def _line(self, block: bytes, start: int, end: int, users: Sequence[int]) -> None:
        text = clean(block[start:end].decode("utf-8", "replace").rstrip("\r"))
        matched: list[tuple[int, Mapping[str, Any]]] = []
        for user in users:
            match = compiled(self.reader.patterns[user].expression).search(text)
            if match is None:
                continue
            pattern = self.reader.patterns[user]
            if pattern.owner == "@fact":
                self._fact(pattern.name, match.group(1))
            elif pattern.owner == "@framework":
                self.frameworks[pattern.name] = self.frameworks.get(pattern.name, 0) + 1
            elif pattern.owner == "@printed":
                self._printed(pattern.name, match.group("arguments"))
            elif pattern.owner == "@run":
                if not self.reading.run_starts or self.line_number - self.reading.run_starts[-1] > 3:
                    self.reading.run_starts.append(self.line_number)
            else:
                matched.append((user, match.groupdict()))
        if not matched:
            return
        head = parse_head(text)
        rank = head.rank
        if rank is None and head.pid is not None:
            rank = self.processes.get((head.host, head.pid))
        elif rank is not None and head.pid is not None:
            self.processes[(head.host, head.pid)] = rank
        if head.host and head.pid is not None and rank is None:
            found = compiled(r" rank (\d+) nranks ").search(text)
            if found:
                rank = self.processes[(head.host, head.pid)] = int(found[1])
        origin = Origin(
            source=self.reading.name,
            line=self.line_number,
            host=head.host,
            rank=rank if rank is not None else self.file_rank,
            process=f"{head.process or ''} pid={head.pid}".strip() if head.pid is not None else head.process,
            time_s=head.time_s,
        )
        if "Root Cause (first observed" in text:
            table = compiled(lexicon.ELASTIC_TABLE).search(block[end : end + 900].decode("utf-8", "replace").replace("\n", " "))
            matched = [(user, table.groupdict() if table and self.reader.patterns[user].owner == "@exit" else captures)
                       for user, captures in matched]
        for user, captures in matched:
            self._keep(user, captures, origin, head.text.strip()[:2000])
        if "Traceback (most recent call last)" in text and self.tracebacks < MAX_TRACEBACKS:
            self.tracebacks += 1
            self._traceback(block, start, origin)

    def _keep(self, user: int, captures: Mapping[str, Any], origin: Origin, text: str) -> None:
        pattern = self.reader.patterns[user]
        phase = None
        kind, name = "log", f"{pattern.owner}/{pattern.name}"
        if pattern.owner.startswith(INTERNAL):
            kind, name = pattern.owner[1:], pattern.name
            if kind == "phase":
                phase = Phase(pattern.name.split("/")[0])
        observation = Observation(kind, name, origin, text, {k: v for k, v in captures.items() if v is not None}, phase,
                                  origin.line or 0)
        count = self.kept[user] = self.kept.get(user, 0) + 1
        if count <= MAX_KEPT:
            self.reading.observations.append(observation)
        else:
            self.last.setdefault(user, deque(maxlen=5)).append(observation)

    def _fact(self, name: str, value: str) -> None:
        path, kind = name.split("|")
        values = self.reading.facts.setdefault(path, [])
        if kind == "first" and values:
            return
        if len(values) < 200 or (values and values[-1][1] != value):
            values.append((self.line_number, value.strip()))
            if len(values) > 400:
                del values[100:300]

    def _printed(self, program: str, text: str) -> None:
        if len(self.reading.printed) < MAX_PRINTED:
            values = parse_printed(text)
            if values:
                self.reading.printed.append(PrintedArguments(program, values, self.reading.name, self.line_number))

    def _traceback(self, block: bytes, start: int, origin: Origin) -> None:
        chunk = block[start : start + TRACEBACK_BYTES].decode("utf-8", "replace").split("\n", 401)
        found = read_traceback([line.rstrip("\r").rsplit("\r", 1)[-1] for line in chunk])
        if found is None:
            return
        one = _exception(found, origin, self.line_number, self.processes, self.file_rank)
        before = block[max(0, start - 400) : start].rstrip(b"\n").rsplit(b"\n", 1)[-1]
        if any(words in before for words in IGNORED_BEFORE):
            one = replace(one, fields={**one.fields, "ignored": "true"})
        self.reading.observations.append(one)

    def finish(self, source: Source) -> FileReading:
        reading = self.reading
        for late in self.last.values():
            reading.observations.extend(late)
        reading.observations.sort(key=lambda one: one.order)
        reading.end = self.tail_bytes
        reading.lines = (self.line_number - (1 if self.ends_with_newline else 0)) if reading.bytes else 0
        reading.problem = source.problem
        for name, _ in fact_table.FRAMEWORKS:
            if name in self.frameworks:
                reading.framework = name
                break
        return reading


def _exception(found: Traceback, origin: Origin, line: int, processes: Mapping[tuple[str | None, int], int],
               file_rank: int | None) -> Observation:
    rank = found.head.rank if found.head.rank is not None else origin.rank
    if rank is None and found.head.pid is not None:
        rank = processes.get((found.head.host, found.head.pid))
    user = found.user_frame
    fields: dict[str, Any] = {
        "type": found.type.rsplit(".", 1)[-1],
        "message": found.message[:2000],
        "begin_line": line,
        "functions": " ".join(frame[2] for frame in found.frames),
        "files": " ".join(frame[0] for frame in found.frames),
        "user_code": "true" if user is not None else "false",
    }
    if user is not None:
        fields["user_place"] = f"{user[0]}:{user[1]}"
    return Observation(
        "exception", fields["type"],
        Origin(origin.source, line + found.end, origin.host, rank if rank is not None else file_rank, origin.process, origin.time_s),
        f"{found.type}: {found.message}"[:2000] if found.message else found.type,
        fields, found.phase, line + found.end,
    )
