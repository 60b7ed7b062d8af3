"""YAML without silent conversions: every scalar is text, duplicate keys and aliases are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diag.system import UserError

MAX_BYTES = 1 << 20


def read_yaml(text: str, where: str) -> Any:
    """Parse YAML into dicts, lists and strings only.

    Raises UserError with the place for anything malformed, aliased, duplicated or too large.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.events import AliasEvent

    if len(text) > MAX_BYTES:
        raise UserError("is larger than a playbook can be", where=where, code="too-large")
    yaml = YAML(typ="base", pure=False)
    yaml.allow_duplicate_keys = False
    try:
        if "*" in text:
            for event in YAML(typ="base").parse(text):
                if isinstance(event, AliasEvent):
                    raise UserError(
                        "uses a YAML alias; playbooks spell everything out",
                        where=f"{where}:{event.start_mark.line + 1}",
                    )
        return yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        problem = (error.problem or str(error)).splitlines()[0]
        raise UserError(f"is not valid YAML: {problem}", where=f"{where}{line}") from None
    except (YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"is not valid YAML: {str(error).splitlines()[0]}", where=where) from None


def read_yaml_file(path: Path) -> Any:
    """`read_yaml` of a file."""
    try:
        return read_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path)) from None
