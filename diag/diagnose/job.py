"""`diag run` in a job of several nodes: this node first, then the links, then what all nodes say together."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diag
from diag.diagnose.gathering import Given, gather
from diag.diagnose.nodes.apart import marks_of
from diag.diagnose.nodes.compare import compare_traits, traits_of
from diag.diagnose.nodes.localise import link_facts, localise, matrix_rows
from diag.diagnose.nodes.meeting import single
from diag.diagnose.pipeline import conclude_given, models_of_plans
from diag.model import Finding, InputFile, Reason, Report, Status
from diag.observe.links.launchers import Layout, by_hand, recognise
from diag.observe.links.place import describe
from diag.observe.links.rungs import Workers
from diag.observe.links.session import MEETING_S, run_links
from diag.playbooks.base import load_base
from diag.system import UserError

Writer = Callable[[str, Report, "str | None"], None]
"""Called with `node` (before anybody is met, and again at the end) and, on the master, with `job`; the last argument is a
phrase that all nodes which met share, so that their reports hide one name behind one stand-in."""

NODE, JOB = "node", "job"
RUNGS = ("link.all-reduce", "link.nccl", "link.nixl")
"""Tests between nodes that start processes of their own; --only and --skip know them by these names."""


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """What one node ends with: the master's `report` is the whole job's."""

    report: Report
    layout: Layout
    incident: str | None = None


def find_layout(
    env: Mapping[str, str],
    *,
    nnodes: int | None = None,
    node_rank: int | None = None,
    master: str | None = None,
) -> Layout | None:
    """Our place: from the options where they are given, else from the launcher. Raises UserError for half of the options."""
    told = recognise(env, socket.gethostname())
    if nnodes is None and node_rank is None and master is None:
        return told
    nnodes = nnodes if nnodes is not None else told.nnodes if told else None
    node_rank = node_rank if node_rank is not None else told.node_rank if told else None
    if master is None and told is not None and told.master_host:
        master = f"[{told.master_host}]:{told.port}"
    absent = [
        name
        for name, value in (("--nnodes", nnodes), ("--node-rank", node_rank), ("--master", master))
        if value is None
    ]
    if nnodes is None or node_rank is None or master is None:
        raise UserError(f"{' and '.join(absent)} must be given too", code="usage",
                        help="--nnodes N --node-rank R --master HOST:PORT, R being 0 on HOST")  # fmt: skip
    if not 0 <= node_rank < nnodes and node_rank < 0:
        raise UserError("--node-rank counts from 0", code="usage")
    try:
        layout = by_hand(nnodes, node_rank, master, env)
    except ValueError as error:
        raise UserError(str(error), where="--master", code="usage") from None
    return replace(
        layout, local_rank=told.local_rank if told else 0, launcher=told.launcher if told else layout.launcher
    )


def run_job(
    layout: Layout,
    write: Writer,
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    timeout_s: float = 25.0,
    meeting_s: float = MEETING_S,
    python: str | None = None,
    deep: bool = False,
    plan: str | None = None,
    logs: Sequence[str] = (),
    on_event: Callable[[Any], None] | None = None,
    talk: Callable[[str], None] = lambda text: None,
    playbook_dirs: Sequence[Path] = (),
) -> JobOutcome:
    """Probe this node, write its report, meet the others, test the links, conclude. The links' part ends by itself."""
    from diag.observe.probes.between import Between
    from diag.observe.probes.interface import Setup
    from diag.observe.probes.runner import run_probes

    base = load_base(playbook_dirs)
    given = gather(logs, base) if logs else Given()
    if plan:
        from diag.observe.plans import read_plan

        given.plans.append(read_plan(plan))
        given.inputs.append(InputFile(plan, "plan", Path(plan).stat().st_size))
    env = dict(os.environ)
    setup = Setup(env=env, python=python, deep=deep, models=models_of_plans(given.plans))
    rungs = wanted_rungs(only, skip)
    run = run_probes(
        setup,
        only=_of_probes(only, only=True),
        skip=_of_probes(skip, only=False),
        timeout_s=timeout_s,
        on_event=on_event,
    )
    facts: dict[str, dict[str, Any]] = {name: dict(section) for name, section in run.facts.items()}
    facts.setdefault("host", {})["node"] = {
        "hostname": socket.gethostname(), "node_rank": layout.node_rank, "nnodes": layout.nnodes, "launcher": layout.launcher,
    }  # fmt: skip
    interrupted = (
        (f"interrupted after {run.duration_s:.1f} s: the links were not tested",) if run.interrupted else ()
    )

    def conclude(findings: Sequence[Finding], notes: Sequence[str] = ()) -> Report:
        # What was read is read once, so a second conclusion gets its own copy of the lists.
        copy = Given(given.logs, list(given.plans), list(given.reports), list(given.inputs))
        report = conclude_given("run", base, copy, findings, facts, run.gaps)
        return replace(report, notes=(*report.notes, *interrupted, *notes))

    first = conclude(run.findings)
    write(NODE, first, None)
    if run.interrupted:
        return JobOutcome(first, layout)
    if layout.master_host is None:
        told = {"launcher": layout.launcher, "nnodes": layout.nnodes}
        return JobOutcome(conclude([*run.findings, single(told)]), layout)
    card = describe(layout, env, diag.__version__)
    facts["host"]["node"] |= {"world_size": layout.world_size, "marks": marks_of(card)}
    card |= {
        "traits": traits_of(facts),
        "findings": [_told(one) for one in run.findings if one.status in (Status.FAIL, Status.WARN)],
    }
    between = Between(setup, facts, rungs)
    workers = Workers(between.abilities, between.collective, between.transfer)
    seen = run_links(
        layout, card, meeting_s=meeting_s, deep=deep, workers=workers, services=between.services(), talk=talk
    )
    seen["expected_hosts"] = list(layout.hosts)
    links = [*localise(seen), *_compare(seen)]
    facts.setdefault("network", {})["links"] = link_facts(seen)
    notes, incident = matrix_rows(seen), seen.get("incident")
    final = conclude([*run.findings, *links], notes)
    write(NODE, final, incident)
    if layout.node_rank == 0:
        final = conclude([*run.findings, *links, *_others(seen)], notes)
        write(JOB, final, incident)
    return JobOutcome(final, layout, incident)


