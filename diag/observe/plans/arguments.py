"""placeholder"""

from __future__ import annotations

from typing import Any


def service_of_words(argv: Any, env: Any, source: str, line: int | None) -> Any:
    return None
