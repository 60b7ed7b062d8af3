"""Logs to observations: one pass, everything that any playbook or the engine itself asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diag.model import InputFile
from diag.observe.logs import dumps, identity, lexicon, printed
from diag.observe.logs import facts as fact_table
from diag.observe.logs.filestate import TRACEBACK_BYTES, FileReading, FileState
from diag.observe.logs.forms import PlainLines
from diag.observe.logs.opening import Skipped, Source
from diag.observe.logs.printed import PRINTED
from diag.observe.logs.scanner import LinePattern, Scanner, stored_scanner
from diag.playbooks import literals as literals_module
from diag.playbooks.base import Base, mark, states
from diag.playbooks.literals import PatternError, required_literals, split_alternatives
from diag.system.lazy import lazily


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

    scanner: Scanner = field(repr=False)
    on_bytes: Callable[[int], None] | None = None
    already: dict[str, FileReading] = field(default_factory=dict)
    """What processes of our own have read."""

    def begin(self, paths: Sequence[str], playbook_dirs: Sequence[Path] | None) -> None:
        """Let several processes read what lies below the paths, if that pays; None: never."""
        if playbook_dirs is not None:
            from diag.observe.logs.crowd import read_crowd

            self.already = read_crowd(paths, self, playbook_dirs, self.on_bytes or (lambda _: None))

    def read(self, source: Source) -> FileReading:
        """Read one source to its end. Broken-off streams keep what came before and say so."""
        if source.name in self.already:
            return self.already.pop(source.name)
        state = FileState(self.scanner, source.name)
        carry = b""
        lines = PlainLines(source)
        for block, last in _with_last(lines.blocks()):
            if self.on_bytes:
                self.on_bytes(len(block))
            whole = carry + block if carry else block
            if b"\x1b" in whole:
                whole = _ANSI.sub(b"", whole)
            cut = len(whole) if last else _cut(whole)
            if cut:
                state.feed(whole[:cut])
            carry = whole[cut:]
        return lines.settle(state.finish(source))


def build_reader(base: Base, on_bytes: Callable[[int], None] | None = None) -> LogReader:
    """Compile everything that lines are searched for, or take it as it was compiled before."""
    modules = (lexicon, fact_table, identity, dumps, printed, literals_module)
    own = states(Path(str(module.__file__)) for module in modules)
    scanner = stored_scanner(base.cache, mark(f"{base.key}|{own}"), lambda: _all_patterns(base))
    return LogReader(scanner, on_bytes)


def _all_patterns(base: Base) -> list[LinePattern]:
    patterns = _internal_patterns()
    for one in base.signals():
        if one.kind == "log":
            patterns += [
                LinePattern(one.playbook, one.name, part, tuple(needed), one.few)
                for part, needed in zip(one.parts, one.literals, strict=True)
            ]
    return patterns


def _internal_patterns() -> list[LinePattern]:
    rows: list[tuple[str, str, str]] = []
    rows += [("@phase", f"{phase.value}/{edge}", expression) for phase, edge, expression in lexicon.PHASES]
    rows += [("@alive", str(number), expression) for number, expression in enumerate(lexicon.ALIVE)]
    rows += [("@dead", str(number), expression) for number, expression in enumerate(lexicon.DEAD)]
    rows += [("@failure", str(number), expression) for number, expression in enumerate(lexicon.FAILURE)]
    rows += [("@run", "start", expression) for expression in lexicon.RUN_STARTS]
    rows += [("@fact", f"{path}|{kind}", expression) for path, expression, kind in fact_table.FACTS]
    rows += [("@host", str(number), expression) for number, expression in enumerate(lexicon.HOSTS)]
    rows += [("@place", str(number), expression) for number, expression in enumerate(lexicon.PLACES)]
    rows += [("@who", kind, expression) for kind, expression in identity.ROWS]
    rows += [("@dump", tool, expression) for tool, expression in dumps.TRIGGERS]
    rows += [("@job", "ended", lexicon.JOB_ENDS)]
    rows += [("@detour", "taken", lexicon.DETOURS)]
    rows += [("@status", "asked", lexicon.STATUS)]
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
    except PatternError as error:  # our own table: a bug, caught by the first test
        raise ValueError(f"{expression!r}: {error}") from error


_ANSI = lazily(rb"\x1b\[[0-9;?]*[ -/]*[@-~]")


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
        return max(0, len(block) - 64) if len(block) > (1 << 20) else 0
    start = block.rfind(b"Traceback (most recent call last)", max(0, end - TRACEBACK_BYTES), end)
    if start > 0:
        line = block.rfind(b"\n", 0, start) + 1
        if line > 0:
            return line
    return end