def wanted_rungs(only: Sequence[str], skip: Sequence[str]) -> frozenset[str]:
    """Which upper rungs the user's choice leaves: `link.nixl` and the like by name, else they go with the all-reduce probe."""
    for name in (*only, *skip):
        if name.startswith("link.") and name not in RUNGS:
            raise UserError(
                f"no test of links is called {name!r}",
                help=f"there are: {', '.join(RUNGS)}",
                code="unknown-probe",
            )
    whole = ("collective", "collective.allreduce", "link")
    named = {name for name in only if name.startswith("link.")}
    chosen = set(RUNGS) if not only or any(name in only for name in whole) else set()
    chosen = named or chosen
    if any(name in skip for name in whole):
        chosen -= set(RUNGS)
    return frozenset(chosen - set(skip))


def _of_probes(names: Sequence[str], *, only: bool) -> list[str]:
    """The names that mean probes of this node; with tests of links alone, only who is on the GPUs is asked."""
    left = [name for name in names if name != "link" and not name.startswith("link.")]
    return left or (["process.gpu-users"] if only and names else [])


def _compare(seen: Mapping[str, Any]) -> list[Finding]:
    """How the nodes that met differ; each card carries its node's traits."""
    cards = {
        f"{card.get('hostname')} (node {rank})": card
        for rank, card in seen["nodes"].items()
        if "traits" in card
    }
    if len(cards) < 2:
        return []
    return compare_traits(
        {label: {**card["traits"], "diag": card["version"]} for label, card in cards.items()},
        hosts={label: str(card["hostname"]) for label, card in cards.items()},
    )


def _others(seen: Mapping[str, Any]) -> list[Finding]:
    """What the other nodes found wrong with themselves, under their names."""
    found = []
    for rank, card in seen["nodes"].items():
        if int(rank) == seen["node_rank"]:
            continue
        for one in card.get("findings", []):
            host = str(card.get("hostname"))
            found.append(Finding(
                one["probe"], f"{host}: {one['subject']}" if one["subject"] else host, Status(one["status"]), f"on {host}: {one['summary']}",
                Reason(one["reason"]) if one["reason"] else None, {**one["data"], "host": host},
            ))  # fmt: skip
    return found


def _told(one: Finding) -> dict[str, Any]:
    """A finding for the other nodes: plain JSON."""
    return {"probe": one.probe, "subject": one.subject, "status": one.status.value, "summary": one.summary,
            "reason": one.reason.value if one.reason else None, "data": dict(one.data)}  # fmt: skip
