"""Regular expressions that are compiled when they are first used.

Compiling costs up to a millisecond each, and a command uses few of those that its modules hold.
"""

from __future__ import annotations

import re
from typing import Any, AnyStr, cast


class _Lazy:
    """Stands for a compiled expression; after its first use its methods are the expression's own."""

    def __init__(self, pattern: str | bytes, flags: int) -> None:
        self._source = (pattern, flags)

    def __getattr__(self, name: str) -> Any:
        made: Any = re.compile(*self._source)
        for method in ("search", "match", "fullmatch", "sub", "subn", "split", "findall", "finditer"):
            setattr(self, method, getattr(made, method))
        return getattr(made, name)


def lazily(pattern: AnyStr, flags: int = 0) -> re.Pattern[AnyStr]:
    """`re.compile` put off until a method of the expression is called. Errors of the pattern come then."""
    return cast("re.Pattern[AnyStr]", _Lazy(pattern, flags))
