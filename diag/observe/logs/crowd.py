"""Folders of many large files: several processes read them; the caller takes what they read as its own.

Whatever goes wrong here (no semaphores, a killed worker) only means that the caller reads those files itself.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from stat import S_ISREG

from diag.observe.logs.filestate import FileReading
from diag.observe.logs.opening import Opening
from diag.observe.logs.reading import LogReader, build_reader
from diag.observe.logs.strangers import stranger
from diag.playbooks.base import load_base
from diag.system import UserError

LEAST_FILES, LEAST_BYTES = 16, 96 << 20
"""Below, starting processes costs more than they save."""
MOST_WORKERS = 8
FILES_AT_ONCE = 16
OTHER_KINDS = (
    ".gz", ".zst", ".tar", ".tgz", ".zip", ".json", ".yaml", ".yml", ".sh", ".bash", ".sbatch", ".slurm",
)  # fmt: skip
"""What may be something else than a plain log is left to the caller."""


def _worth_it(paths: Sequence[str]) -> list[tuple[str, int]]:
    """(name, bytes) of the plain files below the folders among `paths`; empty where one process does as well."""
    files = []
    for path in paths:
        if path == "-" or not Path(path).is_dir():
            continue
        for base, _, names in os.walk(path, followlinks=False):
            for name in names:
                with contextlib.suppress(OSError):
                    known = os.lstat(f"{base}/{name}")
                    if S_ISREG(known.st_mode) and not name.endswith(OTHER_KINDS):
                        files.append((f"{base}/{name}", known.st_size))
    enough = len(files) >= LEAST_FILES and sum(size for _, size in files) >= LEAST_BYTES
    return files if enough and _processors() > 1 else []


def read_crowd(
    paths: Sequence[str], reader: LogReader, playbook_dirs: Sequence[Path], count: Callable[[int], None]
) -> dict[str, FileReading]:
    """Readings of the plain logs below the folders, by name; empty where one process does as well.

    `count` is told the bytes that were read. The processes are forked with the reader at hand; where that is unsafe
    (threads, no fork) they start anew and load the base again.
    """
    files = _worth_it(paths)
    if not files:
        return {}
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    names = [name for name, _ in files]
    shares = [names[start : start + FILES_AT_ONCE] for start in range(0, len(names), FILES_AT_ONCE)]
    sizes = dict(files)
    found: dict[str, FileReading] = {}
    workers = min(MOST_WORKERS, _processors(), len(shares))
    forks = sys.platform.startswith("linux") and threading.active_count() == 1
    _READER[:] = [reader] if forks else []
    with (
        contextlib.suppress(OSError, ImportError, BrokenProcessPool),
        ProcessPoolExecutor(
            workers, get_context("fork" if forks else "spawn"), _prepare, (list(playbook_dirs),)
        ) as pool,
    ):
        for readings in pool.map(_read, shares):
            for reading in readings:
                found[reading.name] = reading
                count(sizes[reading.name])
    return found


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


_READER: list[LogReader] = []


def _prepare(playbook_dirs: Sequence[Path]) -> None:
    if _READER:
        _READER[0].on_bytes = None  # the caller draws the bar
    else:
        _READER.append(build_reader(load_base(playbook_dirs)))


def _read(names: Sequence[str]) -> list[FileReading]:
    """What a worker reads of its share: plain logs of launches only, so that the caller need not open them."""
    found = []
    for name in names:
        with contextlib.suppress(UserError, OSError):
            for source in Opening([name]):
                head = source.head
                if source.name == name and not head.lstrip().startswith(b"{"):
                    reading = _READER[0].read(source)
                    if stranger(name, head, reading) is None:
                        found.append(reading)
    return found
