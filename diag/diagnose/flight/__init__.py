"""From flight-recorder dumps to who waits in which collective for whom. Pure."""

from diag.diagnose.flight.verdict import judge_dumps

__all__ = ["judge_dumps"]
