"""YAML to Playbook. Refuses unknown keys, unknown references and patterns that are not linear-time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diag.model import Phase
from diag.playbooks.literals import PatternError, all_literals, check_linear, split_alternatives
from diag.playbooks.schema import (
    COMPARISONS,
    KINDS,
    LAYERS,
    RISKS,
    SAYS,
    SEVERITIES,
    STATUSES,
    Clause,
    Condition,
    FixText,
    Playbook,
    Sample,
    Signal,
)
from diag.playbooks.yamlio import read_yaml_file
from diag.system import UserError

ID = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*\Z")
NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
FORBIDDEN_BEGINNINGS = (
    "use-",
    "set-",
    "fix-",
    "add-",
    "do-not-",
    "enable-",
    "disable-",
    "increase-",
    "upgrade-",
)

_REQUIRED = {
    "id",
    "title",
    "since",
    "status",
    "severity",
    "signals",
    "when",
    "summary",
    "explanation",
    "fixes",
    "confirm",
    "looks_like",
    "false_positives",
    "references",
    "samples",
}
_OPTIONAL = {"explains", "yields", "while_serving", "hits", "culprit"}
_CLAUSE_KEYS = {
    "all",
    "any",
    "none",
    "unfinished",
    "stalled",
    "repeats",
    "sequence",
    "phases",
    "not_phases",
    "ranks",
    "differs",
    "conflicts",
    "outlier",
    "same",
    "ceiling",
}
_FIX_KEYS = {"do", "frameworks", "needs", "settings", "command", "patch", "risk", "verify", "undo"}


class _Reader:
    """Reads one playbook's mapping and knows where it is, so that every complaint has a place."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fail(self, place: str, what: str, help_text: str = "") -> UserError:
        return UserError(f"{place} {what}", where=str(self.path), help=help_text, code="bad-playbook")

    def mapping(self, value: Any, place: str, required: set[str], optional: set[str]) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.fail(place, "must be a mapping")
        for key in value:
            if key not in required | optional:
                raise self.fail(
                    place, f"has an unknown key {key!r}", "known: " + ", ".join(sorted(required | optional))
                )
        missing = sorted(required - set(value))
        if missing:
            raise self.fail(place, "lacks " + ", ".join(missing))
        return value

    def text(self, value: Any, place: str, *, empty: bool = False) -> str:
        if not isinstance(value, str) or (not empty and not value.strip()):
            raise self.fail(place, "must be a text")
        return value.strip("\n") if "\n" in value else value.strip()

    def texts(self, value: Any, place: str) -> tuple[str, ...]:
        if value is None or value == "":
            return ()
        items = value if isinstance(value, list) else [value]
        return tuple(self.text(item, place) for item in items)

    def flag(self, value: Any, place: str) -> bool:
        if value not in ("true", "false"):
            raise self.fail(place, "must be true or false")
        return bool(value == "true")

    def choice(self, value: Any, place: str, choices: tuple[str, ...]) -> str:
        if value not in choices:
            raise self.fail(place, f"must be one of {', '.join(choices)}")
        return str(value)

    def pairs(self, value: Any, place: str) -> tuple[tuple[str, str], ...]:
        """`{a: b}` or a list of such mappings, in order."""
        if value is None or value == "":
            return ()
        items = value if isinstance(value, list) else [value]
        found: list[tuple[str, str]] = []
        for item in items:
            if not isinstance(item, dict):
                raise self.fail(place, "must be a mapping or a list of mappings")
            found += [(str(key), self.text(text, place)) for key, text in item.items()]
        return tuple(found)


