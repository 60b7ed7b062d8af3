"""Finds the readers by looking into this folder."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

import diag.observe.plans as package
from diag.observe.plans.interface import Reader


@cache
def readers() -> tuple[Reader, ...]:
    """All readers, the narrow formats first."""
    found = []
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.startswith("read_"):
            reader = importlib.import_module(f"{package.__name__}.{module.name}").READER
            found.append(reader)
    return tuple(sorted(found, key=lambda reader: (reader.order, reader.kind)))
