"""Docker compose files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from diag.model.launch import LaunchPlan, Setting
from diag.observe.plans.arguments import service_of_command
from diag.observe.plans.docker import mount_of
from diag.observe.plans.interface import PlacedService, PlacedSetting, Reader
from diag.observe.plans.manifests import (
    IMAGE_PROGRAMS,
    open_shells,
    place_command,
    script_commands,
    version_of_image,
)
from diag.observe.plans.shell_words import Command, Word, commands, expand
from diag.observe.plans.values import as_int
from diag.observe.plans.yaml_tree import Node, parse_documents, shell_text

_SNIFF = re.compile(r"^services\s*:\s*(?:#.*)?$", re.MULTILINE)


def sniff(text: str, path: str) -> bool:
    """`services:` at the margin with images or builds below, and no apiVersion."""
    return (
        bool(_SNIFF.search(text))
        and bool(re.search(r"^\s+(?:image|build|container_name|command|extends)\s*:", text, re.MULTILINE))
        and not re.search(r"^apiVersion\s*:", text, re.MULTILINE)
    )


def read(text: str, path: str) -> LaunchPlan:
    """Every service with a command or an image we know."""
    services: list[PlacedService] = []
    problems: list[str] = []
    for document in parse_documents(text, path):
        node = document.get("services")
        for name, service in node.pairs if node is not None else []:
            if service.is_map:
                problems += service.doubled
                services += _service(name, service, text, path)
    return LaunchPlan("compose", path, tuple(services), problems=tuple(problems))


def _service(name: str, node: Node, text: str, path: str) -> Iterator[PlacedService]:
    env = _env(node)
    image = str(node.plain("image") or "")
    words = [*_words(node.get("entrypoint"), env, text), *_words(node.get("command"), env, text)]
    if node.get("entrypoint") is None and (not words or words[0].text.startswith("-")):
        program = next((names for pattern, names in IMAGE_PROGRAMS if pattern.search(image)), None)
        words = [*(Word(part, line=node.line) for part in program or ()), *words]
    if not words:
        return
    version = version_of_image(image)
    extra: dict[str, Setting] = {}
    if version:
        extra["engine.version"] = Setting(version, path, node.line, "image")
    granted = _gpu_node(node)
    if granted is not None:
        extra["resources.gpu"] = PlacedSetting(
            granted.value, path, granted.line, "deploy.resources.count", granted.start, granted.end
        )
    replicas = as_int(node.plain("deploy", "replicas"))
    if (len(words) == 1 and " " in words[0].text) or (
        any(" " in word.text and not word.text.startswith(("{", "[")) for word in words[:1])
        and not words[0].quoted
    ):
        found = script_commands(words[0], text, env)
    else:
        found = open_shells(words, text, env)
    for command in found:
        service = service_of_command(
            command, path, name=name, gpus=_gpus(node), notes=_notes(node), extra=extra, replicas=replicas
        )
        if service is not None:
            notes = {**service.notes, "commands": str(len(found))}
            yield replace(service, notes=notes, cures={**service.cures, **_cures(node)})


def _words(node: Node | None, env: dict[str, Word], text: str) -> list[Word]:
    if node is None or node.value is None:
        return []
    if node.items:
        return [
            Word(expand(item.raw, env), item.start, item.end, item.line, style="yaml-item", quoted=True)
            for item in node.items
        ]
    if not isinstance(node.value, str):
        return []
    # A plain string is cut into words as a shell would; places stay right where it stands in one piece.
    return [word for command in script_words(node, env, text) for word in command.words]


def script_words(node: Node, env: dict[str, Word], text: str) -> list[Command]:
    """A command string of a compose file, line ends folded to blanks."""
    if node.style != '"' and node.start >= 0:
        script, places = shell_text(node, text)
        flat = re.sub(r"\\?\n", lambda match: " " * len(match.group()), script)
        placed = [place_command(command, places, text) for command in commands(flat, env)]
        return placed if re.search(r"&&|\||;", flat) else placed[:1]
    folded = re.sub(r"\\?\n", " ", node.raw)
    parsed = list(commands(folded, env))
    for command in parsed:
        command.words = [Word(word.text, -1, -1, _line(node, word)) for word in command.words]
    return parsed[:1] if not re.search(r"&&|\||;", folded) else parsed


def _line(node: Node, word: Word) -> int:
    if node.style in ("|", ">") and word.start >= 0:
        return node.line + 1 + node.raw.count("\n", 0, word.start)
    return node.line


def _env(node: Node) -> dict[str, Word]:
    found: dict[str, Word] = {}
    block = node.get("environment")
    for item in block.items if block is not None else []:
        name, equals, value = str(item.value).partition("=")
        found[name] = Word(value if equals else f"${name}", -1, -1, item.line)
    for name, value_node in block.pairs if block is not None else []:
        if value_node.value is None:
            found[name] = Word(f"${name}", -1, -1, value_node.line)  # handed in from outside
        else:
            found[name] = Word(
                value_node.raw, value_node.start, value_node.end, value_node.line, style="yaml-item"
            )
    return found


def _gpu_node(node: Node) -> Node | None:
    """Where the count of GPUs stands."""
    devices = node.get("deploy", "resources", "reservations", "devices")
    for item in devices.items if devices is not None else []:
        count = item.get("count")
        if count is not None and as_int(count.value) is not None:
            return count
    return None


def _gpus(node: Node) -> int | None:
    devices = node.get("deploy", "resources", "reservations", "devices")
    for item in devices.items if devices is not None else []:
        ids = item.get("device_ids")
        if ids is not None and ids.items:
            return len(ids.items)
        count = item.plain("count")
        if as_int(count) is not None:
            return as_int(count)
    count = node.plain("gpus")
    return as_int(count) if not isinstance(count, list) else None


def _cures(node: Node) -> dict[str, tuple[tuple[int, int, str], ...]]:
    """A larger /dev/shm: where the size stands, else as the service's first key."""
    size = node.get("shm_size")
    if size is not None and size.start >= 0:
        return {"shm-too-small": ((size.start, size.end, "16g"),)}
    if node.style != "block" or not node.keys:
        return {}
    first = min(node.keys.values(), key=lambda key: key.start)
    return {"shm-too-small": ((first.start, first.start, f"shm_size: 16g\n{' ' * first.column}"),)}


