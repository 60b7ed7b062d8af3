"""What one log file says: observations, facts, printed arguments, gathered line by line."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from diag.model import Observation, Origin, Phase
from diag.observe.logs import facts as fact_table
from diag.observe.logs import lexicon
from diag.observe.logs.dumps import (
    ABOVE_BYTES,
    DUMP_BYTES,
    MAX_STANDING,
    GpuTable,
    Standing,
    dump_lines,
    read_dump,
    read_gpus,
)
from diag.observe.logs.exceptions import exception_of
from diag.observe.logs.heads import Head, clean, parse_head, rank_of_file, without_heads
from diag.observe.logs.identity import Introduction, introduction
from diag.observe.logs.opening import Source
from diag.observe.logs.places import place_of
from diag.observe.logs.printed import PrintedArguments, parse_printed
from diag.observe.logs.scanner import Counter, LinePattern, Scanner, candidates, compiled
from diag.observe.logs.tracebacks import read_headless, read_traceback
from diag.system.lazy import lazily

IGNORED_BEFORE = (b"Exception ignored in", b"Error in atexit", b"Exception ignored on")
"""Python prints these above tracebacks that end nothing."""
RETRIED = b"retries remaining, so the task will be retried"
"""Ray prints this above the traceback of a task that it starts again."""

MAX_KEPT = 400
"""Observations kept per pattern and file: the first ones, and the last few for what happened at the end."""
KEPT_AFTER = 25
"""Signs of life kept beyond those after each failure: they tell whether the launch went on."""
NO_HOSTS = ("localhost", "localhost.localdomain", "pypi", "github.com")

MAX_PRINTED = 32
MAX_INTRODUCTIONS = 20_000
MAX_TRACEBACKS = 300
NOTES = ("W", "I", "D")
"""First letters of the levels below an error."""
_WARNS = lazily(rb"\bWARN(?:ING)?\b|Warning: |^W\d{4} |\[W\d* ")
_PYTHON_WARNS = lazily(r"\.py:\d+: [A-Z]\w*Warning: ")
INTERNAL = "@"
"""Owner prefix of the log reader's own patterns."""
TRACEBACK_BYTES = 96 << 10
HEADLESS_BYTES = 4 << 10
TAIL_BYTES = 8 << 10
WAITING = tuple(
    word.encode()
    for word in (
        "ait",
        "etry",
        " not ",
        "ending",
        "onnecting",
        "rying to",
        "nable to",
        "till",
        "等待",
        "重试",
    )
)
"""Parts of words without which the last lines are not kept."""


@dataclass(slots=True)
class FileReading:
    """What one log file said."""

    name: str
    bytes: int = 0
    lines: int = 0
    observations: list[Observation] = field(default_factory=list)
    run_starts: list[int] = field(default_factory=list)
    facts: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """Dotted fact -> (line, value) in order."""
    own_hosts: set[str] = field(default_factory=set)
    """Machines that the file says it was written on."""
    places: list[tuple[int, str]] = field(default_factory=list)
    """(line, machine or pod) where the lines that follow come from: prompts, kubectl's targets."""
    commands: list[tuple[int, str]] = field(default_factory=list)
    """(line, what was typed) of launches at a prompt."""
    who: list[Introduction] = field(default_factory=list)
    """Lines that tell which process is which rank and which names are one machine."""
    standing: list[Standing] = field(default_factory=list)
    """Processes whose stacks or states somebody pasted."""
    gpus: list[GpuTable] = field(default_factory=list)
    tail: list[tuple[int, str]] = field(default_factory=list)
    """(line, text) of the last lines, where they speak of waiting."""
    ends_in_warnings: bool = False
    """Most of the last lines are warnings, as libraries print them when a process is torn down."""
    framework: str | None = None
    printed: list[PrintedArguments] = field(default_factory=list)
    problem: str = ""


