"""Whatever bytes, files and folders are handed in: an answer or one sentence, never a traceback, never without end."""

from __future__ import annotations

import gzip
import json
import os
import random
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diag.diagnose.pipeline import explain
from diag.observe.logs import opening
from diag.observe.logs.opening import Opening
from diag.system import UserError

ROOT = Path(__file__).parents[2]
BROKEN = b"work begins\nfrobnicator exited with code 7\n"
SEEDS = sorted((ROOT / "fixtures" / "logs").glob("*/log.txt"))[::9]


def outcome(path: Path) -> int:
    """The exit code; 2 only with one line to say."""
    try:
        return explain([str(path)]).exit_code
    except UserError as error:
        return 2 if "\n" not in str(error) else 70


def mutated(data: bytes, chooser: random.Random) -> bytes:
    """Bits, cuts, repeats and foreign bytes, as disks, pipes and editors leave them."""
    changed = bytearray(data[:40_000])
    for _ in range(chooser.randint(1, 30)):
        at = chooser.randrange(max(1, len(changed)))
        match chooser.randrange(5):
            case 0:
                changed[at : at + 1] = bytes([chooser.randrange(256)])
            case 1:
                del changed[at : at + chooser.randrange(200)]
            case 2:
                changed[at:at] = changed[at : at + chooser.randrange(400)] * chooser.randrange(4)
            case 3:
                changed[at:at] = chooser.choice(
                    [b"\0" * 9, b"\r", b"\x1b[31m", b'{"log":"', b"\xff\xfe", b"> ", b"&lt;", b"```\n", b'"']
                )
            case _:
                changed[at:at] = chooser.randbytes(chooser.randrange(60))
    return bytes(changed)


@given(seed=st.integers(0, 1 << 30), packed=st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_logs_get_an_answer_or_a_sentence(tmp_path: Path, seed: int, packed: bool) -> None:
    chooser = random.Random(seed)
    data = mutated(chooser.choice(SEEDS).read_bytes(), chooser)
    if packed:
        data = mutated(gzip.compress(data), chooser)
    path = tmp_path / "x.log"
    path.write_bytes(data)
    assert outcome(path) in (0, 1, 2, 3)


def fill(folder: Path) -> None:
    """Everything that may lie in a folder."""
    (folder / "broken-link.log").symlink_to(folder / "nowhere")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.log")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(folder / "s"))
    (folder / "empty.log").touch()
    (folder / "bad.gz").write_bytes(b"\x1f\x8b" + b"garbage" * 30)
    (folder / "bad.zip").write_bytes(b"PK\x03\x04" + b"garbage" * 30)
    (folder / "cut.tar").write_bytes(b"x" * 257 + b"ustar" + b"\xff" * 600)
    (folder / "program").write_bytes(b"\x7fELF" + bytes(range(32)) * 200)
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.log"))).write_bytes(b"loading\n")


def test_a_folder_of_odd_things_costs_only_these(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "rank0.log").write_bytes(BROKEN)

    report = explain([str(tmp_path)])

    assert 3 == report.exit_code
    why = {Path(gap.what).name: gap.reason for gap in report.gaps}
    assert {"pipe.log", "s", "empty.log", "bad.gz", "bad.zip", "cut.tar", "program"} == set(why)


@pytest.mark.parametrize(
    "name", ["broken-link.log", "s", "empty.log", "bad.gz", "bad.zip", "cut.tar", "program"]
)
def test_named_alone_each_is_one_sentence_and_code_2(tmp_path: Path, name: str) -> None:
    fill(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "diag.cli.main", "explain", str(tmp_path / name)],
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip

    assert 2 == done.returncode
    assert done.stderr.startswith("diag: ")
    assert 1 == done.stderr.count("\n")
    assert "" == done.stdout


def test_what_cannot_be_read_though_it_opens_is_one_sentence() -> None:
    with pytest.raises(UserError, match="cannot be read"):
        explain(["/proc/self/mem"])


def test_a_zip_reads_as_its_files(tmp_path: Path) -> None:
    path = tmp_path / "logs.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("job/rank0.log", BROKEN)
        archive.writestr("../rank1.log", b"")

    contents = {source.name: b"".join(source.blocks()) for source in Opening([str(path)])}

    assert {f"{path}!job/rank0.log": BROKEN} == contents
    assert 3 == explain([str(path)]).exit_code


def test_a_bomb_is_left_before_it_fills_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "SUSPICIOUS", 8 << 20)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(b"A" * (64 << 20)))

    [(read, problem)] = [(sum(map(len, one.blocks())), one.problem) for one in Opening([str(path)])]

    assert read <= 9 << 20
    assert "larger than anything a log can be" in problem


def test_one_endless_line_takes_no_memory_with_it(tmp_path: Path) -> None:
    """200 MB without a line's end, in every form that waits for one."""
    path = tmp_path / "line.log"
    for begin in (b"", b'{"log": "', b'timestamp,message\n1,"', b"> a\n> b\n> c\n> "):
        with path.open("wb") as file:
            file.write(begin)
            for _ in range(200):
                file.write(b"frobnicate the widget " * 47_662)
        program = (
            "import resource, sys\n"
            "from diag.diagnose.pipeline import explain\n"
            "from diag.system import UserError\n"
            "try:\n    explain([sys.argv[1]])\nexcept UserError: pass\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(path)],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
            cwd=ROOT,
        )
        assert int(done.stdout) < 450_000, begin


def test_reports_of_odd_shapes_are_sentences(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    for odd in (5, "x", {"a": 1}, [5, None, {"status": []}]):
        path.write_text(json.dumps({"schema": "diag.report/1", "findings": odd, "facts": odd}))
        assert outcome(path) in (0, 2, 3)