def _notes(node: Node) -> dict[str, str]:
    notes = {
        "docker": "true",
        "shm": str(node.plain("shm_size") or "64m"),
        "capabilities": ",".join(map(str, node.plain("cap_add") or [])),
    }
    if node.plain("ipc") == "host" or re.search(
        r"/dev/shm", str(node.plain("volumes") or "") + str(node.plain("tmpfs") or "")
    ):
        notes["shm"] = "unlimited"
    notes |= _surroundings(node)
    if node.plain("privileged") is True:
        notes["privileged"] = "true"
    limits = node.plain("ulimits")
    for name, value in limits.items() if isinstance(limits, dict) else ():
        notes[f"ulimit.{name}"] = str(value.get("soft") if isinstance(value, dict) else value)
    if "infiniband" in str(node.plain("devices") or ""):
        notes["rdma"] = "true"
    devices = node.get("deploy", "resources", "reservations", "devices")
    items = devices.items if devices is not None else []
    ids = [str(each) for item in items for each in (item.plain("device_ids") or [])]
    if ids:
        notes["devices"] = ",".join(ids)
    given = any("gpu" in (item.plain("capabilities") or []) for item in items)
    if not given and not any(node.get(key) is not None for key in ("gpus", "runtime", "extends", "devices")):
        notes["gpu.none"] = "capabilities" if items else "true"
    ports = node.plain("ports")
    if isinstance(ports, list):
        notes["publish"] = ",".join(map(str, ports))
    return notes


def _surroundings(node: Node) -> dict[str, str]:
    """The image, the network, mounts, limits, and whether variables come from a file."""
    notes = {"image": str(node.plain("image") or "")}
    mode, networks = node.plain("network_mode"), node.plain("networks")
    if mode is not None or networks:
        notes["network"] = str(mode or ",".join(map(str, networks)))
    if mode == "host":
        notes["hostNetwork"] = "true"
    if node.get("env_file") is not None or node.get("extends") is not None:
        notes["env.from"] = "true"
    if node.get("profiles") is not None:
        notes["profiles"] = ",".join(map(str, node.plain("profiles") or []))
    volumes = node.get("volumes")
    mounts = [
        f"{item.plain('target')}={item.plain('source') or ''}" if item.is_map else mount_of(str(item.value))
        for item in (volumes.items if volumes is not None else [])
    ]
    if node.get("extends") is not None:
        mounts.append("$=extends")
    notes["mounts"] = "\n".join(mounts)
    for name, places in (
        ("memory", (("mem_limit",), ("deploy", "resources", "limits", "memory"))),
        ("cpu", (("cpus",), ("deploy", "resources", "limits", "cpus"))),
    ):
        limit = next((value for place in places if (value := node.plain(*place)) is not None), None)
        if limit is not None:
            notes[name] = str(limit)
    return notes


READER = Reader("compose", sniff, read, order=30)
