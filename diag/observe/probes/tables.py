"""The vendors' figures that judges compare with: JSON files in `data/`, each with its sources."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"


@cache
def table(name: str) -> dict[str, Any]:
    """The table `data/<name>.json`; raises OSError or ValueError if the package itself is damaged."""
    content: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text("utf-8"))
    return content


def version_key(version: str) -> tuple[int, ...]:
    """`550.90.07` as (550, 90, 7), for comparing; an unreadable part counts as 0."""
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))
