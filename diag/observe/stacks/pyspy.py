"""Python stacks of a job's processes, as observations the engine can compare."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from diag.model import Observation, Origin, Reason
from diag.system.jobs import JobProcess
from diag.system.pyspy import Stacks, ThreadStack, dump_stacks

AT_ONCE = 4


def read_stacks(job: Iterable[JobProcess], *, timeout_s: float = 3.0) -> list[tuple[JobProcess, Stacks]]:
    """Every process's stacks, a few processes at a time, each within `timeout_s` seconds. Never raises for one of them."""
    members = list(job)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(
            zip(
                members,
                pool.map(lambda m: dump_stacks(m.process.pid, timeout_s=timeout_s), members),
                strict=True,
            )
        )


def main_thread(stacks: Stacks) -> ThreadStack | None:
    """The thread that runs the program; py-spy names it, and lists it last where it has no name."""
    named = [thread for thread in stacks.threads if thread.name == "MainThread"]
    return next(iter(named or stacks.threads[-1:]), None)


def to_observations(
    looked: Iterable[tuple[JobProcess, Stacks]], host: str | None = None
) -> list[Observation]:
    """One `stack` observation a thread: `text` is the stack, innermost call first, one call a line.

    A process that could not be looked at gives one observation named `unseen` with the reason in its fields.
    """
    found = []
    for member, stacks in looked:
        origin = Origin("probe:process.launch", host=host, rank=member.rank, process=member.label)
        if stacks.reason is not None and stacks.reason is not Reason.NOT_APPLICABLE:
            fields = {"reason": stacks.reason.value, "pid": stacks.pid}
            found.append(Observation("stack", "unseen", origin, stacks.message, fields))
        for thread in stacks.threads:
            text = "\n".join(f"{frame.function} ({frame.file}:{frame.line})" for frame in thread.frames)
            fields = {
                "pid": stacks.pid,
                "active": thread.active,
                "gil": thread.owns_gil,
                "framework": member.framework,
            }
            found.append(Observation("stack", thread.name or "thread", origin, text, fields))
    return found
