"""Observations made ready for judging: which run of a file counts, which failures later life took back, which phase."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diag.diagnose.experiment import cure, typed_at
from diag.diagnose.filenames import hosts_in_names
from diag.diagnose.lastwords import last_words
from diag.diagnose.life import answers, is_end, is_start, without_late_prints
from diag.diagnose.runs import long_run, silent_starts
from diag.diagnose.whois import Whois, distinct, introduce
from diag.model import Finding, Observation, Phase
from diag.observe.logs.filestate import FileReading
from diag.system.lazy import lazily

Stream = tuple[str, str, str]
"""(file, host, rank or process): who wrote a line, as far as the line says."""


def stream_of(one: Observation) -> Stream:
    """The writer of a line. Unknown parts are empty."""
    origin = one.origin
    who = f"rank {origin.rank}" if origin.rank is not None else (origin.process or "")
    return (origin.source, origin.host or "", who)


@dataclass(slots=True)
class FileEvidence:
    """One file's run that is judged."""

    reading: FileReading
    first_line: int = 1
    last_line: int = 1 << 60
    observations: list[Observation] = field(default_factory=list)
    alive: list[Observation] = field(default_factory=list)
    dead: list[Observation] = field(default_factory=list)
    phases: list[Observation] = field(default_factory=list)
    exceptions: list[Observation] = field(default_factory=list)
    other_runs: int = 0
    earlier_failed: int = 0
    cured_by: Mapping[str, str] = field(default_factory=dict)
    """What a later run that works was started with, and this one was not."""
    cure: Observation | None = None
    """The command of that run."""
    named_host: str | None = None
    """The machine that the file's name tells, seen beside the other files' names."""
    who: Whois = field(default_factory=Whois)

    @property
    def own_host(self) -> str | None:
        """The machine the file was written on, if its lines, itself or its name tell exactly one; names before addresses."""
        for hosts in (self.hosts, {place for _, place in self.reading.places}, self.reading.own_hosts):
            if hosts:
                machines = distinct(hosts, self.who)
                if self.named_host and not any(not _ADDRESS.match(host) for host in machines):
                    return self.named_host
                return next(iter(machines)) if len(machines) == 1 else None
        return self.named_host

    def host_at(self, line: int) -> str | None:
        """The machine a line comes from, as far as the command above it or the file as a whole tells."""
        above = [place for number, place in self.reading.places if number <= line]
        return above[-1] if above else self.own_host

    @property
    def first_exit(self) -> Observation | None:
        """The launcher's word on which process ended first: a table names rank and host, a line at least one of them."""
        exits = [one for one in self.observations if one.kind == "exit" and one.fields]
        full = [one for one in exits if "rank" in one.fields and "host" in one.fields]
        return next(iter(full or exits), None)

    @property
    def last_progress(self) -> int:
        """Line of the last sign of progress: a phase line or a sign of life."""
        lines = [one.order for one in self.alive]
        lines += [one.order for one in self.phases if one.phase is not Phase.SHUTDOWN]
        return max(lines, default=0)

    @property
    def hosts(self) -> set[str]:
        """Host names that the file's own lines carry."""
        return {one.origin.host for one in self.observations if one.origin.host}

    def phase_at(self, one: Observation) -> Phase | None:
        """The phase in which something happened: told by its traceback, else by what was printed before."""
        for exception in self.exceptions:
            if exception.fields["begin_line"] <= one.order <= exception.order and exception.phase is not None:
                return exception.phase
        mine = stream_of(one)
        own: Phase | None = None
        any_writer: Phase | None = None
        over = False  # its own last phase has ended, so that a later one may have begun with another writer's word
        for marker in self.phases:
            if marker.order > one.order:
                break
            if marker.phase in (Phase.SHUTDOWN, None):
                continue
            any_writer = marker.phase
            over = over and stream_of(marker) != mine
            if stream_of(marker) == mine:
                own, over = marker.phase, marker.name.endswith("/end")
        return any_writer if over or own is None else own

    @property
    def orderly_end(self) -> int | None:
        """Line at which a launch that worked was told to stop; what it prints afterwards is the stopping."""
        stops = [one.order for one in self.phases if one.phase is Phase.SHUTDOWN]
        if any("unexpectedly" in one.text for one in self.dead):
            return None  # it stops because one of its own is gone
        if not stops or not any(mark.order < stops[0] for mark in self.alive):
            return None
        fatal = [
            one
            for one in (*self.dead, *self.exceptions)
            if one.order < stops[0] and not one.fields.get("ignored")
        ]
        return None if any(not self.lives_on(one) for one in fatal) else stops[0]

    def starts_after(self, one: Observation) -> bool:
        """True if the launch came up after `one`: whatever it was, it did not stop the start."""
        return any(mark.order > one.order for mark in self.alive if is_start(mark))

    def lives_on(self, one: Observation, *, hint: bool = False) -> bool:
        """True if the launch went on as if nothing had happened after `one`.

        A failure counts as survived only through its own writer's later life, or a lot of anybody's; a warning
        through any later start or a few signs of life. What comes after the next death proves nothing.
        """
        if self._ends_well_after(one):
            return True
        fatal = one.kind in ("dead", "exception") or any(
            mark.order == one.order or mark.fields.get("begin_line", mark.order) <= one.order <= mark.order
            for mark in (*self.dead, *self.exceptions)
            if not mark.fields.get("ignored")
        )
        death = min((mark.order for mark in self.dead if mark.order > one.order), default=None)
        later = [
            mark for mark in self.alive if mark.order > one.order and (death is None or mark.order < death)
        ]
        mine = stream_of(one)[2]
        own = [mark for mark in later if not mine or stream_of(mark)[2] in ("", mine) or answers(mark)]
        if not hint and self._advances(one, FATAL_ADVANCE if fatal else 1, death):
            return True  # (what a hint warns of comes later by nature)
        if not fatal:
            return any(map(is_start, later)) or len(own) >= (FEW if death is None else SOME)
        if death is None:
            went_on = [
                mark for mark in own if "exit status" not in mark.text
            ]  # any command's, not this one's
            return any(map(is_start, went_on)) or len(own) >= FEW
        return len(own) >= MANY

    def _ends_well_after(self, one: Observation) -> bool:
        """True if the whole launch came to its end after `one`, and nothing died since: a retry, another attempt."""
        last = max((mark.order for mark in self.dead), default=0)
        after = [mark for mark in self.alive if mark.order > max(last, one.order)]
        steps = [mark for mark in after if "exit status" not in mark.text]
        again = any("restart_count=" in mark.text and mark.order > one.order for mark in self.phases)
        return any(map(is_end, after)) or (len(after) > len(steps) >= SOME) or (again and len(steps) >= FEW)

    def _advances(self, one: Observation, least: int, death: int | None) -> bool:
        """True if the launch reached a phase at least `least` beyond all that it had reached at `one`."""
        mine = stream_of(one)[2]
        reached = max((_order(mark) for mark in self.phases if mark.order <= one.order), default=-1)
        # a program that prints its arguments has survived nothing yet
        reached = max(reached, Phase.ARGUMENTS.order)
        return any(
            mark.order > one.order
            and (death is None or mark.order < death)
            and _order(mark) - reached >= least
            and (not mine or stream_of(mark)[2] in ("", mine))
            for mark in self.phases
            if mark.phase is not Phase.SHUTDOWN
        )


