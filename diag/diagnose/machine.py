"""Which GPUs there are, and what was launched on them, as far as logs, reports or probes tell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diag.observe.logs.filestate import FileReading
from diag.observe.reports import NodeReport

if TYPE_CHECKING:
    from diag.model.launch import Hardware, LaunchPlan

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def hardware_of_facts(facts: Mapping[str, Any], origin: str, nodes: int | None = None) -> Hardware | None:
    """Hardware from the facts of `gpu.inventory`; None where it saw no GPU."""
    section = facts.get("hardware")
    seen = section.get("gpu.inventory") if isinstance(section, Mapping) else None
    gpus = seen.get("gpus") if isinstance(seen, Mapping) else None
    if not isinstance(gpus, list) or not gpus or not isinstance(seen, Mapping):
        return None
    totals = [
        int(gpu["memory_total_bytes"])
        for gpu in gpus
        if isinstance(gpu, Mapping) and gpu.get("memory_total_bytes")
    ]
    from diag.model.launch import Hardware

    return Hardware(
        gpu_name=str(gpus[0].get("name")) if isinstance(gpus[0], Mapping) else None,
        gpus_per_node=len(gpus),
        nodes=nodes,
        gpu_memory_bytes=min(totals) if totals else None,
        driver_version=str(seen.get("driver_version")) if seen.get("driver_version") else None,
        origin=origin,
    )


def probed_hardware(nodes: int | None = None) -> Hardware | None:
    """The GPUs of this node, looked at now; None where there is none."""
    import os

    from diag.observe.probes.interface import Setup
    from diag.observe.probes.runner import run_probes

    run = run_probes(Setup(env=dict(os.environ)), only=("gpu.inventory",), timeout_s=8.0)
    return hardware_of_facts(run.facts, "probed", nodes)


def known_hardware(
    files: Sequence[FileReading],
    facts: Mapping[str, list[str]],
    probed: Mapping[str, Any],
    reports: Sequence[NodeReport],
) -> Hardware | None:
    """The best that is known: probed, reported, or printed in the logs."""
    found = hardware_of_facts(probed, "probed")
    for report in reports:
        found = found or hardware_of_facts(report.facts, f"report:{report.path}")
    return found or _hardware_of_logs(files, facts)


def _hardware_of_logs(files: Sequence[FileReading], facts: Mapping[str, list[str]]) -> Hardware | None:
    def values(path: str) -> list[str]:
        return [value for reading in files for _, value in reading.facts.get(path, [])] + list(
            facts.get(path, [])
        )

    names, indexes, memory = (
        values("hardware.gpu_name"),
        values("hardware.gpu_index"),
        values("hardware.gpu_memory_text"),
    )
    if not (names or indexes or memory):
        return None
    if len(set(names)) > 1:
        return None  # several kinds of GPU: nothing certain can be said
    drivers = values("hardware.driver_version")
    from diag.model.launch import Hardware

    return Hardware(
        gpu_name=names[0] if names else None,
        gpus_per_node=max(int(index) for index in indexes) + 1 if indexes else None,
        gpu_memory_bytes=_bytes(memory[-1]) if memory else None,
        driver_version=drivers[-1] if drivers else None,
        origin="log",
    )


def _bytes(text: str) -> int | None:
    match = re.match(r"([\d.]+) ([KMG]iB)", text)
    return int(float(match[1]) * _UNITS[match[2]]) if match else None


def hardware_facts(hardware: Hardware | None) -> dict[str, Any]:
    """For the report."""
    if hardware is None:
        return {}
    return {
        "gpu_name": hardware.gpu_name,
        "gpus_per_node": hardware.gpus_per_node,
        "nodes": hardware.nodes,
        "gpu_memory_bytes": hardware.gpu_memory_bytes,
        "driver_version": hardware.driver_version,
        "origin": hardware.origin,
    }


def plans_of_logs(files: Sequence[FileReading]) -> list[LaunchPlan]:
    """The configurations that programs printed, as plans; the same one printed by several ranks counts once."""
    printed = [one for reading in files for one in reading.printed]
    if not printed:
        return []
    from diag.observe.plans import plan_from_engine_args, plan_from_mapping

    plans: dict[str, LaunchPlan] = {}
    for one in printed:
        key = f"{one.program}{sorted((name, str(value)) for name, value in one.values.items() if name not in ('node_rank', 'port'))}"
        if key in plans:
            continue
        if one.program == "dynamo-2025":
            plans[key] = plan_from_mapping(one.values, one.source, one.line)
        else:
            plans[key] = plan_from_engine_args(one.values, one.program, one.source, one.line)
    return list(plans.values())
