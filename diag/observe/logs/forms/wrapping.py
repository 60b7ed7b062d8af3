"""Logs copied from a terminal or folded by a program: lines end where the window ended."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

from diag.observe.logs.forms.interface import FRESH, Form
from diag.system.lazy import lazily

SAMPLE = 16 << 10
NARROWEST, WIDEST = 40, 400
MAX_PIECES = 400
LEAST_JOINTS = 3
"""Joints that a sample must show before anything is joined."""
USUAL = (80, 100, 120, 132, 160)
"""Widths of windows: at these a single joint tells, if a word goes on at the first column."""
LONGEST_WORD = 60
PROBES = 24
"""Full lines whose followers are looked at before a whole sample is weighed."""

_FENCE = lazily(rb"(?m)^\s{0,6}(?:```|~~~)")
_SAME_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_DRAWN = ("|", "│", "┃", "║", "+", "╮", "╯", "┐", "┘", "┤", "╣")


class Wrapped(Form):
    """Joins the pieces of a line; empty lines take the places of the pieces, so that line numbers stay."""

    def __init__(self, columns: int, *, at_words: bool) -> None:
        super().__init__()
        self._columns = columns
        self._at_words = at_words
        self._pieces: list[bytes] = []

    def feed(self, block: bytes, *, last: bool) -> bytes:
        """Join what belongs together."""
        ended = block.endswith(b"\n")
        lines = block.split(b"\n")
        if ended or not block:
            lines.pop()
        out: list[bytes] = []
        for line in lines:
            if self._pieces and (
                _is_new(self._pieces[-1], line)
                or len(self._pieces) > MAX_PIECES
                or (
                    self._at_words
                    and _folded(self._pieces[-1])
                    and not _overflows(self._pieces[-1], line, self._columns)
                )
            ):
                self._flush(out)
            self._pieces.append(line)
            if not self._goes_on(line):
                self._flush(out)
        if last:
            self._flush(out)
        return b"\n".join(out) + b"\n" if out else b""

    def _goes_on(self, line: bytes) -> bool:
        return (self._at_words and _folded(line)) or _fills(line, self._columns)

    def _flush(self, out: list[bytes]) -> None:
        if self._pieces:
            out.append(b"".join(piece.rstrip(b"\r") for piece in self._pieces))
            out.extend([b""] * (len(self._pieces) - 1))
            self._pieces = []

    def again(self) -> Wrapped:
        """The same width."""
        return Wrapped(self._columns, at_words=self._at_words)


def recognise_wrapped(sample: bytes) -> Form | None:
    """Many lines of exactly the greatest width, most of them cut within a word; or all cut before a word too long."""
    lines = _lines(sample)
    begin = sample[:SAMPLE]
    lengths = list(map(len, lines))
    if max(lengths, default=0) > 4 * WIDEST:
        return None
    if not begin.isascii():
        widths = list(map(_columns, lines))
    elif b"\r" in begin:
        widths = [length - line.endswith(b"\r") for length, line in zip(lengths, lines, strict=True)]
    else:
        widths = lengths
    widest = max(widths, default=0)
    if not NARROWEST <= widest <= WIDEST:
        return None
    folds = b" \n" in begin or b" \r\n" in begin
    if _is_table(widths, widest):  # most logs: said before anything is looked at line by line
        return _recognise_folded(list(pairwise(lines)), widest) if folds else None
    probes = [number for number, width in enumerate(widths[:-1]) if width == widest][:PROBES]
    pairs = list(pairwise(lines))
    if all(_is_new(*pairs[number]) for number in probes):  # the next line is a new one: nothing goes on
        return _recognise_folded(pairs, widest) if folds else None
    full = [width == widest and _is_text(line) for line, width in zip(lines, widths, strict=True)]
    joints = [pair for pair, is_full in zip(pairs, full, strict=False) if is_full and pair[1].strip()]
    begins = {_begin(after) for (_, after), is_full in zip(pairs, full, strict=False) if not is_full}
    if joints:
        telling = sum(_cut_within(*pair) for pair in joints)
        usual = widest in USUAL and 2 * telling >= len(joints)
        if _go_on(joints, begins, 1 if usual else LEAST_JOINTS):
            at_words = sum(_folded(line) and len(line) < widest for line in lines) > len(joints)
            folded = _recognise_folded(pairs, widest) if at_words else None
            return folded or Wrapped(widest, at_words=False)
    return _recognise_folded(pairs, widest) if folds else None


def _is_new(line: bytes, after: bytes) -> bool:
    """True if the second line begins anew: with a head, and not with the level that NCCL writes after its name."""
    return FRESH.match(after) is not None and not line.rstrip(b"\r").endswith(b"NCCL ")


def _go_on(joints: list[tuple[bytes, bytes]], begins: set[bytes], least: int) -> bool:
    """True if what follows full lines begins as no line does, and mostly within a word."""
    going_on = [
        (line, after) for line, after in joints if not _is_new(line, after) and _begin(after) != _begin(line)
    ]
    cut = sum(not line.rstrip(b"\r")[-1:].isspace() and not after[:1].isspace() for line, after in going_on)
    odd = [_begin(after) for _, after in going_on if _begin(after) not in begins]
    return len(set(odd)) >= least and len(odd) >= 0.6 * len(joints) and cut >= 0.5 * len(going_on)


def _cut_within(line: bytes, after: bytes) -> bool:
    """A word, path or sentence that goes on at the very first column, or a space that the cut left there."""
    last, first = line.rstrip(b"\r")[-1:], after[:1]
    if last.isspace() or (first == b" " and not after.startswith(b"  ")):
        return after.strip()[:1].islower() or after.strip()[:1].isdigit()
    return last not in b".:;!?" and (first.islower() or first.isdigit() or first in b"/._-,:)]}'\"=")


def _begin(line: bytes) -> bytes:
    return line[:4].translate(_SAME_DIGITS)


def _recognise_folded(pairs: list[tuple[bytes, bytes]], widest: int) -> Form | None:
    """Lines end with the one space before the word that no longer fitted."""
    ends = [pair for pair in pairs if _folded(pair[0])]
    if sum(_columns(line) == widest for line, _ in ends) > 0.5 * len(ends):
        return None  # the window's end, and only by chance a space
    going_on = [
        (line, after)
        for line, after in ends
        if not _is_new(line, after) and _overflows(line, after, widest) and len(line) > widest - LONGEST_WORD
    ]
    if len(going_on) >= LEAST_JOINTS and len(going_on) >= 0.8 * len(ends):
        return Wrapped(widest, at_words=True)
    if going_on and len(going_on) == len(ends) and 70 <= widest <= 140:
        return Wrapped(widest, at_words=True) if all(_cut_within(*pair) for pair in ends) else None
    return None


def _lines(sample: bytes) -> list[bytes]:
    """The lines to measure: those between fences where there are any."""
    text = sample[:SAMPLE]
    if b"```" in text or b"~~~" in text:
        inside = _FENCE.split(text)[1::2]
        if inside:
            text = b"\n".join(part.partition(b"\n")[2] for part in inside)
    lines = text.split(b"\n")
    if len(sample) > SAMPLE:
        lines.pop()
    return lines


def _columns(line: bytes) -> int:
    line = line.rstrip(b"\r")
    if line.isascii():
        return len(line)
    text = line.decode("utf-8", "replace")
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def _fills(line: bytes, columns: int) -> bool:
    if len(line) < columns:
        return False
    return _columns(line) in (columns, columns - 1 if not line.isascii() else columns) and _is_text(line)


def _is_text(line: bytes) -> bool:
    """No rule of one character, no row of a drawn table."""
    text = line.strip()
    if len(set(text)) <= 2:
        return False
    return not text.decode("utf-8", "replace").startswith(_DRAWN) or not text.decode(
        "utf-8", "replace"
    ).endswith(_DRAWN)


def _is_table(widths: list[int], widest: int) -> bool:
    """Nearly every line that is not short has the same width."""
    return widths.count(widest) > 0.9 * (len(widths) - widths.count(0))


def _folded(line: bytes) -> bool:
    line = line.rstrip(b"\r")
    return line.endswith(b" ") and not line.endswith(b"  ") and len(line) > NARROWEST


def _overflows(line: bytes, after: bytes, widest: int) -> bool:
    words = after.split(None, 1)
    return (
        bool(words) and _columns(line) + len(words[0].decode("utf-8", "replace")) + (len(words) > 1) > widest
    )
