"""A playbook as the engine sees it: plain frozen data, made from YAML by `diag.playbooks.load`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LAYERS = (
    "plan",
    "memory",
    "driver",
    "hardware",
    "network",
    "collective",
    "transfer",
    "scheduler",
    "environment",
    "framework",
)
KINDS = ("log", "exception", "finding", "fact", "stack", "words")
SAYS = ("cause", "effect", "hint", "context")
RISKS = ("none", "restarts-job", "needs-root", "touches-others")
SEVERITIES = ("error", "warning", "note")
STATUSES = ("experimental", "stable")
COMPARISONS = (
    "equals",
    "not_equals",
    "in",
    "below",
    "at_least",
    "above",
    "version_below",
    "version_at_least",
    "version_in",
    "present",
    "absent",
    "matches",
    "not_matches",
)


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison on a fact (dotted path) or on a field of a finding or an exception."""

    path: str
    comparison: str
    values: tuple[str, ...] = ()
    other: str | None = None
    """Another fact's path, compared with instead of `values`."""


PROGRAM = "@program"


@dataclass(frozen=True, slots=True)
class Signal:
    """One named thing to look for.

    kind `log`: `patterns` (regular expressions, any of them) searched in a line; kind `exception`: `patterns`
    searched in the last line of a traceback, `frames` in its frames; kind `finding`: a probe's or plan check's
    answer; kind `fact`: `conditions` on the facts; kind `stack`: `patterns` searched in the calls of a process that
    `diag attach` looked at (`function (path/file.py:12)`), `conditions` on what it does (`stuck`, `site`, `kind`, `phase`);
    kind `words`: `patterns` searched in the last words of a process that ended by itself (an error that it logged, no exception).
    says: `cause` the message itself names this cause; `effect` a failure this cause brings, others too; `hint`
    a warning or an odd line; `context` no evidence by itself.
    """

    name: str
    kind: str
    says: str = "context"
    patterns: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    """The patterns' top-level alternatives, each with its own entry in `literals`."""
    literals: tuple[tuple[str, ...], ...] = ()
    """Per part: strings of which one must occur in a line before the part is tried."""
    frames: tuple[str, ...] = ()
    check: str = ""
    statuses: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    cleared_by: tuple[str, ...] = ()
    """Signals which, seen later in the same stream, take this one back (a retry that succeeds).

    `@program` stands for anything by which a program of the launch tells that it runs: a phase, progress, a traceback.
    """


@dataclass(frozen=True, slots=True)
class Clause:
    """One way to recognise the cause. All members must hold; the clauses of a playbook are alternatives."""

    all: tuple[str, ...] = ()
    any: tuple[str, ...] = ()
    none: tuple[str, ...] = ()
    unfinished: tuple[tuple[str, str], ...] = ()
    """Pairs (begin, end): begin was seen, and no end after it, in the same stream."""
    stalled: tuple[str, ...] = ()
    """Any of these is among the last things that happened: no progress after it."""
    repeats: tuple[tuple[str, int], ...] = ()
    """(signal, least number of times)."""
    sequence: tuple[str, ...] = ()
    """Signals that occur in this order."""
    phases: tuple[str, ...] = ()
    """Phase in which the first positive signal happened."""
    not_phases: tuple[str, ...] = ()
    ranks: str = ""
    """some: at least one rank but not all; every: all ranks that speak; one: exactly one."""
    differs: tuple[tuple[str, str], ...] = ()
    """(signal, capture): the capture has different values on different lines."""
    same: tuple[tuple[str, str], ...] = ()
    """(signal, capture): two different processes, hosts or ranks show the same value."""
    conflicts: tuple[tuple[str, str], ...] = ()
    """(signal, `key value`): two lines agree on the key and differ in the value; `host`, `rank` and `process` mean the writer's."""
    outlier: tuple[tuple[str, str], ...] = ()
    """(signal, capture): each host has one value, and the fewer of at least three hosts differ from the more."""
    ceiling: str = ""
    """`possible` where the evidence is circumstantial whatever its kind."""
    slow: bool = False
    """Speaks of a launch that runs, only slower than it could: its life takes nothing back, a failure is never explained by it."""


@dataclass(frozen=True, slots=True)
class FixText:
    """A fix before this case's facts are filled in: `{name}` stands for a capture or a fact."""

    do: str
    frameworks: tuple[str, ...] = ()
    """Only where one of these is the launch's framework; empty: always."""
    needs: tuple[str, ...] = ()
    """Names that must be known for this fix to be offered."""
    settings: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    patch: str = ""
    risk: str = "restarts-job"
    verify: str = ""
    undo: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """Lines that must fire the playbook (or must not), with where they come from."""

    text: str
    origin: str
    """captured or re-enacted."""
    about: str = ""
    findings: tuple[Mapping[str, str], ...] = ()
    """What probes or plan checks said: probe, status, summary and any data fields."""


@dataclass(frozen=True, slots=True)
class Playbook:
    """One cause. Field by field as in the YAML."""

    id: str
    title: str
    layer: str
    since: str
    status: str
    severity: str
    signals: Mapping[str, Signal]
    when: tuple[Clause, ...]
    summary: str
    explanation: str
    fixes: tuple[FixText, ...]
    confirm: tuple[str, ...]
    explains: tuple[str, ...] = ()
    yields: bool = False
    """An answer of last resort: stands back before every other cause of the same strength."""
    while_serving: bool = False
    """The failure happens to a launch that has started, so later signs of life do not take it back."""
    looks_like: tuple[tuple[str, str], ...] = ()
    false_positives: str = ""
    references: tuple[str, ...] = ()
    fires: tuple[Sample, ...] = ()
    silent: tuple[Sample, ...] = ()
    blind: tuple[Sample, ...] = ()
    culprit: str = ""
    """Who is to blame where the telling lines are the victims': `silent` the one rank that prints none, `odd` the
    one rank whose captures differ from all others', `ended` the one that the launcher says ended first (else the
    silent one), `peer` the one that the telling lines name as their peer, `busy` the one whose work (hints) the others
    wait for (effects). `shared`: the cause lies in what all ranks have in common (command line, script, model, libraries),
    so whoever stumbles over it first is no culprit, unless others do not. Empty: whoever prints them."""
    hits: tuple[str, ...] = ()
    """Other playbooks whose samples may fire this one too (declared overlaps)."""
    source: str = ""
