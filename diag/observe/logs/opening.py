"""Whatever the user points at, as named streams of byte blocks: files, folders, archives, standard input.

Nothing is unpacked to disk, links in archives and folders are not followed, sizes are bounded.
"""

from __future__ import annotations

import io
import os
import sys
import zlib
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from diag.observe.logs.encodings import Recoded, wide_encoding
from diag.system import UserError

BLOCK = 1 << 20
SNIFF = 8192
MAX_MEMBERS = 20_000
MAX_EXPANSION = 64 << 30
"""Bytes that one compressed input may grow to before it counts as hostile."""

SUSPICIOUS, MAX_RATIO = 2 << 30, 500
"""Beyond so many bytes, a compressed input that grew more than so many times is a bomb: logs shrink ten- to hundredfold."""

_GZIP, _ZSTD, _ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"


@dataclass(slots=True)
class Source:
    """One thing to read. `head` are its first bytes, `size` what the progress bar counts (None: unknown)."""

    name: str
    stream: IO[bytes]
    head: bytes = b""
    size: int | None = None
    read_bytes: int = 0
    problem: str = ""
    """Set where the stream broke off (cut gz); what was read before counts."""
    packed: Callable[[], int] | None = None
    """How many compressed bytes were read so far."""

    def blocks(self) -> Iterator[bytes]:
        """The content from the start, in blocks of about `BLOCK` bytes."""
        pending = self.head
        self.head = b""
        while True:
            try:
                block = self.stream.read(BLOCK)
            except (EOFError, zlib.error, OSError, _zstd_error()) as error:
                self.problem = f"breaks off: {error}"
                block = b""
            self.read_bytes += len(block) + len(pending)
            if self.read_bytes > MAX_EXPANSION or self._is_bomb():
                self.problem = "is larger than anything a log can be; the rest was not read"
                return
            if pending or block:
                yield pending + block
            pending = b""
            if not block:
                return

    def whole(self, limit: int) -> bytes:
        """Everything, or a little more than `limit` bytes of it."""
        parts, size = [], 0
        for block in self.blocks():
            parts.append(block)
            size += len(block)
            if size > limit:
                break
        return b"".join(parts)

    def _is_bomb(self) -> bool:
        return (
            self.packed is not None
            and self.read_bytes > SUSPICIOUS
            and self.read_bytes > MAX_RATIO * self.packed()
        )


@dataclass(slots=True)
class Skipped:
    """Something below a folder or in an archive that is no log."""

    name: str
    why: str


@dataclass(slots=True)
class Opening:
    """Iterates over the sources of the given paths; what was left out is in `skipped` afterwards."""

    paths: Sequence[str]
    skipped: list[Skipped] = field(default_factory=list)
    wants_binary: Callable[[bytes], bool] | None = None
    """Says of a binary file's first bytes whether somebody reads it all the same (flight-recorder dumps)."""
    known: Container[str] = ()
    """Names below folders that were read already: told in their turn, not opened."""

    def __iter__(self) -> Iterator[Source]:
        for path in self.paths:
            if path == "-":
                yield from self._stream("-", sys.stdin.buffer, None, named=True)
                continue
            place = Path(path)
            if not place.exists():
                raise UserError("does not exist", where=path, code="no-such-file")
            if place.is_dir():
                yield from self._folder(place)
            else:
                yield from self._file(place, named=True)

    def _folder(self, folder: Path) -> Iterator[Source]:
        found = (f"{base}/{name}" for base, _, files in os.walk(folder, followlinks=False) for name in files)
        names = sorted(name for name in found if name in self.known or not Path(name).is_symlink())
        if not names:
            raise UserError("is an empty folder", where=str(folder), code="empty")
        for name in names[:MAX_MEMBERS]:
            if name in self.known:
                yield Source(name, io.BytesIO())
            else:
                yield from self._file(Path(name), named=False)

    def _file(self, path: Path, *, named: bool) -> Iterator[Source]:
        try:
            if not path.is_file() and not (named and path.is_fifo()):  # nobody may ever write into a pipe
                if named:
                    raise UserError("is not a file", where=str(path), code="not-a-file")
                self.skipped.append(Skipped(str(path), "is not a file"))
                return
            size = path.stat().st_size
            stream = path.open("rb")
            head = _first_bytes(stream)
        except OSError as error:
            if named:
                raise UserError(
                    f"cannot be read: {error.strerror}", where=str(path), code="unreadable"
                ) from None
            self.skipped.append(Skipped(str(path), f"cannot be read: {error.strerror}"))
            return
        with stream:
            if head.startswith(_ZIP) and stream.seekable():
                yield from self._zip(str(path), stream, named)
            else:
                joined = cast(IO[bytes], _Rejoined(head, stream))
                yield from self._stream(str(path), joined, size, named=named)

    def _stream(
        self,
        name: str,
        stream: IO[bytes],
        size: int | None,
        *,
        named: bool,
        depth: int = 0,
        packed: Callable[[], int] | None = None,
    ) -> Iterator[Source]:
        head = stream.read(SNIFF)
        if not head:
            if named and len(self.paths) == 1:
                raise UserError("is empty", where=_label(name), code="empty")
            self.skipped.append(
                Skipped(name, "is empty")
            )  # a rank that printed nothing is a gap, not an error
            return
        if depth < 2 and head.startswith((_GZIP, _ZSTD)):
            yield from self._compressed(name, head, stream, named=named, depth=depth)
            return
        if _is_tar(head):
            yield from self._archive(name, cast(IO[bytes], _Rejoined(head, stream)), named, packed)
            return
        wide = wide_encoding(head)
        if wide:
            stream = cast(IO[bytes], Recoded(head, stream, wide))
            head = stream.read(SNIFF)
            if _is_binary(head):
                self._not_text(name, named)
                return
        elif _is_binary(head) and not (self.wants_binary is not None and self.wants_binary(head)):
            self._not_text(name, named)
            return
        yield Source(name, stream, head, size, packed=packed)

    def _compressed(
        self, name: str, head: bytes, stream: IO[bytes], *, named: bool, depth: int
    ) -> Iterator[Source]:
        rejoined = _Rejoined(head, stream)
        joined = cast(IO[bytes], rejoined)
        opened: Any
        if head.startswith(_GZIP):
            import gzip

            opened = gzip.GzipFile(fileobj=joined)
        else:
            import zstandard

            opened = zstandard.ZstdDecompressor().stream_reader(joined, read_across_frames=True)
        try:
            yield from self._stream(
                name,
                cast(IO[bytes], _Unfailing(opened)),
                None,
                named=named,
                depth=depth + 1,
                packed=lambda: rejoined.given,
            )
        except (EOFError, zlib.error, OSError, _zstd_error()) as error:
            self._damaged(name, f"is damaged: {error}", named)

    def _zip(self, name: str, stream: IO[bytes], named: bool) -> Iterator[Source]:
        import zipfile

        try:
            with zipfile.ZipFile(stream) as archive:
                for member in archive.infolist()[:MAX_MEMBERS]:
                    if member.is_dir():
                        continue
                    with archive.open(member) as content:
                        packed = max(1, member.compress_size)
                        yield from self._stream(
                            f"{name}!{member.filename}",
                            content,
                            None,
                            named=False,
                            depth=1,
                            packed=partial(int, packed),
                        )
        except (zipfile.BadZipFile, EOFError, zlib.error, OSError, RuntimeError, ValueError) as error:
            self._damaged(name, f"is a damaged archive: {error}", named)

    def _archive(
        self, name: str, stream: IO[bytes], named: bool, packed: Callable[[], int] | None = None
    ) -> Iterator[Source]:
        import tarfile

        try:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for count, member in enumerate(archive):
                    if count > MAX_MEMBERS:
                        self.skipped.append(
                            Skipped(name, f"holds more than {MAX_MEMBERS} files; the rest was not read")
                        )
                        return
                    if not member.isfile():
                        continue  # links and devices are never followed
                    content = archive.extractfile(member)
                    if content is not None:
                        yield from self._stream(
                            f"{name}!{member.name}", content, None, named=False, depth=1, packed=packed
                        )
        except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, _zstd_error()) as error:
            self._damaged(name, f"is a damaged archive: {error}", named)

    def _damaged(self, name: str, why: str, named: bool) -> None:
        """One bad file beside others costs only itself."""
        if named and len(self.paths) == 1:
            raise UserError(why, where=_label(name), code="damaged") from None
        self.skipped.append(Skipped(name, why))

    def _not_text(self, name: str, named: bool) -> None:
        if named:
            raise UserError(
                "is binary, not a log",
                where=_label(name),
                code="binary",
                help="diag reads text, .gz, .zst, .tar, .zip and its own JSON reports",
            )
        self.skipped.append(Skipped(name, "is binary"))


