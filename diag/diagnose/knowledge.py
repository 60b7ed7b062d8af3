"""The base tested against itself: samples that must fire, look-alikes that must not, the clash matrix."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diag.diagnose.engine import diagnose
from diag.diagnose.evidence import prepare
from diag.diagnose.facts import flatten
from diag.diagnose.filling import placeholders
from diag.model import Diagnosis, Finding, Reason, Role, Status
from diag.observe.logs.opening import Source
from diag.observe.logs.reading import LogReader, build_reader
from diag.playbooks.base import Base, home, load_base, playbook_files
from diag.playbooks.schema import Playbook, Sample
from diag.system import UserError


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a playbook."""

    playbook: str
    what: str

    def __str__(self) -> str:
        return f"{self.playbook}: {self.what}"


def diagnose_text(
    base: Base, reader: LogReader, text: str, findings: Sequence[Finding] = ()
) -> tuple[Diagnosis, ...]:
    """Diagnose one piece of log text (and findings) with an already compiled reader."""
    readings = [reader.read(Source("sample", io.BytesIO(text.encode())))] if text else []
    facts, names = flatten(readings, findings, {})
    return diagnose(base, prepare(readings, findings, facts, names), guess=False)


def sample_findings(sample: Sample) -> list[Finding]:
    """The findings that a sample writes down."""
    found = []
    for raw in sample.findings:
        status = Status(raw.get("status", "fail"))
        data = {
            key: value for key, value in raw.items() if key not in ("probe", "status", "summary", "subject")
        }
        found.append(
            Finding(
                raw["probe"],
                raw.get("subject", ""),
                status,
                raw.get("summary", ""),
                None if status.measured else Reason.NOT_APPLICABLE,
                data,
            )
        )
    return found


def list_playbooks(playbook_dirs: Sequence[Path] = ()) -> list[Playbook]:
    """All playbooks, by layer and id."""
    return sorted(load_base(playbook_dirs).playbooks.values(), key=lambda one: (one.layer, one.id))


def show_playbook(identity: str, playbook_dirs: Sequence[Path] = ()) -> Playbook:
    """One playbook, samples included. UserError with near names for an unknown id."""
    import difflib

    base = load_base(playbook_dirs, samples=True)
    if identity not in base.playbooks:
        near = difflib.get_close_matches(identity, base.playbooks, 3, 0.5)
        raise UserError(
            f"no playbook is called {identity!r}",
            help="did you mean " + ", ".join(near) + "?" if near else "",
            code="no-such-playbook",
        )
    return base.playbooks[identity]


def lint_playbooks(path: Path | None = None, playbook_dirs: Sequence[Path] = ()) -> list[Problem]:
    """Everything wrong with the base, or with one file or folder of it. Problems of form come alone."""
    from diag.playbooks.load import load_playbook

    problems: list[Problem] = []
    files = playbook_files(home())
    for folder in playbook_dirs:
        files += playbook_files(folder)
    if path is not None:
        if not path.exists():
            raise UserError("does not exist", where=str(path), code="no-such-file")
        given = playbook_files(path) if path.is_dir() else [path]
        files += [one for one in given if one.resolve() not in {file.resolve() for file in files}]
    else:
        given = files
    loaded: dict[str, Playbook] = {}
    for file in files:
        try:
            playbook = load_playbook(file)
        except UserError as error:
            problems.append(Problem(file.stem, str(error)))
            continue
        if playbook.id in loaded:
            problems.append(Problem(playbook.id, f"{file} has the id of {loaded[playbook.id].source}"))
        loaded[playbook.id] = playbook
    base = Base(loaded)
    chosen = [loaded[file.stem] for file in given if file.stem in loaded]
    reader = build_reader(base)
    for playbook in chosen:
        problems += [
            Problem(playbook.id, what)
            for what in (*_form(playbook, loaded), *_samples(playbook, base, reader))
        ]
    return problems


