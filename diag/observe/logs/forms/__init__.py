"""Forms in which people hand a log in: quoted, indented, wrapped, escaped, as records of a logging service.

A form is recognised in the first block and undone block by block before anything reads the lines. What is not
recognised costs a few searches in that block and passes untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from diag.observe.logs.filestate import FileReading
from diag.observe.logs.forms.interface import Form
from diag.observe.logs.forms.margins import recognise_indented, recognise_quoted
from diag.observe.logs.forms.markup import recognise_markup
from diag.observe.logs.forms.records import recognise_document, recognise_json_lines
from diag.observe.logs.forms.tables import recognise_table
from diag.observe.logs.forms.wrapping import recognise_wrapped
from diag.observe.logs.opening import Source

__all__ = ["Form", "PlainLines"]

MAX_NESTING = 4
MAX_UNBROKEN = 32 << 20
"""Bytes without a line's end after which a block is passed on as it is."""

_RECOGNISERS: tuple[Callable[[bytes], Form | None], ...] = (
    recognise_document,
    recognise_table,
    recognise_quoted,
    recognise_indented,
    recognise_wrapped,
    recognise_json_lines,
    recognise_markup,
)


class PlainLines:
    """The blocks of a source with its forms undone, and the way back to the source's line numbers."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.forms: list[Form] = []

    def blocks(self) -> Iterator[bytes]:
        """The content, in blocks of about the source's size; whole lines where a form was undone."""
        blocks = self._source.blocks()
        first = next(blocks, b"")
        self.forms = recognise(first)
        if not self.forms:
            if first:
                yield first
            yield from blocks
            return
        carry = b""
        for block in _chained(first, blocks):
            whole = carry + block
            cut = whole.rfind(b"\n") + 1
            if cut == 0 and len(whole) > MAX_UNBROKEN:
                cut = len(whole)
            carry = whole[cut:]
            plain = self._undo(whole[:cut], last=False) if cut else b""
            if plain:
                yield plain
        rest = self._undo(carry, last=True)
        if rest:
            yield rest

    def _undo(self, lines: bytes, *, last: bool) -> bytes:
        for form in self.forms:
            lines = form.feed(lines, last=last)
        return lines

    def settle(self, reading: FileReading) -> FileReading:
        """Give every observation the number of its line in the source; order and counts stay those of the undone lines."""
        if not self.forms:
            return reading
        reading.observations = [
            replace(one, origin=replace(one.origin, line=self._line(one.origin.line)))
            for one in reading.observations
        ]
        reading.printed = [replace(one, line=self._line(one.line) or one.line) for one in reading.printed]
        reading.bytes = self._source.read_bytes
        return reading

    def _line(self, line: int | None) -> int | None:
        if line is None:
            return None
        for form in reversed(self.forms):
            line = form.lines.source(line)
        return line


def recognise(first: bytes) -> list[Form]:
    """The forms that the first block is in, the outermost first."""
    forms: list[Form] = []
    sample = first
    while len(forms) < MAX_NESTING:
        form = next((found for look in _RECOGNISERS if (found := look(sample)) is not None), None)
        if form is None:
            break
        forms.append(form)
        sample = form.again().feed(sample, last=True)
    return forms


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest
