"""Runs every probe in a child of its own, a few at a time, and never longer than promised.

A child that hangs, ignores signals, dies or babbles costs its own deadline and becomes one `unknown` finding:
that it hung is itself a finding.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diag.model import Finding, Gap, Reason, Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.registry import PACKAGE, discover, list_probes, select
from diag.system import Outcome, run_command

__all__ = ["ProbeEvent", "ProbeRun", "list_probes", "run_probes"]

CHILD = str(Path(__file__).with_name("child.py"))
START_S = 1.0
"""What starting an interpreter may take on a loaded node, on top of a probe's own deadline."""
LEAST_S = 0.3
"""With less left of the total, a probe is not started any more."""
GATE = "process.gpu-users"
"""The probe that tells whether somebody computes on the GPUs now."""


@dataclass(frozen=True, slots=True)
class ProbeEvent:
    """Progress, for whoever draws it. Called from worker threads, one call at a time."""

    kind: str
    """started or finished."""
    probe: str
    title: str
    status: Status | None
    """The worst of its findings, once finished."""
    duration_s: float
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class ProbeRun:
    """What all probes said."""

    findings: tuple[Finding, ...]
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Section (hardware, software, network, host) -> probe id -> what its collect returned."""
    gaps: tuple[Gap, ...] = ()
    duration_s: float = 0.0
    interrupted: bool = False


def run_probes(
    setup: Setup,
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    timeout_s: float = 25.0,
    on_event: Callable[[ProbeEvent], None] | None = None,
    stop: threading.Event | None = None,
    package: str = PACKAGE,
) -> ProbeRun:
    """Run the selected probes for at most about `timeout_s` seconds in all; raises UserError for an unknown name.

    Ctrl-C or `stop` ends the look at once: what is there is returned, the rest is skipped as interrupted.
    """
    begin = time.monotonic()
    registry = discover(package)
    chosen = select(registry.probes, only, skip)
    jobs = sorted((p for p in registry.probes if p.id in chosen), key=lambda p: (-p.timeout_s, p.id))
    run = _Run(
        setup, jobs, package=package, deadline=begin + timeout_s, insisted=frozenset(only), on_event=on_event,
        stop=stop or threading.Event(),
    )  # fmt: skip
    interrupted = run.work(min(len(jobs), 8, max(4, os.cpu_count() or 1)))
    results = run.results
    findings: list[Finding] = []
    facts: dict[str, dict[str, Any]] = {}
    for probe in registry.probes:
        looked, seen = results.get(probe.id, ([_left_out(probe, probe.id in chosen, interrupted)], None))
        findings += looked
        if seen is not None:
            facts.setdefault(probe.section, {})[probe.id] = seen
    for name, error in registry.broken:
        findings.append(_unknown(name, Reason.CRASHED, f"this probe cannot be loaded: {error}"))
    findings.sort(key=lambda one: one.probe)
    return ProbeRun(tuple(findings), facts, tuple(_gaps(findings)), time.monotonic() - begin, interrupted)


class _Run:
    """One run's shared state: the queue, the results, the gate in front of the GPU probes."""

    def __init__(
        self,
        setup: Setup,
        jobs: list[Probe],
        *,
        package: str,
        deadline: float,
        insisted: frozenset[str],
        on_event: Callable[[ProbeEvent], None] | None,
        stop: threading.Event,
    ) -> None:
        self.results: dict[str, tuple[list[Finding], Facts | None]] = {}
        self._setup = write_setup(setup)
        self._package = package
        self._jobs = list(jobs)
        self._total = len(jobs)
        self._deadline = deadline
        self._insisted = insisted
        self._on_event = on_event
        self._stop = stop
        self._lock = threading.Lock()
        self._gate: Future[tuple[list[Finding], Facts | None]] | None = None

    def work(self, workers: int) -> bool:
        """Run until all is done, time is up or somebody interrupts (then True)."""
        ended = [threading.Event() for _ in range(workers)]
        try:
            for one in ended:
                threading.Thread(target=self._worker, args=(one,), daemon=True).start()
            for one in ended:
                while not one.wait(0.2):  # short waits let Ctrl-C through
                    pass
        except KeyboardInterrupt:
            self._stop.set()
            for one in ended:
                one.wait(2.0)
        return self._stop.is_set()

    def _worker(self, ended: threading.Event) -> None:
        """Look after look. `ended` and not `Thread.join`, which takes a thread for dead when Ctrl-C interrupts it
        (bpo-45274): the children of such a thread would be left behind."""
        try:
            self._work()
        finally:
            ended.set()

    def _work(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                if not self._jobs:
                    return
                probe = self._jobs.pop(0)
            self._event("started", probe, None, 0.0)
            begin = time.monotonic()
            findings, facts = self._guarded(probe)
            spent = time.monotonic() - begin
            if facts is None and self._stop.is_set():
                return  # killed half-way by the interruption: reported as such, not as a hang
            timed = [replace(one, duration_s=round(spent, 3)) for one in findings]
            with self._lock:
                self.results[probe.id] = (timed, facts)
            self._event("finished", probe, _worst(timed), spent)

    def _guarded(self, probe: Probe) -> tuple[list[Finding], Facts | None]:
        if probe.touches_gpu and probe.id not in self._insisted:
            busy = self._gpu_users()
            if busy:
                return [_busy(probe, busy)], None
        return self._look(probe)

    def _look(self, probe: Probe) -> tuple[list[Finding], Facts | None]:
        left = self._deadline - time.monotonic()
        if left < LEAST_S:
            return [_unknown(probe.id, Reason.TIMEOUT, _NO_TIME, remedy=_MORE_TIME)], None
        limit_s = min(probe.timeout_s + START_S, left)
        argv = [sys.executable, CHILD, probe.id, self._package]
        grace_s = max(0.0, min(limit_s, left - limit_s))
        outcome = run_command(
            argv, timeout_s=limit_s, stdin=self._setup, answer_fd=True, stop=self._stop, grace_s=grace_s
        )
        facts, trouble = read_answer(probe, outcome, outcome.duration_s if outcome.starved else limit_s)
        if facts is None:
            return [trouble or _unknown(probe.id, Reason.CRASHED, "no answer")], None
        return judged(probe, facts), facts

    def _gpu_users(self) -> list[str] | None:
        """Who computes on this node's GPUs now (asked once, in a child); a line saying so if that cannot be told."""
        with self._lock:
            first = self._gate is None
            gate = self._gate = self._gate or Future()
        if first:
            try:
                gate.set_result(self._look(next(p for p in discover(self._package).probes if p.id == GATE)))
            except StopIteration:
                gate.set_result(([], {"users": []}))
        facts = gate.result()[1]
        return ["cannot tell who uses the GPUs"] if facts is None else [str(user) for user in facts["users"]]

    def _event(self, kind: str, probe: Probe, status: Status | None, spent_s: float) -> None:
        if self._on_event is None:
            return
        with self._lock:
            event = ProbeEvent(kind, probe.id, probe.title, status, spent_s, len(self.results), self._total)
            with contextlib.suppress(Exception):  # a broken progress line must not cost the report
                self._on_event(event)


_NO_TIME = "not started: the time for the whole run was used up before its turn"
_MORE_TIME = "run it alone, or give the run more time with --timeout"


def write_setup(setup: Setup) -> bytes:
    """The Setup as JSON, for `child.read_setup`."""
    return json.dumps(
        {
            "root": setup.root.path, "env": dict(setup.env), "python": setup.python, "deep": setup.deep,
            "launch_since_s": setup.launch_since_s, "models": list(setup.models),
        }
    ).encode()  # fmt: skip


def read_answer(probe: Probe, outcome: Outcome, limit_s: float) -> tuple[Facts | None, Finding | None]:
    """The facts a child sent, or the finding that says why there are none. Never raises."""
    try:
        answer = json.loads(outcome.answer) if outcome.answer else None
    except ValueError:
        answer = b""
    if isinstance(answer, dict) and isinstance(answer.get("facts"), dict):
        return answer["facts"], None  # an answer counts even if the child then failed to end
    if isinstance(answer, dict) and "error" in answer:
        where = f" ({answer['where']})" if answer.get("where") else ""
        reason = Reason.PERMISSION if answer.get("kind") == "permission" else Reason.CRASHED
        return None, _unknown(
            probe.id, reason, f"{probe.title}: the look failed with {answer['error']}{where}"[:500]
        )
    if outcome.stuck:
        text = f"{probe.title}: hung in the kernel and could not even be killed; left behind after {limit_s:.0f} s"
        return None, _unknown(probe.id, Reason.TIMEOUT, text, stuck=True, limit_s=round(limit_s, 1))
    if outcome.starved:
        text = f"{probe.title}: still at work after {limit_s:.0f} s and killed: the processors are overloaded"
        return None, _unknown(
            probe.id, Reason.TIMEOUT, text, limit_s=round(limit_s, 1), remedy=_MORE_TIME, starved=True
        )
    if outcome.timed_out:
        text = f"{probe.title}: hung and was killed after {limit_s:.0f} s; that it hangs is itself a finding"
        return None, _unknown(probe.id, Reason.TIMEOUT, text, limit_s=round(limit_s, 1))
    said = _last_line(outcome.err)
    if answer is not None:
        return None, _unknown(
            probe.id, Reason.UNPARSABLE, f"{probe.title}: the answer cannot be understood{said}"
        )
    code = outcome.code or 0
    ended = f"by signal {-code}" if code < 0 else f"with code {code}"
    return None, _unknown(
        probe.id, Reason.CRASHED, f"{probe.title}: the look ended {ended} without an answer{said}"
    )


def judged(probe: Probe, facts: Facts) -> list[Finding]:
    """What the probe makes of its facts; a judge that fails is reported, never raised."""
    try:
        findings = probe.judge(facts)
        if findings:
            return findings
        problem = "the judge had nothing to say"
    except Exception as error:  # noqa: BLE001 - one wrong judge must not cost the report
        problem = f"judging failed with {type(error).__name__}: {error}"
    return [_unknown(probe.id, Reason.CRASHED, f"{probe.title}: {problem}"[:500])]


def _last_line(err: bytes) -> str:
    lines = [line.strip() for line in err.decode("utf-8", "replace").splitlines() if line.strip()]
    return f"; it said: {lines[-1][:200]}" if lines else ""


def _unknown(probe_id: str, reason: Reason, text: str, **data: Any) -> Finding:
    return finding(probe_id, Status.UNKNOWN, text, reason=reason, **data)


def _busy(probe: Probe, users: list[str]) -> Finding:
    text = f"{probe.title}: left out so as not to disturb what runs on the GPUs: {', '.join(users[:4])}"
    remedy = f"when nothing that matters runs: diag run --only {probe.id}"
    return finding(probe.id, Status.SKIP, text, reason=Reason.NOT_ASKED, users=users, remedy=remedy)


def _left_out(probe: Probe, chosen: bool, interrupted: bool) -> Finding:
    if chosen and not interrupted:  # our own mistake; it must not look like a choice
        return _unknown(probe.id, Reason.CRASHED, f"{probe.title}: lost by the runner")
    text = f"{probe.title}: interrupted before it had answered" if chosen else f"{probe.title}: not asked for"
    return finding(probe.id, Status.SKIP, text, reason=Reason.NOT_ASKED)


def _worst(findings: Iterable[Finding]) -> Status:
    order = (Status.FAIL, Status.WARN, Status.UNKNOWN, Status.OK, Status.SKIP)
    statuses = {one.status for one in findings}
    return next(status for status in order if status in statuses)


def _gaps(findings: Iterable[Finding]) -> Iterable[Gap]:
    """What could not be seen: every unknown, and skips that somebody can do something about."""
    for one in findings:
        missing = one.status is Status.SKIP and (
            one.reason is not Reason.NOT_APPLICABLE and "remedy" in one.data
        )
        if (one.status is Status.UNKNOWN or missing) and one.reason is not None:
            what = f"{one.probe} {one.subject}".strip()
            yield Gap(f"{what}: {one.summary}", one.reason.value, str(one.data.get("remedy", "")))
