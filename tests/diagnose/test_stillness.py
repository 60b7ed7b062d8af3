"""A log that says the same waiting sentence for ever is no healthy launch."""

from __future__ import annotations

from pathlib import Path

from diag.diagnose.pipeline import explain
from diag.model import Report, Verdict

START = "[2025-03-01 08:14:33] server_args=ServerArgs(model_path='m', tp_size=16, nnodes=2, node_rank=0)\n"


def report(folder: Path, text: str) -> Report:
    """What is said of the text as a log."""
    path = folder / "node0.log"
    path.write_text(START + text)
    return explain([str(path)])


def waits(times: int, apart_s: int, words: str = "Waiting for node 1 to join, attempt {}") -> str:
    """The sentence with its clock."""
    lines = []
    for number in range(times):
        second = 8 * 3600 + 900 + number * apart_s
        lines.append(
            f"[2025-03-01 {second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}] {words.format(number)}\n"
        )
    return "".join(lines)


def test_waiting_for_ever_is_an_open_question(tmp_path: Path) -> None:
    found = report(tmp_path, waits(20, 60))
    assert (found.verdict, found.exit_code) == (Verdict.UNKNOWN, 3)
    assert found.unexplained is not None
    told = found.unexplained.first_failures[0]
    assert "node0.log:21:" in told
    assert "20 times" in told
    assert "19 min" in told
    assert any("diag attach" in step for step in found.unexplained.next_steps)


def test_a_minute_of_waiting_is_none(tmp_path: Path) -> None:
    assert report(tmp_path, waits(12, 5)).verdict is Verdict.OK


def test_a_few_other_lines_change_nothing_and_many_do(tmp_path: Path) -> None:
    lines = waits(40, 60).splitlines(keepends=True)
    few = "".join([*lines[:20], "[2025-03-01 08:35:30] gc: freed 3 objects\n", *lines[20:]])
    assert report(tmp_path, few).verdict is Verdict.UNKNOWN
    many = "".join(
        line + f"[2025-03-01 08:35:30] shard {number} of 80 is read\n" for number, line in enumerate(lines)
    )
    assert report(tmp_path, many).verdict is Verdict.OK


def test_an_idle_server_is_not_stuck(tmp_path: Path) -> None:
    up = "[2025-03-01 08:14:50] The server is fired up and ready to roll!\n"
    assert report(tmp_path, up + waits(30, 60)).verdict is Verdict.OK
    assert report(tmp_path, waits(30, 60, "Waiting for new requests {}")).verdict is Verdict.OK


def test_who_soon_takes_another_way_is_not_stuck(tmp_path: Path) -> None:
    missing = "Error loading tokenizer 'm-30b': m-30b is not a local folder and is not a valid model identifier listed on 'https://huggingface.co/models'\n"
    goes_on = "Running test: pp=8192, tg=512, concurrency=5\n" * 12
    other = "Falling back to 'gpt2' tokenizer as approximation.\n"
    path = tmp_path / "bench.log"
    for text, expected in ((missing, ["model-path-missing"]), (missing + other + goes_on, [])):
        path.write_text("Benchmarking model: m-30b at http://localhost:8000/v1\n" + text)
        assert [one.id for one in explain([str(path)]).diagnoses] == expected
