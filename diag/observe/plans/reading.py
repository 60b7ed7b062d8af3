"""Files to plans: which reader, what refusals, and the rest of the files still read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diag.model.launch import LaunchPlan
from diag.observe.plans import engine_args, read_dynamo_2025
from diag.observe.plans.arguments import service_of_words
from diag.observe.plans.discovery import readers
from diag.observe.plans.yaml_tree import MAX_TEXT_CHARACTERS, parse_documents, template_at
from diag.system import UserError

MAX_FILES = 20_000
PLAN_ENDINGS = (".yaml", ".yml", ".sh", ".bash", ".sbatch", ".slurm", ".json", ".toml", ".conf", ".hostfile")


def read_plan(path: str) -> LaunchPlan:
    """The plan in one file. Raises UserError, located, where there is none."""
    return read_plan_text(read_text(path), path)


def read_text(path: str) -> str:
    """The file's text. Refuses folders, devices, what is too large, and what is no text."""
    try:
        if Path(path).exists() and not Path(path).is_file():  # a pipe would never answer
            raise UserError("not a regular file", path, code="plan-unreadable")
        with Path(path).open("rb") as file:
            data = file.read(MAX_TEXT_CHARACTERS + 1)
    except OSError as error:
        raise UserError(
            f"cannot be read: {(error.strerror or str(error)).lower()}", path, code="plan-unreadable"
        ) from None
    if len(data) > MAX_TEXT_CHARACTERS:
        raise UserError(
            "too large for a launch plan",
            path,
            f"the limit is {MAX_TEXT_CHARACTERS >> 20} MiB",
            "plan-too-large",
        )
    if not data.strip():
        raise UserError("the file is empty", path, code="plan-empty")
    if b"\0" in data[:4096]:
        raise UserError("a binary file, no launch plan", path, code="plan-binary")
    return data.decode("utf-8-sig", "replace")


def read_plan_text(text: str, path: str) -> LaunchPlan:
    """The plan in `text`, which `path` holds or is said to hold."""
    for reader in readers():
        if reader.sniff(text, path):
            return reader.read(text, path)
    template = template_at(text) if path.endswith((".yaml", ".yml", ".tpl", ".j2")) else None
    if template is not None:
        raise UserError(
            f"a template, not a plan: {template[1]}",
            f"{path}:{template[0]}",
            "render it first, for Helm with `helm template`, and check what comes out",
            "yaml-templated",
        )
    if path.endswith((".yaml", ".yml")):
        parse_documents(text, path)  # say where it is broken, if it is
    raise UserError(
        "no launch plan of a kind that diag reads",
        path,
        "Dynamo YAML, Kubernetes manifests, compose files, engine config YAML, shell and sbatch scripts are",
        "plan-unknown",
    )


def read_plans(paths: Iterable[str]) -> tuple[list[LaunchPlan], list[UserError]]:
    """Every plan in files and folders, and an error for each file that could not be read.

    In a folder, files that are no plan are passed over in silence; a file named by the user must be one.
    """
    plans: list[LaunchPlan] = []
    errors: list[UserError] = []
    charts: dict[str, int] = {}
    for path in paths:
        given = not Path(path).is_dir()
        for name in [path] if given else _files_below(path):
            try:
                plan = read_plan(name)
            except UserError as error:
                chart = None if given or error.code != "yaml-templated" else _chart_of(name, path)
                if chart is not None:
                    charts[chart] = charts.get(chart, 0) + 1
                elif given or error.code not in ("plan-unknown", "plan-empty", "plan-binary"):
                    errors.append(error)
            except RecursionError:
                errors.append(UserError("nested too deeply", name, code="yaml-too-deep"))
            else:
                plans.append(plan)
    return plans, [*errors, *(_unrendered(chart, count) for chart, count in charts.items())]


def _chart_of(name: str, folder: str) -> str | None:
    """The Helm chart that a file belongs to."""
    for parent in Path(name).parents:
        if (parent / "Chart.yaml").is_file():
            return str(parent)
        if parent == Path(folder):
            break
    return None


def _unrendered(chart: str, count: int) -> UserError:
    return UserError(
        f"a Helm chart: {count} template{'s' if count > 1 else ''} in it {'are' if count > 1 else 'is'} no plan before being rendered",
        chart,
        f"check what `helm template {chart}` prints; what stands in plain files of the chart was judged",
        "yaml-templated",
    )


def _files_below(folder: str) -> list[str]:
    found: list[str] = []
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [str(Path(base) / name) for name in sorted(names) if name.endswith(PLAN_ENDINGS)]
        if len(found) > MAX_FILES:
            break
    return found[:MAX_FILES]


def is_plan(path: str, head: bytes) -> bool:
    """True if the beginning of a file reads like a launch plan and not like a log.

    A log may print a whole plan or a command line; what decides is the first lines, and that logs carry times.
    """
    if b"\0" in head[:4096]:
        return False
    text = head.decode("utf-8", "replace")
    if not path.endswith(PLAN_ENDINGS) and not text.startswith(("#!", "apiVersion:", "---")):
        return False
    return any(reader.sniff(text, path) for reader in readers())


def plan_from_mapping(mapping: Mapping[str, Any], source: str, line: int | None = None) -> LaunchPlan:
    """The plan in the dict that Dynamo prints at start (`Running dynamo serve with [service] config(s) {...}`)."""
    return read_dynamo_2025.plan_of_mapping(mapping, source, line)


def plan_from_arguments(
    argv: Sequence[str], env: Mapping[str, str] | None = None, source: str = "", line: int | None = None
) -> LaunchPlan | None:
    """The plan in one command line of an engine or launcher; None where it starts none that we know."""
    service = service_of_words(argv, env or {}, source, line)
    return None if service is None else LaunchPlan("command-line", source, (service,))


def plan_from_engine_args(
    arguments: Mapping[str, Any], framework: str, source: str, line: int | None = None
) -> LaunchPlan:
    """The plan in the arguments an engine printed at start (vLLM's non-default args, SGLang's server_args)."""
    return LaunchPlan("log", source, (engine_args.service_of(arguments, framework, source, line),))
