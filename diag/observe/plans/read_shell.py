"""Shell scripts, sbatch scripts and bare command lines that start an engine or a launcher."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from diag.model.launch import LaunchPlan, Setting
from diag.observe.plans.arguments import service_of_command
from diag.observe.plans.config_maps import files_of_script, with_files
from diag.observe.plans.docker import container_of
from diag.observe.plans.interface import PlacedService, PlacedSetting, Reader
from diag.observe.plans.manifests import (
    open_shells,
    place_command,
    release_of_image,
    replace_line,
    version_of_image,
)
from diag.observe.plans.programs import HINT
from diag.observe.plans.read_kubernetes import unique_names
from diag.observe.plans.shell_words import Command, commands
from diag.observe.plans.tasks import STARTERS, ray_notes, task_notes
from diag.observe.plans.values import as_int

_YAML_LIKE = re.compile(r"^(?:---\s*$|apiVersion\s*:|[A-Za-z_][\w.-]*\s*:(?:\s|$))", re.MULTILINE)
_IN_VARIABLES = re.compile(
    r"\$\{?\w+\}?[\"']?\s+(?:serve|-m\s+(?:vllm|sglang|dynamo)\.|launch\b)|\$\{?(?:CMD|LAUNCH\w*|SERVE\w*|RUN\w*)\b"
)
"""A program whose name stands in a variable: `$CMD serve MODEL`."""
_ENDINGS = (".sh", ".bash", ".sbatch", ".slurm", ".srun", ".cmd", ".txt", ".job")
_SBATCH = re.compile(r"^#SBATCH\s+(--?[A-Za-z][\w-]*)(?:[= ]\s*(\S+))?", re.MULTILINE)
_LONG = {
    "-N": "nodes",
    "-n": "ntasks",
    "-G": "gpus",
    "-c": "cpus-per-task",
    "-t": "time",
    "-J": "job-name",
    "-p": "partition",
}


def sniff(text: str, path: str) -> bool:
    """A known program in something that is no YAML: by its first line, its name, or its lack of keys."""
    if text.startswith("#!") and "sh" in text[:40].split("\n", maxsplit=1)[0]:
        return bool(HINT.search(text) or _IN_VARIABLES.search(text)) or "#SBATCH" in text
    if path.endswith((".yaml", ".yml", ".json", ".py", ".md", ".toml", ".log", ".rst")):
        return False
    return bool(HINT.search(text)) and (path.endswith(_ENDINGS) or not _YAML_LIKE.search(text))


def read(text: str, path: str) -> LaunchPlan:
    """Every command that starts something we know, in order."""
    batch = dict(_directives(text, path))
    services = _with_versions(
        unique_names(with_files(list(_in_turn(text, path, batch)), files_of_script(text), text, path)),
        text,
        path,
    )
    nodes = as_int(batch["slurm.nodes"].value) if "slurm.nodes" in batch else None
    return LaunchPlan("slurm" if batch else "shell", path, tuple(services), nodes)


_PINNED = re.compile(
    r"\b(?P<package>vllm|sglang|ai-dynamo)(?:\[[\w,-]+\])?==v?(?P<pinned>\d+\.\d+[\w.]*)"
    r"|^[ \t]*#.{0,80}?\b(?P<program>vllm|sglang|dynamo)[ /-]v?(?P<noted>\d+\.\d+\.\d+[\w.]*)",
    re.MULTILINE | re.IGNORECASE,
)


def _with_versions(services: Iterable[PlacedService], text: str, path: str) -> Iterator[PlacedService]:
    """Versions that a script pins (`pip install vllm==0.8.5`) or notes in a comment, where it tells one of each."""
    told: dict[str, set[tuple[str, int]]] = {}
    for found in _PINNED.finditer(text):
        name = (found["package"] or found["program"]).lower().replace("ai-dynamo", "dynamo")
        told.setdefault(name, set()).add(
            (found["pinned"] or found["noted"], text.count("\n", 0, found.start()) + 1)
        )
    for service in services:
        options = dict(service.options)
        for option, name in (("engine.version", service.framework), ("dynamo.version", "dynamo")):
            versions = {version for version, _ in told.get(name or "", ())}
            if len(versions) == 1 and option not in options:
                version, line = min(told[name or ""], key=lambda each: each[1])
                options[option] = Setting(version, path, line, "version")
        yield replace(service, options=options)


def _in_turn(text: str, path: str, batch: dict[str, Setting]) -> Iterator[PlacedService]:
    """The services, with what keeps two of them from running at once: a `kill` between them, functions for one port."""
    found: list[PlacedService] = []
    killed = 0
    read = list(commands(text))
    everywhere = dict(ray_notes(read))
    if batch and not STARTERS.search(text):
        everywhere["task.alone"] = "true"
    for command in read:
        if command.words[0].text in ("kill", "pkill", "killall") and not command.function:
            killed += 1
        for service in services_of_shell_command(command, text, path, batch):
            notes = {**service.notes, **everywhere}
            found.append(_beside(replace(_over_nodes(service, text), notes=notes), f"killed.{killed}"))
    ports: dict[str, set[str]] = {}
    for service in found:
        if "function" in service.notes and "port" in service.options:
            ports.setdefault(service.notes["function"], set()).add(str(service.options["port"].value))
    for service in found:
        name = service.notes.get("function", "")
        rivals = {other for other, used in ports.items() if other != name and used & ports.get(name, set())}
        beside = ",".join(f"{'/'.join(sorted((name, other)))}.{name}" for other in rivals)
        yield _beside(service, beside) if rivals else service


def _over_nodes(service: PlacedService, text: str) -> PlacedService:
    """vLLM on a Ray cluster that the same batch script builds on its nodes."""
    backend = service.options.get("distributed-executor-backend")
    nodes = service.options.get("slurm.nodes")
    ray = (
        backend is not None and backend.value == "ray" and re.search(r"\bray (?:start|symmetric-run)\b", text)
    )
    if not ray or nodes is None or service.nodes_per_replica is not None:
        return service
    return replace(service, nodes_per_replica=as_int(nodes.value))


def _beside(service: PlacedService, branch: str) -> PlacedService:
    branches = ",".join(filter(None, (service.notes.get("branch"), branch)))
    return replace(service, notes={**service.notes, "branch": branches})


def _directives(text: str, path: str) -> Iterator[tuple[str, Setting]]:
    for match in _SBATCH.finditer(text):
        flag, value = match.groups()
        name = _LONG.get(flag, flag.lstrip("-"))
        line = text.count("\n", 0, match.start()) + 1
        start, end = match.span(2)
        if name == "gres":
            count = re.search(r"gpu(?::[\w.-]+)*?:(\d+)\Z", value or "")
            if count:
                yield "slurm.gpus-per-node", Setting(int(count.group(1)), path, line, "#SBATCH --gres")
        elif name in ("gpus-per-node", "gpus-per-task", "gpus"):
            yield (
                f"slurm.{name}",
                Setting(as_int(str(value).rsplit(":", 1)[-1]), path, line, f"#SBATCH --{name}"),
            )
        elif name == "nodes":
            yield "slurm.nodes", Setting(as_int(str(value).split("-")[-1]), path, line, "#SBATCH --nodes")
        else:
            yield (
                f"slurm.{name}",
                PlacedSetting(value, path, line, f"#SBATCH --{name}", start, end, "shell"),
            )


def services_of_shell_command(
    command: Command, text: str, path: str, batch: dict[str, Setting]
) -> Iterator[PlacedService]:
    """The services of one command line, containers and inner shells opened."""
    container = container_of(command.words)
    if container is not None:
        version = version_of_image(container.image)
        extra = {
            **batch,
            **({"engine.version": Setting(version, path, command.line, "image")} if version else {}),
        }
        release = release_of_image(container.image)
        if release:
            extra["dynamo.version"] = Setting(release, path, command.line, "image")
        handed = {
            name: command.env.get(name, word) if word.text == f"${name}" else word
            for name, word in container.env.items()
        }
        opened = open_shells(container.inner, "", {**command.env, **handed}) if container.inner else []
        for inner in opened:
            notes = {
                **container.notes,
                "commands": str(len(opened)),
                **({"background": "true"} if command.background or container.detached else {}),
            }
            service = service_of_command(inner, path, gpus=container.gpus, notes=notes, extra=extra)
            if service is not None:
                yield replace(service, cures={**service.cures, **container.cures})
        return
    if command.words[0].text.rsplit("/", 1)[-1] in ("ssh", "pdsh"):
        yield from _elsewhere(command, text, path, batch)
        return
    opened = (
        open_shells(command.words, "", command.env)
        if any(word.text.rsplit("/", 1)[-1] in ("sh", "bash") for word in command.words[:12])
        else [command]
    )
    for inner in opened:
        notes = {"background": "true"} if command.background or inner.background else {}
        notes |= task_notes(command, inner, text)
        service = service_of_command(inner, path, extra=batch, notes=notes)
        if service is not None:
            yield service


def _elsewhere(command: Command, text: str, path: str, batch: dict[str, Setting]) -> Iterator[PlacedService]:
    """What `ssh HOST "..."` starts over there."""
    script = next((word for word in command.words[1:] if re.search(r"\s", word.text)), None)
    host = next((word.text for word in command.words[1:] if not word.text.startswith("-")), "")
    if script is None:
        at = next(
            (index for index, word in enumerate(command.words[1:], 1) if not word.text.startswith("-")), 1
        )
        words = command.words[at + 1 :]
        inner = [Command(list(words), command.env, command.line)] if words else []
    else:
        inner = list(commands(script.text))
        if script.start >= 0 and script.text == text[script.start + 1 : script.end - 1]:
            inner = [place_command(each, [(0, script.start + 1)], text) for each in inner]
        else:
            inner = [replace_line(each, script.line) for each in inner]
    for each in inner:
        notes = {"host": host, **({"background": "true"} if command.background or each.background else {})}
        service = service_of_command(each, path, extra=batch, notes=notes)
        if service is not None:
            yield service


READER = Reader("shell", sniff, read, order=60)
