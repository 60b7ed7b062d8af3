"""The ready-made snippets use options that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from ruamel.yaml import YAML

from diag.cli.main import app
from diag.observe.links.launchers import recognise

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(path for path in EXAMPLES.iterdir() if path.is_file())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_option_of_an_example_is_there(path: Path) -> None:
    run = getattr(typer.main.get_command(app), "commands")["run"]  # noqa: B009 - typer's own class
    known = {option for one in run.params for option in one.opts}
    used = set()
    for found in re.finditer(r"diag[, ]+run([^\n;|\]`]*)", path.read_text()):
        used |= set(re.findall(r"--[a-z][a-z-]*", found[1]))

    assert used <= known


def test_the_kubernetes_job_tells_all_that_is_needed() -> None:
    _, job = YAML(typ="safe").load_all((EXAMPLES / "kubernetes-job.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    env = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}

    layout = recognise({**env, "JOB_COMPLETION_INDEX": "3"}, "diag-3")

    assert layout is not None
    assert (layout.nnodes, layout.node_rank, layout.master_host) == (
        job["spec"]["completions"],
        3,
        "diag-0.diag",
    )
