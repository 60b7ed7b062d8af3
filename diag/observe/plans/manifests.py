"""Pods of any Kubernetes object: containers with their commands, GPUs, volumes, probes and variables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from diag.model.launch import Setting
from diag.observe.plans.arguments import service_of_command
from diag.observe.plans.build import build_service
from diag.observe.plans.interface import Insertion, PlacedService, PlacedSetting
from diag.observe.plans.pod_edits import (
    missing_volumes,
    probe_changes,
    probe_settings,
    resource_changes,
    shm_changes,
)
from diag.observe.plans.pods import GPU_RESOURCES, Pod, container_notes, gpu_node
from diag.observe.plans.shell_words import Command, Word, commands, expand, split
from diag.observe.plans.values import as_int
from diag.observe.plans.yaml_tree import Node, shell_text

IMAGE_PROGRAMS = (
    # image -> what its entry point runs when a container gives arguments only (the images' own Dockerfiles)
    (re.compile(r"vllm/vllm-openai"), ("vllm", "serve")),
    (re.compile(r"vllm-openai"), ("vllm", "serve")),
    (re.compile(r"ghcr\.io/llm-d/llm-d(-cuda|-aws)?[:@]"), ("vllm", "serve")),
)
_VERSION_TAG = re.compile(r":v?(\d+\.\d+(?:\.\d+)?)")


def services_of_pod(pod: Pod, text: str, path: str) -> Iterator[PlacedService]:
    """Every engine or launcher that the pod's containers start."""
    for kind in ("containers", "initContainers"):
        node = pod.spec.get(kind)
        for container in node.items if node is not None else []:
            if kind == "containers" or container.plain("restartPolicy") == "Always":
                yield from services_of_container(container, pod, text, path)
    runner = pod.spec.get("runner")
    if runner is not None and runner.is_map:
        yield from services_of_container(runner, pod, text, path)


def services_of_container(container: Node, pod: Pod, text: str, path: str) -> Iterator[PlacedService]:
    """What one container starts, with the container's surroundings as notes."""
    env = {**_group_size(pod), **pod.extra_env, **_env(container)}
    gpu = pod.gpus or gpu_node(container)
    image = str(container.plain("image") or "")
    notes = container_notes(container, pod, gpu)
    extra: dict[str, Setting] = {}
    if gpu is not None:
        extra["resources.gpu"] = PlacedSetting(
            gpu.value, path, gpu.line, "resources.limits.nvidia.com/gpu", gpu.start, gpu.end, "yaml"
        )
    if pod.replicas_at is not None:
        extra["service.workers"] = PlacedSetting(
            pod.replicas_at.value,
            path,
            pod.replicas_at.line,
            "replicas",
            pod.replicas_at.start,
            pod.replicas_at.end,
            "yaml",
        )
    extra["engine.version"] = (
        Setting(version_of_image(image), path, container.line, "image")
        if version_of_image(image)
        else Setting(None)
    )
    extra["dynamo.version"] = Setting(release_of_image(image), path, container.line, "image")
    probes, spots = probe_settings(container, path)
    extra = {key: setting for key, setting in {**extra, **probes}.items() if setting.value is not None}
    found = [command for command in container_commands(container, text, env) if command.words]
    known = False
    for command in found:
        service = service_of_command(
            command,
            path,
            gpus=as_int(gpu.value) if gpu is not None else None,
            nodes=pod.nodes,
            replicas=pod.replicas,
            notes=notes,
            extra=extra,
            role=pod.role,
        )
        if service is not None:
            known = True
            many = "" if pod.name else str(container.plain("name") or "")
            name = pod.name or many or service.name
            yield replace(
                service,
                name=name,
                insertion=_insertion(container, service.insertion),
                spots=spots,
                notes={**service.notes, "commands": str(len(found))},
                cures={
                    **service.cures,
                    **resource_changes(container, notes.get("gpu.misspelt"), GPU_RESOURCES),
                    **missing_volumes(container, pod.spec)[1],
                    **probe_changes(container, listening_port(service)),
                    "shm-too-small": shm_changes(container, pod.spec),
                },
            )
    gpus = as_int(gpu.value) if gpu is not None else None
    if not known and gpus and pod.bare:  # something we do not know, but it takes GPUs
        yield build_service(
            pod.name or str(container.plain("name") or "container"),
            extra,
            env={key: Setting(word.text, path, word.line, key) for key, word in env.items()},
            role="other",
            replicas=pod.replicas,
            gpus=gpus,
            nodes=pod.nodes,
            path=path,
            line=container.line,
            program="container",
            notes=notes,
        )


def _group_size(pod: Pod) -> dict[str, Word]:
    """What the LeaderWorkerSet's controller sets in every container."""
    return {"LWS_GROUP_SIZE": Word(str(pod.nodes), line=pod.spec.line)} if pod.nodes and pod.lws else {}


def listening_port(service: PlacedService) -> int:
    """Where a server answers over HTTP: as it says itself, else its default."""
    port = as_int(service.options["port"].value) if "port" in service.options else None
    return port or (30000 if service.framework == "sglang" else 8000)


def _insertion(container: Node, insertion: Insertion | None) -> Insertion | None:
    """For a list of arguments: a new item after the last, in the list's style."""
    if insertion is None or insertion.style == "shell":
        return insertion
    node = container.get("args") or container.get("command")
    if node is None or not node.items:
        return None
    if node.style == "flow":
        return replace(insertion, style="yaml-args", flow=True, offset=node.items[-1].end)
    return replace(insertion, style="yaml-args", offset=node.items[-1].end, indent=node.column)


