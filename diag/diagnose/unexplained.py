"""What is known where no playbook fits: each rank's first failure, the odd rank, the phase, the next step."""

from __future__ import annotations

from diag.diagnose.evidence import Evidence, FileEvidence
from diag.model import Observation, Phase, Unexplained

MAX_SHOWN = 12

NEXT = {
    Phase.ARGUMENTS: "run the same command with --help and compare the options with this version's",
    Phase.RENDEZVOUS: "run `diag run` on every node: names, routes and ports between the nodes are what this phase needs",
    Phase.COMMUNICATOR: "start again with NCCL_DEBUG=INFO NCCL_DEBUG_SUBSYS=INIT,BOOTSTRAP,NET on every rank and give diag all the logs",
    Phase.WEIGHTS: "check free GPU and host memory and the model's files on this node: `diag run`",
    Phase.PROFILING: "start again with --enforce-eager and CUDA_LAUNCH_BLOCKING=1 to see the failing operation",
    Phase.KV_CACHE: "lower max-model-len and look whether it starts",
    Phase.COMPILE: "start again with --enforce-eager (no compilation): if that works, the compiler is at fault",
    Phase.GRAPH_CAPTURE: "start again with --enforce-eager (no CUDA graphs): if that works, graph capture is at fault",
    Phase.SERVING: "collect the logs of all ranks and the stacks of the stuck processes: `diag run` on that node while it hangs",
}


def unexplained(evidence: Evidence) -> Unexplained | None:
    """None where nothing failed."""
    firsts: dict[str, Observation] = {}
    for item in evidence.files:
        for one in _failures(item):
            who = _who(one)
            if who not in firsts:
                firsts[who] = one
    if not firsts:
        return None
    ordered = sorted(firsts.items(), key=lambda pair: (pair[1].origin.time_s or float("inf"), pair[1].order))
    shown = tuple(
        f"{who}: {one.origin.source}:{one.origin.line}: {one.text[:300]}" for who, one in ordered[:MAX_SHOWN]
    )
    phases = [
        item.phase_at(one)
        for item in evidence.files
        for one in (ordered[0][1],)
        if item.reading.name == one.origin.source
    ]
    phase = next((phase for phase in phases if phase is not None), None)
    steps = (
        [NEXT[phase]]
        if phase in NEXT
        else ["give diag the logs of all ranks and nodes together: the first failure may be in another file"]
    )
    steps.append("diag playbook new --from LOG:LINE drafts a playbook from the line that names the cause")
    return Unexplained(
        shown, _odd(evidence, firsts), phase.value if phase is not None else None, tuple(steps)
    )


def _failures(item: FileEvidence) -> list[Observation]:
    end = item.orderly_end
    found = [
        one
        for one in (*item.exceptions, *item.dead)
        if not one.fields.get("ignored") and not item.lives_on(one) and (end is None or one.order < end)
    ]
    return sorted(found, key=lambda one: one.order)


def _who(one: Observation) -> str:
    if one.origin.rank is not None:
        return f"rank {one.origin.rank}"
    return one.origin.process or one.origin.host or one.origin.source


def _odd(evidence: Evidence, firsts: dict[str, Observation]) -> str | None:
    """The rank whose first failure reads differently from all others'."""
    texts: dict[str, list[str]] = {}
    for who, one in firsts.items():
        texts.setdefault(one.fields.get("type") or one.text[:60], []).append(who)
    single = [group[0] for group in texts.values() if len(group) == 1]
    return single[0] if len(single) == 1 and len(firsts) > 2 else None
