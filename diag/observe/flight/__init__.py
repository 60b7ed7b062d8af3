"""Flight-recorder dumps: which rank enqueued, started and completed which collective."""

from diag.observe.flight.dump import (
    Call,
    GroupKey,
    GroupLog,
    RankDump,
    read_dump,
    settle_ranks,
)
from diag.observe.flight.recognise import looks_like_dump, read_flight_dump

__all__ = [
    "Call",
    "GroupKey",
    "GroupLog",
    "RankDump",
    "looks_like_dump",
    "read_dump",
    "read_flight_dump",
    "settle_ranks",
]
