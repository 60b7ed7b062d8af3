"""The JSON form of a report (schema diag.report/1), both ways."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar

from diag.model import (
    SCHEMA,
    Culprit,
    Diagnosis,
    Evidence,
    Finding,
    Fix,
    Gap,
    InputFile,
    Reason,
    Redaction,
    Report,
    Role,
    Status,
    Strength,
    Unexplained,
    Verdict,
)
from diag.system import UserError
from diag.system.lazy import lazily

TOOL = "launch-diag"
FACT_SECTIONS = ("launch", "hardware", "software", "network")

_UNSAFE = lazily("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
"""Valid inside JSON, but able to move a terminal's cursor, break a line or fail to encode as UTF-8."""

_Member = TypeVar("_Member", bound=Enum)


def to_json(report: Report) -> dict[str, Any]:
    """Return the report as plain JSON values; every key of the schema is there, null or empty where unknown."""
    facts = {section: {} for section in FACT_SECTIONS} | plain(report.facts)
    if isinstance(facts["launch"], dict):
        facts["launch"] = {"services": [], **facts["launch"]}
    return {
        "schema": SCHEMA,
        "tool": {"name": TOOL, "version": report.version},
        "created": report.created,
        "command": report.command,
        "verdict": report.verdict.value,
        "exit_code": report.exit_code,
        "diagnoses": [_diagnosis(one) for one in report.diagnoses],
        "unexplained": None if report.unexplained is None else _unexplained(report.unexplained),
        "findings": [_finding(one) for one in report.findings],
        "facts": facts,
        "gaps": [{"what": gap.what, "reason": gap.reason, "remedy": gap.remedy} for gap in report.gaps],
        "inputs": [
            {"path": one.path, "kind": one.kind, "bytes": one.bytes, "lines": one.lines}
            for one in report.inputs
        ],
        "notes": list(report.notes),
        "redaction": {"applied": report.redaction.applied, "counts": dict(report.redaction.counts)},
    }


