"""Files that several runs were appended to, where nothing but what is printed tells that another began."""

from __future__ import annotations

from pathlib import Path

from diag.diagnose.engine import diagnose
from diag.diagnose.pipeline import evidence_of
from diag.observe.logs.reading import build_reader
from diag.playbooks.base import load_base

USAGE = "usage: main.py [-h] [--lr LR]\nmain.py: error: unrecognized arguments: --optimizer adam\n"
CRASH = """\
Traceback (most recent call last):
  File "/srv/app/train.py", line 8, in <module>
    loss.backward()
torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 4.82 GiB (GPU 0; 31.73 GiB total capacity; 22.78 GiB already allocated; 2.92 GiB free; 27.65 GiB reserved in total by PyTorch)
"""
WORK = "wrote relatives of mp-{0} into graph {0}\n"


def _causes(folder: Path, text: str) -> list[str]:
    (folder / "nohup.out").write_text(text)
    base = load_base()
    return [one.id for one in diagnose(base, evidence_of([str(folder / "nohup.out")], build_reader(base)))]


def test_much_that_is_printed_after_a_refused_command_line_is_another_run(tmp_path: Path) -> None:
    assert _causes(tmp_path, USAGE) == ["invalid-launch-argument"]
    assert _causes(tmp_path, USAGE + "".join(map(WORK.format, range(150)))) == []


def test_a_little_is_not(tmp_path: Path) -> None:
    assert _causes(tmp_path, CRASH + "".join(map(WORK.format, range(20))))[:1] == ["gpu-oom-runtime"]


def test_several_ranks_go_on_for_a_while_after_one_died(tmp_path: Path) -> None:
    ranks = "".join(f"[rank{number % 4}]: waiting in step {number}\n" for number in range(150))
    crash = "".join(f"[rank3]: {line}\n" for line in CRASH.splitlines())
    assert _causes(tmp_path, crash + ranks)[:1] == ["gpu-oom-runtime"]


def test_life_after_the_last_failure_is_kept_however_long_the_file(tmp_path: Path) -> None:
    steps = "".join(f"iters: {number}, epoch: 1 | loss: 0.{number}\n" for number in range(1000))
    again = "".join(f"iters: {number}, epoch: 1 | loss: 0.{number}\n" for number in range(60))
    assert _causes(tmp_path, steps + CRASH + again) == []
    assert _causes(tmp_path, CRASH + steps + CRASH)[:1] == ["gpu-oom-runtime"]


def test_losses_that_are_printed_as_text_are_steps(tmp_path: Path) -> None:
    warns = (
        "/v/lib/python3.11/site-packages/peft/utils/other.py:1419: UserWarning: Unable to fetch remote file due to "
        "[Errno -3] Temporary failure in name resolution\n"
    )
    steps = "".join(
        f"{{'loss': '0.9{number}', 'grad_norm': '0.3', 'epoch': '1.{number}'}}\n" for number in range(5)
    )
    assert _causes(tmp_path, warns + steps) == []
