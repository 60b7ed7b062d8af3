"""The RAS services of the processes looked at: asked at the beginning of the look and, seconds later, at its end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Any

from diag.observe.stacks.ras import Heard, Refused, ask, compare, is_here

SPAN_S = 5.0
"""Between two answers: counters that differ at one look are usual in jobs that work, counters that stand still are not."""
MOST = 4


@dataclass(frozen=True, slots=True)
class Question:
    """One address, the processes that listen there, and the first answer."""

    host: str
    port: int
    here: bool
    pids: dict[int, int]
    """A pid as the service may call it (inside a container's own PID namespace too) -> the pid on this node."""
    first: Future[Heard]


def ask_first(looks: Sequence[dict[str, Any]], deadline: float) -> list[Question]:
    """Put the question to every address on which a process of the job listens; nobody is waited for here."""
    addresses = list(dict.fromkeys((*one["ras"], one["here"]) for one in looks if one["ras"]))[:MOST]
    if not addresses:
        return []
    pool = ThreadPoolExecutor(len(addresses))
    names: dict[int, set[int]] = {}
    for look in looks:
        for pid in look["pids"]:
            names.setdefault(pid, set()).add(look["pid"])
    pids = {name: next(iter(known)) for name, known in names.items() if len(known) == 1}
    found = []
    for host, port, here in addresses:
        work: Future[Heard] = Future()
        if here:
            work = pool.submit(ask, host, port, names.keys(), deadline)
        found.append(Question(host, port, here, pids, work))
    pool.shutdown(wait=False)
    return found


def ask_again(questions: Sequence[Question], deadline: float) -> Iterator[dict[str, Any]]:
    """The second answer of each, not sooner than SPAN_S after the first; what both say, or why there is nothing."""
    for one in questions:
        address = f"{one.host}:{one.port}"
        if not one.here:
            reason = "it listens in another network namespace: run diag attach inside that container"
            yield {"address": address, "error": reason}
            continue
        try:
            first = one.first.result(max(0.1, deadline - time.monotonic()))
        except (Refused, TimeoutError) as error:
            yield {"address": address, "error": str(error) or "no answer in time"}
            continue
        second = None
        pause = first.at + SPAN_S - time.monotonic()
        if time.monotonic() + pause < deadline:
            Event().wait(max(0.0, pause))
            try:
                second = ask(one.host, one.port, one.pids.keys(), deadline)
            except Refused:
                second = None
        yield {"address": address, **_placed(compare(first, second), one.pids)}


def _placed(told: dict[str, Any], pids: dict[int, int]) -> dict[str, Any]:
    """Marks the places on this node with the process's pid here."""
    local: dict[str, bool] = {}
    for comm in told["communicators"]:
        groups = [*comm["states"], *comm["errors"], *(group for op in comm["ops"].values() for group in op)]
        for place in [*comm["missing"], *(place for group in groups for place in group["ranks"])]:
            host = place.get("host", "")
            if host and local.setdefault(host, is_here(host)) and place["pid"] in pids:
                place["here"] = pids[place["pid"]]
    return told
