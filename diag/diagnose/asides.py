"""What a report says beside its findings, and how much there is to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from diag.diagnose.evidence import Evidence


def run_notes(evidence: Evidence) -> list[str]:
    """Which of several runs in a file was judged."""
    return [
        f"{item.reading.name} holds {item.other_runs + 1} runs; judged: lines {item.first_line} to "
        f"{item.last_line if item.last_line < 1 << 59 else item.reading.lines}"
        + (f"; {item.earlier_failed} earlier failed" if item.earlier_failed else "")
        + (f"; a later one works with {_setting(item.cured_by)}" if item.cured_by else "")
        for item in evidence.files
        if item.other_runs
    ]


def _setting(settings: Mapping[str, str]) -> str:
    return ", ".join(
        f"{name}={value}" if value and name[:1] != "-" else f"{name} {value}".strip()
        for name, value in settings.items()
    )


def total_bytes(paths: Sequence[str]) -> int | None:
    """How much lies below the paths; None where that cannot be told without reading."""
    total = 0
    for path in paths:
        place = Path(path)
        if path == "-" or not place.exists() or path.endswith((".gz", ".zst", ".tgz", ".tar")):
            return None
        if place.is_file():
            total += place.stat().st_size
        else:
            total += sum(one.stat().st_size for one in place.rglob("*") if one.is_file())
    return total
