"""This case's figures into a playbook's sentences. `[[ ... {name} ... ]]` drops out where a name is unknown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from diag.model import Fix
from diag.playbooks.schema import FixText
from diag.system.lazy import lazily

_OPTIONAL = lazily(r"\[\[(.*?)\]\]", re.DOTALL)
_NAME = lazily(r"\{([a-z_][a-z0-9_.]*)\}")


def fill(template: str, names: Mapping[str, Any]) -> str:
    """Fill `{name}`s. An unknown name outside an optional part becomes `?`."""

    def optional(match: re.Match[str]) -> str:
        inner = match.group(1)
        return inner if all(name in names for name in _NAME.findall(inner)) else ""

    text = _OPTIONAL.sub(optional, template)
    text = _NAME.sub(lambda match: str(names.get(match.group(1), "?")), text)
    return re.sub(r"[ \t]{2,}", " ", text).strip() if "\n" not in text else text.strip("\n")


def placeholders(template: str) -> tuple[set[str], set[str]]:
    """(names that must be known, names that may be missing)."""
    optional = {name for part in _OPTIONAL.findall(template) for name in _NAME.findall(part)}
    return set(_NAME.findall(_OPTIONAL.sub("", template))), optional


def fill_fix(fix: FixText, names: Mapping[str, Any], framework: str | None) -> Fix | None:
    """The fix for this case, or None where it is for another framework or lacks what it needs."""
    if fix.frameworks and framework is not None and framework not in fix.frameworks:
        return None
    if any(name not in names for name in fix.needs):
        return None
    return Fix(
        do=fill(fix.do, names),
        settings={key: fill(value, names) for key, value in fix.settings.items()},
        command=fill(fix.command, names) or None,
        patch=fill(fix.patch, names) or None,
        risk=fix.risk,
        verify=fill(fix.verify, names) or None,
        undo=fill(fix.undo, names) or None,
    )
