"""Text in wide encodings (PowerShell and Windows editors write UTF-16) as a stream of UTF-8."""

from __future__ import annotations

import codecs
import io
from typing import IO, Any

_CHUNK = 1 << 18


def wide_encoding(head: bytes) -> str | None:
    """UTF-32 or UTF-16 by its mark, or UTF-16 without one by the zero in every other byte; None for anything else."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    even, odd = head[0:4096:2], head[1:4096:2]
    if len(odd) < 8:
        return None
    if odd.count(0) > 0.7 * len(odd) and even.count(0) < 0.05 * len(even):
        return "utf-16-le"
    if even.count(0) > 0.7 * len(even) and odd.count(0) < 0.05 * len(odd):
        return "utf-16-be"
    return None


class Recoded(io.RawIOBase):
    """A stream in another encoding, read as UTF-8 piece by piece."""

    def __init__(self, head: bytes, stream: IO[bytes], encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._ready = self._decoder.decode(head).encode("utf-8", "replace")
        self._ended = False

    def readable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """UTF-8, as much as asked for if there is as much."""
        wanted = _CHUNK if size is None or size < 0 else size
        parts, have = [self._ready], len(self._ready)
        while not self._ended and (have < wanted or size is None or size < 0):
            raw = self._stream.read(_CHUNK)
            self._ended = not raw
            part = self._decoder.decode(raw, final=self._ended).encode("utf-8", "replace")
            parts.append(part)
            have += len(part)
        text = b"".join(parts)
        if size is None or size < 0:
            self._ready = b""
            return text
        self._ready = text[size:]
        return text[:size]

    def readinto(self, buffer: Any) -> int:
        """For readers that bring their own memory."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
