"""A traceback is read whole, through heads, other ranks' lines and log collapsing."""

from __future__ import annotations

from diag.model import Phase
from diag.observe.logs.tracebacks import read_headless, read_traceback


def test_every_line_may_have_a_head() -> None:
    lines = [
        "(EngineCore_DP0 pid=1) ERROR 10-25 09:43:31 [core.py:708] Traceback (most recent call last):",
        '(EngineCore_DP0 pid=1) ERROR 10-25 09:43:31 [core.py:708]   File "/v/core.py", line 92, in _initialize_kv_caches',
        "(EngineCore_DP0 pid=1) ERROR 10-25 09:43:31 [core.py:708]     raise ValueError(",
        "(EngineCore_DP0 pid=1) ERROR 10-25 09:43:31 [core.py:708] ValueError: No available memory for the cache blocks.",
    ]

    found = read_traceback(lines)

    assert found is not None
    assert (found.type, found.message) == ("ValueError", "No available memory for the cache blocks.")
    assert found.phase is Phase.KV_CACHE


def test_other_ranks_lines_in_between_are_passed_over() -> None:
    lines = [
        "[rank1]: Traceback (most recent call last):",
        "[rank0]: ValueError: not mine",
        '[rank1]:   File "/srv/train.py", line 9, in main',
        "[rank0]: something else",
        "[rank1]: KeyError: 'labels'",
    ]

    found = read_traceback(lines)

    assert found is not None
    assert (found.type, found.head.rank, found.end) == ("KeyError", 1, 4)
    assert found.user_frame == ("/srv/train.py", 9, "main")


def test_a_collapsed_traceback_is_unfolded() -> None:
    line = r'ERROR Traceback (most recent call last):\n  File "/a/load_model.py", line 3, in load_model\n    x()\nOSError: gone'

    found = read_traceback([line])

    assert found is not None
    assert (found.type, found.message, found.phase) == ("OSError", "gone", Phase.WEIGHTS)


def test_an_unfinished_traceback_is_none() -> None:
    assert read_traceback(["Traceback (most recent call last):", '  File "/a.py", line 1, in f']) is None


def test_a_traceback_whose_top_was_cut_off_is_read_from_its_last_line() -> None:
    above = [
        "[rank1]: INFO loading",
        '[rank1]:   File "/v/vllm/worker/worker.py", line 92, in load_model',
        "[rank0]: something else",
        "[rank1]:     raise RuntimeError(",
    ]

    found = read_headless(above, "[rank1]: RuntimeError: boo")

    assert found is not None
    assert (found.type, found.message, found.head.rank) == ("RuntimeError", "boo", 1)
    assert found.frames == (("/v/vllm/worker/worker.py", 92, "load_model"),)
    assert found.phase is Phase.WEIGHTS


def test_an_error_line_without_frames_above_is_no_traceback() -> None:
    assert read_headless(["INFO loading", "INFO done"], "RuntimeError: boo") is None
    assert read_headless(['  File "a.py", line 1, in f', "INFO done"], "RuntimeError: boo") is None
