"""`diag run --ray ADDRESS`: one node run on every node of a Ray cluster, one report."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diag.diagnose.gathering import Given
from diag.diagnose.nodes.view import found
from diag.diagnose.pipeline import conclude_given
from diag.model import Finding, InputFile, Reason, Report, Status
from diag.observe.probes.patient import WORKERS
from diag.observe.reports import NodeReport, read_report
from diag.playbooks.base import load_base
from diag.system import Outcome, UserError, run_command

CONNECT_S = 30.0
"""What the worker gives Ray for taking it in (its START_S)."""


def run_ray(
    address: str,
    *,
    options: Sequence[str] = (),
    seconds: float,
    python: str | None = None,
    playbook_dirs: Sequence[Path] = (),
) -> Report:
    """Ask Ray for its nodes, run diag on each, join the reports. `seconds` bounds what each node may take."""
    port = random.randint(20000, 29000)  # noqa: S311 - a port, not a secret; below the usual ephemeral range
    job = {"address": address, "options": list(options), "port": port, "deadline_s": CONNECT_S + seconds}
    python = python or sys.executable
    outcome = run_command(
        [python, str(WORKERS / "ray_nodes.py"), json.dumps(job)],
        timeout_s=CONNECT_S + seconds + 10,
        answer_fd=True,
    )
    answer = _answer(outcome, address, python)
    base = load_base(playbook_dirs)
    given, findings = Given(), []
    for one in answer["nodes"]:
        name = f"ray:{one['address']}"
        report = _read(name, one["report"])
        if report is None:
            findings.append(_silent(one))
        else:
            given.reports.append(report)
            given.inputs.append(InputFile(name, "report", len(one["report"])))
    if not answer["nodes"]:
        text = f"Ray at {address} cannot be asked: {answer['error']}"
        findings.append(
            found("ray", Status.FAIL, text, cause="control-plane-unreachable", subject=address, certain=False)
        )
    links = next(
        (
            one.facts["network"]["links"]
            for one in given.reports
            if "links" in (one.facts.get("network") or {})
        ),
        None,
    )
    told = conclude_given("run", base, given, findings, {"network": {"links": links}} if links else {})
    return replace(
        told,
        notes=(
            *told.notes,
            f"{len(given.reports)} of {len(answer['nodes'])} nodes of Ray's cluster reported",
        ),
    )


def _answer(outcome: Outcome, address: str, python: str) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(outcome.answer)
    except ValueError:
        answer = {"error": "no answer in time" if outcome.timed_out else "the worker died", "nodes": []}
    if "No module named 'ray'" in str(answer["error"]):
        raise UserError(f"{python} has no ray", where="--ray", code="ray-missing",
                        help="give the cluster's interpreter with --python, or pip install 'launch-diag[ray]'")  # fmt: skip
    return answer


def _read(name: str, text: str | None) -> NodeReport | None:
    try:
        return read_report(name, text.encode()) if text else None
    except UserError:
        return None


def _silent(one: dict[str, Any]) -> Finding:
    said = str(one["error"] or "its answer is no report")
    remedy = (
        "install launch-diag into the environment of Ray's workers on that node"
        if "No module named" in said
        else "run diag on that node by hand"
    )
    text = f"the node {one['address']} of Ray's cluster gave no report: {said}"
    return found(
        "ray", Status.UNKNOWN, text, subject=str(one["address"]), reason=Reason.CRASHED, remedy=remedy
    )
