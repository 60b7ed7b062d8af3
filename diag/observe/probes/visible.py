"""What CUDA_VISIBLE_DEVICES leaves of the GPUs that NVML counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diag.observe.probes.nvml import ErrorFacts, Nvml, ask_nvml


def list_uuids(nvml: Nvml) -> tuple[list[str | None], list[str]]:
    """UUIDs by index (None for a GPU that does not answer), and those of MIG devices."""
    uuids: list[str | None] = []
    migs: list[str] = []
    for index in range(nvml.count()):
        handle = nvml.value("nvmlDeviceGetHandleByIndex", index)
        uuids.append(nvml.value("nvmlDeviceGetUUID", handle) if handle is not None else None)
        mode = nvml.value("nvmlDeviceGetMigMode", handle) if handle is not None else None
        for slot in (
            range(nvml.value("nvmlDeviceGetMaxMigDeviceCount", handle) or 0) if mode and mode[0] else ()
        ):
            device = nvml.value("nvmlDeviceGetMigDeviceHandleByIndex", handle, slot)
            if device is not None:
                migs.append(nvml.value("nvmlDeviceGetUUID", device))
    return uuids, migs


def parse_visible(value: str, uuids: list[str | None], migs: list[str]) -> dict[str, Any]:
    """What CUDA makes of CUDA_VISIBLE_DEVICES: entries count up to the first one that names no device.

    A UUID may be cut short as long as it is unique. Source: CUDA C++ Programming Guide, environment variables.
    """
    entries = [entry.strip() for entry in value.split(",")] if value.strip() else []
    visible: list[str] = []
    bad: str | None = None
    forms = set()
    for entry in entries:
        name = _resolve(entry, uuids, migs)
        forms.add("mig" if entry.startswith("MIG") else "uuid" if entry.startswith("GPU") else "index")
        if name is None:
            bad = entry
            break
        visible.append(name)
    return {
        "form": "empty" if not entries else forms.pop() if len(forms) == 1 else "mixed",
        "entries": entries,
        "visible": visible,
        "bad": bad,
        "duplicate": len(set(visible)) < len(visible),
    }


def _resolve(entry: str, uuids: list[str | None], migs: list[str]) -> str | None:
    if entry.isdigit():
        return entry if int(entry) < len(uuids) else None
    pool: Mapping[str, str] = {uuid: str(index) for index, uuid in enumerate(uuids) if uuid}
    if entry.startswith("MIG"):
        pool = {uuid: uuid for uuid in migs}
    hits = [name for uuid, name in pool.items() if uuid.startswith(entry)]
    return hits[0] if len(hits) == 1 and len(entry) > 4 else None


def count_cuda_devices(env: Mapping[str, str]) -> tuple[int, ErrorFacts | None]:
    """How many devices a CUDA process would be shown, and NVML's error where it cannot be told."""
    none: tuple[list[str | None], list[str]] = ([], [])
    (uuids, migs), error = ask_nvml(list_uuids, none)
    if error is not None:
        return 0, error
    value = env.get("CUDA_VISIBLE_DEVICES")
    return (len(uuids) if value is None else len(parse_visible(value, uuids, migs)["visible"])), None
