"""How a batch script starts a command on its nodes, and where the variables on its line get their values.

A word on the line of srun is expanded once, by the batch script on the first node; one in a quoted script that srun
starts, or behind a backslash, by every task for itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from diag.observe.plans.manifests import handed_script
from diag.observe.plans.shell_words import Command, Word
from diag.observe.plans.values import as_int

STARTERS = re.compile(
    r"\b(?:srun|mpirun|mpiexec|orterun|prterun|pdsh|ssh|clush|parallel|flux|jsrun|aprun|ibrun|xargs|dask|scontrol\s+update)\b"
    r"|\bray\s+(?:start|up|symmetric-run)\b|\bblaunch\b"
)
"""What starts something on other nodes, or may."""
TASK = re.compile(r"\$\{?SLURM_(?:PROCID|NODEID|LOCALID)\b")
"""Variables that differ from task to task."""
DRAWN = re.compile(r"\bRANDOM\b|\$\$|\$\(\s*(?:date|shuf|mktemp)\b|`\s*(?:date|shuf|mktemp)\b")
"""Values that every process draws for itself."""
HERE = re.compile(r"\$\(\s*hostname\b|`\s*hostname\b|\$\{?HOSTNAME\b|\$\{?SLURMD_NODENAME\b")
"""The machine that evaluates it."""
_COUNTS = ("-n", "--ntasks", "--ntasks-per-node", "-N", "--nodes")


def task_notes(command: Command, inner: Command, text: str) -> dict[str, str]:
    """`task.start`: srun or mpirun; `task.expand`: once or each; what a script of each task draws or asks for itself."""
    index = next((number for number, word in enumerate(command.words[:40]) if _starter(word)), None)
    if index is None:
        return {}
    starter = _starter(command.words[index])
    notes = {"task.start": starter}
    script = handed_script(command.words[index:])
    if script is None or inner is command:
        notes["task.expand"] = "once"
    else:
        raw = text[script.start : script.end] if script.start >= 0 else _quoted(text, command.line)
        notes["task.expand"] = _expands(raw)
        if notes["task.expand"] == "each":
            notes |= {
                name: "true"
                for name, seen in (("task.draws", DRAWN), ("task.here", HERE))
                if seen.search(raw)
            }
    if any(
        word.text.partition("=")[0] in _COUNTS and as_int(_value(command.words, number)) is None
        for number, word in enumerate(command.words)
        if index < number < index + 30 and word is not script
    ):
        notes["task.open"] = "true"
    return notes


def _starter(word: Word) -> str:
    base = word.text.rsplit("/", 1)[-1]
    return (
        "srun" if base == "srun" else "mpirun" if base in ("mpirun", "mpiexec", "orterun", "prterun") else ""
    )


def _quoted(text: str, line: int | None) -> str:
    """The double-quoted script of the command on this line (its word is gone: the batch script filled in variables)."""
    below = "\n".join(text.split("\n")[(line or 1) - 1 :][:200])
    found = re.search(r'\s-[a-z]*c\s+("(?:[^"\\]|\\.)*")', below, re.DOTALL)
    return found[1] if found else ""


def _expands(raw: str) -> str:
    """Who expands the variables of a script handed to `bash -c`; empty where both do."""
    if raw.startswith("'"):
        return "each"
    if raw.startswith('"'):
        return "once" if "\\$" not in raw else ""
    return ""


def _value(words: list[Word], number: int) -> str:
    inline = words[number].text.partition("=")[2]
    return inline or (words[number + 1].text if number + 1 < len(words) else "")


def ray_notes(found: Iterable[Command]) -> Mapping[str, str]:
    """`ray.head.port`, and `ray.join`, `ray.join.line` of a worker that asks for another port; numbers only."""
    head: str | None = None
    joins: list[tuple[str, int | None]] = []
    for command in found:
        line = " ".join(word.text for word in command.words)
        for start in re.finditer(r"\bray start\b((?:(?!\bray start\b|[;&|]).)*)", line):
            port = re.search(r"--port[= ](\d+)\b", start[1])
            join = re.search(r"--address[= ]['\"]?[^\s'\"]*:(\d+)\b", start[1])
            if "--head" in start[1]:
                head = port[1] if port else "6379" if "--port" not in start[1] else None
            elif join:
                joins.append((join[1], command.line))
    if head is None:
        return {}
    other = next(((port, line) for port, line in joins if port != head), None)
    return (
        {}
        if other is None
        else {"ray.head.port": head, "ray.join": other[0], "ray.join.line": str(other[1] or "")}
    )
