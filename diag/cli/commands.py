"""The bodies of run, explain, check and diff: one call into the pipeline, one artefact out."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from diag.cli import progress
from diag.cli.errors import WRONG, forget_stdout, talk
from diag.cli.output import (
    Sink,
    emit,
    emit_text,
    job_folder,
    protect,
    screen_width,
    wants_color,
    write_folder,
)
from diag.model import Report
from diag.system import UserError


def explain_paths(to: Sink, paths: Sequence[str], playbook_dirs: Sequence[Path]) -> int:
    """Diagnose from what is there; return the exit code."""
    from diag.diagnose.pipeline import explain

    with progress.reading(to.quiet) as reading:
        report = explain(paths, playbook_dirs=playbook_dirs, on_progress=reading, crowd=True)
    return _finish(report, to)


def run_node(
    to: Sink,
    *,
    out: Path | None,
    only: Sequence[str],
    skip: Sequence[str],
    timeout_s: float,
    python: str | None,
    plan: str | None,
    logs: Sequence[str],
    deep: bool,
    playbook_dirs: Sequence[Path],
    nnodes: int | None = None,
    node_rank: int | None = None,
    master: str | None = None,
    wait_s: float = 20.0,
    ray: str | None = None,
) -> int:
    """Probe this node (and in a job the links), write the folder, print the screen; return the exit code."""
    from diag.diagnose import pipeline
    from diag.diagnose.job import JOB, find_layout, run_job

    if ray is not None:
        return _run_on_ray(to, ray, out, only, skip, timeout_s, wait_s, python, deep, playbook_dirs)
    layout = find_layout(os.environ, nnodes=nnodes, node_rank=node_rank, master=master)
    if layout is not None and layout.local_rank > 0:
        return 0  # another process of this node probes
    if layout is not None and layout.many:
        if layout.node_rank is None:
            raise UserError(
                f"{layout.launcher} does not tell which node this is", help="--node-rank R", code="usage"
            )
        files = job_folder(out, layout.node_rank, to.quiet)
        with progress.probing(to.quiet) as probing:
            outcome = run_job(
                layout,
                lambda kind, report, incident: files.write(
                    protect(report, to.raw, incident), job=kind == JOB
                ),
                only=only,
                skip=skip,
                timeout_s=timeout_s,
                meeting_s=wait_s,
                python=python,
                deep=deep,
                plan=plan,
                logs=logs,
                on_event=probing,
                talk=(lambda text: None) if to.quiet else talk,
                playbook_dirs=playbook_dirs,
            )
        files.tell()
        return _print(protect(outcome.report, to.raw, outcome.incident), to)
    with progress.probing(to.quiet) as probing:
        report = pipeline.run_node(
            only=only,
            skip=skip,
            timeout_s=timeout_s,
            python=python,
            deep=deep,
            plan=plan,
            logs=logs,
            on_event=probing,
            playbook_dirs=playbook_dirs,
        )
    safe = protect(report, to.raw)
    write_folder(safe, out, to.quiet)
    return _print(safe, to)


def attach_here(
    to: Sink,
    pids: Sequence[int],
    *,
    span_s: float,
    timeout_s: float,
    logs: Sequence[str],
    out: Path | None,
    playbook_dirs: Sequence[Path],
) -> int:
    """Look at this node's launches; return the exit code."""
    from diag.diagnose.attaching import attach

    with progress.probing(to.quiet) as probing:
        report = attach(
            pids, span_s=span_s, timeout_s=timeout_s, logs=logs, on_event=probing, playbook_dirs=playbook_dirs
        )
    safe = protect(report, to.raw)
    if out is not None:
        write_folder(safe, out, to.quiet)
    return _print(safe, to)


def watch_launch(
    to: Sink, command: Sequence[str], *, silence_s: float, out: Path | None, playbook_dirs: Sequence[Path]
) -> int:
    """Run a launch under watch; return its exit code.

    Its own output keeps standard output; what we say goes to standard error, or where -o says.
    """
    from diag.diagnose.watching import watch
    from diag.report.formats import render

    def tell(report: Report) -> None:
        safe = protect(report, to.raw)
        if out is not None:
            write_folder(safe, out, to.quiet)
        if to.output is not None:
            emit(safe, to)
        elif not to.quiet:
            for line in render(safe, to.fmt, width=screen_width()).splitlines():
                talk(line)

    outcome = watch(
        command,
        quiet_s=silence_s,
        talk=(lambda text: None) if to.quiet else talk,
        on_report=tell,
        playbook_dirs=playbook_dirs,
    )
    return outcome.exit_code