def nothing_readable(paths: Sequence[str], skipped: Sequence[Skipped]) -> UserError:
    """One sentence for paths of which nothing could be used."""
    one = skipped[0] if skipped else None
    if one is not None and len(skipped) == 1 and list(paths) == [one.name]:
        return UserError(one.why, where=_label(one.name), code="nothing-readable")
    why = (
        f" ({one.name} {one.why}{f', and {len(skipped) - 1} more' if len(skipped) > 1 else ''})"
        if one
        else ""
    )
    return UserError(
        f"holds nothing that could be read{why}", where=", ".join(paths[:5]), code="nothing-readable"
    )


class _Rejoined(io.RawIOBase):
    """A stream with its first bytes put back (standard input cannot seek)."""

    def __init__(self, head: bytes, stream: IO[bytes]) -> None:
        self._head = head
        self._stream = stream
        self.given = 0
        """Bytes handed out so far."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            data, self._head = self._head + self._stream.read(), b""
        elif self._head:
            data, self._head = self._head[:size], self._head[size:]
            if len(data) < size:
                data += self._stream.read(size - len(data))
        else:
            data = self._stream.read(size)
        self.given += len(data)
        return data


class _Unfailing(io.RawIOBase):
    """A decompressor that gives what it could decode of a cut file, then the error."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._error: Exception | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if self._error is not None:
            raise self._error
        wanted = BLOCK if size is None or size < 0 else size
        parts: list[bytes] = []
        have = 0
        while have < wanted:
            try:
                part = self._stream.read(min(wanted - have, 1 << 16))
            except (EOFError, zlib.error, OSError, _zstd_error()) as error:
                self._error = error
                if not parts:
                    raise
                break
            if not part:
                break
            parts.append(part)
            have += len(part)
        return b"".join(parts)


def _first_bytes(stream: IO[bytes]) -> bytes:
    try:
        return stream.read(SNIFF)
    except OSError:
        stream.close()
        raise


def _zstd_error() -> type[Exception]:
    module = sys.modules.get("zstandard")
    error: type[Exception] = module.ZstdError if module is not None else EOFError
    return error


def _is_binary(head: bytes) -> bool:
    """A crash may leave a few NUL bytes in a log, cutting it while it is written many at its start; programs are full of them."""
    head = head.lstrip(b"\0") or head
    return len(head) - len(head.translate(None, _STRANGE)) > max(8, len(head) // 50)


_STRANGE = bytes(code for code in range(32) if code not in (7, 8, 9, 10, 12, 13, 27))


def _is_tar(head: bytes) -> bool:
    return len(head) > 262 and head[257:262] == b"ustar"


def _label(name: str) -> str:
    return "standard input" if name == "-" else name
