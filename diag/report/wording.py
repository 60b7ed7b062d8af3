"""The sentences all formats share: headlines, who did it, what a risk means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diag.model import Diagnosis, Evidence, Finding, Fix, Report, Role, Status, Verdict
from diag.system.lazy import lazily

RISKS = {
    "none": "changes nothing that runs",
    "restarts-job": "needs a restart of the job",
    "needs-root": "needs root on the node",
    "touches-others": "touches other jobs on the node",
}
REASONS = {
    "not-applicable": "does not apply here",
    "not-asked": "not asked for",
    "tool-missing": "a tool is missing",
    "permission": "no permission",
    "timeout": "no answer in time",
    "crashed": "the check itself broke",
    "unparsable": "the answer was not understood",
}
STRENGTHS = {
    "proven": "proven by the evidence",
    "likely": "likely",
    "possible": "possible, not more",
}
PHASES = {
    "arguments": "while its arguments were read",
    "rendezvous": "while the ranks were meeting",
    "communicator": "while the communicators were made",
    "weights": "while weights were loaded",
    "profiling": "while memory was profiled",
    "kv-cache": "while the KV cache was set up",
    "compile": "while the model was compiled",
    "graph-capture": "while CUDA graphs were captured",
    "serving": "while it was serving or training",
    "shutdown": "while it was shutting down",
}
KINDS = {
    "addresses": ("address", "addresses"),
    "emails": ("e-mail address", "e-mail addresses"),
    "gpu_uuids": ("GPU UUID",),
    "guids": ("GUID",),
    "hosts": ("host name",),
    "macs": ("MAC address", "MAC addresses"),
    "secrets": ("secret",),
    "serials": ("serial number",),
    "users": ("user name",),
}
"""Kinds of redaction, one and many."""
WORST_FIRST = (Status.FAIL, Status.WARN, Status.UNKNOWN, Status.OK, Status.SKIP)

_CONTROL = lazily(
    "\x1b\\[[0-9;?]*[ -/]*[@-~]|\x1b\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|\x1b.?"
    "|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
"""Escape sequences, control and invisible direction characters: a log must not steer the reader's terminal."""


def clean(text: str) -> str:
    """Return the text without anything that could move a cursor, change a colour or hide itself."""
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\t", "    "))


def one_line(text: str, limit: int = 0) -> str:
    """Return the text on one line, cut with an ellipsis at `limit` characters (0: not cut)."""
    flat = " ".join(clean(text).split())
    return flat if not limit or len(flat) <= limit else flat[: limit - 1] + "…"


