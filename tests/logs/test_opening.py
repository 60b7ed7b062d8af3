"""Whatever is pointed at is read, or refused in one sentence."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest
import zstandard

from diag.observe.logs.opening import Opening
from diag.system import UserError

TEXT = b"[rank0]: RuntimeError: boo\nline two\n"


def read_all(path: Path) -> dict[str, bytes]:
    return {source.name.rsplit("/", 1)[-1]: b"".join(source.blocks()) for source in Opening([str(path)])}


def test_plain_gz_zst_and_tar_read_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(TEXT)
    (tmp_path / "a.log.gz").write_bytes(gzip.compress(TEXT))
    (tmp_path / "a.log.zst").write_bytes(zstandard.ZstdCompressor().compress(TEXT))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "a.log", "a.log")

    contents = list(read_all(tmp_path).values())

    assert [TEXT] * 4 == contents


def test_a_cut_gz_gives_what_came_before_and_says_so(tmp_path: Path) -> None:
    body = os.urandom(200_000).hex().encode()
    cut = gzip.compress(body)[:150_000]
    path = tmp_path / "cut.log.gz"
    path.write_bytes(cut)

    for source in Opening([str(path)]):
        content = b"".join(source.blocks())
        problem = source.problem

    assert body.startswith(content)
    assert len(content) > 100_000
    assert "breaks off" in problem


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.log", b"", "is empty"),
        ("program", b"\x7fELF" + bytes(range(32)) * 200, "binary"),
        ("bad.gz", b"\x1f\x8b" + b"garbage" * 30, "damaged"),
        ("cut.tar", b"x" * 257 + b"ustar" + b"\xff" * 600, "damaged"),
    ],
)
def test_what_is_no_log_is_refused_in_one_sentence(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(UserError, match=words):
        read_all(path)


def test_links_and_devices_in_archives_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"do not read")
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("../../link.log")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link)
        info = tarfile.TarInfo("../../../outside.log")
        info.size = len(TEXT)
        archive.addfile(info, io.BytesIO(TEXT))

    contents = read_all(path)

    assert {"outside.log": TEXT} == contents
    assert not (tmp_path.parent / "outside.log").exists()


def test_utf16_from_windows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "win.log"
    path.write_bytes(TEXT.decode().encode("utf-16"))

    assert TEXT == read_all(path)["win.log"]


def test_an_empty_rank_file_among_others_is_a_gap(tmp_path: Path) -> None:
    (tmp_path / "rank0.log").write_bytes(TEXT)
    (tmp_path / "rank1.log").write_bytes(b"")
    opening = Opening([str(tmp_path)])

    names = [source.name for source in opening]

    assert 1 == len(names)
    assert ["is empty"] == [one.why for one in opening.skipped]
