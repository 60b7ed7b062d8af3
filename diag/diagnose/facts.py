"""One table of facts from everything that tells any: logs, probes, plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diag.diagnose.evidence import Evidence
from diag.model import Finding
from diag.observe.logs.filestate import FileReading


def flatten(
    files: Sequence[FileReading], findings: Sequence[Finding], extra: Mapping[str, list[str]]
) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Return (dotted name -> distinct values, short name -> the value to print).

    A finding's data appear as `<probe>.<field>`; where several values are known, the short name has the last.
    """
    table: dict[str, list[str]] = {}

    for reading in files:
        for path, seen in reading.facts.items():
            for _, value in seen:
                _add(table, path, value)
    for finding in findings:
        for key, value in finding.data.items():
            if isinstance(value, (str, int, float)):
                _add(table, f"{finding.probe}.{key}", value)
    for path, values in extra.items():
        for value in values:
            _add(table, path, value)
    names = {path.rsplit(".", 1)[-1]: values[-1] for path, values in table.items() if values}
    return table, names


def add_probe_facts(table: dict[str, list[str]], sections: Mapping[str, Any]) -> None:
    """Add what probes saw: `<probe>.<field>` for plain fields, and the names that playbooks use."""
    for seen in sections.values():
        if not isinstance(seen, Mapping):
            continue
        for probe, facts in seen.items():
            if isinstance(facts, Mapping):
                for key, value in facts.items():
                    if isinstance(value, (str, int, float)) and not isinstance(value, bool) and value != "":
                        _add(table, f"{probe}.{key}", value)
    for source, name in PROBE_NAMES:
        for value in table.get(source, []):
            _add(table, name, value)


PROBE_NAMES = (
    ("driver.versions.kernel_version", "hardware.driver_version"),
    ("driver.versions.kernel_driver_version", "hardware.driver_version"),
    ("gpu.inventory.driver_version", "hardware.driver_version"),
    ("software.versions.torch", "software.torch"),
    ("software.versions.nccl", "software.nccl"),
    ("software.versions.vllm", "software.vllm"),
)
"""(what a probe calls it, what playbooks and logs call it)."""


def _add(table: dict[str, list[str]], path: str, value: object) -> None:
    values = table.setdefault(path, [])
    if str(value) not in values:
        values.append(str(value))


def nested_facts(evidence: Evidence, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The report's facts: launch, hardware, software, network always there."""
    nested: dict[str, Any] = {"launch": {"services": []}, "hardware": {}, "software": {}, "network": {}}
    for path, values in evidence.facts.items():
        section, _, name = path.partition(".")
        if section in nested and name:
            nested[section][name] = values[0] if len(values) == 1 else list(values)
    for section, value in extra.items():
        if isinstance(value, Mapping) and isinstance(nested.get(section), dict):
            nested[section].update(value)
        else:
            nested[section] = value
    if evidence.framework:
        nested["launch"].setdefault("framework", evidence.framework)
    return nested
