"""What is known where processes stand still and no playbook says why. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from diag.diagnose.stuck.ras import PROBE as RAS
from diag.diagnose.stuck.store import PROBE as STORE
from diag.diagnose.stuck.verdict import PROBE
from diag.model import Finding, Unexplained

NEXT = {
    "equal": (
        "diag run on every node of the job: links, addresses and MTU between exactly these nodes",
        "start again with TORCH_FR_BUFFER_SIZE=2000 TORCH_NCCL_DUMP_ON_TIMEOUT=1 and give diag the dumps of all ranks",
    ),
    "absent": ("diag attach on the other nodes, then diag explain with all the reports",),
    "all-stuck": ("diag run: disk, network and limits of this node",),
}
OTHERWISE = (
    "diag attach again in a minute: what has not moved by then will not move",
    "py-spy dump --native --pid PID of that process shows the C call it is in",
)


def standing_unexplained(findings: Sequence[Finding]) -> Unexplained | None:
    """None where nothing stands still."""
    standing = [one for one in findings if one.probe in (PROBE, RAS, STORE) and one.data.get("unexplained")]
    if not standing:
        return None
    kinds = {str(one.data.get("kind")) for one in standing}
    steps = [step for kind in sorted(kinds) for step in NEXT.get(kind, OTHERWISE)]
    ranks = [rank for one in standing for rank in one.data.get("ranks", ())]
    return Unexplained(
        first_failures=tuple(one.summary for one in standing[:12]),
        odd_rank=f"rank {ranks[0]}" if len(ranks) == 1 else None,
        next_steps=tuple(dict.fromkeys(steps)),
    )
