"""The figures in a sentence come from lines that the signal's own conditions let through."""

from __future__ import annotations

from pathlib import Path

from diag.diagnose.pipeline import explain

MISSING = "[1796077248.6] [gpu-a02:2129:0] ucp_context.c:1014 UCX  WARN  network device 'mlx5_0:1' is not available, please use one or more of: 'eth0'(tcp), 'lo'(tcp)\n"
UNREACHABLE = "[1796077248.7] [gpu-a01:2056:0] select.c:549  UCX  ERROR   no active messages transport to <no debug data>: {}\n"


def summary(tmp_path: Path, text: str) -> str:
    log = tmp_path / "log.txt"
    log.write_text(text)
    first = explain([str(log)]).diagnoses[0]
    assert first.id == "ucx-wrong-interface"
    return first.summary


def test_an_excluded_line_gives_no_figure(tmp_path: Path) -> None:
    ways = "tcp/lo - Destination is unreachable, tcp/eth0 - Destination is unreachable"
    told = summary(tmp_path, MISSING + UNREACHABLE.format(ways))

    assert "'mlx5_0:1'" in told
    assert "(lo)" not in told


def test_a_line_that_counts_gives_its_figure(tmp_path: Path) -> None:
    assert "(lo)" in summary(tmp_path, UNREACHABLE.format("tcp/lo - Destination is unreachable"))
