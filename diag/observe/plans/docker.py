"""`docker run` lines: what the container is given, and what it starts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from diag.observe.plans.manifests import IMAGE_PROGRAMS
from diag.observe.plans.shell_words import Word

SWITCHES = {
    "-d",
    "-i",
    "-t",
    "-it",
    "-ti",
    "-dit",
    "-itd",
    "-id",
    "--rm",
    "--init",
    "--privileged",
    "--detach",
    "--interactive",
    "--tty",
    "--read-only",
    "-P",
    "--publish-all",
    "--no-healthcheck",
    "--oom-kill-disable",
    "--replace",
    "-q",
    "--quiet",
    "--sig-proxy",
}


_GRANTS = re.compile(
    r"--gpus|--runtime|--device|nvidia|NVIDIA|\A\$\{?\w*(?:ARG|OPT|FLAG|GPU)|\[@\]|\A\$@|\$\*"
)
"""Words before the image that give a container GPUs, or may."""


@dataclass(slots=True)
class Container:
    """One `docker run`."""

    image: str
    inner: list[Word]
    env: dict[str, Word] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    gpus: int | None = None
    detached: bool = False
    cures: dict[str, tuple[tuple[int, int, str], ...]] = field(default_factory=dict)


def container_of(words: Sequence[Word]) -> Container | None:
    """The container of a `docker run` (or podman, nerdctl) command; None for any other command."""
    start = next(
        (
            index
            for index, word in enumerate(words[:-1])
            if word.text.rsplit("/", 1)[-1] in ("docker", "podman", "nerdctl")
            and "run" in (words[index + 1].text, words[min(index + 2, len(words) - 1)].text)
        ),
        None,
    )
    if start is None:
        return None
    index = next(i for i in range(start, len(words)) if words[i].text == "run") + 1
    found = Container("", [], notes={"docker": "true", "shm": "64m", "capabilities": ""})
    run = words[index - 1]
    if run.end >= 0:
        found.cures["shm-too-small"] = ((run.end, run.end, " --ipc=host"),)
        found.cures["gpus"] = ((run.end, run.end, " --gpus all"),)
        found.cures["ulimit-memlock"] = ((run.end, run.end, " --ulimit memlock=-1"),)
    entry: Word | None = None
    inner: list[Word] = []
    while index < len(words):
        word = words[index]
        if not word.text.startswith("-") or word.text == "-":
            found.image = word.text
            inner = list(words[index + 1 :])
            break
        flag, equals, value = word.text.partition("=")
        index += 1
        if not equals and flag not in SWITCHES and not re.fullmatch(r"-[dit]+", flag) and index < len(words):
            value, word = words[index].text, words[index]
            index += 1
        found.detached = (
            found.detached
            or flag == "--detach"
            or (re.fullmatch(r"-[dit]+", flag) is not None and "d" in flag)
        )
        if flag == "--entrypoint":
            entry = Word(value, line=word.line)
        _take(found, flag, value, word)
    else:
        return None
    if not any(_GRANTS.search(word.text) for word in words[start:index]):
        found.notes["gpu.none"] = "true"
    if found.gpus is None:
        found.gpus = _visible(found.env)
    found.notes["image"] = found.image
    found.inner = ([entry] if entry is not None and entry.text else []) + inner
    if entry is None and (not inner or inner[0].text.startswith("-")):
        program = next((names for pattern, names in IMAGE_PROGRAMS if pattern.search(found.image)), None)
        found.inner = [*(Word(name, line=words[start].line) for name in program or ()), *inner]
    return found


def _visible(env: dict[str, Word]) -> int | None:
    """GPUs that NVIDIA_VISIBLE_DEVICES hands to a container; None where it does not list them."""
    word = env.get("NVIDIA_VISIBLE_DEVICES")
    listed = [each.strip() for each in word.text.split(",")] if word is not None else []
    known = listed and all(re.fullmatch(r"\d+|(?:GPU|MIG)-[\w-]+", each) for each in listed)
    return len(listed) if known else None


def _take(found: Container, flag: str, value: str, word: Word) -> None:
    notes = found.notes
    if flag in ("-e", "--env"):
        name, equals, text = value.partition("=")
        found.env[name] = Word(text if equals else f"${name}", -1, -1, word.line)  # without =: from outside
    elif flag == "--gpus":
        digits = re.search(r"(?:^|count=)(\d+)$", value.strip("'\""))
        devices = re.search(r"device=([\w,:.-]+)", value)
        found.gpus = (
            int(digits.group(1))
            if digits
            else len([each for each in devices.group(1).split(",") if each])
            if devices
            else None
        )
        notes["gpus"] = value
    elif flag in ("--shm-size", "--ulimit"):
        _limit(found, flag, value, word)
    elif flag in ("-v", "--volume", "--mount"):
        notes["shm"] = "unlimited" if "/dev/shm" in value else notes["shm"]
        _add(notes, "mounts", mount_of(value), "\n")
    else:
        _note(notes, flag, value)


def _note(notes: dict[str, str], flag: str, value: str) -> None:
    """Flags that are only facts."""
    if flag == "--ipc" and value == "host":
        notes["shm"] = "unlimited"
    elif flag in ("--network", "--net"):
        notes |= {"network": value, **({"hostNetwork": "true"} if value == "host" else {})}
    elif flag == "--cap-add":
        _add(notes, "capabilities", value, ",")
    elif flag in ("-p", "--publish"):
        _add(notes, "publish", value, ",")
    elif flag == "--device" and "infiniband" in value:
        notes["rdma"] = "true"
    elif flag == "--volumes-from":
        _add(notes, "mounts", f"$={value}", "\n")
    elif flag in FACTS:
        name, fixed = FACTS[flag]
        notes[name] = fixed or value


FACTS = {
    "--privileged": ("privileged", "true"),
    "--env-file": ("env.from", "true"),
    "-m": ("memory", ""),
    "--memory": ("memory", ""),
    "--cpus": ("cpu", ""),
}
"""Flag -> the note and its text; the flag's own value where none stands here."""


def _add(notes: dict[str, str], name: str, value: str, between: str) -> None:
    notes[name] = between.join(filter(None, [notes.get(name), value]))


def mount_of(text: str) -> str:
    """`TARGET=SOURCE` of a `-v` or `--mount` value, or of an entry of a compose file's volumes."""
    named = dict(part.partition("=")[::2] for part in text.split(",") if "=" in part)
    if "type" in named or "target" in named:
        target = next((named[key] for key in ("target", "dst", "destination") if key in named), "$")
        return f"{target}={named.get('source') or named.get('src') or ''}"
    flat = re.sub(
        r"\$\{(\w+):?[-?][^}]*\}", r"$\1", text.strip("'\"")
    )  # ${DIR:-/data} has a colon of its own
    parts = flat.split(":")
    return f"{parts[1] if len(parts) > 1 else parts[0]}={parts[0]}"


def _limit(found: Container, flag: str, value: str, word: Word) -> None:
    """Shared memory and locked memory: the size, and the word to change where it is too small."""
    joined = word.text.startswith(flag)
    placed = word.start >= 0 and word.style == "shell"
    if flag == "--shm-size":
        found.notes["shm"] = value
        found.notes["shm.line"] = str(word.line)
        if placed:
            found.cures["shm-too-small"] = ((word.start, word.end, "--shm-size=16g" if joined else "16g"),)
        return
    name, _, limit = value.partition("=")
    found.notes[f"ulimit.{name}"] = limit
    if name == "memlock" and placed:
        new = "--ulimit=memlock=-1" if joined else "memlock=-1"
        found.cures["ulimit-memlock"] = ((word.start, word.end, new),)
