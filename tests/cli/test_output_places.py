"""-o onto something that is no plain file: it is written through, never replaced."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from diag.cli.output import write_private


def test_a_pipe_is_written_through_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()

    write_private(pipe, "hello")
    reader.join(timeout=10)

    assert got == ["hello"]
    assert pipe.is_fifo()


def test_a_link_keeps_pointing_where_it_did(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    link.symlink_to(real)

    write_private(link, "new")

    assert link.is_symlink()
    assert real.read_text() == "new"


def test_a_device_stays_a_device() -> None:
    before = Path("/dev/null").stat().st_rdev

    write_private(Path("/dev/null"), "nothing")

    assert Path("/dev/null").is_char_device()
    assert Path("/dev/null").stat().st_rdev == before


def test_a_plain_file_is_private(tmp_path: Path) -> None:
    target = tmp_path / "report.json"

    write_private(target, "x")

    assert target.stat().st_mode & 0o777 == 0o600