FATAL_ADVANCE = 3
"""Phases that a launch must gain after an exception before it counts as survived: other ranks gain one or two."""

FEW, SOME, MANY = 2, 5, 20
"""Signs of life that outweigh a warning, a warning before a death, a failure before a death."""


def _order(mark: Observation) -> int:
    return mark.phase.order if mark.phase is not None and mark.phase is not Phase.SHUTDOWN else -1


@dataclass(slots=True)
class Evidence:
    """Everything that judging may use."""

    files: list[FileEvidence] = field(default_factory=list)
    findings: Sequence[Finding] = ()
    facts: Mapping[str, list[str]] = field(default_factory=dict)
    """Dotted name -> distinct values, in the order seen."""
    names: Mapping[str, Any] = field(default_factory=dict)
    """Short names for filling sentences and fixes."""
    framework: str | None = None
    who: Whois = field(default_factory=Whois)
    last_words: Sequence[Observation] = ()
    """Errors that processes of the launch logged before they left by themselves."""

    def file_of(self, one: Observation) -> FileEvidence | None:
        """The file evidence an observation belongs to."""
        return next((item for item in self.files if item.reading.name == one.origin.source), None)

    @property
    def has_failure(self) -> bool:
        """Something ended badly and was not taken back."""
        return any(_failed(item) for item in self.files)

    @property
    def killed_exit(self) -> Observation | None:
        """A launcher's word on a process that a signal ended (not the launcher's own SIGTERM)."""
        exits = [one for item in self.files for one in item.observations if one.kind == "exit"]
        return next(
            (
                one
                for one in exits
                if str(one.fields.get("exit_code", ""))[:1] == "-" and one.fields["exit_code"] != "-15"
            ),
            None,
        )

    @property
    def all_hosts(self) -> set[str]:
        """Every machine that lines, files or launchers name as a place where the launch runs, each once."""
        hosts = {host for item in self.files for host in (*item.hosts, *item.reading.own_hosts)}
        hosts |= {
            str(one.fields["host"])
            for item in self.files
            for one in item.observations
            if one.kind == "exit" and "host" in one.fields
        }
        return distinct(hosts | self.who.hosts, self.who)

    @property
    def works(self) -> bool:
        """The launch showed that it works: it started to serve, or took steps."""
        return any(any(map(is_start, item.alive)) or len(item.alive) >= FEW for item in self.files)

    def host_of_rank(self, rank: int | None) -> str | None:
        """The host on which a rank runs, if any line says both."""
        if rank is None:
            return None
        lines = [one for item in self.files for one in item.observations]
        hosts = {one.origin.host for one in lines if one.origin.rank == rank and one.origin.host}
        hosts |= {
            str(one.fields["host"])
            for one in lines
            if one.kind == "exit" and one.fields.get("rank") == str(rank) and "host" in one.fields
        }
        hosts = distinct(hosts, self.who)
        return hosts.pop() if len(hosts) == 1 else (None if hosts else self.who.host_of_rank(rank))