def plural(count: int, one: str, many: str = "") -> str:
    """Return `3 files`, `1 file`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def human_bytes(value: float) -> str:
    """Return bytes in binary units: `39.4 GiB`."""
    size = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def who(one: Diagnosis) -> str:
    """Return who did it and how far the launch had come, in one phrase; empty where nothing is known."""
    culprit = one.culprit
    parts = []
    if culprit.rank is not None:
        parts.append(f"rank {culprit.rank}")
    if culprit.process:
        parts.append(f"process {culprit.process}")
    if culprit.component:
        parts.append(culprit.component)
    if culprit.host:
        parts.append(f"{parts.pop()} on {culprit.host}" if parts else f"host {culprit.host}")
    if culprit.gpu is not None:
        parts.append(f"GPU {culprit.gpu}")
    if culprit.link is not None:
        parts.append(f"the link {culprit.link[0]} to {culprit.link[1]}")
    if culprit.phase:
        parts.append(PHASES.get(culprit.phase, culprit.phase))
    return one_line(", ".join(parts))


def place(one: Evidence) -> str:
    """Return `file:line`, copyable for an editor."""
    return one_line(one.source if one.line is None else f"{one.source}:{one.line}")


def origin(one: Evidence) -> str:
    """Return who said a line and when; empty where unknown."""
    parts = [] if one.rank is None else [f"rank {one.rank}"]
    parts += [one_line(word) for word in (one.host, one.time) if word]
    return ", ".join(parts)


def setting(name: str, value: str) -> str:
    """Return one setting as it would be typed: variables with `=`, options with `: `."""
    name, value = one_line(name), one_line(value)
    return f"{name}={value}" if re.fullmatch(r"[A-Z][A-Z0-9_]+", name) else f"{name}: {value}"


def risk(fix: Fix) -> str:
    """Return what a fix costs, in words."""
    return RISKS.get(fix.risk, fix.risk)


def causes(report: Report) -> tuple[list[Diagnosis], list[Diagnosis]]:
    """Return (answers, echoes that no answer already names)."""
    answers = [one for one in report.diagnoses if one.role is not Role.ECHO]
    named = {echo for one in answers for echo in one.echoes}
    return answers, [one for one in report.diagnoses if one.role is Role.ECHO and one.id not in named]


@dataclass(frozen=True, slots=True)
class Tally:
    """How many checks ended how; a check with several subjects counts once, by its worst."""

    counts: Mapping[Status, int]

    @property
    def total(self) -> int:
        """All checks."""
        return sum(self.counts.values())

    @property
    def measured(self) -> int:
        """Those that really looked."""
        return sum(count for status, count in self.counts.items() if status.measured)

    def sentence(self) -> str:
        """Return `14 of 19 measured, 2 failed, 3 skipped, 2 unknown`."""
        words = {
            Status.FAIL: "failed",
            Status.WARN: "warned",
            Status.SKIP: "skipped",
            Status.UNKNOWN: "unknown",
        }
        tail = [f"{self.counts[status]} {word}" for status, word in words.items() if self.counts.get(status)]
        return ", ".join([f"{self.measured} of {self.total} measured", *tail])


def worst(findings: Iterable[Finding]) -> Status:
    """Return the status that decides for a group of findings (which must not be empty)."""
    seen = {one.status for one in findings}
    return next(status for status in WORST_FIRST if status in seen)


def by_probe(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """Return the findings of each check, in their order."""
    groups: dict[str, list[Finding]] = {}
    for one in findings:
        groups.setdefault(one.probe, []).append(one)
    return groups


def tally(findings: Sequence[Finding]) -> Tally:
    """Count the checks behind the findings."""
    counts: dict[Status, int] = {}
    for group in by_probe(findings).values():
        status = worst(group)
        counts[status] = counts.get(status, 0) + 1
    return Tally(counts)


def what_was_read(report: Report) -> str:
    """Return `2 files, 312 lines`; empty where nothing was read."""
    if not report.inputs:
        return ""
    lines = sum(one.lines or 0 for one in report.inputs)
    tail = f", {plural(lines, 'line')}" if lines else ""
    return plural(len(report.inputs), "file") + tail


RESEMBLES = "It resembles (a guess: compare before changing anything)"
"""Title above causes that were only guessed."""


def headline(report: Report) -> str:
    """Return the first line: the verdict and why, in plain words."""
    answers, _ = causes(report)
    word = report.verdict.value.upper()
    if report.command == "run" and report.findings:
        return f"{word}: {tally(report.findings).sentence()}"
    if answers and not answers[0].guessed:
        return f"{word}: {one_line(answers[0].summary) or one_line(answers[0].title)}"
    bad = [one for one in report.findings if one.status in (Status.FAIL, Status.WARN)]
    bad.sort(key=lambda one: WORST_FIRST.index(one.status))
    if bad:
        more = f" ({len(bad) - 1} more below)" if len(bad) > 1 else ""
        return f"{word}: {about(bad[0])}{more}"
    if report.unexplained is not None:
        return f"{word}: something failed here, and no playbook knows it"
    return _calm(report, word)


def about(one: Finding) -> str:
    """Return a finding's sentence, with its subject where the sentence does not name it."""
    text = one_line(one.summary)
    subject = one_line(one.subject)
    return text if not subject or subject.lower() in text.lower() else f"{subject}: {text}"


def _calm(report: Report, word: str) -> str:
    if report.findings:
        counted = tally(report.findings)
        if not counted.measured:
            return f"{word}: nothing could be judged ({counted.sentence()})"
        open_end = "" if counted.measured == counted.total else "; what was not measured is listed below"
        return f"{word} as far as looked: {counted.sentence()}{open_end}"
    read = what_was_read(report)
    if report.verdict is Verdict.OK and read:
        return f"{word}: nothing in what was read ({read}) is known to break a launch"
    return f"{word}: nothing was measured and nothing was read" if not read else f"{word}: read {read}"


