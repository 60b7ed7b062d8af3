"""The commands. Each is its options and one call; what is heavy is imported when a command runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import diag
from diag.cli.errors import forget_stdout, guarded, spare_collections
from diag.cli.hangs import attach_command, watch_command
from diag.cli.options import FormatOption, JsonOption, OutputOption, PlaybooksOption, QuietOption, RawOption

app = typer.Typer(
    name="diag",
    help="Says what broke a multi-node GPU launch, where, and what to change.",
    epilog="Exit codes: 0 nothing wrong found, 1 something wrong and named, 2 wrong usage or unreadable input, 3 wrong or unmeasured and unknown, 70 a bug of ours.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
playbook = typer.Typer(
    name="playbook",
    help="The knowledge base: list, show, lint and draft playbooks.",
    rich_markup_mode=None,
    no_args_is_help=True,
)
app.add_typer(playbook)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"diag {diag.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


@app.command("run")
def run_command(
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder for report.json, report.md and report.html; by default a dated one here.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="PROBE", help="Only this probe or group; may be given again."),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option("--skip", metavar="PROBE", help="Not this probe or group; may be given again."),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=1.0, help="For the whole run.")
    ] = 25.0,
    python: Annotated[
        str | None,
        typer.Option(
            "--python", metavar="PATH", help="The interpreter of the launch, whose torch and NCCL are tested."
        ),
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option("--plan", metavar="FILE", help="Judge this launch plan with what was probed."),
    ] = None,
    log: Annotated[
        list[str] | None,
        typer.Option(
            "--log", metavar="PATH", help="Explain this log with what was probed; may be given again."
        ),
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also bandwidth and long tests.")] = False,
    nnodes: Annotated[
        int | None,
        typer.Option("--nnodes", metavar="N", min=1, help="Nodes of the job; a launcher tells it by itself."),
    ] = None,
    node_rank: Annotated[
        int | None, typer.Option("--node-rank", metavar="R", min=0, help="Which of them this is, from 0.")
    ] = None,
    master: Annotated[
        str | None,
        typer.Option("--master", metavar="HOST:PORT", help="Where node 0 is; the nodes meet there."),
    ] = None,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=1.0, help="How long nodes wait for each other.")
    ] = 20.0,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray", metavar="ADDRESS", help="Run on every node of this Ray cluster (auto: the one here)."
        ),
    ] = None,
    fmt: FormatOption = None,
    as_json: JsonOption = False,
    output: OutputOption = None,
    raw: RawOption = False,
    playbooks: PlaybooksOption = None,
    quiet: QuietOption = False,
) -> None:
    """Probe this node, and in a job the links between its nodes, without disturbing what runs there."""

    def work() -> int:
        from diag.cli.commands import run_node
        from diag.cli.output import sink

        return run_node(
            sink(fmt, as_json, output, raw, quiet), out=out, only=only or [], skip=skip or [], timeout_s=timeout, python=python,
            plan=plan, logs=log or [], deep=deep, playbook_dirs=playbooks or [],
            nnodes=nnodes, node_rank=node_rank, master=master, wait_s=wait, ray=ray,
        )  # fmt: skip

    guarded(work)


@app.command("explain")
def explain_command(
    *,
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Logs, folders, archives (.gz .zst .tar .zip), reports, plans; - is standard input.",
        ),
    ],
    fmt: FormatOption = None,
    as_json: JsonOption = False,
    output: OutputOption = None,
    raw: RawOption = False,
    playbooks: PlaybooksOption = None,
    quiet: QuietOption = False,
) -> None:
    """Diagnose from what a launch left behind."""

    def work() -> int:
        from diag.cli.commands import explain_paths
        from diag.cli.output import sink

        return explain_paths(sink(fmt, as_json, output, raw, quiet), paths, playbooks or [])

    guarded(work)


@app.command("check")
def check_command(
    *,
    plans: Annotated[
        list[str],
        typer.Argument(
            metavar="PLAN...",
            help="Launch plans: Dynamo YAML, Kubernetes manifests, files with command lines.",
        ),
    ],
    gpus: Annotated[
        str | None,
        typer.Option(
            "--gpus", metavar="COUNTxNAME[-MEMORY]", help="GPUs of one node: 4xT4, 16xA100-40GB, 8xH200."
        ),
    ] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", min=1, help="How many such nodes.")] = None,
    hardware: Annotated[
        str | None,
        typer.Option("--hardware", metavar="REPORT.json", help="A report of diag run whose hardware counts."),
    ] = None,
    params: Annotated[
        str | None,
        typer.Option("--params", metavar="32B", help="The model's size where the plan does not tell."),
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", metavar="DIR", help="A folder with the model's config.json.")
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Print the corrected plan as a unified diff.")] = False,
    write: Annotated[
        bool, typer.Option("--write", help="With --fix: change the file; comments and order stay.")
    ] = False,
    fmt: FormatOption = None,
    as_json: JsonOption = False,
    output: OutputOption = None,
    raw: RawOption = False,
    playbooks: PlaybooksOption = None,
    quiet: QuietOption = False,
) -> None:
    """Judge a launch plan before it starts."""

    def work() -> int:
        from diag.cli.commands import check_plans
        from diag.cli.output import sink

        return check_plans(
            sink(fmt, as_json, output, raw, quiet), plans, gpus=gpus, nodes=nodes, hardware=hardware, params=params, config=config,
            fix=fix, write=write, playbook_dirs=playbooks or [],
        )  # fmt: skip

    guarded(work)


app.command("attach")(attach_command)
app.command("watch", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(
    watch_command
)


@app.command("diff")
def diff_command(
    *,
    good: Annotated[str, typer.Argument(metavar="GOOD", help="report.json of what works.")],
    bad: Annotated[str, typer.Argument(metavar="BAD", help="report.json of what does not.")],
    fmt: FormatOption = None,
    as_json: JsonOption = False,
    output: OutputOption = None,
    raw: RawOption = False,
    quiet: QuietOption = False,
) -> None:
    """Say what differs between two reports; exit code 1 where something does."""

    def work() -> int:
        from diag.cli.commands import compare_reports
        from diag.cli.output import sink

        return compare_reports(sink(fmt, as_json, output, raw, quiet), good, bad)

    guarded(work)


@playbook.command("list")
def list_playbooks(
    *,
    fmt: FormatOption = None,
    as_json: JsonOption = False,
    output: OutputOption = None,
    playbooks: PlaybooksOption = None,
    quiet: QuietOption = False,
) -> None:
    """List every playbook by id."""

    def work() -> int:
        from diag.cli.knowledge import list_all
        from diag.cli.output import sink

        return list_all(sink(fmt, as_json, output, True, quiet), playbooks or [])

    guarded(work)


@playbook.command("show")
def show_playbook(
    *,
    name: Annotated[str, typer.Argument(metavar="ID", help="The id of a cause.")],
    fmt: FormatOption = None,
    as_json: JsonOption = False,
    output: OutputOption = None,
    playbooks: PlaybooksOption = None,
    quiet: QuietOption = False,
) -> None:
    """Show one playbook: what it looks for, what to change, what it is mistaken for."""

    def work() -> int:
        from diag.cli.knowledge import show
        from diag.cli.output import sink

        return show(sink(fmt, as_json, output, True, quiet), name, playbooks or [])

    guarded(work)


@playbook.command("lint")
def lint_playbooks(
    *,
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="A playbook or folder; all of them without it.")
    ] = None,
    playbooks: PlaybooksOption = None,
    quiet: QuietOption = False,
) -> None:
    """Check that playbooks prove themselves with their samples; exit code 1 where one does not."""

    def work() -> int:
        from diag.cli.knowledge import lint

        return lint(path, playbooks or [], quiet)

    guarded(work)


@playbook.command("new")
def new_playbook(
    *,
    name: Annotated[
        str, typer.Argument(metavar="ID", help="The new cause's id: kebab-case, the name of the fault.")
    ],
    line: Annotated[
        str,
        typer.Option(
            "--from", metavar="LOG:LINE", help="The line that names the cause; it becomes the first sample."
        ),
    ],
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Draft a playbook from one line of a log."""

    def work() -> int:
        from diag.cli.knowledge import draft
        from diag.cli.output import sink

        return draft(sink(None, False, output, True, quiet), line, name)

    guarded(work)


def run() -> int:
    """Run the command line and return its exit code."""
    spare_collections()
    try:
        app(prog_name="diag")
    except SystemExit as end:
        code = end.code
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            forget_stdout()
        return code if isinstance(code, int) else 0 if code is None else 1
    return 0


def main() -> None:
    """Entry point of `python -m diag.cli.main`."""
    sys.exit(run())


if __name__ == "__main__":
    main()
