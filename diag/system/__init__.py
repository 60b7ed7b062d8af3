"""The only doors to the outside: commands with deadlines, files below a swappable root, errors for the user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diag.system.errors import UserError

if TYPE_CHECKING:
    from diag.system.commands import Outcome, run_command
    from diag.system.files import Root

__all__ = ["Outcome", "Root", "UserError", "run_command"]


def __getattr__(name: str) -> Any:
    """Import what runs commands when it is asked for: reading a log needs none of it."""
    if name in ("Outcome", "run_command"):
        from diag.system import commands  # noqa: PLC0415

        return getattr(commands, name)
    if name == "Root":
        from diag.system.files import Root  # noqa: PLC0415

        return Root
    raise AttributeError(f"module 'diag.system' has no attribute {name!r}")