def remedy(one: Finding) -> str:
    """Return what a finding says should be done; empty where it says nothing."""
    fix = one.data.get("fix")
    told = one.data.get("remedy") or (fix.get("do") if isinstance(fix, Mapping) else fix) or ""
    text = one_line(told) if isinstance(told, str) else ""
    return "" if text.rstrip(".").lower() in one.summary.lower() else text


def alternatives(one: Finding) -> list[str]:
    """Return what could be done instead."""
    fix = one.data.get("fix")
    found = fix.get("alternatives") if isinstance(fix, Mapping) else None
    return [one_line(str(other)) for other in found] if isinstance(found, (list, tuple)) else []


def spot(one: Finding) -> str:
    """Return `file:line` where a plan's finding stands; empty for others."""
    file, line = one.data.get("file"), one.data.get("line")
    if not isinstance(file, str) or not file:
        return ""
    return one_line(f"{file}:{line}" if isinstance(line, int) else file)


def services(report: Report) -> list[Mapping[str, Any]]:
    """Return the launch's services that the facts tell of."""
    launch = report.facts.get("launch")
    found = launch.get("services") if isinstance(launch, Mapping) else None
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, (list, tuple)) else []


MEMORY_ROWS = (
    ("weights_bytes_per_gpu", "weights"),
    ("activation_bytes", "activations"),
    ("other_bytes", "CUDA, NCCL, graphs"),
    ("kv_cache_bytes_per_gpu", "KV cache"),
    ("margin_bytes", "left over"),
)


def memory_rows(service: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the arithmetic of one GPU of a service as (name, figure) rows; empty where nothing was estimated."""
    memory = service.get("memory")
    if not isinstance(memory, Mapping):
        return []
    rows = []
    for key, label in MEMORY_ROWS:
        value = memory.get(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        figure = human_bytes(value) if value >= 0 else f"none, {human_bytes(-value)} missing"
        tokens = memory.get("kv_cache_tokens")
        if label == "KV cache" and value >= 0 and isinstance(tokens, int):
            figure += f" = {tokens:,} tokens"
        rows.append((label, figure))
    return rows


def needs_gpus(service: Mapping[str, Any]) -> bool:
    """Return whether a service has anything to do with GPUs: a frontend or a router has not."""
    return (
        bool(service.get("gpus"))
        or isinstance(service.get("memory"), Mapping)
        or service.get("tensor_parallel_size") is not None
    )


def fits(service: Mapping[str, Any]) -> bool | None:
    """Return whether the service fits its GPUs; None where that is not known."""
    memory = service.get("memory")
    verdict = memory.get("fits") if isinstance(memory, Mapping) else None
    return verdict if isinstance(verdict, bool) else None


def shape(service: Mapping[str, Any]) -> str:
    """Return `4 replicas × 4 GPUs, TP 4`; only what is known."""
    parts = []
    replicas, gpus = service.get("replicas"), service.get("gpus")
    if _number(replicas) and _number(gpus):
        parts.append(f"{plural(int(str(replicas)), 'replica')} × {plural(int(str(gpus)), 'GPU')}")
    elif _number(replicas):
        parts.append(plural(int(str(replicas)), "replica"))
    elif _number(gpus):
        parts.append(plural(int(str(gpus)), "GPU"))
    for key, short in (
        ("tensor_parallel_size", "TP"),
        ("pipeline_parallel_size", "PP"),
        ("data_parallel_size", "DP"),
    ):
        if _number(service.get(key)):
            parts.append(f"{short} {service[key]}")
    if service.get("model"):
        parts.append(one_line(str(service["model"])))
    return ", ".join(parts)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def redaction_note(report: Report) -> str:
    """Return what was taken out, or that nothing was."""
    if not report.redaction.applied:
        return "not redacted: names, addresses and secrets are as they were found"
    counts = sorted(report.redaction.counts.items())
    taken = [plural(count, *KINDS.get(kind, (kind,))) for kind, count in counts if count]
    return f"redacted: {', '.join(taken)}" if taken else "redacted: nothing had to be taken out"
