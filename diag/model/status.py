"""What a look can end with. Not measured is never fine."""

from __future__ import annotations

from enum import Enum


class Status(str, Enum):
    """Outcome of one look. The last two say that nothing was measured, and carry a `Reason`."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"
    UNKNOWN = "unknown"

    @property
    def measured(self) -> bool:
        """True where something was really looked at."""
        return self not in (Status.SKIP, Status.UNKNOWN)


class Reason(str, Enum):
    """Why something could not be, or was not, measured. A closed list."""

    NOT_APPLICABLE = "not-applicable"
    NOT_ASKED = "not-asked"
    TOOL_MISSING = "tool-missing"
    PERMISSION = "permission"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    UNPARSABLE = "unparsable"


class Verdict(str, Enum):
    """The one word for a whole report."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


class Strength(str, Enum):
    """How far the evidence carries a diagnosis. Computed from the kind of evidence, never typed in."""

    PROVEN = "proven"
    LIKELY = "likely"
    POSSIBLE = "possible"

    @property
    def order(self) -> int:
        """0 for the strongest."""
        return ("proven", "likely", "possible").index(self.value)


class Role(str, Enum):
    """Where a diagnosis stands in the chain of causes."""

    ROOT = "root"
    CONTRIBUTING = "contributing"
    ECHO = "echo"


class Phase(str, Enum):
    """How far a launch (or one rank of it) got. Ordered."""

    ARGUMENTS = "arguments"
    RENDEZVOUS = "rendezvous"
    COMMUNICATOR = "communicator"
    WEIGHTS = "weights"
    PROFILING = "profiling"
    KV_CACHE = "kv-cache"
    COMPILE = "compile"
    GRAPH_CAPTURE = "graph-capture"
    SERVING = "serving"  # answers requests or takes training steps
    SHUTDOWN = "shutdown"

    @property
    def order(self) -> int:
        """0 for the first phase."""
        return list(Phase).index(self)
