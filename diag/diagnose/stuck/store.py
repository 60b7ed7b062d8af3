"""Who never came to the rendezvous, by the job's own store: a waiter's error names the store's host, not who is missing. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diag.diagnose.ranges import fold
from diag.diagnose.stuck.process import PROBE as PROCESS
from diag.diagnose.stuck.process import STUCK_S
from diag.model import Finding, Reason, Status

PROBE = "attach.store"
LONG_WAIT_S = 30.0
"""A rank may load its libraries for that long before it comes."""


def waiting_to_meet(findings: Sequence[Finding]) -> list[int]:
    """Processes (their pids) that stand in a rendezvous."""
    return [
        int(one.data["pid"])
        for one in findings
        if one.probe == PROCESS
        and (one.data.get("kind"), one.data.get("site")) == ("waits", "rendezvous")
        and float(one.data.get("still_s", 0)) >= STUCK_S
    ]


def judge_stores(stores: Sequence[Mapping[str, Any]], findings: Sequence[Finding]) -> list[Finding]:
    """One finding a store: who has left a key there, who waits without one, and who has not come."""
    return [_judge(one, findings) for one in stores]


def _judge(store: Mapping[str, Any], findings: Sequence[Finding]) -> Finding:
    where = f"{store['address']}:{store['port']}"
    if store.get("error"):
        text = f"the job's store at {where} could not be read: {store['error']}"
        return Finding(PROBE, where, Status.UNKNOWN, text, Reason.CRASHED)
    if store["came"] is None:
        text = f"the job's store at {where} answers; it does not tell which ranks have come"
        return Finding(PROBE, where, Status.OK, text, None, {"keys": store.get("keys")})
    job = f"port {store['port']}, {store['world']} ranks"
    members = [one.data for one in findings if one.probe == PROCESS and one.data.get("job") == job]
    waiting = {one["rank"] for one in members if one.get("site") == "rendezvous" and "rank" in one}
    # The first rank leaves its key last, when all others have: while it lives, its store answers.
    here = {*store["came"], *waiting, 0}
    absent = sorted(set(range(store["world"])) - here)
    if not absent:
        text = f"the job's store at {where}: all {store['world']} ranks have come"
        return Finding(PROBE, where, Status.OK, text, None, {"came": store["came"]})
    text = f"{fold(absent)} of {store['world']} {'has' if len(absent) == 1 else 'have'} not come to the rendezvous at {where}, by the job's own store"
    data: dict[str, Any] = {"kind": "absent", "absent": absent[:64], "came": sorted(here)[:64], "job": job}
    if len(absent) == 1:
        data["rank"] = absent[0]
    waited = [float(one.get("still_s", 0)) for one in members if one.get("site") == "rendezvous"]
    if max(waited, default=0.0) < LONG_WAIT_S:
        return Finding(PROBE, where, Status.WARN, f"{text} yet", None, {**data, "unexplained": True})
    text += f"; the others have waited for {max(waited):.0f} s"
    data |= {"cause": "rendezvous-timeout", "certain": False, "culprit": True}
    return Finding(PROBE, where, Status.FAIL, text, None, data)