def load_playbook(path: Path) -> Playbook:
    """Read and check one playbook's form. Raises UserError with file and place.

    What needs the whole base (samples, clashes, unknown ids) is `diag.playbooks.lint`'s business.
    """
    reader = _Reader(path)
    raw = reader.mapping(read_yaml_file(path), "the playbook", _REQUIRED, _OPTIONAL)
    identity = reader.text(raw["id"], "id")
    if identity != path.stem:
        raise reader.fail("id", f"{identity!r} is not the file's name")
    if not ID.match(identity) or identity.startswith(FORBIDDEN_BEGINNINGS):
        raise reader.fail("id", "must be kebab-case and name the fault, not the cure")
    layer = path.parent.name
    signals = _signals(reader, raw["signals"])
    when = raw["when"]
    if not isinstance(when, list) or not when:
        raise reader.fail("when", "must be a list of clauses")
    samples = reader.mapping(raw["samples"], "samples", {"fires", "silent"}, {"blind"})
    looks_like = raw["looks_like"]
    return Playbook(
        id=identity,
        title=reader.text(raw["title"], "title"),
        layer=layer if layer in LAYERS else "framework",
        since=reader.text(raw["since"], "since"),
        status=reader.choice(raw["status"], "status", STATUSES),
        severity=reader.choice(raw["severity"], "severity", SEVERITIES),
        signals=signals,
        when=tuple(_clause(reader, f"when[{number}]", clause, signals) for number, clause in enumerate(when)),
        summary=reader.text(raw["summary"], "summary"),
        explanation=reader.text(raw["explanation"], "explanation"),
        fixes=tuple(
            _fix(reader, f"fixes[{number}]", fix) for number, fix in enumerate(_list(reader, raw, "fixes"))
        ),
        confirm=reader.texts(raw["confirm"], "confirm"),
        explains=reader.texts(raw.get("explains"), "explains"),
        yields=reader.flag(raw.get("yields", "false"), "yields"),
        while_serving=reader.flag(raw.get("while_serving", "false"), "while_serving"),
        looks_like=reader.pairs(looks_like, "looks_like"),
        false_positives=reader.text(raw["false_positives"], "false_positives"),
        references=reader.texts(raw["references"], "references"),
        fires=_samples(reader, samples["fires"], "samples.fires"),
        silent=_samples(reader, samples["silent"], "samples.silent"),
        blind=_samples(reader, samples.get("blind") or [], "samples.blind"),
        culprit=reader.choice(raw["culprit"], "culprit", ("silent", "odd", "ended", "peer", "busy", "shared"))
        if "culprit" in raw
        else "",
        hits=reader.texts(raw.get("hits"), "hits"),
        source=str(path),
    )


def _list(reader: _Reader, raw: Mapping[str, Any], key: str) -> list[Any]:
    if not isinstance(raw[key], list) or not raw[key]:
        raise reader.fail(key, "must be a list with at least one entry")
    return list(raw[key])


def _signals(reader: _Reader, raw: Any) -> dict[str, Signal]:
    if not isinstance(raw, dict) or not raw:
        raise reader.fail("signals", "must be a mapping of named signals")
    return {name: _signal(reader, name, value) for name, value in raw.items()}


def _signal(reader: _Reader, name: str, raw: Any) -> Signal:
    place = f"signals.{name}"
    if not NAME.match(name):
        raise reader.fail(place, "must be named in lower case with underscores")
    keys = {
        *KINDS,
        "says",
        "frames",
        "status",
        "where",
        "cleared_by",
        "about",
        *COMPARISONS,
        "other",
    }
    raw = reader.mapping(raw, place, set(), keys)
    kinds = [kind for kind in KINDS if kind in raw]
    if len(kinds) != 1:
        raise reader.fail(place, "needs exactly one of " + ", ".join(KINDS))
    kind = kinds[0]
    says = reader.choice(raw.get("says", "context"), f"{place}.says", SAYS)
    patterns: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    literals: tuple[tuple[str, ...], ...] = ()
    if kind in ("log", "exception", "stack", "words"):
        patterns = reader.texts(raw[kind], place)
        if not patterns:
            raise reader.fail(place, "has no pattern")
        try:
            if kind == "log":
                parts = tuple(part for text in patterns for part in split_alternatives(text))
                literals = all_literals(parts)
            for pattern in patterns:
                check_linear(pattern)
        except PatternError as error:
            raise reader.fail(place, str(error)) from None
    return Signal(
        name=name,
        kind=kind,
        says=says,
        patterns=patterns,
        parts=parts,
        literals=literals,
        frames=reader.texts(raw.get("frames"), f"{place}.frames"),
        check=reader.text(raw["finding"], place) if kind == "finding" else "",
        statuses=reader.texts(raw.get("status"), f"{place}.status"),
        conditions=_conditions(reader, place, raw, kind),
        cleared_by=reader.texts(raw.get("cleared_by"), f"{place}.cleared_by"),
    )


def _conditions(reader: _Reader, place: str, raw: Mapping[str, Any], kind: str) -> tuple[Condition, ...]:
    found = []
    if kind == "fact":
        found.append(_condition(reader, place, reader.text(raw["fact"], place), raw))
    for path, comparison in (raw.get("where") or {}).items():
        found.append(_condition(reader, f"{place}.where.{path}", path, comparison))
    return tuple(found)


def _condition(reader: _Reader, place: str, path: str, raw: Any) -> Condition:
    if isinstance(raw, str):
        return Condition(path, "equals", (raw,))
    if isinstance(raw, list):
        return Condition(path, "in", reader.texts(raw, place))
    used = [name for name in COMPARISONS if name in raw]
    if len(used) != 1:
        raise reader.fail(place, "needs exactly one of " + ", ".join(COMPARISONS))
    name = used[0]
    other = raw.get("other")
    if name in ("present", "absent"):
        return Condition(path, name)
    value = raw[name]
    if isinstance(value, dict):
        other = reader.text(value.get("fact"), place)
        return Condition(path, name, (), other)
    return Condition(path, name, reader.texts(value, place), other)


