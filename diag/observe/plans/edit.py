"""Changes spliced into a plan's text: nothing but the changed words moves, so comments, order and style stay."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from diag.observe.plans.interface import Insertion, PlacedService, PlacedSetting


@dataclass(frozen=True, slots=True)
class Splice:
    """Replace the characters from `start` to `end` by `new`."""

    start: int
    end: int
    new: str


def apply(text: str, splices: Iterable[Splice]) -> str:
    """The text with all splices made. Overlapping ones: the later in the file wins, the other is dropped."""
    limit = len(text)
    for splice in sorted(set(splices), key=lambda item: (item.start, item.end), reverse=True):
        if 0 <= splice.start <= splice.end <= limit:
            text = text[: splice.start] + splice.new + text[splice.end :]
            limit = splice.start
    return text


def set_option(service: PlacedService, name: str, value: Any, text: str) -> Splice | None:
    """Give one option of a service a value: in its place if it has one, else as a new line or word.

    None where the plan does not tell where its options stand (printed configurations).
    """
    setting = service.options.get(name)
    if isinstance(setting, PlacedSetting) and setting.start >= 0 and not setting.inherited:
        return Splice(
            setting.start,
            setting.end,
            _scalar(value, setting.style, text[setting.start : setting.end], setting.key),
        )
    return None if service.insertion is None else _insert(service.insertion, name, value, service, text)


def set_value(setting: PlacedSetting, value: Any, text: str) -> Splice | None:
    """Give a setting another value where it stands."""
    if setting.start < 0:
        return None
    return Splice(
        setting.start,
        setting.end,
        _scalar(value, setting.style, text[setting.start : setting.end], setting.key),
    )


def remove_service(service: PlacedService) -> Splice | None:
    """Take a whole service out of its file."""
    return None if service.extent is None else Splice(service.extent[0], service.extent[1], "")


def _insert(insertion: Insertion, name: str, value: Any, service: PlacedService, text: str) -> Splice:
    at = insertion.offset
    if insertion.style == "shell":
        return Splice(at, at, f" --{name}" + ("" if value is True else f" {shlex.quote(_plain(value))}"))
    if insertion.style == "yaml-args":
        lines = [f"--{name}"] if value is True else [f"--{name}", _plain(value)]
        if insertion.flow:
            return Splice(at, at, "".join(f', "{line}"' for line in lines))
        return Splice(at, at, "".join(f"\n{' ' * insertion.indent}- {_yaml_text(line)}" for line in lines))
    key = _key_style(name, service)
    if insertion.flow:
        return Splice(at, at, f"{key}: {_plain(value)}, ")
    return Splice(at, at, f"{' ' * insertion.indent}{key}: {_plain(value)}\n")


def _key_style(name: str, service: PlacedService) -> str:
    """Underscores where the service's other keys have them."""
    own = [
        setting.key.rsplit(".", 1)[-1]
        for setting in service.options.values()
        if not getattr(setting, "inherited", False)
    ]
    underscores = sum("_" in key for key in own)
    return name.replace("-", "_") if underscores > sum("-" in key for key in own) else name


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _yaml_text(word: str) -> str:
    """A list item of `args`, which Kubernetes wants as a string."""
    return (
        f'"{word}"'
        if re.fullmatch(r"[-+.\d_eE]+|true|false|null|yes|no|on|off|~|", word) or word[:1] in "{[&*!|>%@`'\"#"
        else word
    )


def _scalar(value: Any, style: str, old: str, key: str) -> str:
    word = _plain(value)
    if style == "shell":
        return (
            shlex.quote(word)
            if "=" not in old or not old.startswith("-")
            else f"{old.split('=', 1)[0]}={shlex.quote(word)}"
        )
    if style == "yaml-item":
        quote = old[:1] if old[:1] in "'\"" else ""
        inner = old.strip("'\"")
        return f"{quote}{inner.split('=', 1)[0]}={word}{quote}" if "=" in inner else f"{quote}{word}{quote}"
    if old[:1] in "'\"" and old:
        return f"{old[0]}{word}{old[0]}"
    return word
