"""A Report drawn as text, JSON, Markdown or HTML, and what is taken out of it before it leaves the machine."""

from diag.report.formats import FORMATS, render
from diag.report.jsonform import from_json, to_json
from diag.report.redact import RedactionError, redact

__all__ = ["FORMATS", "RedactionError", "from_json", "redact", "render", "to_json"]
