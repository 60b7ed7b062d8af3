"""Python stacks of a running process through py-spy, without pausing it, within a deadline."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diag.model import Reason
from diag.system.commands import Outcome, run_command
from diag.system.files import Root
from diag.system.pystack import dump_with_pystack, find_pystack
from diag.system.stacks import Frame, Stacks, ThreadStack

PTRACE_REMEDY = (
    "run diag as root or as the owner of the process; in a container start it with --cap-add SYS_PTRACE "
    "(Kubernetes: securityContext.capabilities.add: [SYS_PTRACE]); on a host with "
    "/proc/sys/kernel/yama/ptrace_scope of 1 or more, sudo or `sysctl kernel.yama.ptrace_scope=0`"
)
LEAST_S = 0.3
"""With less left there is no second tool to be tried."""


def find_py_spy() -> str | None:
    """py-spy next to our interpreter (it is a dependency), else on PATH."""
    beside = Path(sys.executable).parent / "py-spy"
    return str(beside) if beside.exists() else shutil.which("py-spy")


def dump_stacks(pid: int, *, timeout_s: float = 3.0, numbers: bool = False) -> Stacks:
    """Read the Python stacks of `pid`. Non-blocking: the process is not paused, so a busy one may need a second try.

    By py-spy; where it is not there, or fails on an interpreter that it does not know, by pystack if that is there.

    With `numbers` also the whole numbers among the local variables: the peer of a send or receive.
    """
    tool, other = find_py_spy(), find_pystack()
    if tool is None and other is None:
        text = "neither py-spy nor pystack is installed next to diag or on PATH"
        return Stacks(pid, reason=Reason.TOOL_MISSING, message=text)
    if tool is None and other is not None:
        return dump_with_pystack(pid, other, timeout_s=timeout_s, numbers=numbers)
    assert tool is not None  # noqa: S101 - one of the two is there
    begin = time.monotonic()
    result = _dump(tool, pid, timeout_s, numbers=numbers)
    left = timeout_s - (time.monotonic() - begin)
    if other is not None and result.reason in (Reason.CRASHED, Reason.UNPARSABLE) and left > LEAST_S:
        second = dump_with_pystack(pid, other, timeout_s=left, numbers=numbers)
        return second if second.threads else result
    return result


def _dump(tool: str, pid: int, timeout_s: float, *, numbers: bool) -> Stacks:
    argv = [
        tool,
        "dump",
        "--pid",
        str(pid),
        "--nonblocking",
        "--json",
        "--full-filenames",
        *(["--locals"] if numbers else []),
    ]
    outcome = run_command(argv, timeout_s=timeout_s)
    result = read_outcome(pid, outcome)
    if result.reason is Reason.CRASHED and outcome.duration_s < timeout_s / 2:
        result = read_outcome(pid, run_command(argv, timeout_s=timeout_s - outcome.duration_s))
    return result


def read_outcome(pid: int, outcome: Outcome) -> Stacks:
    """What a finished (or killed) `py-spy dump --json` means."""
    if outcome.timed_out or outcome.stuck:
        return Stacks(
            pid, reason=Reason.TIMEOUT, message=f"py-spy gave no answer within {outcome.duration_s:.0f} s"
        )
    if outcome.code == 0:
        try:
            return Stacks(pid, parse_dump(outcome.text))
        except (ValueError, KeyError, TypeError) as error:
            return Stacks(
                pid, reason=Reason.UNPARSABLE, message=f"py-spy's answer is not understood: {error}"
            )
    said = outcome.err.decode("utf-8", "replace").strip()
    lines = [line.removeprefix("Error: ").strip() for line in said.splitlines() if line.strip()]
    low = said.lower()
    if outcome.denied or "permission denied" in low or "operation not permitted" in low:
        return Stacks(pid, reason=Reason.PERMISSION, message="py-spy may not read that process's memory")
    if "no such process" in low or ("no such file or directory" in low and "/proc/" in low):
        return Stacks(pid, reason=Reason.NOT_APPLICABLE, message="the process is gone")
    if "failed to find python version" in low or "failed to find a python" in low:
        return Stacks(pid, reason=Reason.NOT_APPLICABLE, message="no Python interpreter in that process")
    return Stacks(pid, reason=Reason.CRASHED, message=(lines or ["py-spy failed without a word"])[0][:300])


def parse_dump(text: str) -> tuple[ThreadStack, ...]:
    """Threads of `py-spy dump --json` (py-spy 0.3 and 0.4). Raises ValueError, KeyError or TypeError on other text."""
    return tuple(_thread(entry) for entry in json.loads(text))


def _thread(entry: Mapping[str, Any]) -> ThreadStack:
    frames = tuple(
        Frame(str(f["name"]), str(f["filename"]), int(f["line"]), _numbers(f.get("locals")))
        for f in entry["frames"]
    )
    return ThreadStack(
        str(entry.get("thread_name") or ""),
        entry.get("os_thread_id"),
        bool(entry["active"]),
        bool(entry["owns_gil"]),
        frames,
    )


def _numbers(variables: Any) -> dict[str, int]:
    found = {}
    for one in variables if isinstance(variables, list) else []:
        text = str(one.get("repr") or "")
        if text.isdigit() and len(text) < 10:
            found[str(one.get("name"))] = int(text)
    return found


def ptrace_allowed(root: Root) -> bool | None:
    """Whether this process may read any other's memory: CAP_SYS_PTRACE in effect. None: cannot tell."""
    for line in (root.read("/proc/self/status") or "").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> 19 & 1)  # CAP_SYS_PTRACE is bit 19 (linux/capability.h)
    return None