def _form(playbook: Playbook, loaded: dict[str, Playbook]) -> list[str]:
    problems = []
    for name in (*playbook.explains, *(other for other, _ in playbook.looks_like), *playbook.hits):
        if name not in loaded:
            problems.append(f"names an unknown playbook {name!r}")
    if playbook.false_positives.lower() in ("none", "no"):
        problems.append(
            "false_positives: 'none' is no answer; say what could fool it, or 'unknown' or 'unlikely'"
        )
    used = {
        name
        for clause in playbook.when
        for group in (clause.all, clause.any, clause.none, clause.stalled, clause.sequence)
        for name in group
    }
    used |= {name for clause in playbook.when for pair in (*clause.unfinished,) for name in pair}
    used |= {
        pair[0]
        for clause in playbook.when
        for pair in (*clause.repeats, *clause.differs, *clause.same, *clause.conflicts, *clause.outlier)
    }
    used |= {name for signal in playbook.signals.values() for name in signal.cleared_by}
    problems += [
        f"signal {name!r} is used in no clause and captures nothing"
        for name, signal in playbook.signals.items()
        if name not in used and not any("(?P<" in pattern for pattern in signal.patterns)
    ]
    required, _ = placeholders(playbook.summary)
    if required:
        problems.append(
            "summary: put "
            + ", ".join(sorted(f"{{{name}}}" for name in required))
            + " inside [[...]] with the words around, in case it is unknown"
        )
    for number, fix in enumerate(playbook.fixes):
        texts = [fix.do, fix.command, fix.patch, *fix.settings.values()]
        open_names = {name for text in texts for name in placeholders(text)[0]} - set(fix.needs)
        if open_names:
            problems.append(
                f"fixes[{number}] uses {', '.join(sorted(open_names))}: list them under needs, or put them inside [[...]]"
            )
    return problems


def _samples(playbook: Playbook, base: Base, reader: LogReader) -> list[str]:
    problems: list[str] = []
    if not playbook.fires:
        problems.append("has no sample that fires")
    if not playbook.silent:
        problems.append("has no look-alike that must stay silent")
    for number, sample in enumerate(playbook.fires):
        found = diagnose_text(base, reader, sample.text, sample_findings(sample))
        ids = [one.id for one in found]
        if playbook.id not in ids:
            problems.append(
                f"samples.fires[{number}] does not fire it (found: {', '.join(ids) or 'nothing'})"
            )
        elif ids[0] != playbook.id:
            problems.append(f"samples.fires[{number}] is first explained as {ids[0]}")
        else:
            allowed = {*playbook.hits, *playbook.explains, playbook.id}
            extra = [one.id for one in found if one.role is not Role.ECHO and one.id not in allowed]
            if extra:
                problems.append(
                    f"samples.fires[{number}] also fires {', '.join(extra)} (declare under hits or explains, or sharpen)"
                )
    for number, sample in enumerate(playbook.silent):
        ids = [one.id for one in diagnose_text(base, reader, sample.text, sample_findings(sample))]
        if playbook.id in ids:
            problems.append(f"samples.silent[{number}] fires it")
    for number, sample in enumerate(playbook.blind):
        ids = [one.id for one in diagnose_text(base, reader, sample.text, sample_findings(sample))]
        if playbook.id in ids:
            problems.append(f"samples.blind[{number}] is no longer missed: move it to fires")
    problems += _unsampled(playbook)
    return problems


def _unsampled(playbook: Playbook) -> list[str]:
    import re

    from diag.observe.logs.heads import clean, parse_head

    texts = [
        clean(line)
        for sample in (*playbook.fires, *playbook.silent, *playbook.blind)
        for line in sample.text.splitlines()
    ]
    texts += [parse_head(line).text.strip() for line in texts]
    texts += [
        call
        for sample in (*playbook.fires, *playbook.silent, *playbook.blind)
        for finding in sample.findings
        for call in _calls(finding.get("frames"))
    ]
    return [
        f"signals.{signal.name}: no sample has a line for {pattern!r}"
        for signal in playbook.signals.values()
        if signal.kind in ("log", "exception", "stack")
        for pattern in signal.patterns
        if not any(re.search(pattern, line) for line in texts)
    ]


def _calls(frames: object) -> list[str]:
    return (
        [str(frame) for frame in frames]
        if isinstance(frames, (list, tuple))
        else str(frames or "").splitlines()
    )


def causes_table(playbook_dirs: Sequence[Path] = ()) -> str:
    """Every cause as a row of a Markdown table, by layer."""
    rows = ["| layer | id | the fault |", "| --- | --- | --- |"]
    rows += [f"| {one.layer} | {one.id} | {one.title} |" for one in list_playbooks(playbook_dirs)]
    return "\n".join(rows) + "\n"