def version_of_image(image: str) -> str | None:
    """An engine's version from the tag of its own image; other images' tags say nothing of the engine."""
    found = _VERSION_TAG.search(image)
    own = r"vllm-openai|lmsysorg/sglang|vllm/vllm|tensorrt-llm/release"
    return found.group(1) if found and re.search(own, image) else None


def release_of_image(image: str) -> str | None:
    """Dynamo's release from the tag of one of its own images."""
    found = _VERSION_TAG.search(image)
    return found.group(1) if found and re.search(r"ai-dynamo/|dynamo[\w-]*-runtime", image) else None


def _env(container: Node) -> dict[str, Word]:
    found: dict[str, Word] = {}
    node = container.get("env")
    for item in node.items if node is not None else []:
        name, value = item.plain("name"), item.get("value")
        if name is None:
            continue
        if value is not None and value.value is not None:
            found[str(name)] = Word(
                expand(value.raw, found), value.start, value.end, value.line, style="yaml-item"
            )
        elif item.get("valueFrom") is not None:
            field_path = item.plain("valueFrom", "fieldRef", "fieldPath")
            found[str(name)] = Word(f"$({field_path or 'valueFrom'})", -1, -1, item.line)
    return found


def container_commands(container: Node, text: str, env: Mapping[str, Word]) -> list[Command]:
    """The commands of `command` and `args`, shells inside them opened."""
    words = list(_words(container, text, env))
    added = env.get("VLLM_ADDITIONAL_ARGS")
    if (
        container.get("command") is None
        and added is not None
        and not any("$" in word.text for word in words[:1])
    ):
        # KServe's LLMInferenceService: its own script runs `vllm serve` with these
        more = [replace(word, start=-1, end=-1, line=added.line) for word in split(added.text)]
        return [
            Command(
                [Word("vllm", line=added.line), Word("serve", line=added.line), *words, *more],
                dict(env),
                added.line,
            )
        ]
    if not words:
        return []
    image = str(container.plain("image") or "")
    if container.get("command") is None:
        program = next((names for pattern, names in IMAGE_PROGRAMS if pattern.search(image)), None)
        if program is not None and words[0].text.startswith("-"):
            words = [Word(name, line=words[0].line) for name in program] + words
    return open_shells(words, text, env)


def _words(container: Node, text: str, env: Mapping[str, Word]) -> Iterator[Word]:
    for key in ("command", "args"):
        node = container.get(key)
        if node is None:
            continue
        if not node.items and isinstance(node.value, str):
            yield Word(node.value, node.start, node.end, node.line, style="yaml-item")
        for item in node.items:
            raw = item.raw if not isinstance(item.value, (dict, list)) else ""
            yield Word(
                expand(raw, env) if "$(" in raw else raw,
                item.start,
                item.end,
                item.line,
                style="yaml-item",
                quoted=True,
            )


def open_shells(words: list[Word], text: str, env: Mapping[str, Word]) -> list[Command]:
    """`bash -c SCRIPT` as the script's commands; a plain argument list as one command."""
    flag = _script_flag(words)
    if flag is not None:
        script = handed_script(words)
        return script_commands(script, text, env) if script is not None else []
    if words and words[0].text.rsplit("/", 1)[-1] in ("sh", "bash") and len(words) == 1:
        return []
    return [Command(words, dict(env), words[0].line)]


def _script_flag(words: Sequence[Word]) -> int | None:
    """Where the `-c` (`-lc`) stands behind which a shell takes its script; other programs' `-c` is none."""
    for index, word in enumerate(words[:-1]):
        shell = (index and words[index - 1].text.rsplit("/", 1)[-1] in ("sh", "bash", "zsh", "dash")) or any(
            each.text.rsplit("/", 1)[-1] in ("sh", "bash") for each in words[:index]
        )
        if re.fullmatch(r"-[a-z]*c", word.text) and shell:
            return index
    return None


def handed_script(words: Sequence[Word]) -> Word | None:
    """The script that a shell among these words is handed (`srun bash -c SCRIPT`)."""
    flag = _script_flag(words)
    return None if flag is None else next((each for each in words[flag + 1 :] if each.text != "--"), None)


def script_commands(word: Word, text: str, env: Mapping[str, Word]) -> list[Command]:
    """The commands of a script that stands in a YAML scalar, with places in the file."""
    if word.start < 0 or not text:
        return [replace_line(command, word.line) for command in commands(word.text, env)]
    raw_head = text[word.start : word.start + 1]
    node = Node(
        word.text,
        word.line or 1,
        word.start,
        word.end,
        0,
        raw_head if raw_head in ("|", ">", "'", '"') else "",
    )
    script, places = shell_text(node, text)
    if (
        node.style == '"' and "\\" in text[word.start : word.end]
    ):  # escapes shift every place: keep the lines, give up the offsets
        return [replace_line(command, word.line) for command in commands(word.text, env)]
    return [place_command(command, places, text) for command in commands(script, env)]


def replace_line(command: Command, line: int | None) -> Command:
    """A command without places, at a known line."""
    return Command(
        [replace(word, start=-1, end=-1, line=line) for word in command.words],
        command.env,
        line,
        command.background,
    )


def place_command(command: Command, places: list[tuple[int, int]], text: str) -> Command:
    """A command of an inner text with its places in the file."""
    words = []
    for word in command.words:
        if word.start < 0:
            words.append(word)
            continue
        start = _translate(word.start, places)
        words.append(
            replace(
                word, start=start, end=start + (word.end - word.start), line=text.count("\n", 0, start) + 1
            )
        )
    return Command(words, command.env, words[0].line, command.background)


def _translate(offset: int, places: list[tuple[int, int]]) -> int:
    here, there = max((place for place in places if place[0] <= offset), default=places[0])
    return there + offset - here
