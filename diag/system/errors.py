"""One form for everything that is said about bad input: what, where, why, help."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class UserError(Exception):
    """Wrong usage or unreadable input. The command line prints it as one sentence and exits 2."""

    what: str
    where: str = ""
    help: str = ""
    code: str = "bad-input"

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        tail = f" ({self.help})" if self.help else ""
        return f"{where}{self.what}{tail}"
