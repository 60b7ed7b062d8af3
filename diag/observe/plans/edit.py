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
    if name in service.spots:
        return _insert(service.spots[name], name.rsplit(".", 1)[-1], value, service, text)
    return None if service.insertion is None else _insert(service.insertion, name, value, service, text)


def rename_option(service: PlacedService, written: str, name: str, text: str) -> Splice | None:
    """Write an option's right name where the wrong one stands, with dashes or underscores as it was."""
    place = service.flags.get(written)
    if place is None:
        return None
    if "." in written and not written.startswith("-"):  # a key inside a block of the engine's file
        return Splice(place[0], place[1], name)
    if name.startswith("--"):  # with its hyphens: those of the wrong one were wrong, too
        old = text[place[0] : place[1]]
        return Splice(place[0], place[1], old.replace(written, name, 1)) if written in old else None
    dashes = written[: len(written) - len(written.lstrip("-"))]
    underscores = "_" in written and "-" not in written.lstrip("-")
    right = dashes + (name.replace("-", "_") if underscores else name)
    old = text[place[0] : place[1]]
    return Splice(place[0], place[1], old.replace(written, right, 1)) if written in old else None


def remove_option(service: PlacedService, written: str, text: str) -> Splice | None:
    """Take an option and its value out, with the line or the list items they stand on alone."""
    place = service.flags.get(written)
    if place is None:
        return None
    start, end = place
    for setting in service.options.values():
        if setting.key == written and isinstance(setting, PlacedSetting) and setting.start >= start:
            end = max(end, setting.end)
    line = text.rfind("\n", 0, start) + 1
    after = text.find("\n", end)
    after = len(text) if after < 0 else after + 1
    before, rest = text[line:start].strip(), text[end:after].strip()
    if before in ("", "-") and rest in ("", "\\"):
        return Splice(line, after, "")
    space = len(text[:start]) - len(text[:start].rstrip(" \t"))
    return Splice(start - space, end, "")


def rename_variable(service: PlacedService, name: str, right: str, text: str) -> Splice | None:
    """Write a variable's right name before its value."""
    setting = service.env.get(name)
    if not isinstance(setting, PlacedSetting) or setting.start < 0:
        return None
    at = text.rfind(name, max(0, setting.start - 300), setting.start)
    return None if at < 0 else Splice(at, at + len(name), right)


def cure(service: PlacedService, name: str) -> list[Splice]:
    """The changes of the text around a service's command that its reader has prepared."""
    return [Splice(*change) for change in service.cures.get(name, ())]


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
