"""A program that says why it gives up and leaves with a number is its own cause."""

from __future__ import annotations

from pathlib import Path

import pytest

from diag.diagnose.engine import diagnose
from diag.diagnose.pipeline import evidence_of
from diag.observe.logs.reading import build_reader
from diag.playbooks.base import load_base

START = """\
[default1]:2026-12-01 00:26:21,009 | INFO | rank 1 | process group up (gloo)
[default1]:2026-12-01 00:26:32,475 | INFO | rank 1 | step 0/40 loss 5.7310
[default0]:2026-12-01 00:26:32,473 | INFO | rank 0 | step 0/40 loss 5.7357
[default1]:2026-12-01 00:26:32,475 | INFO | rank 1 | step 5/40 loss 5.7310
"""
WORDS = "[default1]:2026-12-01 00:26:32,671 | ERROR | rank 1 | shard 1 holds no samples, leaving\n"
PEER = """\
[default0]:[rank0]: Traceback (most recent call last):
[default0]:[rank0]:   File "/srv/train.py", line 68, in main
[default0]:[rank0]:     loss.backward()
[default0]:[rank0]: RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.42.0.11]:47499
"""
DEATH = """\
E1201 00:26:33.473000 71 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: {code}) local_rank: 1 (pid: 77) of binary: /opt/venv/bin/python
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
"""


def _causes(folder: Path, text: str) -> list[str]:
    (folder / "torchrun.log").write_text(text)
    base = load_base()
    return [one.id for one in diagnose(base, evidence_of([str(folder / "torchrun.log")], build_reader(base)))]


def test_own_words_before_a_plain_exit_name_the_program(tmp_path: Path) -> None:
    assert _causes(tmp_path, START + WORDS + PEER + DEATH.format(code=3))[:1] == ["application-error"]


def test_without_them_nobody_knows_what_ended_it(tmp_path: Path) -> None:
    assert _causes(tmp_path, START + PEER + DEATH.format(code=3))[:1] == ["worker-died"]


@pytest.mark.parametrize(
    "line",
    [
        "[default1]:2026-12-01 00:26:32,671 | WARNING | rank 1 | shard 1 is small\n",
        "[default1]:2026-12-01 00:26:32,671 | ERROR | rank 1 | Connection closed by peer 10.42.0.11\n",
    ],
)
def test_warnings_and_words_about_others_are_none(tmp_path: Path, line: str) -> None:
    assert "application-error" not in _causes(tmp_path, START + line + PEER + DEATH.format(code=3))


def test_who_goes_on_has_not_given_up(tmp_path: Path) -> None:
    later = "[default1]:2026-12-01 00:26:32,900 | INFO | rank 1 | step 10/40 loss 5.7310\n"
    assert "application-error" not in _causes(tmp_path, START + WORDS + later + PEER + DEATH.format(code=3))


def test_an_error_of_a_launch_that_works_accuses_nobody(tmp_path: Path) -> None:
    assert _causes(tmp_path, START + WORDS + START) == []
