"""`diag attach`: the launches of this node as they stand, looked at and judged."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from diag.diagnose.gathering import Given, gather
from diag.diagnose.pipeline import conclude_given
from diag.diagnose.stuck import judge_gpus, judge_processes, judge_stores, ras_seen, waiting_to_meet
from diag.model import Finding, Reason, Report, Status
from diag.observe.probes.interface import Setup
from diag.observe.probes.job_store import read_stores
from diag.observe.probes.runner import run_probes
from diag.observe.stacks import look_at_launches
from diag.playbooks.base import load_base
from diag.system import UserError

ATTACH_PROBES = ("kernel.xid", "gpu.inventory")
"""What else a look at a hang asks the node: whether a GPU fell ill. Nothing that computes, allocates or sends."""


def attach(
    pids: Sequence[int] = (),
    *,
    span_s: float = 6.0,
    timeout_s: float = 25.0,
    logs: Sequence[str] = (),
    only: Sequence[str] = ATTACH_PROBES,
    on_event: Callable[[Any], None] | None = None,
    playbook_dirs: Sequence[Path] = (),
    command: str = "attach",
) -> Report:
    """Look at the launches that run on this node, without disturbing them. Raises UserError for a pid that is none."""
    for pid in pids:
        if not Path(f"/proc/{pid}").is_dir():
            raise UserError(f"no process has the number {pid}", code="no-such-process")
    base = load_base(playbook_dirs)
    given = gather(logs, base) if logs else Given()
    with ThreadPoolExecutor(1) as beside:
        setup = Setup(env=dict(os.environ))
        probing = beside.submit(
            run_probes, setup, only=only, timeout_s=min(timeout_s, 8.0), on_event=on_event
        )
        look = look_at_launches(pids, span_s=span_s, timeout_s=timeout_s)
        run = probing.result()
    findings = [one for one in run.findings if one.status.measured] + judge_processes(
        look.processes, look.host
    )
    findings += [*judge_gpus(run.facts), *ras_seen(look.ras, look.host)]
    meeting = waiting_to_meet(findings)
    if meeting:
        variables = [one["environment"] for one in look.processes if one["pid"] in meeting]
        findings += judge_stores(read_stores(variables), findings)
    if not look.processes and not look.gaps:
        text = "no process of a launch runs on this node (looked for torchrun, vLLM, SGLang, Dynamo, TRT-LLM, Ray, DeepSpeed, MPI)"
        findings.append(Finding("attach.process", "", Status.SKIP, text, Reason.NOT_APPLICABLE))
    facts: dict[str, Any] = {**run.facts, "host": {**run.facts.get("host", {}), "attach": look.facts}}
    report = conclude_given(command, base, given, findings, facts, (*run.gaps, *look.gaps))
    note = f"looked at {len(look.processes)} processes for {look.duration_s:.1f} s; nothing was stopped, signalled or written"
    return replace(report, notes=(*report.notes, note))
