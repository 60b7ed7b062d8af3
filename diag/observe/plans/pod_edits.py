"""Where a pod's manifest takes what its containers lack: a /dev/shm of memory, a more patient probe."""

from __future__ import annotations

import difflib
import re

from diag.model.launch import Setting
from diag.observe.plans.interface import Insertion, PlacedSetting
from diag.observe.plans.yaml_tree import Node

Change = tuple[int, int, str]
PROBES = ("livenessProbe", "startupProbe")
SIZE = "16Gi"
NAME = "dshm"


def shm_changes(container: Node, spec: Node) -> tuple[Change, ...]:
    """A memory-backed volume at /dev/shm, or a larger limit where one is mounted; empty where the shape does not allow it."""
    mounts, volumes = container.get("volumeMounts"), spec.get("volumes")
    mounted = next(
        (
            item.plain("name")
            for item in (mounts.items if mounts is not None else [])
            if str(item.plain("mountPath") or "").rstrip("/") == "/dev/shm"
        ),
        None,
    )
    if mounted is not None:
        for item in volumes.items if volumes is not None else []:
            limit = item.get("emptyDir", "sizeLimit")
            if item.plain("name") == mounted and limit is not None and limit.start >= 0:
                return ((limit.start, limit.end, SIZE),)
        return ()
    have = next(
        (
            str(item.plain("name"))
            for item in (volumes.items if volumes is not None else [])
            if item.plain("emptyDir", "medium") == "Memory"
        ),
        None,
    )
    first = _into(container, "volumeMounts", ["mountPath: /dev/shm", f"name: {have or NAME}"])
    second = (
        ()
        if have
        else _into(
            spec, "volumes", [f"name: {NAME}", "emptyDir:", "  medium: Memory", f"  sizeLimit: {SIZE}"]
        )
    )
    return (*first, *second) if first and (have or second) else ()


def _into(node: Node, key: str, lines: list[str]) -> tuple[Change, ...]:
    """A further item of the list `key`, or the list with this item as the mapping's last key."""
    found = node.get(key)
    if found is not None and found.items and found.style == "block" and found.start >= 0:
        indent = " " * found.column
        body = f"\n{indent}  ".join(lines)
        return ((found.start, found.start, f"- {body}\n{indent}"),)
    if found is not None or node.style != "block" or not node.keys:
        return ()
    first = min(node.keys.values(), key=lambda each: each.start)
    if first.start < 0:
        return ()
    indent = " " * first.column
    body = f"\n{indent}    ".join(lines)
    return ((first.start, first.start, f"{key}:\n{indent}  - {body}\n{indent}"),)


def probe_settings(container: Node, path: str) -> tuple[dict[str, Setting], dict[str, Insertion]]:
    """(failureThreshold of each probe that sets it, the place for one that does not)."""
    options: dict[str, Setting] = {}
    spots: dict[str, Insertion] = {}
    for probe in PROBES:
        node = container.get(probe)
        if node is None or not node.is_map or not node.keys:
            continue
        name = f"{probe}.failureThreshold"
        threshold = node.get("failureThreshold")
        if threshold is not None:
            options[name] = PlacedSetting(
                threshold.value, path, threshold.line, name, threshold.start, threshold.end
            )
        elif node.style == "block":
            first = min(node.keys.values(), key=lambda key: key.start)
            spots[name] = Insertion(first.start - first.column, "yaml-key", first.column)
    return options, spots


def resource_changes(
    container: Node, wrong: str | None, pattern: re.Pattern[str]
) -> dict[str, tuple[Change, ...]]:
    """The GPU's name where it is misspelt, requests like the limits, a probe where the server listens, more memory."""
    found: dict[str, tuple[Change, ...]] = {}
    limits, requests = container.get("resources", "limits"), container.get("resources", "requests")
    names: list[Change] = []
    for node in (limits, requests):
        key = node.keys.get(wrong) if node is not None and wrong is not None and node.is_map else None
        if key is not None and key.start >= 0:
            names.append(
                (
                    key.start,
                    key.end,
                    '"nvidia.com/gpu"' if key.end - key.start > len(wrong or "") else "nvidia.com/gpu",
                )
            )
    if names:
        found["gpu-name"] = tuple(names)
    pairs = [
        next(
            (
                value
                for key, value in (node.pairs if node is not None and node.is_map else [])
                if pattern.match(key)
            ),
            None,
        )
        for node in (limits, requests)
    ]
    if pairs[0] is not None and pairs[1] is not None and pairs[1].start >= 0:
        found["gpu-requests"] = ((pairs[1].start, pairs[1].end, f'"{pairs[0].value}"'),)
    return found


def probe_changes(container: Node, port: int, path: str = "/health") -> dict[str, tuple[Change, ...]]:
    """Every HTTP probe at the port where the server listens, for a page that it has."""
    found: dict[str, tuple[Change, ...]] = {}
    for probe in (*PROBES, "readinessProbe"):
        for action in ("httpGet", "tcpSocket"):
            target, page = container.get(probe, action, "port"), container.get(probe, action, "path")
            changes = (
                [(target.start, target.end, str(port))] if target is not None and target.start >= 0 else []
            )
            if page is not None and page.start >= 0:
                changes.append((page.start, page.end, path))
            if changes:
                found[f"{probe}.at"] = tuple(changes)
    return found


def missing_volumes(container: Node, spec: Node) -> tuple[list[str], dict[str, tuple[Change, ...]]]:
    """(names that are mounted and that nothing provides, the change to the volume that is nearly called so)."""
    mounts, volumes = container.get("volumeMounts"), spec.get("volumes")
    if mounts is None or volumes is None or not volumes.items:
        return [], {}  # a controller may add them
    have = [str(item.plain("name")) for item in volumes.items]
    missing, changes = [], []
    for item in mounts.items:
        node = item.get("name")
        close = difflib.get_close_matches(str(node.value), have, 1, 0.7) if node is not None else []
        if node is not None and str(node.value) not in have and close:
            missing.append(str(node.value))
            changes.append((node.start, node.end, close[0]))
    return missing, {"volume-name": tuple(changes)} if changes else {}
