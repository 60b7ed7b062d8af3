"""The forms of an artefact, apart from the options, so that reading them needs no typer."""

from __future__ import annotations

from enum import Enum


class Format(str, Enum):
    """How the artefact is written."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"
    HTML = "html"
