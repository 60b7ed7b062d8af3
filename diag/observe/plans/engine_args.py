"""Engine arguments as engines print them at start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diag.model.launch import Service, Setting
from diag.observe.plans.build import build_service
from diag.observe.plans.values import as_int, long_name


def service_of(arguments: Mapping[str, Any], framework: str, source: str, line: int | None) -> Service:
    """One engine's service from its printed arguments; None values count as not set."""
    options = {
        long_name(str(name)): Setting(value, source, line, str(name))
        for name, value in arguments.items()
        if value is not None
    }
    return build_service(
        "engine",
        options,
        framework=framework,
        nodes=as_int(options["nnodes"].value) if "nnodes" in options else None,
        path=source,
        line=line,
        program=framework,
    )
