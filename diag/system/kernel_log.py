"""The kernel's log, read without waiting and without changing anything."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from diag.system.files import Root

MAX_RECORDS = 100_000
"""A kernel ring buffer holds fewer; the bound keeps a chattering kernel from holding us."""


@dataclass(frozen=True, slots=True)
class KernelLine:
    """One message."""

    since_boot_s: float
    text: str


def read_kernel_log(root: Root) -> list[KernelLine] | None:
    """All messages the ring buffer still holds, oldest first; None where it may not be read or is not there.

    Format: Documentation/ABI/testing/dev-kmsg in the Linux sources: `prio,seq,micros,flags;text`.
    """
    try:
        fd = os.open(root.join("/dev/kmsg"), os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    records: list[bytes] = []
    try:
        while len(records) < MAX_RECORDS:
            try:
                record = os.read(fd, 8192)
            except BrokenPipeError:  # overwritten while we read: go on with the next
                continue
            except OSError as error:
                if isinstance(error, PermissionError) and not records:
                    return None
                break
            if not record:
                break
            records.append(record)
    finally:
        os.close(fd)
    return parse_kernel_log(b"".join(records).decode("utf-8", "replace"))


def parse_kernel_log(text: str) -> list[KernelLine]:
    """Messages of /dev/kmsg text; continuation lines (which start with a blank) are left out."""
    rows = re.findall(r"^\d+,\d+,(\d+),[^;\n]*;(.*)$", text, re.M)
    return [KernelLine(int(micros) / 1e6, line) for micros, line in rows]
