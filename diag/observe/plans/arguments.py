"""One command line of an engine or a launcher made into a service."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from diag.model.launch import Setting
from diag.observe.plans.build import build_service, value_of
from diag.observe.plans.interface import Insertion, PlacedService, PlacedSetting
from diag.observe.plans.programs import Program, find_program, kind_of, short_names
from diag.observe.plans.shell_words import BROKEN, LOST, Command, Word
from diag.observe.plans.values import as_int, long_name
from diag.observe.plans.wrappers import notes_of_wrappers, settings_of_wrappers

TRAINERS = {
    # option of the launcher -> the name it has here; only options before the script belong to the launcher
    "torchrun": {"nproc-per-node": "nproc-per-node", "nnodes": "nnodes", "node-rank": "node-rank"},
    "accelerate": {"num-processes": "num-processes", "num-machines": "nnodes", "machine-rank": "node-rank"},
    "deepspeed": {"num-gpus": "nproc-per-node", "num-nodes": "nnodes"},
}
_LAUNCHER_FLAGS = (
    "standalone",
    "no-python",
    "m",
    "module",
    "multi-gpu",
    "use-deepspeed",
    "use-fsdp",
    "no-local-rank",
    "no-ssh",
    "force-multi",
    "same-network",
    "cpu",
    "mixed",
    "tpu",
    "h",
    "version",
    "run-path",
    "autotuning",
    "log-line-prefix-template",
    "enable-each-rank-log",
)


def service_of_words(
    argv: Sequence[str], env: Mapping[str, str], source: str, line: int | None
) -> PlacedService | None:
    """The service of a bare argument list (a process, a log's command line); None if it starts nothing we know."""
    words = [Word(text, line=line, quoted=True) for text in argv]
    return service_of_command(
        Command(words, {name: Word(value, line=line) for name, value in env.items()}, line), source
    )


def service_of_command(
    command: Command,
    path: str,
    *,
    name: str | None = None,
    gpus: int | None = None,
    nodes: int | None = None,
    replicas: int | None = None,
    notes: Mapping[str, str] | None = None,
    extra: Mapping[str, Setting] | None = None,
    role: str | None = None,
) -> PlacedService | None:
    """The service that a command starts; None if it starts nothing we know. `extra` are options known from elsewhere."""
    found = find_program(command.words)
    if found is None:
        return None
    program, first = found
    arguments = command.words[first:]
    unknown: list[str] = []
    flags: dict[str, tuple[int, int]] = {}
    if program.framework in TRAINERS:
        options = dict(_launcher_options(arguments, program, path))
    else:
        options = dict(_engine_options(arguments, program, path, unknown, flags))
    options.update(settings_of_wrappers(command.words[:first], path))
    for key, setting in (extra or {}).items():
        options.setdefault(key, setting)
    env = {
        key: PlacedSetting(word.text, path, word.line, key, word.start, word.end, word.style)
        for key, word in command.env.items()
    }
    broken = [word for word in command.words if word.style == BROKEN and word.start >= 0]
    mended = tuple((word.start, word.end, " \\" if word.text == LOST else "") for word in broken)
    last = command.words[-1]
    style = "shell" if last.style == "shell" else last.style.replace("yaml-item", "yaml-args")
    insertion = Insertion(last.end, style) if last.end >= 0 and program.framework not in TRAINERS else None
    return build_service(
        name or _name(program, options),
        options,
        env=env,
        role=role or program.role,
        framework=program.framework,
        replicas=replicas,
        gpus=gpus,
        nodes=nodes if nodes is not None else _nodes(program, options),
        path=path,
        line=command.line,
        insertion=insertion,
        program=program.name,
        notes={
            **(notes or {}),
            **_notes_of(command, arguments, program),
            **notes_of_wrappers(command.words[:first], env),
        },
        unknown=tuple(unknown),
        flags=flags,
        cures={"broken": mended} if mended else {},
    )


DASHES = tuple(map(chr, (*range(0x2010, 0x2016), 0x2212)))
TAKES_A_WORD = ("enable-chunked-prefill", "multi-step-stream-outputs", "enable-prefix-caching")
"""Switches that took true or false as their next word in vLLM's releases of 2024 and 2025 (StoreBoolean)."""


def one_hyphen(flag: str, tables: tuple[str, ...]) -> bool:
    """True for a long option written with one hyphen, which argparse and click refuse."""
    name = flag.lstrip("-").replace("_", "-")
    return (
        bool(tables)
        and not flag.startswith("--")
        and len(name) > 3
        and kind_of(tables, name)[1].replace("_", "-") == name
        and name not in short_names(tables)
    )


_MORE = re.compile(r"\$(?:\{?[A-Za-z_]\w*(?:\[[@*]\])?\}?|\(.*\))\Z", re.DOTALL)


def _notes_of(command: Command, arguments: Sequence[Word], program: Program) -> dict[str, str]:
    """In which branch of its script a command stands, and whether words that nobody can know may hold more options."""
    notes = (
        {"branch": ",".join(f"{block}.{index}" for block, index in command.branch)} if command.branch else {}
    )
    if command.function:
        notes["function"] = command.function
    broken = next((word for word in command.words if word.style == BROKEN), None)
    if broken is not None:
        notes["broken"], notes["broken.line"] = broken.text, str(broken.line or "")
    if program.role == "router" and (targets := _targets(arguments)):
        notes["targets"] = targets
    positional = 0
    for before, word in zip([None, *arguments], arguments, strict=False):
        if not _MORE.match(word.text):
            continue
        positional += 1
        value_of_option = before is not None and re.match(r"--?[A-Za-z][^=]*\Z", before.text)
        if not value_of_option and (
            positional > 1 or not program.positional_model or "ARG" in word.text.upper()
        ):
            notes["open"] = "true"
    return notes


def _targets(arguments: Sequence[Word]) -> str:
    """A line for every `--prefill URL [PORT]` and `--decode URL` of a router: they may be given again and again."""
    found = []
    for number, word in enumerate(arguments):
        flag, _, joined = word.text.partition("=")
        if flag not in ("--prefill", "--decode"):
            continue
        behind = [joined] if joined else [each.text for each in arguments[number + 1 : number + 3]]
        values = [text for text in behind if not text.startswith("-")]
        if values:
            port = values[1:] if len(values) > 1 and values[1].isdigit() else []
            found.append(" ".join([flag[2:], values[0], *port]))
    return "\n".join(found)


def _nodes(program: Program, options: Mapping[str, Setting]) -> int | None:
    """Over how many nodes a command runs: as it says itself; TensorRT-LLM's ranks are started by srun."""
    if program.framework == "ray":
        return None
    names = ("nnodes", "slurm.nodes") if program.framework == "trtllm" else ("nnodes",)
    return as_int(value_of(options, *names))


def _name(program: Program, options: Mapping[str, Setting]) -> str:
    port = value_of(options, "port", "http-port")
    return program.name + (f":{port}" if port is not None else "")


Flags = dict[str, tuple[int, int]]


def _engine_options(
    words: Sequence[Word], program: Program, path: str, unknown: list[str], flags: Flags
) -> Iterator[tuple[str, Setting]]:
    index, positional = 0, 0
    words = [word for word in words if word.style != BROKEN]  # those are said in `_notes_of`
    while index < len(words):
        word = _plain(words[index], unknown, flags)
        index += 1
        if not re.match(r"--?[A-Za-z]", word.text):
            if program.positional_model and positional == 0 and word.text and word.text != "\\":
                yield "model", _place(word, word.text, path, "model")
            positional += 1
            continue
        flag, equals, inline = word.text.partition("=")
        kind, full = _kind(flag, program, unknown)
        if word.start >= 0:
            flags[flag] = (word.start, word.end)
        switch = kind == "flag" and full not in TAKES_A_WORD
        key = long_name(full)
        if equals:
            if switch and inline.lower() in ("true", "false"):
                _note(word.text, word, unknown, flags)
            yield key, _place(word, inline, path, flag, inline=True)
            continue
        taken, value = _values(words, index, kind)
        if taken and switch and words[index].start >= 0:
            _note(f"{flag} {words[index].text}", words[index], unknown, flags)
        yield _option(key, word, (taken, value, kind), words[index : index + 1], path, flag)
        index += taken


def _option(
    key: str,
    word: Word,
    found: tuple[int, object, str | None],
    following: Sequence[Word],
    path: str,
    flag: str,
) -> tuple[str, Setting]:
    """One option's setting, from how many words it takes and their value."""
    taken, value, kind = found
    if not taken:
        off = key.startswith("no-") and kind == "flag"
        return key[3:] if off else key, _place(word, not off, path, flag)
    if taken == 1:
        return key, _place(following[0], value, path, flag)
    return key, Setting(value, path, word.line, flag)


def _kind(flag: str, program: Program, unknown: list[str]) -> tuple[str | None, str]:
    """The kind and full name of an option as written; one that the program does not take so is noted."""
    raw = flag.lstrip("-")
    kind, full = kind_of(program.tables, raw) if program.tables else (None, raw.replace("_", "-"))
    strange = kind is None and program.tables and "$" not in flag and "{" not in flag
    if strange or one_hyphen(flag, program.tables):
        unknown.append(flag)
    return kind, full


def _plain(word: Word, unknown: list[str], flags: Flags) -> Word:
    """A word without what a word processor or a folded YAML text has made of its hyphens; either is noted."""
    if word.text[:1] in DASHES and word.text[1:2].isalpha():
        _note(word.text.partition("=")[0], word, unknown, flags)
        return replace(word, text=f"--{word.text.lstrip(''.join(DASHES))}")
    if re.match(r"\s+--[A-Za-z]", word.text):  # `\ --model`: a backslash whose line end YAML has folded away
        unknown.append(word.text)
        return replace(word, text=word.text.lstrip())
    return word


def _note(written: str, word: Word, unknown: list[str], flags: Flags) -> None:
    unknown.append(written)
    if word.start >= 0:
        flags[written] = (word.start, word.end)


def _values(words: Sequence[Word], index: int, kind: str | None) -> tuple[int, object]:
    """How many of the next words belong to the option, and its value."""
    if kind == "flag":
        following = words[index].text.lower() if index < len(words) else ""
        return (1, following == "true") if following in ("true", "false") else (0, True)
    values = []
    for word in words[index:]:
        if re.match(r"--?[A-Za-z]", word.text) and not (word.quoted and word.style == "shell"):
            break  # quotes of a YAML list say nothing, those of a shell may make a value of it
        values.append(word.text)
        if kind != "list":
            break
    if not values:
        return 0, True
    return (1, values[0]) if len(values) == 1 else (len(values), values)


def _place(word: Word, value: object, path: str, key: str, *, inline: bool = False) -> Setting:
    if word.start < 0:
        return Setting(value, path, word.line, key)
    if value is True or value is False:
        return PlacedSetting(value, path, word.line, key)  # a switch has no value to change in its place
    return PlacedSetting(value, path, word.line, key, word.start, word.end, word.style)


def _launcher_options(words: Sequence[Word], program: Program, path: str) -> Iterator[tuple[str, Setting]]:
    """Options before the script; the script's own are not the launcher's, but some sizes of theirs matter."""
    names = TRAINERS[program.framework]
    index = 0
    while index < len(words):
        word = words[index]
        if not word.text.startswith("-"):
            yield "script", _place(word, word.text, path, "script")
            yield from _script_options(words[index + 1 :], path)
            return
        flag, equals, inline = word.text.partition("=")
        key = flag.lstrip("-").replace("_", "-")
        index += 1
        if equals:
            yield names.get(key, key), _place(word, inline, path, flag, inline=True)
        elif key in _LAUNCHER_FLAGS or index >= len(words):
            yield key, _place(word, True, path, flag)
        else:
            yield names.get(key, key), _place(words[index], words[index].text, path, flag)
            index += 1


def _script_options(words: Sequence[Word], path: str) -> Iterator[tuple[str, Setting]]:
    """The script's own options as `script.NAME`: the first word behind each, or True for a switch."""
    for index, word in enumerate(words):
        if not re.match(r"--?[A-Za-z]", word.text):
            continue
        flag, equals, inline = word.text.partition("=")
        key = f"script.{flag.lstrip('-').replace('_', '-')}"
        following = words[index + 1] if index + 1 < len(words) else None
        if equals:
            yield key, _place(word, inline, path, flag, inline=True)
        elif following is None or re.match(r"--?[A-Za-z]", following.text):
            yield key, _place(word, True, path, flag)
        else:
            yield key, _place(following, following.text, path, flag)


MEGATRON_SIZES = (
    "tensor-model-parallel-size",
    "pipeline-model-parallel-size",
    "context-parallel-size",
    "expert-model-parallel-size",
    "num-attention-heads",
    "num-layers",
    "micro-batch-size",
    "global-batch-size",
)
MEGATRON_WORDS = (
    # how else layers are dealt out to stages
    "num-layers-per-virtual-pipeline-stage",
    "decoder-first-pipeline-num-layers",
    "decoder-last-pipeline-num-layers",
    "pipeline-model-parallel-layout",
    "pp-partition-method",
    "deepspeed",
)
