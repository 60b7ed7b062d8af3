"""Whatever the user points at, read and sorted by kind: logs, plans, reports, flight-recorder dumps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from diag.diagnose.asides import total_bytes
from diag.model import InputFile
from diag.observe.flight.recognise import looks_like_dump, read_flight_dump
from diag.observe.logs.filestate import FileReading
from diag.observe.logs.opening import Opening, Skipped, nothing_readable
from diag.observe.logs.reading import LogReading, build_reader
from diag.observe.logs.strangers import stranger
from diag.observe.reports import MAX_BYTES, NodeReport, looks_like_report, read_report
from diag.playbooks.base import Base
from diag.system import UserError

if TYPE_CHECKING:
    from diag.model.launch import LaunchPlan
    from diag.observe.flight.dump import RankDump

MAX_PLAN = 16 << 20

Progress = Callable[[int, int | None], None]


@dataclass(slots=True)
class Given:
    """What the user pointed at, by kind."""

    logs: LogReading = field(default_factory=LogReading)
    plans: list[LaunchPlan] = field(default_factory=list)
    reports: list[NodeReport] = field(default_factory=list)
    inputs: list[InputFile] = field(default_factory=list)
    dumps: list[RankDump] = field(default_factory=list)


def gather(
    paths: Sequence[str],
    base: Base,
    on_progress: Progress | None = None,
    *,
    refuse: bool = False,
    crowd: Sequence[Path] | None = None,
) -> Given:
    """Read everything below the paths and sort it by kind; `refuse` what plainly is no log of a launch."""
    total = total_bytes(paths)
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        if on_progress is not None:
            on_progress(done, total)

    given = Given()
    reader = build_reader(base, count)
    reader.begin(paths, crowd)
    opening = Opening(paths, wants_binary=looks_like_dump, known=reader.already)
    given.logs.skipped = opening.skipped
    for source in opening:
        if source.name in reader.already:
            _take(given, reader.read(source))
        elif looks_like_report(source.head):
            text = source.whole(MAX_BYTES)
            given.reports.append(read_report(source.name, text))
            given.inputs.append(InputFile(source.name, "report", len(text)))
        elif looks_like_dump(source.head):
            dump = read_flight_dump(source)
            given.dumps.append(dump)
            given.inputs.append(InputFile(source.name, "flight-recorder dump", dump.bytes))
        elif _is_plan(source.name, source.head):
            from diag.observe.plans import read_plan_text

            text = source.whole(MAX_PLAN)
            given.plans.append(read_plan_text(text.decode("utf-8", "replace"), source.name))
            given.inputs.append(InputFile(source.name, "plan", len(text)))
        else:
            head = source.head
            reading = reader.read(source)
            kind = stranger(source.name, head, reading) if refuse else None
            if kind is not None:
                opening.skipped.append(Skipped(source.name, f"is {kind}, not the log of a launch"))
                continue
            _take(given, reading)
    if not given.inputs:
        raise nothing_readable(paths, opening.skipped)
    if len(given.dumps) == len(given.inputs) and not any(dump.groups for dump in given.dumps):
        raise UserError(
            given.dumps[0].problem or "holds no call", where=given.dumps[0].source, code="nothing-readable"
        )
    return given


def _take(given: Given, reading: FileReading) -> None:
    given.logs.files.append(reading)
    given.inputs.append(InputFile(reading.name, "log", reading.bytes, reading.lines))


def _is_plan(name: str, head: bytes) -> bool:
    if not name.endswith((".yaml", ".yml", ".sh", ".bash", ".sbatch", ".slurm")):
        return False  # the plan readers are not even loaded for logs
    from diag.observe.plans import is_plan

    return is_plan(name, head)
