"""Launcher configurations of training: accelerate's YAML and DeepSpeed's hostfile."""

from __future__ import annotations

import re

from diag.model.launch import LaunchPlan, Setting
from diag.observe.plans.build import build_service
from diag.observe.plans.interface import PlacedSetting, Reader
from diag.observe.plans.values import as_int, long_name
from diag.observe.plans.yaml_tree import parse_documents, to_plain

_ACCELERATE = re.compile(r"^(?:compute_environment|distributed_type)\s*:", re.MULTILINE)
_HOST = re.compile(r"^\s*([\w.:-]+)\s+slots=(\d+)\b[^\n]*$", re.MULTILINE)
_NEARLY_HOST = re.compile(r"\s*[\w.:-]+(?:[\s:]+slots?\b\s*[:=]?.*)?\s*(?:#.*)?\Z", re.IGNORECASE)
"""A line that was meant to be one of a hostfile."""
_NAMES = {"num-machines": "nnodes", "machine-rank": "node-rank"}


def sniff(text: str, path: str) -> bool:
    """accelerate's keys, or nothing but `host slots=N` lines."""
    if _ACCELERATE.search(text) and re.search(r"^num_processes\s*:", text, re.MULTILINE):
        return True
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return any(_HOST.match(line) for line in lines) and all(
        _HOST.match(line) or _NEARLY_HOST.match(line) for line in lines
    )


def read(text: str, path: str) -> LaunchPlan:
    """One trainer service."""
    if not _ACCELERATE.search(text):
        return _hostfile(text, path)
    root = parse_documents(text, path)[0]
    options: dict[str, Setting] = {}
    for key, node in root.pairs:
        name = long_name(key)
        options[_NAMES.get(name, name)] = PlacedSetting(
            to_plain(node), path, node.line, key, node.start, node.end
        )
        for inner, child in node.pairs:
            options[f"{name}.{long_name(inner)}"] = PlacedSetting(
                to_plain(child), path, child.line, f"{key}.{inner}", child.start, child.end
            )
    nodes = as_int(root.plain("num_machines"))
    service = build_service(
        "accelerate",
        options,
        role="trainer",
        framework="accelerate",
        nodes=nodes,
        path=path,
        line=root.line,
        program="accelerate",
    )
    return LaunchPlan("accelerate", path, (service,), nodes, tuple(root.doubled))


def _hostfile(text: str, path: str) -> LaunchPlan:
    hosts = [
        (match.group(1), int(match.group(2)), text.count("\n", 0, match.start(1)) + 1)
        for match in _HOST.finditer(text)
    ]
    names = [host for host, _, _ in hosts]
    bad = [
        (number, line.strip())
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#") and not _HOST.match(line)
    ]
    problems = tuple(
        f"line {line}: host {host} stands there twice"
        for index, (host, _, line) in enumerate(hosts)
        if host in names[:index]
    )
    slots = max((count for _, count, _ in hosts), default=0)
    options: dict[str, Setting] = {
        "nproc-per-node": Setting(slots, path, hosts[0][2] if hosts else None, "slots")
    }
    service = build_service(
        "deepspeed",
        options,
        role="trainer",
        framework="deepspeed",
        nodes=len(set(names)),
        gpus=slots,
        path=path,
        line=1,
        program="deepspeed hostfile",
        notes={
            "hosts": ",".join(f"{host}={count}" for host, count, _ in hosts),
            **({"bad.line": str(bad[0][0]), "bad.text": bad[0][1]} if bad else {}),
        },
        cures=_hostfile_cures(text, bad),
    )
    return LaunchPlan("deepspeed-hostfile", path, (service,), len(set(names)), problems)


def _hostfile_cures(text: str, bad: list[tuple[int, str]]) -> dict[str, tuple[tuple[int, int, str], ...]]:
    """Lines whose count of slots can be told, written as DeepSpeed reads them."""
    lines = text.splitlines(keepends=True)
    changes = []
    for number, line in bad:
        meant = re.fullmatch(r"([\w.:-]+?)[\s:]+slots?\s*[:=]?\s*(\d+)", line, re.IGNORECASE)
        start = sum(map(len, lines[: number - 1])) + lines[number - 1].index(line)
        if meant is not None:
            changes.append((start, start + len(line), f"{meant.group(1)} slots={meant.group(2)}"))
    return {"hostfile": tuple(changes)} if changes else {}


READER = Reader("training", sniff, read, order=50)
