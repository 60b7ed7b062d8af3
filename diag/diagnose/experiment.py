"""Two runs typed at a prompt that differ in a setting: the one that failed, and the one that shows what cures it.

Users paste both: the launch that failed, then the same with one variable set or a few GPUs less. The failure is what
they ask about, and the difference is evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diag.model import Observation, Origin
from diag.observe.logs.filestate import FileReading
from diag.system.lazy import lazily

_ASSIGNED = lazily(r"(?:^|\s)(?:-[xe] ?)?([A-Z][A-Z0-9_]{2,})=(\S*)")
_OPTION = lazily(r"(?:^|\s)(--?[a-zA-Z][\w-]*)(?:[= ]+(?!-)([^\s|>&]+))?")
_NOT_SETTINGS = (
    "NCCL_DEBUG",
    "NCCL_DEBUG_SUBSYS",
    "NCCL_DEBUG_FILE",
    "CUDA_LAUNCH_BLOCKING",
    "TORCH_DISTRIBUTED_DEBUG",
)
_PROGRAM = lazily(
    r"(?:^|[\s/])(torchrun|vllm serve|deepspeed|accelerate launch|mpirun|srun|trtllm-serve|\w+_perf|"
    r"python3? -m [\w.]+|python3? \S+\.py)(?=\s|$)"
)


def settings_of(command: str) -> dict[str, str]:
    """Variables and options of a command line: `NCCL_P2P_DISABLE=1 vllm serve m -tp 2` sets two."""
    command = command.split(" | ", maxsplit=1)[0].split(" 2>", maxsplit=1)[0]
    found = {name: value for name, value in _ASSIGNED.findall(command) if name not in _NOT_SETTINGS}
    found |= {
        name: value
        for name, value in _OPTION.findall(_ASSIGNED.sub(" ", command))
        if name not in ("-x", "-e")
    }
    return found


def program_of(command: str) -> str:
    """What a command line starts, or an empty text."""
    found = _PROGRAM.search(command)
    return found[1] if found else ""


def cure(reading: FileReading, starts: Sequence[int], failed: int, works: int) -> Mapping[str, str]:
    """Settings that the run that works has and the failed one lacks (by number); none where the two are not comparable."""
    commands = [_command_at(reading, starts[number]) for number in (failed, works)]
    programs = [program_of(one) for one in commands]
    if not programs[0] or programs[0] != programs[1]:
        return {}
    before, after = (settings_of(one) for one in commands)
    return {name: value for name, value in after.items() if before.get(name) != value}


def typed_at(reading: FileReading, start: int) -> Observation | None:
    """The command that a run began with, as evidence."""
    line = next((line for line, _ in reading.commands if start - 3 <= line <= start + 3), None)
    if line is None:
        return None
    origin = Origin(source=reading.name, line=line)
    return Observation("log", "experiment", origin, _command_at(reading, start)[:2000], order=line)


def _command_at(reading: FileReading, start: int) -> str:
    """The command that a run began with: typed on its first line, or just above."""
    typed = [text for line, text in reading.commands if start - 3 <= line <= start + 3]
    return typed[0] if typed else ""
