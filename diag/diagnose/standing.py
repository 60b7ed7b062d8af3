"""Stacks and process lists in logs; what judges them is loaded only where there are some."""

from __future__ import annotations

from collections.abc import Sequence

from diag.model import Finding
from diag.observe.logs.filestate import FileReading


def standing_in(files: Sequence[FileReading]) -> list[Finding]:
    """What the processes stood at whose stacks or states somebody pasted, and who holds them up."""
    if not any(one.standing for one in files):
        return []
    from diag.diagnose.stuck.pasted import pasted_findings
    from diag.diagnose.whois import introduce

    return pasted_findings(files, introduce(files))
