"""Stacks, process lists and GPU tables that somebody pasted below the log of a hang: what each process stood at.

py-spy, faulthandler, gdb (with and without py-bt), /proc/PID/stack, ps and nvidia-smi each have their form; what is
taken from them is the same: a process, its state, its innermost calls.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from diag.system.lazy import lazily

DUMP_BYTES = 32 << 10
ABOVE_BYTES = 700
MAX_STANDING = 4096

TRIGGERS: tuple[tuple[str, str], ...] = (
    ("py-spy", r"^Thread \w+ \((?:active|idle)(?:\+gil)?\)(?:: \"MainThread\"|$)"),
    ("faulthandler", r"^(?:Current t|T)hread 0x[0-9a-f]+ \(most recent call first\):|^Thread 0x[0-9a-f]+ \[\S{1,40}\] \(most recent call first\):"),
    ("gdb", r"^Thread 1 \((?:Thread 0x[0-9a-f]+ \()?LWP \d+"),
    ("kernel", r"^\[<0>\] \w+\+0x"),
    ("ps", r"\bPID\b.{0,60} STAT?\b"),
    ("gpus", r"^\| NVIDIA-SMI \d+|index, (?:name, )?utilization\.gpu \[%\]"),
)  # fmt: skip
"""(tool, line that begins what it prints)"""


@dataclass(frozen=True, slots=True)
class Standing:
    """One process as somebody saw it. Frames are innermost first, `call (file:line)`."""

    line: int
    tool: str
    pid: int | None = None
    rank: int | None = None
    command: str = ""
    state: str = ""
    active: bool = False
    frames: tuple[str, ...] = ()
    wchan: str = ""


@dataclass(frozen=True, slots=True)
class GpuTable:
    """(index, utilisation in percent) of the GPUs of one machine."""

    line: int
    busy: tuple[tuple[int, int], ...]


def read_dump(tool: str, above: str, text: str, line: int) -> list[Standing]:
    """Everything that a tool printed from its first line on; `above` holds the lines before."""
    lines = text.splitlines()
    if tool == "ps":
        return _processes(lines, line)
    told = _PROCESS.findall(above)
    pid, command = (int(told[-1][0]), told[-1][1]) if told else (_pid_of_command(above), "")
    rank = _rank_of(command, above)
    if tool == "py-spy":
        active = "(active" in lines[0]
        return [Standing(line, tool, pid, rank, command, "", active, _py_spy(lines[1:]))]
    if tool == "faulthandler":
        if "Fatal Python error" in above:
            return []  # a process that died there, not one that stands
        return [Standing(line, tool, pid, rank, command, frames=_faulthandler(lines[1:]))]
    if tool == "gdb":
        found = re.search(r"LWP (\d+)", lines[0])
        return [Standing(line, tool, int(found[1]) if found else pid, rank, command, frames=_gdb(lines[1:]))]
    frames = _kernel(lines)
    return [
        Standing(
            line,
            tool,
            pid,
            rank,
            command,
            "D" if _SLEEPS.search(" ".join(frames)) else "",
            frames=(),
            wchan=frames[0] if frames else "",
        )
    ]


def dump_lines(text: str) -> int:
    """Lines of one dump: faulthandler's other threads and a kernel stack's other lines begin no dump of their own."""
    count = 0
    for row in text.splitlines():
        if not re.match(r'\s*$|  File "|(?:Current t|T)hread 0x|\[<0>\]', row):
            break
        count += 1
    return max(1, count)


_PROCESS = lazily(r"^Process (\d+): (.*)$", re.MULTILINE)
_OF_PID = lazily(r"(?:--pid|-p|-ip)[ =]+(\d+)|/proc/(\d+)/(?:stack|wchan|task)|\bpid[ =:]+(\d+)")
_RANK = lazily(r"(?:--?local[-_]rank[ =]|\b[Rr]ank[ =:#_]{0,2}|_TP|\bRANK=)(\d{1,5})\b")
_SLEEPS = lazily(
    r"nfs|rpc_wait|fuse|ceph|lustre|ll_|cl_sync_io|io_schedule|folio_wait|wait_on_page|jbd2|xfs_|blk_|nvme|uvm_|nvidia|rwsem_down|__flush_work"
)


def _pid_of_command(above: str) -> int | None:
    """The number in the command that made the dump, when it stands in the last lines above."""
    for text in reversed(above.rstrip().splitlines()[-3:]):
        found = _OF_PID.search(text)
        if found:
            return int(next(group for group in found.groups() if group))
    return None


def _rank_of(command: str, above: str) -> int | None:
    """A rank in the process's own command, or in a title or remark on the lines just above."""
    found = _RANK.search(command)
    if found is None:
        for text in reversed(above.rstrip().splitlines()[-5:]):
            if re.match(r"(?: {2,}|#\d+ |\[<0>\])", text):
                break  # another dump's frames
            found = _RANK.search(text)
            if found:
                break
    return int(found[1]) if found else None


