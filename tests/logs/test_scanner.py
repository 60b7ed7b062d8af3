"""The scanner finds what the expressions find, whichever engine is there, in bounded work."""

from __future__ import annotations

import io

from hypothesis import given, settings
from hypothesis import strategies as st

from diag.observe.logs.opening import Source
from diag.observe.logs.reading import LogReader, build_reader
from diag.observe.logs.scanner import (
    MAX_HITS,
    MAX_LINE,
    MAX_SAMPLES,
    LinePattern,
    build_scanner,
    candidates,
    line_around,
)
from diag.playbooks.base import load_base
from diag.playbooks.literals import required_literals

WORDS = ["CUDA out of memory", "Connection refused", "NCCL WARN", "Xid", "ok", "loss: 1.0", "中文日志"]


def reader_with(engine: str) -> LogReader:
    reader = build_reader(load_base())
    if engine == "re":
        reader.scanner._database = None
    return reader


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=60))
def test_both_engines_see_the_same(words: list[str]) -> None:
    text = "\n".join(f"[rank{number % 4}]: {word}" for number, word in enumerate(words)).encode()

    seen = [
        [
            (one.name, one.origin.line)
            for one in reader_with(engine).read(Source("x", io.BytesIO(text))).observations
        ]
        for engine in ("hyperscan", "re")
    ]

    assert seen[0] == seen[1]


def test_a_string_that_occurs_a_million_times_costs_no_more_than_its_first_thousands() -> None:
    pattern = LinePattern("p", "s", "needle in", required_literals("needle in"))
    scanner = build_scanner([pattern])
    block = b"a needle in the hay\n" * 50_000

    lines = candidates(scanner, block, {})

    assert len(lines) <= MAX_HITS + MAX_SAMPLES + 2


def test_a_line_without_end_is_read_as_a_window() -> None:
    block = b"x" * 5_000_000 + b"needle" + b"y" * 5_000_000

    start, end = line_around(block, 5_000_000)

    assert end - start <= MAX_LINE
    assert b"needle" in block[start:end]


def test_segments_of_a_progress_bar_are_lines_of_their_own() -> None:
    block = b"10%|# \r20%|## \rRuntimeError: boo\n"
    start, end = line_around(block, block.index(b"Runtime"))

    assert b"RuntimeError: boo" == block[start:end]
