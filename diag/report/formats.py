"""The one door to all formats."""

from __future__ import annotations

from diag.model import Report
from diag.system import UserError

FORMATS = ("text", "json", "markdown", "html")
SUFFIXES = {"text": "txt", "json": "json", "markdown": "md", "html": "html"}
"""What a format's file is called at its end."""


def render(report: Report, fmt: str, *, width: int | None = None, color: bool = False) -> str:
    """Return the report in one of FORMATS, ending in a line break. `width` (columns) and `color` matter for text only."""
    if fmt == "json":
        from diag.report.jsonform import dumps

        return dumps(report)
    if fmt == "markdown":
        from diag.report.markdown import draw_markdown

        return draw_markdown(report)
    if fmt == "html":
        from diag.report.html import draw_html

        return draw_html(report)
    if fmt == "text":
        from diag.report.text import draw_text

        return draw_text(report, width=width, color=color)
    raise UserError(
        f"no format is called {fmt!r}", help=f"there are: {', '.join(FORMATS)}", code="unknown-format"
    )