def _py_spy(lines: Sequence[str]) -> tuple[str, ...]:
    frames = []
    for text in lines:
        if not text.startswith("    "):
            break
        if re.match(r"    \S.* \(.+\)$", text):
            frames.append(text.strip())
    return tuple(frames[:60])


def _faulthandler(lines: Sequence[str]) -> tuple[str, ...]:
    """Of several threads the last is the main one."""
    frames: list[str] = []
    for text in lines:
        found = re.match(r'  File "(.+)", line (\d+) in (.+)$', text)
        if found:
            frames.append(f"{found[3]} ({found[1]}:{found[2]})")
        elif re.match(r"(?:Current t|T)hread 0x", text):
            frames = []
        elif text.strip():
            break
    return tuple(frames[:60])


def _gdb(lines: Sequence[str]) -> tuple[str, ...]:
    """Native calls, and Python's where gdb knows them (`Frame 0x..., for file F, line N, in f`, or py-bt's)."""
    frames: list[str] = []
    for text in lines:
        python = re.search(r"(?:for file|File \"?)(\S+?)\"?, line (\d+), in (\S+)", text)
        native = re.match(
            r"#\d+ +(?:0x[0-9a-f]+ in )?([\w:~<>$@.*&, ]+?) ?\(.*?\)?(?: from (\S+)| at (\S+))?$", text
        )
        if python:
            frames.append(f"{python[3]} ({python[1]}:{python[2]})")
        elif native:
            frames.append(f"{native[1]} ({native[2] or native[3] or '?'})")
        elif text.startswith("Thread ") or (text.strip() and not text.startswith((" ", "#", "Traceback"))):
            break
    return tuple(frames[:80])


def _kernel(lines: Sequence[str]) -> tuple[str, ...]:
    frames = []
    for text in lines:
        found = re.match(r"\[<0>\] (\w+)\+0x", text)
        if found is None:
            break
        frames.append(found[1])
    return tuple(frames)


_COMPUTES = lazily(r"python|VLLM::|sglang::|vllm|trtllm|train|torchrun|ray::|_perf\b")


def _processes(lines: Sequence[str], line: int) -> list[Standing]:
    """The rows of `ps` that are processes of a launch, by the columns that the header names."""
    names = lines[0].split()
    names = (
        names[names.index("PID") - (1 if "USER" in names[: names.index("PID")] else 0) :]
        if "PID" in names
        else names
    )
    state = next((name for name in ("STAT", "S", "ST") if name in names), None)
    found = []
    for number, text in enumerate(lines[1:], 1):
        words = text.split(None, len(names) - 1)
        if len(words) < len(names) or state is None or "PID" not in names:
            break
        row = dict(zip(names, words, strict=True))
        command = words[-1]
        if not row["PID"].isdigit() or not re.match(r"[A-Z][A-Za-z<+]*\Z", row[state]):
            break
        if _COMPUTES.search(command):
            found.append(
                Standing(
                    line + number,
                    "ps",
                    int(row["PID"]),
                    _rank_of(command, ""),
                    command,
                    row[state][:1],
                    wchan=next((row[name] for name in ("WCHAN", "wchan") if name in row), ""),
                )
            )
    return found


def read_gpus(text: str, line: int) -> GpuTable | None:
    """How busy each GPU is, from nvidia-smi's table or its comma-separated form."""
    busy: dict[int, int] = {}
    index: int | None = None
    for row in text.splitlines()[:120]:
        head = re.match(r"\| +(\d+) +(?:NVIDIA|Tesla|GeForce|Quadro|GRID)\b", row)
        if head:
            index = int(head[1])
        share = re.search(r"\| +(\d{1,3})% +\S+ ?\S* *\|?$", row)
        comma = re.match(r"(?:[\d/:. ]+, )?(\d{1,3})(?:, [A-Z][\w -]+)?, (\d{1,3}) ?%", row)
        if share and index is not None:
            busy.setdefault(index, int(share[1]))
            index = None
        elif comma:
            busy.setdefault(int(comma[1]), int(comma[2]))
        elif busy and re.match(r"\| Processes|\$ |[\w@-]+[$#] ", row):
            break
    return GpuTable(line, tuple(sorted(busy.items()))) if len(busy) > 1 else None