_ADDRESS = lazily(r"[\d.]+\Z|[0-9a-fA-F:]+:[0-9a-fA-F:]*\Z")


def prepare(
    readings: Sequence[FileReading],
    findings: Sequence[Finding],
    facts: Mapping[str, list[str]],
    names: Mapping[str, Any],
) -> Evidence:
    """Choose the run of each file and collect its marks."""
    files = [_choose_run(reading) for reading in readings]
    who = introduce(readings)
    for item, host in zip(files, hosts_in_names([reading.name for reading in readings]), strict=True):
        item.named_host, item.who = host, who
    _forgive_attempts(files)
    cured = {f"experiment.{name}": [value] for item in files for name, value in item.cured_by.items()}
    facts = {**facts, **cured}
    if who.claimed_twice is not None:
        facts["launch.rank_twice"] = [str(who.claimed_twice)]
    framework = next((item.reading.framework for item in files if item.reading.framework), None)
    words = last_words(files) if any(map(_failed, files)) else ()
    return Evidence(files, findings, facts, names, framework, who, words)


_ATTEMPT = lazily(r"(?:^|(?<=[-_./]))(?:attempt|retry|try|restart)[-_.]?(\d+)")


def _forgive_attempts(files: Sequence[FileEvidence]) -> None:
    """Attempts that have a file each are runs all the same: one that works takes the earlier ones back."""
    groups: dict[str, list[tuple[int, FileEvidence]]] = {}
    for item in files:
        found = _ATTEMPT.search(item.reading.name)
        if found:
            key = _ATTEMPT.sub("#", item.reading.name)
            groups.setdefault(key, []).append((int(found[1]), item))
    for group in groups.values():
        *earlier, (_, last) = sorted(group, key=lambda pair: pair[0])
        if last.alive and not _failed(last):
            for _, item in earlier:
                last.earlier_failed += _failed(item)
                for lines in (item.observations, item.alive, item.dead, item.phases, item.exceptions):
                    lines.clear()


def _choose_run(reading: FileReading) -> FileEvidence:
    bounds = _run_bounds(reading)
    runs = [_run(reading, first, last) for first, last in bounds]
    chosen = runs[-1]
    speaks = chosen.alive or long_run(reading.observations, chosen.first_line, reading.lines)
    if not speaks and not _failed(chosen):  # a last run that tells nothing leaves the one before
        chosen = next((run for run in reversed(runs) if _failed(run)), chosen)
    elif reading.commands and not _failed(chosen):
        chosen = _before_cure(reading, runs) or chosen
    chosen.other_runs = len(runs) - 1
    chosen.earlier_failed = sum(_failed(run) for run in runs if run.first_line < chosen.first_line)
    return chosen


def _before_cure(reading: FileReading, runs: Sequence[FileEvidence]) -> FileEvidence | None:
    """The failed run that was tried again in another way, with success: it is what the user asks about."""
    number = next((at for at in reversed(range(len(runs))) if _failed(runs[at])), None)
    if number is None:
        return None
    runs[number].cured_by = cure(reading, [run.first_line for run in runs], number, len(runs) - 1)
    runs[number].cure = typed_at(reading, runs[-1].first_line)
    return runs[number] if runs[number].cured_by else None


def _run_bounds(reading: FileReading) -> list[tuple[int, int]]:
    """A new run begins at a start line only if the one before ended (or failed) in between."""
    ends = sorted(
        one.order
        for one in reading.observations
        if one.kind in ("dead", "exception") or (one.kind == "phase" and one.phase is Phase.SHUTDOWN)
    )
    starts = [1]
    for line in reading.run_starts:
        at = bisect.bisect_left(ends, starts[-1])
        if at < len(ends) and ends[at] < line:
            starts.append(line)
    starts = sorted(
        {*starts, *silent_starts(reading.observations, reading.lines, quiet=reading.ends_in_warnings)}
    )
    return list(zip(starts, [*(start - 1 for start in starts[1:]), 1 << 60], strict=True))


def _run(reading: FileReading, first: int, last: int) -> FileEvidence:
    inside = without_late_prints([one for one in reading.observations if first <= one.order <= last])
    failing = {one.order for one in inside if one.kind in ("dead", "exception")}
    return FileEvidence(
        reading,
        first,
        last,
        inside,
        alive=[one for one in inside if one.kind == "alive"],
        dead=[one for one in inside if one.kind == "dead"],
        phases=[
            one
            for one in inside
            if one.kind == "phase" and (one.order not in failing or one.phase is Phase.SHUTDOWN)
        ],
        exceptions=[one for one in inside if one.kind == "exception"],
    )


def _failed(run: FileEvidence) -> bool:
    end = run.orderly_end
    return any(
        not run.lives_on(one)
        for one in (*run.dead, *run.exceptions)
        if not one.fields.get("ignored") and (end is None or one.order < end)
    )