def _run_on_ray(
    to: Sink,
    address: str,
    out: Path | None,
    only: Sequence[str],
    skip: Sequence[str],
    timeout_s: float,
    wait_s: float,
    python: str | None,
    deep: bool,
    playbook_dirs: Sequence[Path],
) -> int:
    """Run on every node of a Ray cluster; return the exit code."""
    from diag.diagnose.ray_job import run_ray

    options = [word for name in only for word in ("--only", name)] + [
        word for name in skip for word in ("--skip", name)
    ]
    options += ["--timeout", str(timeout_s), "--wait", str(wait_s), *(["--deep"] if deep else [])]
    if not to.quiet:
        talk(f"asking Ray at {address} to run diag on each of its nodes")
    seconds = timeout_s + wait_s + 40.0
    report = run_ray(address, options=options, seconds=seconds, python=python, playbook_dirs=playbook_dirs)
    safe = protect(report, to.raw)
    write_folder(safe, out, to.quiet)
    return _print(safe, to)


def check_plans(
    to: Sink,
    plans: Sequence[str],
    *,
    gpus: str | None,
    nodes: int | None,
    hardware: str | None,
    params: str | None,
    config: str | None,
    fix: bool,
    write: bool,
    playbook_dirs: Sequence[Path],
) -> int:
    """Judge plans, or print (and with `write` apply) their corrections; return the exit code."""
    if write and not fix:
        raise UserError("--write changes the plan only together with --fix", code="usage")
    if gpus is not None and hardware is not None:
        raise UserError("--gpus and --hardware both say what there is; give one of them", code="usage")
    from diag.diagnose import pipeline

    outcome = pipeline.check(
        plans,
        gpus=gpus,
        nodes=nodes,
        hardware_report=hardware,
        params=params,
        config=config,
        playbook_dirs=playbook_dirs,
    )
    if not fix:
        code = _finish(outcome.report, to)
        if outcome.corrections and not to.quiet:
            talk("A corrected plan is known: --fix prints it as a diff, --fix --write applies it.")
        return code
    if not outcome.corrections:
        talk(
            "diag: no correction is known for this plan"
            if outcome.report.exit_code
            else "diag: nothing to correct"
        )
        return outcome.report.exit_code
    for one in outcome.corrections:
        for reason in one.reasons:
            talk(f"{one.path}: {reason}")
        for other in one.alternatives:
            talk(f"{one.path}: or else: {other}")
    # A diff with stand-ins in it would not apply: it goes to the owner of the file as it is.
    emit_text(
        "".join(one.diff if one.diff.endswith("\n") else one.diff + "\n" for one in outcome.corrections),
        to,
        "plan.diff",
    )
    if write:
        for one in outcome.corrections:
            _apply(one.path, one.old_text, one.new_text)
            talk(f"changed {one.path}")
    return outcome.report.exit_code


def compare_reports(to: Sink, good: str, bad: str) -> int:
    """Say what differs; return 1 where something does."""
    from diag.report.compare import compare, draw
    from diag.report.redact import redact_together

    pair: tuple[Report, ...] = (_load(good), _load(bad))
    if not to.raw:
        pair = redact_together(pair)
    differences = compare(*pair)
    emit_text(draw(differences, to.fmt, color=to.output is None and wants_color()), to, "diff.txt")
    return WRONG if differences.any else 0


def _finish(report: Report, to: Sink) -> int:
    return _print(protect(report, to.raw), to)


def _print(report: Report, to: Sink) -> int:
    try:
        emit(report, to)
    except BrokenPipeError:
        forget_stdout()
    return report.exit_code


def _load(path: str) -> Report:
    from diag.report.jsonform import loads

    try:
        raw = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path, code="unreadable") from error
    try:
        return loads(raw.decode("utf-8-sig", "replace"))
    except UserError as error:
        raise UserError(
            error.what, where=path, help="diag diff compares two report.json files", code=error.code
        ) from error


def _apply(path: str, old_text: str, new_text: str) -> None:
    """Replace a plan's text, unless somebody else changed it meanwhile. The file keeps its mode."""
    real = Path(path).resolve()
    try:
        if real.read_bytes().decode("utf-8") != old_text:
            raise UserError("changed while it was judged; nothing was written", where=path, code="changed")
        beside = real.with_name(f".{real.name}.diag-new")
        beside.write_bytes(new_text.encode())
        beside.chmod(real.stat().st_mode & 0o7777)
        beside.replace(real)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise UserError(f"cannot be written: {reason}", where=path, code="unwritable") from error
