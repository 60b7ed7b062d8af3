"""Files below a root that tests can swap: a recorded tree stands in for /proc and /sys."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MAX_READ_BYTES = 4 << 20
"""A /proc or /sys file is small; anything larger is cut."""


@dataclass(frozen=True, slots=True)
class Root:
    """A view of the file system below `path`; absolute names are taken relative to it."""

    path: str = "/"

    def join(self, name: str) -> Path:
        """Where `name` (absolute, as on the real machine) lies below this root."""
        return Path(self.path) / name.lstrip("/")

    def read(self, name: str) -> str | None:
        """The text of a small file; None where it is missing, unreadable or not a file."""
        try:
            handle = os.open(self.join(name), os.O_RDONLY | os.O_NONBLOCK)  # a FIFO must not hold the reader
            with os.fdopen(handle, "rb") as file:
                return file.read(MAX_READ_BYTES).decode("utf-8", "replace")
        except (OSError, TypeError):  # nothing in the FIFO: read gives None
            return None

    def names(self, name: str) -> list[str]:
        """The sorted entries of a folder; empty where there is none."""
        try:
            return sorted(entry.name for entry in self.join(name).iterdir())
        except OSError:
            return []

    def exists(self, name: str) -> bool:
        """True if something is there."""
        return self.join(name).exists()

    def link(self, name: str) -> str | None:
        """Where a symbolic link points, None if it is none."""
        try:
            return str(self.join(name).readlink())
        except OSError:
            return None