def dumps(report: Report) -> str:
    """Return the report as JSON text that is safe to print and to encode."""
    text = json.dumps(to_json(report), indent=2, ensure_ascii=False, allow_nan=False)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def from_json(data: object) -> Report:
    """Return the report that `to_json` made. Raises UserError for anything else, naming what does not fit."""
    if not isinstance(data, Mapping) or "schema" not in data:
        raise _foreign("is not a report of diag: it has no schema")
    schema = data["schema"]
    if schema != SCHEMA:
        told = str(schema)[:60]
        raise _foreign(f"is a report in the form {told!r}; this version of diag reads {SCHEMA}")
    try:
        return _report(data)
    except KeyError as error:
        raise _foreign(f"is not a whole report: {error.args[0]!r} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise _foreign(f"is not a sound report: {str(error)[:160]}") from error


def loads(text: str) -> Report:
    """Return the report in a JSON text. Raises UserError."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _foreign("is not JSON") from error
    return from_json(data)


def plain(value: Any) -> Any:
    """Return nested facts as JSON values: keys as text, enums by value, no NaN."""
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _diagnosis(one: Diagnosis) -> dict[str, Any]:
    who = one.culprit
    return {
        "id": one.id,
        "title": one.title,
        "strength": one.strength.value,
        "role": one.role.value,
        "severity": one.severity,
        "guessed": one.guessed,
        "summary": one.summary,
        "explanation": one.explanation,
        "culprit": {
            "rank": who.rank,
            "host": who.host,
            "process": who.process,
            "component": who.component,
            "gpu": who.gpu,
            "link": None if who.link is None else list(who.link),
            "phase": who.phase,
        },
        "evidence": [
            {
                "source": e.source,
                "line": e.line,
                "text": e.text,
                "rank": e.rank,
                "host": e.host,
                "time": e.time,
            }
            for e in one.evidence
        ],
        "echoes": list(one.echoes),
        "fixes": [
            {
                "do": fix.do,
                "settings": plain(fix.settings),
                "command": fix.command,
                "patch": fix.patch,
                "risk": fix.risk,
                "verify": fix.verify,
                "undo": fix.undo,
            }
            for fix in one.fixes
        ],
        "confirm": list(one.confirm),
    }


def _finding(one: Finding) -> dict[str, Any]:
    return {
        "probe": one.probe,
        "subject": one.subject,
        "status": one.status.value,
        "reason": None if one.reason is None else one.reason.value,
        "summary": one.summary,
        "data": plain(one.data),
        "duration_s": plain(one.duration_s),
    }


def _unexplained(one: Unexplained) -> dict[str, Any]:
    return {
        "first_failures": list(one.first_failures),
        "odd_rank": one.odd_rank,
        "phase": one.phase,
        "next_steps": list(one.next_steps),
    }


def _foreign(what: str) -> UserError:
    return UserError(what, code="foreign-report")


def _report(data: Mapping[str, Any]) -> Report:
    open_question = data.get("unexplained")
    facts = data["facts"]
    redaction = data["redaction"]
    return Report(
        command=_text(data.get("command", "run")),
        verdict=_member(Verdict, data["verdict"]),
        created=_text(data["created"]),
        version=_text(data["tool"]["version"]),
        diagnoses=tuple(_read_diagnosis(one) for one in _list(data["diagnoses"])),
        findings=tuple(_read_finding(one) for one in _list(data["findings"])),
        facts={**_mapping(facts)},
        gaps=tuple(
            Gap(_text(one["what"]), _text(one["reason"]), _text(one.get("remedy", "")))
            for one in _list(data["gaps"])
        ),
        inputs=tuple(
            InputFile(
                _text(one["path"]), _text(one["kind"]), _whole(one["bytes"]), _maybe_whole(one["lines"])
            )
            for one in _list(data["inputs"])
        ),
        redaction=Redaction(
            applied=redaction["applied"] is True,
            counts={_text(kind): _whole(count) for kind, count in _mapping(redaction["counts"]).items()},
        ),
        unexplained=None
        if open_question is None
        else Unexplained(
            first_failures=_texts(open_question["first_failures"]),
            odd_rank=_maybe_text(open_question["odd_rank"]),
            phase=_maybe_text(open_question["phase"]),
            next_steps=_texts(open_question["next_steps"]),
        ),
        notes=_texts(data.get("notes", [])),
        exit_code=_whole(data.get("exit_code", 0)),
    )


def _read_diagnosis(data: Mapping[str, Any]) -> Diagnosis:
    who = data["culprit"]
    link = None if who["link"] is None else _texts(who["link"])
    if link is not None and len(link) != 2:
        raise ValueError("a link has two ends")
    return Diagnosis(
        id=_text(data["id"]),
        title=_text(data["title"]),
        strength=_member(Strength, data["strength"]),
        role=_member(Role, data["role"]),
        summary=_text(data["summary"]),
        culprit=Culprit(
            rank=_maybe_whole(who["rank"]),
            host=_maybe_text(who["host"]),
            process=_maybe_text(who["process"]),
            component=_maybe_text(who["component"]),
            gpu=_maybe_whole(who["gpu"]),
            link=None if link is None else (link[0], link[1]),
            phase=_maybe_text(who["phase"]),
        ),
        evidence=tuple(
            Evidence(
                source=_text(one["source"]),
                line=_maybe_whole(one["line"]),
                text=_text(one["text"]),
                rank=_maybe_whole(one["rank"]),
                host=_maybe_text(one["host"]),
                time=_maybe_text(one["time"]),
            )
            for one in _list(data["evidence"])
        ),
        echoes=_texts(data["echoes"]),
        fixes=tuple(_read_fix(one) for one in _list(data["fixes"])),
        confirm=_texts(data["confirm"]),
        explanation=_text(data.get("explanation", "")),
        severity=_text(data.get("severity", "error")),
        guessed=data.get("guessed") is True,
    )


def _read_fix(data: Mapping[str, Any]) -> Fix:
    return Fix(
        do=_text(data["do"]),
        settings={_text(name): _scalar(value) for name, value in _mapping(data["settings"]).items()},
        command=_maybe_text(data["command"]),
        patch=_maybe_text(data["patch"]),
        risk=_text(data["risk"]),
        verify=_maybe_text(data["verify"]),
        undo=_maybe_text(data.get("undo")),
    )


def _read_finding(data: Mapping[str, Any]) -> Finding:
    reason = data["reason"]
    duration = data.get("duration_s")
    return Finding(
        probe=_text(data["probe"]),
        subject=_text(data["subject"]),
        status=_member(Status, data["status"]),
        summary=_text(data["summary"]),
        reason=None if reason is None else _member(Reason, reason),
        data={**_mapping(data["data"])},
        duration_s=None if duration is None else float(duration),
    )


def _member(kind: type[_Member], value: Any) -> _Member:
    return kind(_text(value))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, found {str(value)[:40]!r}")
    return value


def _scalar(value: Any) -> str:
    if isinstance(value, (Mapping, list)):
        raise TypeError("a setting has one value")
    return value if isinstance(value, str) else str(value)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"a whole number expected, found {str(value)[:40]!r}")
    return value


def _maybe_text(value: Any) -> str | None:
    return None if value is None else _text(value)


def _maybe_whole(value: Any) -> int | None:
    return None if value is None else _whole(value)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"a list expected, found {str(value)[:40]!r}")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(one) for one in _list(value))


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"an object expected, found {str(value)[:40]!r}")
    return value