def _clause(reader: _Reader, place: str, raw: Any, signals: Mapping[str, Signal]) -> Clause:
    raw = reader.mapping(raw, place, set(), _CLAUSE_KEYS)

    def known(names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in signals:
                raise reader.fail(place, f"names a signal that does not exist: {name!r}")
        return names

    def phases(key: str) -> tuple[str, ...]:
        names = reader.texts(raw.get(key), f"{place}.{key}")
        for name in names:
            reader.choice(name, f"{place}.{key}", tuple(phase.value for phase in Phase))
        return names

    unfinished = tuple(
        (pair["begin"], pair["end"])
        for pair in _as_list(raw.get("unfinished"))
        if reader.mapping(pair, f"{place}.unfinished", {"begin", "end"}, set())
    )
    for begin, end in unfinished:
        known((begin, end))
    repeats = tuple(
        (name, int(count)) for name, count in reader.pairs(raw.get("repeats"), f"{place}.repeats")
    )
    known(tuple(name for name, _ in repeats))
    ceiling = reader.choice(raw.get("ceiling", ""), f"{place}.ceiling", ("", "possible", "likely", "slow"))
    slow = ceiling == "slow"
    clause = Clause(
        all=known(reader.texts(raw.get("all"), place)),
        any=known(reader.texts(raw.get("any"), place)),
        none=known(reader.texts(raw.get("none"), place)),
        unfinished=unfinished,
        stalled=known(reader.texts(raw.get("stalled"), place)),
        repeats=repeats,
        sequence=known(reader.texts(raw.get("sequence"), place)),
        phases=phases("phases"),
        not_phases=phases("not_phases"),
        ranks=reader.choice(raw["ranks"], f"{place}.ranks", ("some", "every", "one"))
        if "ranks" in raw
        else "",
        differs=reader.pairs(raw.get("differs"), f"{place}.differs"),
        conflicts=reader.pairs(raw.get("conflicts"), f"{place}.conflicts"),
        outlier=reader.pairs(raw.get("outlier"), f"{place}.outlier"),
        same=reader.pairs(raw.get("same"), f"{place}.same"),
        ceiling="possible" if slow else ceiling,
        slow=slow,
    )
    known(tuple(name for name, _ in (*clause.differs, *clause.same, *clause.conflicts, *clause.outlier)))
    if not (
        clause.all
        or clause.any
        or clause.unfinished
        or clause.stalled
        or clause.repeats
        or clause.sequence
        or clause.differs
        or clause.conflicts
        or clause.outlier
        or clause.same
    ):
        raise reader.fail(place, "asks for nothing that must be there")
    return clause


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _fix(reader: _Reader, place: str, raw: Any) -> FixText:
    raw = reader.mapping(raw, place, {"do", "risk"}, _FIX_KEYS)
    settings = raw.get("settings") or {}
    if not isinstance(settings, dict):
        raise reader.fail(f"{place}.settings", "must be a mapping")
    return FixText(
        do=reader.text(raw["do"], f"{place}.do"),
        frameworks=reader.texts(raw.get("frameworks"), f"{place}.frameworks"),
        needs=reader.texts(raw.get("needs"), f"{place}.needs"),
        settings={key: reader.text(value, f"{place}.settings.{key}") for key, value in settings.items()},
        command=reader.text(raw.get("command", ""), f"{place}.command", empty=True),
        patch=reader.text(raw.get("patch", ""), f"{place}.patch", empty=True),
        risk=reader.choice(raw["risk"], f"{place}.risk", RISKS),
        verify=reader.text(raw.get("verify", ""), f"{place}.verify", empty=True),
        undo=reader.text(raw.get("undo", ""), f"{place}.undo", empty=True),
    )


def _samples(reader: _Reader, raw: Any, place: str) -> tuple[Sample, ...]:
    if not isinstance(raw, list):
        raise reader.fail(place, "must be a list")
    found = []
    for number, entry in enumerate(raw):
        at = f"{place}[{number}]"
        item = reader.mapping(entry, at, set(), {"text", "origin", "about", "findings"})
        if not item.get("text") and not item.get("findings"):
            raise reader.fail(at, "needs text or findings")
        findings = item.get("findings") or []
        if not isinstance(findings, list) or not all(
            isinstance(one, dict) and "probe" in one for one in findings
        ):
            raise reader.fail(f"{at}.findings", "must be a list of mappings with at least probe and status")
        found.append(
            Sample(
                text=reader.text(item.get("text", ""), at, empty=True),
                findings=tuple(findings),
                origin=reader.choice(
                    item.get("origin", "re-enacted"), f"{at}.origin", ("captured", "re-enacted")
                ),
                about=reader.text(item.get("about", ""), f"{at}.about", empty=True),
            )
        )
    return tuple(found)
