"""Tracebacks as observations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diag.model import Observation, Origin
from diag.observe.logs.tracebacks import Traceback


def exception_of(
    found: Traceback,
    origin: Origin,
    line: int,
    processes: Mapping[tuple[str | None, int], int],
    file_rank: int | None,
) -> Observation:
    """A traceback as an observation: whose it is, which functions it passed, whether the user's own code raised."""
    rank = found.head.rank if found.head.rank is not None else origin.rank
    if rank is None and found.head.pid is not None:
        rank = processes.get((found.head.host, found.head.pid))
    user = found.user_frame
    fields: dict[str, Any] = {
        "type": found.type.rsplit(".", 1)[-1],
        "message": found.message[:2000],
        "begin_line": line,
        "functions": " ".join(frame[2] for frame in found.frames),
        "files": " ".join(frame[0] for frame in found.frames),
        "user_code": "true" if user is not None else "false",
    }
    if user is not None:
        fields["user_place"] = f"{user[0]}:{user[1]}"
    return Observation(
        "exception",
        fields["type"],
        Origin(
            origin.source,
            line + found.end,
            origin.host,
            rank if rank is not None else file_rank,
            origin.process,
            origin.time_s,
        ),
        f"{found.type}: {found.message}"[:2000] if found.message else found.type,
        fields,
        found.phase,
        line + found.end,
    )
