"""The programs whose command lines we read: how to recognise them and which options they take."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from diag.observe.plans.shell_words import Word
from diag.observe.plans.trtllm_keys import choices as choices_of_trtllm
from diag.observe.plans.values import CANONICAL


@dataclass(frozen=True, slots=True)
class Program:
    """A program as it was found on a command line."""

    name: str
    framework: str
    tables: tuple[str, ...] = ()
    """Whose option tables hold (several are joined); empty: no table, options are read by their shape."""
    positional_model: bool = False
    role: str | None = None


_MODULES = {
    "vllm.entrypoints.openai.api_server": Program("vllm", "vllm", ("vllm",)),
    "vllm.entrypoints.api_server": Program("vllm", "vllm", ("vllm",)),
    "vllm.entrypoints.cli.main": Program("vllm", "vllm", ("vllm",), positional_model=True),
    "sglang.launch_server": Program("sglang", "sglang", ("sglang",)),
    "sglang_router.launch_router": Program("sglang-router", "sglang", role="router"),
    "sglang_router.launch_server": Program("sglang-router-server", "sglang"),
    "sglang.srt.disaggregation.mini_lb": Program("sglang-router", "sglang", role="router"),
    "sglang.srt.disaggregation.launch_lb": Program("sglang-router", "sglang", role="router"),
    "dynamo.vllm": Program("dynamo.vllm", "vllm", ("vllm", "dynamo.vllm")),
    "dynamo.sglang": Program("dynamo.sglang", "sglang", ("sglang", "dynamo.sglang")),
    "dynamo.trtllm": Program("dynamo.trtllm", "trtllm", ("dynamo.trtllm",)),
    "dynamo.frontend": Program("dynamo.frontend", "dynamo", ("dynamo.frontend",), role="frontend"),
    "dynamo.router": Program("dynamo.router", "dynamo", ("dynamo.router",), role="router"),
    "dynamo.mocker": Program("dynamo.mocker", "dynamo", ("dynamo.mocker",), role="other"),
    "dynamo.planner": Program("dynamo.planner", "dynamo", role="planner"),
    "dynamo.planner.planner_sla": Program("dynamo.planner", "dynamo", role="planner"),
    "torch.distributed.run": Program("torchrun", "torchrun", role="trainer"),
    "torch.distributed.launch": Program("torchrun", "torchrun", role="trainer"),
    "accelerate.commands.launch": Program("accelerate", "accelerate", role="trainer"),
    "deepspeed.launcher.runner": Program("deepspeed", "deepspeed", role="trainer"),
}
_COMMANDS: dict[tuple[str, ...], Program] = {
    ("vllm", "serve"): Program("vllm", "vllm", ("vllm",), positional_model=True),
    ("sglang", "serve"): Program("sglang", "sglang", ("sglang",)),
    ("sglang-router", "launch"): Program("sglang-router", "sglang", role="router"),
    ("trtllm-serve", "serve"): Program("trtllm-serve", "trtllm", ("trtllm-serve",), positional_model=True),
    ("trtllm-serve", "disaggregated"): Program(
        "trtllm-serve disaggregated", "trtllm", ("trtllm-serve disaggregated",), role="router"
    ),
    ("trtllm-serve", "disaggregated_mpi_worker"): Program("trtllm-serve worker", "trtllm"),
    ("trtllm-serve",): Program("trtllm-serve", "trtllm", ("trtllm-serve",), positional_model=True),
    ("trtllm-llmapi-launch",): Program("trtllm-serve", "trtllm", ("trtllm-serve",), positional_model=True),
    ("trtllm-bench",): Program("trtllm-bench", "trtllm", ("trtllm-bench",)),
    ("torchrun",): Program("torchrun", "torchrun", role="trainer"),
    ("accelerate", "launch"): Program("accelerate", "accelerate", role="trainer"),
    ("deepspeed",): Program("deepspeed", "deepspeed", role="trainer"),
    ("ray", "start"): Program("ray start", "ray", role="other"),
}
_SERVING_SCRIPTS = {
    "launch_server.py": "sglang.launch_server",
    "api_server.py": "vllm.entrypoints.openai.api_server",
}
HINT = re.compile(
    r"vllm[\s\"',\]-]+serve|vllm\.entrypoints|sglang\.launch_server|sglang[\s\"',]+serve|sglang_router|dynamo\.(?:vllm|sglang|trtllm|frontend)|trtllm-(?:serve|bench)|torchrun|torch\.distributed\.(?:run|launch)|accelerate[\s\"',]+launch|\bdeepspeed\s+-|ray\s+start|vllm/vllm-openai"
)
"""Cheap test whether a text may start any of them."""


TALKERS = (
    # commands that may name a program in their arguments and do not start it
    *(
        "echo",
        "printf",
        "cat",
        "grep",
        "egrep",
        "pgrep",
        "pkill",
        "killall",
        "ps",
        "which",
        "sed",
        "awk",
        "test",
    ),
    *(
        "[",
        "[[",
        "pip",
        "pip3",
        "apt-get",
        "apt",
        "curl",
        "wget",
        "git",
        "cp",
        "mv",
        "tee",
        "logger",
        "case",
        "for",
    ),
)


def find_program(words: Sequence[Word]) -> tuple[Program, int] | None:
    """The first program in a command and the index of its first argument; wrappers before it are passed over."""
    if words and words[0].text.rsplit("/", 1)[-1] in TALKERS:
        return None
    for index, word in enumerate(words):
        base = word.text.rsplit("/", 1)[-1]
        if (
            word.text == "-m"
            and index + 1 < len(words)
            and words[index + 1].text in _MODULES
            and index
            and _is_python(words[index - 1 : index])
        ):
            return _MODULES[words[index + 1].text], index + 2
        if base in _SERVING_SCRIPTS and index and "python" in words[index - 1].text:
            return _MODULES[_SERVING_SCRIPTS[base]], index + 1
        following = words[index + 1].text if index + 1 < len(words) else ""
        for key in ((base, following), (base,)):
            if (
                key in _COMMANDS
                and not (base == "trtllm-llmapi-launch" and following.startswith("trtllm-"))
                and (len(key) > 1 or base in ("torchrun", "deepspeed", "trtllm-serve", "trtllm-bench"))
            ):
                if base == "deepspeed" and ((index and "pip" in words[index - 1].text) or not following):
                    continue
                return _COMMANDS[key], index + len(key)
    return None


def _is_python(words: Sequence[Word]) -> bool:
    return any(
        "python" in word.text or "$" in word.text or word.text in ("-u", "-O") or word.text.startswith("-X")
        for word in words
    )


Options = dict[str, tuple[str, tuple[str, ...], str, str]]


@cache
def _data() -> dict[str, Any]:
    loaded: dict[str, Any] = {}
    for name in ("options.json", "options_trtllm.json"):
        text = files("diag.observe.plans").joinpath(f"data/{name}").read_text("utf-8")
        loaded |= json.loads(text)["programs"]
    return loaded


@cache
def options_of(tables: tuple[str, ...]) -> Options:
    """name -> (kind, short names, first version, last version) of the joined tables."""
    joined: Options = {}
    for table in tables:
        for name, (kind, short, first, last) in _data()[table]["options"].items():
            joined[name] = (kind, tuple(short), first, last)
    return joined


@cache
def versions_of(table: str) -> tuple[str, ...]:
    """The versions that a table was made from, oldest first."""
    return tuple(_data()[table]["versions"])


@cache
def variables_of(table: str) -> frozenset[str]:
    """Environment variables that the program reads, in any of the versions."""
    return frozenset(_data()[table]["variables"])


@cache
def _choices() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        files("diag.observe.plans").joinpath("data/choices.json").read_text("utf-8")
    )
    return found


def is_known(package: str, version: str) -> bool:
    """True for a version not newer than the newest that the values were collected from."""
    numbers = [
        tuple(int(part) for part in re.findall(r"\d+", each)[:3])
        for each in _choices()["versions"].get(package, [])
    ]
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3]) <= max(numbers, default=())


@cache
def choices_of(tables: tuple[str, ...], option: str) -> tuple[tuple[str, ...], bool]:
    """(the values that an option accepts in any known version, whether other texts are taken too); no values: not known."""
    for table in reversed(tables):  # a wrapper's own option stands above the engine's
        if table.startswith("trtllm"):
            return choices_of_trtllm(table, option), True
        entry = _choices()["programs"].get(table, {}).get(option)
        if entry is not None:
            return tuple(entry["values"]), bool(entry["open"])
    return (), True


@cache
def connectors() -> frozenset[str]:
    """The KV connectors that vLLM registers, in any of the versions."""
    return frozenset(_choices()["kv_connectors"])


@cache
def short_names(tables: tuple[str, ...]) -> dict[str, str]:
    """Short name -> the option, of the joined tables."""
    return {short: name for name, entry in options_of(tables).items() for short in entry[1]}


def kind_of(tables: tuple[str, ...], name: str) -> tuple[str | None, str]:
    """(kind or None if unknown, full name) of an option as written, without its dashes.

    Knows underscores for dashes, `--no-x`, `--config.key`, short names and unambiguous beginnings, all of which argparse takes.
    """
    options = options_of(tables)
    plain = name.replace("_", "-")
    for candidate in (name, plain, plain.split(".", 1)[0], name.replace("-", "_")):
        if candidate in options:
            return ("value" if "." in plain and candidate != plain else options[candidate][0]), candidate
    if plain.startswith("no-") and plain[3:] in options:
        return "flag", plain
    if name in short_names(tables):
        return options[short_names(tables)[name]][0], short_names(tables)[name]
    beginnings = [full for full in options if full.startswith(plain)] if len(plain) > 1 else []
    if len(beginnings) == 1 or (beginnings and CANONICAL.get(plain) in options):
        full = CANONICAL.get(plain, beginnings[0])
        return options[full][0], full
    return None, plain
