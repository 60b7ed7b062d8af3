"""Earlier reports of `diag run` as evidence: their findings and facts, whichever node they are of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diag.model import SCHEMA, Finding, Reason, Status
from diag.system import UserError

MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What one report says."""

    path: str
    findings: tuple[Finding, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """The node's own name (or its stand-in), else the file's name."""
        host = self.facts.get("host", {})
        if isinstance(host, Mapping):
            for seen in host.values():
                if isinstance(seen, Mapping) and seen.get("hostname"):
                    return str(seen["hostname"])
        return self.path.rsplit("/", 1)[-1]


def looks_like_report(head: bytes) -> bool:
    """True for the beginning of one of our JSON reports."""
    return head.lstrip()[:1] == b"{" and b'"diag.report/' in head[:4096]


def read_report(path: str, text: bytes) -> NodeReport:
    """Parse a report. Raises UserError for a damaged one or another schema."""
    if len(text) > MAX_BYTES:
        raise UserError("is larger than a report can be", where=path, code="too-large")
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"is a damaged report: {error}", where=path, code="damaged") from None
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if schema != SCHEMA:
        raise UserError(
            f"has the schema {schema!r}; this version reads {SCHEMA}", where=path, code="other-schema"
        )
    items = raw.get("findings")
    items = items if isinstance(items, list) else []
    findings = tuple(one for item in items if (one := _finding(item)) is not None)
    facts = raw.get("facts")
    return NodeReport(path, findings, facts if isinstance(facts, dict) else {})


def _finding(item: Any) -> Finding | None:
    if not isinstance(item, dict):
        return None
    try:
        status = Status(item.get("status"))
        reason = Reason(item["reason"]) if item.get("reason") else None
        data = item.get("data")
        return Finding(
            str(item["probe"]),
            str(item.get("subject") or ""),
            status,
            str(item.get("summary") or ""),
            reason,
            data if isinstance(data, dict) else {},
        )
    except (ValueError, KeyError):
        return None