class FileState:
    """Working memory for one file."""

    def __init__(self, scanner: Scanner, name: str) -> None:
        self.scanner = scanner
        self.patterns = scanner.patterns
        self.reading = FileReading(name)
        self.counters: dict[int, Counter] = {}
        self.kept: dict[int, int] = {}
        self.last: dict[int, deque[Observation]] = {}
        self.last_failure = 0
        self.after_failure: dict[int, tuple[int, int]] = {}
        """Pattern -> (line of a failure, signs of life kept after it)."""
        self.line_number = 1
        self.ends_with_newline = False
        self.end = b""
        self.tracebacks = 0
        self.traceback_ends: set[int] = set()
        self.dump_end = 0
        self.jobs: dict[str, int] = {}
        """Slurm job -> last line that says that it was cancelled."""
        self.frameworks: set[str] = set()
        self.file_rank = rank_of_file(name)
        self.processes: dict[tuple[str | None, int], int] = {}
        """(host, pid) -> rank, learned from lines that name both."""

    def feed(self, block: bytes) -> None:
        """Take in a block of whole lines."""
        position = 0
        for start, end, users in candidates(self.scanner, block, self.counters):
            self.line_number += block.count(b"\n", position, start)
            position = start
            self._line(block, start, end, users)
        self.line_number += block.count(b"\n", position)
        self.reading.bytes += len(block)
        self.end = block[-TAIL_BYTES:]
        self.ends_with_newline = block.endswith(b"\n")

    def _line(self, block: bytes, start: int, end: int, users: Sequence[int]) -> None:
        text = clean(block[start:end].decode("utf-8", "replace").rstrip("\r"))
        matched: list[tuple[int, Mapping[str, Any]]] = []
        head: Head | None = None
        for user in users:
            expression = self.patterns[user].expression
            match = compiled(expression).search(text)
            if match is None and expression[0] == "^":  # the message begins behind the line's head
                head = head or parse_head(text)
                match = compiled(expression).search(head.text.strip())
            if match is not None and not self._taken(self.patterns[user], match, text):
                matched.append((user, match.groupdict()))
        if not matched:
            return
        head = head or parse_head(text)
        origin = self._origin(head, text)
        if "Root Cause (first observed" in text:
            matched = self._with_elastic_table(matched, block[end : end + 900])
        note = (head.level or "")[:1] in NOTES or _PYTHON_WARNS.search(text) is not None
        for user, captures in matched:
            if self.patterns[user].owner == "@dump":
                self._dump(self.patterns[user].name, block, start)
                continue
            if self.patterns[user].owner == "@status":
                self._status(block[end : end + 16], origin)
                continue
            self._keep(user, captures, origin, head.text.strip()[:2000], note)
        if "Traceback (most recent call last)" in text and self.tracebacks < MAX_TRACEBACKS:
            self.tracebacks += 1
            self._traceback(block, start, origin, head.level)
        elif (
            self.line_number not in self.traceback_ends
            and self.tracebacks < MAX_TRACEBACKS
            and any(self.patterns[user].owner == "@failure" for user, _ in matched)
        ):
            self._headless(block, start, text, origin)

    def _taken(self, pattern: LinePattern, match: re.Match[str], text: str) -> bool:
        """Facts, frameworks, printed arguments and run starts are noted here; all else is an observation."""
        if pattern.owner == "@fact":
            self._fact(pattern.name, match.group(1))
        elif pattern.owner == "@framework":
            self.frameworks.add(pattern.name)
        elif pattern.owner == "@who":
            self._introduction(pattern.name, match.groupdict(), text)
        elif pattern.owner == "@host":
            if match["host"] not in NO_HOSTS:
                self.reading.own_hosts.add(match["host"])
        elif pattern.owner == "@place":
            self._place(text)
        elif pattern.owner == "@job":
            self.jobs[match["job"]] = self.line_number
        elif pattern.owner == "@printed":
            self._printed(pattern.name, match.group("arguments"))
        elif pattern.owner == "@run":
            if match.group().startswith(("$ ", "# ")) and len(self.reading.commands) < MAX_KEPT:
                self.reading.commands.append((self.line_number, text[match.start() + 2 :][:4000]))
            if not self.reading.run_starts or self.line_number - self.reading.run_starts[-1] > 3:
                self.reading.run_starts.append(self.line_number)
        else:
            return False
        return True

    def _place(self, text: str) -> None:
        place = place_of(text)
        if place and len(self.reading.places) < MAX_KEPT:
            self.reading.places.append((self.line_number, place))

    def _introduction(self, kind: str, captures: Mapping[str, Any], text: str) -> None:
        if len(self.reading.who) < MAX_INTRODUCTIONS:
            self.reading.who.append(introduction(kind, captures, parse_head(text), self.line_number))

    def _origin(self, head: Head, text: str) -> Origin:
        """Who wrote the line; a process whose rank one line told keeps it on all others."""
        rank = head.rank
        if head.pid is not None:
            process = (head.host, head.pid)
            if rank is None and head.host and process not in self.processes:
                rank = self._rank_in_group(text)
            if rank is not None:
                self.processes[process] = rank
            rank = self.processes.get(process)
        return Origin(
            source=self.reading.name,
            line=self.line_number,
            host=head.host,
            rank=rank if rank is not None else self.file_rank,
            process=f"{head.process or ''} pid={head.pid}".strip() if head.pid is not None else head.process,
            time_s=head.time_s,
        )

    def _rank_in_group(self, text: str) -> int | None:
        """NCCL's rank, where the communicator can be the whole launch and not a group of it."""
        found = compiled(r" rank (\d+) nranks (\d+)").search(text)
        local = [
            int(value) for _, value in self.reading.facts.get("launch.nproc_per_node", ()) if value.isdigit()
        ]
        return int(found[1]) if found and int(found[2]) >= max(local, default=0) else None

    def _with_elastic_table(
        self, matched: list[tuple[int, Mapping[str, Any]]], following: bytes
    ) -> list[tuple[int, Mapping[str, Any]]]:
        """Torch elastic's table names host and rank in the lines after its title."""
        table = compiled(lexicon.ELASTIC_TABLE).search(
            following.decode("utf-8", "replace").replace("\n", " ")
        )
        if table is None:
            return matched
        return [
            (user, table.groupdict() if self.patterns[user].owner == "@exit" else captures)
            for user, captures in matched
        ]

    def _keep(
        self, user: int, captures: Mapping[str, Any], origin: Origin, text: str, note: bool = False
    ) -> None:
        pattern = self.patterns[user]
        phase = None
        kind, name = "log", f"{pattern.owner}/{pattern.name}"
        if pattern.owner.startswith(INTERNAL):
            kind, name = pattern.owner[1:], pattern.name
            if kind in ("phase", "alive") and text.startswith("wandb:"):
                return  # the summary of a run, printed also when it failed
            if kind == "dead" and text.startswith("frame #"):
                return  # a C++ stack names exception classes; the exception itself stands above it
            if kind == "phase":
                phase = Phase(pattern.name.split("/")[0])
        observation = Observation(
            kind,
            name,
            origin,
            text,
            {k: v for k, v in captures.items() if v is not None},
            phase,
            origin.line or 0,
            note,
        )
        if kind == "dead":
            self.last_failure = self.line_number
        count = self.kept[user] = self.kept.get(user, 0) + 1
        if count <= MAX_KEPT or (kind == "alive" and self._tells_of_going_on(user)):
            self.reading.observations.append(observation)
        else:
            self.last.setdefault(user, deque(maxlen=5)).append(observation)

    def _tells_of_going_on(self, user: int) -> bool:
        failure, kept = self.after_failure.get(user, (0, 0))
        kept = kept + 1 if failure == self.last_failure else 1
        self.after_failure[user] = (self.last_failure, kept)
        return self.last_failure > 0 and kept <= KEPT_AFTER

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
                self.reading.printed.append(
                    PrintedArguments(program, values, self.reading.name, self.line_number)
                )

    def _traceback(self, block: bytes, start: int, origin: Origin, level: str | None) -> None:
        chunk = block[start : start + TRACEBACK_BYTES].decode("utf-8", "replace").split("\n", 1501)
        found = read_traceback([line.rstrip("\r").rsplit("\r", 1)[-1] for line in chunk])
        if found is None:
            return
        one = exception_of(found, origin, self.line_number, self.processes, self.file_rank)
        self.traceback_ends.add(one.order)
        self.last_failure = one.order
        before = block[max(0, start - 400) : start].rstrip(b"\n").rsplit(b"\n", 1)[-1]
        if any(words in before for words in IGNORED_BEFORE) or (level or "")[:1] in NOTES:
            one = replace(one, fields={**one.fields, "ignored": "true"})
        self.reading.observations.append(one)

    def _dump(self, tool: str, block: bytes, start: int) -> None:
        """A pasted dump, read from the line where it begins."""
        text = block[start : start + DUMP_BYTES].decode("utf-8", "replace").replace("\r", "")
        text = without_heads(text)
        if tool == "gpus":
            table = read_gpus(text, self.line_number)
            self.reading.gpus += (
                [table] if table is not None and len(self.reading.gpus) < MAX_STANDING else []
            )
        elif len(self.reading.standing) < MAX_STANDING and self.line_number >= self.dump_end:
            above = without_heads(block[max(0, start - ABOVE_BYTES) : start].decode("utf-8", "replace"))
            self.reading.standing += read_dump(tool, above, text, self.line_number)
            self.dump_end = self.line_number + dump_lines(text)

    def _status(self, following: bytes, origin: Origin) -> None:
        """The exit status that a shell printed on the line after it was asked."""
        answer = following.lstrip(b"\r\n").split(b"\n", 1)[0].strip().rpartition(b"=")[2]
        if answer.isdigit():
            kind = "alive" if int(answer) == 0 else "dead"
            text = f"exit status {int(answer)}"
            self.reading.observations.append(
                Observation(kind, "status", origin, text, order=origin.line or 0)
            )

    def _headless(self, block: bytes, start: int, text: str, origin: Origin) -> None:
        """An exception whose first lines were cut off (pasted logs, tails, viewers) is an exception all the same."""
        above = block[max(0, start - HEADLESS_BYTES) : start]
        if b'File "' not in above:
            return
        found = read_headless(above.decode("utf-8", "replace").splitlines()[-40:], text)
        if found is not None:
            self.tracebacks += 1
            one = exception_of(found, origin, self.line_number, self.processes, self.file_rank)
            if RETRIED in above.rpartition(b'  File "')[0][-1200:]:
                one = replace(one, fields={**one.fields, "ignored": "true"})
            self.reading.observations.append(one)

    def finish(self, source: Source) -> FileReading:
        """Everything the file said, in order."""
        reading = self.reading
        for late in self.last.values():
            reading.observations.extend(late)
        if _newest_first(reading.observations):
            last = self.line_number + 1
            reading.observations = [replace(one, order=last - one.order) for one in reading.observations]
            reading.run_starts = [last - line for line in reversed(reading.run_starts)]
        if len(self.jobs) > 1:
            reading.run_starts = sorted({*reading.run_starts, *(line + 1 for line in self.jobs.values())})
        reading.observations.sort(key=lambda one: one.order)
        reading.lines = (self.line_number - (1 if self.ends_with_newline else 0)) if reading.bytes else 0
        reading.problem = source.problem
        if any(word in self.end[-600:] for word in WAITING):
            ending = self.end.decode("utf-8", "replace").split("\n")[1:]
            begin = reading.lines - len(ending) + (2 if self.ends_with_newline else 1)
            reading.tail = [(begin + number, text[:1000]) for number, text in enumerate(ending)]
        if b"W" in self.end:  # (every form of a warning has one)
            last_lines = self.end.splitlines()[-40:]
            reading.ends_in_warnings = 2 * sum(map(bool, map(_WARNS.search, last_lines))) > len(last_lines)
        for name, _ in fact_table.FRAMEWORKS:
            if name in self.frameworks:
                reading.framework = name
                break
        return reading


def _newest_first(observations: Sequence[Observation]) -> bool:
    """True for logs pasted from a viewer that shows the newest line on top."""
    times = [
        one.origin.time_s for one in sorted(observations, key=lambda one: one.order) if one.origin.time_s
    ]
    steps = [later - earlier for earlier, later in pairwise(times) if later != earlier]
    falling = sum(step < 0 for step in steps)
    return len(steps) >= 3 and falling >= 0.8 * len(steps) and times[-1] < times[0]
