"""What does not change the launch must not change the answer."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from diag.diagnose.engine import diagnose
from diag.diagnose.pipeline import evidence_of
from diag.observe.logs.reading import LogReader, build_reader
from diag.playbooks.base import Base, load_base

ROOT = Path(__file__).parents[2]
NOISE = [
    "FutureWarning: `clean_up_tokenization_spaces` was not set.",
    "WARNING 04-28 08:14:33 [fused_moe.py:882] Using default MoE config. Performance might be sub-optimal!",
    "提示：正在加载数据集，请稍候",
    "[W428 08:14:21.1 socket.cpp:204] [c10d] The hostname of the client socket cannot be retrieved. err=-3",
    "Setting OMP_NUM_THREADS environment variable for each process to be 1 in default",
]


def cases() -> list[Path]:
    found = sorted(path.parent for path in (ROOT / "fixtures" / "cases").rglob("case.yaml"))
    return found[:: max(1, len(found) // 40)]


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base()


@pytest.fixture(scope="module")
def reader(base: Base) -> LogReader:
    return build_reader(base)


def answer(base: Base, reader: LogReader, paths: list[Path]) -> str | None:
    found = diagnose(base, evidence_of([str(path) for path in paths], reader))
    return found[0].id if found else None


def logs_of(case: Path) -> list[Path]:
    return sorted(path for path in case.iterdir() if path.name != "case.yaml")


def rewrite(case: Path, folder: Path, change: Callable[[str], str]) -> list[Path]:
    paths = []
    for path in logs_of(case):
        target = folder / path.name
        target.write_text(
            change(path.read_text(encoding="utf-8", errors="replace")), encoding="utf-8", newline=""
        )
        paths.append(target)
    return paths


def with_noise(text: str) -> str:
    """Lines of a healthy launch in between, but not inside a traceback."""
    chooser = random.Random(7)
    lines = []
    for line in text.split("\n"):
        if (
            chooser.random() < 0.2
            and not line.startswith((" ", "\t"))
            and "  File " not in line
            and "rror" not in line
        ):
            lines.append(chooser.choice(NOISE))
        lines.append(line)
    return "\n".join(lines)


CHANGES: dict[str, Callable[[str], str]] = {
    "crlf": lambda text: text.replace("\n", "\r\n"),
    "ansi": lambda text: "\n".join(f"\x1b[33m{line}\x1b[0m" for line in text.split("\n")),
    "docker-prefix": lambda text: "\n".join(f"vllm-1  | {line}" for line in text.split("\n")),
    "kubectl-times": lambda text: "\n".join(
        f"2026-01-02T03:04:05.000000001Z {line}" for line in text.split("\n")
    ),
    "chinese-around": lambda text: "今天启动失败了，日志如下：\n" + text + "\n请问怎么解决？\n",
}


@pytest.mark.parametrize("change", sorted(CHANGES))
@pytest.mark.parametrize("case", cases(), ids=lambda path: path.name)
def test_the_answer_survives_another_form(
    case: Path, change: str, tmp_path: Path, base: Base, reader: LogReader
) -> None:
    expected = answer(base, reader, logs_of(case))

    assert expected == answer(base, reader, rewrite(case, tmp_path, CHANGES[change]))


@pytest.mark.parametrize("case", cases(), ids=lambda path: path.name)
def test_the_answer_survives_compression_and_order(
    case: Path, tmp_path: Path, base: Base, reader: LogReader
) -> None:
    expected = answer(base, reader, logs_of(case))
    packed = []
    for path in logs_of(case):
        target = tmp_path / f"{path.name}.gz"
        target.write_bytes(gzip.compress(path.read_bytes()))
        packed.append(target)

    assert expected == answer(base, reader, packed)
    assert expected == answer(base, reader, packed[::-1])


@pytest.mark.parametrize("case", cases(), ids=lambda path: path.name)
def test_the_answer_survives_noise(case: Path, tmp_path: Path, base: Base, reader: LogReader) -> None:
    expected = answer(base, reader, logs_of(case))

    assert expected == answer(base, reader, rewrite(case, tmp_path, with_noise))
