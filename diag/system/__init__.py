"""The only doors to the outside: commands with deadlines, files below a swappable root, errors for the user."""

from diag.system.commands import Outcome, run_command
from diag.system.errors import UserError
from diag.system.files import Root

__all__ = ["Outcome", "Root", "UserError", "run_command"]
