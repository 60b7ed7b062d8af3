"""Python tracebacks in a log: type, message, frames, even where every line has a head of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass

from diag.model import Phase
from diag.observe.logs.heads import Head, clean, parse_head
from diag.observe.logs.lexicon import FRAMES
from diag.system.lazy import lazily

MAX_LINES = 1500
_FRAME = lazily(r'\s*File "(?P<file>[^"]+)", line (?P<line>\d+)(?:, in (?P<function>.+))?')
_END = lazily(
    r"(?P<type>[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Warning|Timeout|Failure|Fault|Died|Killed|Group|Iteration)?)(?:: (?P<message>.*)|:?\s*)$"
)
_TYPE_LIKE = lazily(
    r"[\w.]*(?:Error|Exception|Interrupt|Exit|Timeout|Failure|Died|Killed|HTTPStatus|Abort|Warning|Group|StopIteration|StopAsyncIteration|AssertionError)\b|[a-z_]+(?:\.\w+)+$"
)
_HEADER = "Traceback (most recent call last)"
_LIBRARY = lazily(
    r"\.pyx$|/bin/[\w.-]+$|site-packages|dist-packages|/lib/python3|lib64/python3|<frozen|<string>|/opt/conda/|importlib"
)


@dataclass(frozen=True, slots=True)
class Traceback:
    """One exception. `begin`/`end` are offsets of lines from the first line given."""

    type: str
    message: str
    frames: tuple[tuple[str, int, str], ...]
    head: Head
    end: int
    phase: Phase | None

    @property
    def user_frame(self) -> tuple[str, int, str] | None:
        """The innermost frame that is not a library's, or None."""
        return next((frame for frame in reversed(self.frames) if not _LIBRARY.search(frame[0])), None)


def phase_of_frames(frames: list[tuple[str, int, str]] | tuple[tuple[str, int, str], ...]) -> Phase | None:
    """The phase that a stack tells, or None."""
    names = {frame[2] for frame in frames} | {
        frame[0].rsplit("/", 1)[-1].removesuffix(".py") for frame in frames
    }
    for phase, functions in FRAMES:
        if names & set(functions):
            return phase
    return None


def read_traceback(lines: list[str]) -> Traceback | None:
    """Read the traceback that begins in `lines[0]` (raw lines, heads included). None where it does not end.

    Lines of other ranks in between are passed over: a line belongs if its head names the same process.
    """
    first = parse_head(clean(lines[0]))
    if r"\n  File " in first.text:  # collapsed to one line
        return _collapsed(first)
    frames: list[tuple[str, int, str]] = []
    waiting_for_source = False
    signed = False  # every line of this traceback names its writer
    for offset, raw in enumerate(lines[1:MAX_LINES], 1):
        cleaned = clean(raw)
        head = parse_head(cleaned)
        if not _same_writer(first, head):
            continue
        text = head.text
        frame = _FRAME.match(text) or (_FRAME.search(cleaned) if 'File "' in cleaned else None)
        if frame:
            frames.append((frame["file"], int(frame["line"]), (frame["function"] or "").strip()))
            waiting_for_source = True
            signed = _signs(first) and _signs(head)
            continue
        if signed and not _signs(head):
            continue  # somebody else's line in between
        if not text.strip() or text[0] in " \t^~|+":
            waiting_for_source = False
            continue
        if _HEADER in text:
            if frames:
                return None
            continue
        found = _END.match(text.strip())
        if found and (found["message"] is not None or _TYPE_LIKE.match(found["type"])):
            return Traceback(
                found["type"],
                found["message"] or "",
                tuple(frames),
                head if head.rank is not None else first,
                offset,
                phase_of_frames(frames),
            )
        if frames and not waiting_for_source and not _looks_like_code(text):
            continue  # another writer's line without a head
        waiting_for_source = False
    return None


def read_headless(before: list[str], line: str) -> Traceback | None:
    """Read a traceback whose header was cut off: `line` is its last line, `before` are the lines above (raw).

    None where the lines right above are no frames. `end` is 0: the position of `line` itself.
    """
    first = parse_head(clean(line))
    found = _END.match(first.text.strip())
    if not found or found["message"] is None or not _TYPE_LIKE.match(found["type"]):
        return None
    frames: list[tuple[str, int, str]] = []
    for raw in reversed(before):
        head = parse_head(clean(raw))
        if not _same_writer(first, head):
            continue
        frame = _FRAME.match(head.text)
        if frame:
            frames.insert(0, (frame["file"], int(frame["line"]), (frame["function"] or "").strip()))
        elif head.text[:1] not in " \t^~" or _HEADER in head.text:
            break
    if not frames:
        return None
    return Traceback(found["type"], found["message"], tuple(frames), first, 0, phase_of_frames(frames))


def _signs(head: Head) -> bool:
    return head.rank is not None or head.pid is not None


def _same_writer(first: Head, head: Head) -> bool:
    if first.rank is not None and head.rank is not None and first.rank != head.rank:
        return False
    return not (first.pid is not None and head.pid is not None and first.pid != head.pid)


def _looks_like_code(text: str) -> bool:
    return bool(re.match(r"[\w.]+\s*[(=\[]|return |raise |await |for |if |with |from |import ", text))


def _collapsed(head: Head) -> Traceback | None:
    parts = head.text.split(r"\n")
    frames = []
    end = None
    for part in parts[1:]:
        frame = _FRAME.match(part)
        if frame:
            frames.append((frame["file"], int(frame["line"]), (frame["function"] or "").strip()))
        else:
            found = _END.match(part.strip().strip("\"'"))
            if found and not part.startswith(" "):
                end = found
    if end is None:
        return None
    return Traceback(end["type"], end["message"] or "", tuple(frames), head, 0, phase_of_frames(frames))
