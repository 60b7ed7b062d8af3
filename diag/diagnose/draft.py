"""A playbook drafted from one line of a log: it loads and fires at once; its sentences are the author's to write."""

from __future__ import annotations

import re
from pathlib import Path

from diag.observe.logs.heads import clean, parse_head
from diag.playbooks.literals import PatternError, required_literals
from diag.playbooks.load import FORBIDDEN_BEGINNINGS, ID
from diag.system import UserError

MAX_LINE_BYTES = 8000

_VARYING = re.compile(
    r"(?P<path>(?:/[\w.@+-]+){2,})|(?P<address>\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?)|(?P<hex>0x[0-9a-fA-F]+)|(?P<number>\d+(?:\.\d+)*)"
    r"|(?P<quoted>'[^']{1,80}'|\"[^\"]{1,80}\")"
)
_FORMS = {
    "path": r"\S+",
    "address": r"[\d.:]+",
    "hex": r"0x[0-9a-fA-F]+",
    "number": r"[\d.]+",
    "quoted": r"\S+",
}

_TEMPLATE = """\
id: {id}
title: {title}
since: '0.2'
status: experimental
severity: error
signals:
  named:
    log: {pattern}
    says: effect          # cause where the line itself names this cause
when:
  - all: [named]
explains: []              # ids of its consequences: they become echoes
summary: 'TODO: one sentence with this case''s figures; unknown names go into [[ ... {{name}} ... ]].'
explanation: |
  TODO: why this stops a launch.
fixes:
  - do: 'TODO: the concrete change.'
    risk: restarts-job    # none, restarts-job, needs-root or touches-others
    verify: 'TODO: the command that shows that it helped'
confirm:
  - 'TODO: what would prove it'
looks_like: []            # - rival-id: how to tell them apart
false_positives: unknown
references:
  - 'TODO: a permalink'
samples:
  fires:
    - text: {sample}
      origin: captured
  silent:
    - text: 'INFO:     Application startup complete.'
"""


def draft_playbook(place: str, identity: str) -> str:
    """The YAML of a new playbook for the line at `LOG:LINE`. Raises UserError for a bad place or id."""
    if not ID.match(identity) or identity.startswith(FORBIDDEN_BEGINNINGS):
        raise UserError(
            f"{identity!r} is no id", help="kebab-case, the name of the fault, not of its cure", code="bad-id"
        )
    text = parse_head(clean(_line(place))).text.strip()
    pattern = generalise(text)
    try:
        required_literals(pattern)
    except PatternError as error:
        raise UserError(
            f"this line cannot carry a pattern: {error}",
            where=place,
            help="choose a line with words of its own",
            code="no-pattern",
        ) from None
    return _TEMPLATE.format(
        id=identity,
        title=identity.replace("-", " ").capitalize(),
        pattern=_quote(pattern),
        sample=_quote(text),
    )


def generalise(text: str) -> str:
    """A pattern that allows other numbers, paths, addresses and quoted names."""
    parts, end = [], 0
    for match in _VARYING.finditer(text):
        parts += [re.escape(text[end : match.start()]), _FORMS[str(match.lastgroup)]]
        end = match.end()
    return "".join([*parts, re.escape(text[end:])]).replace(r"\ ", " ")


def _line(place: str) -> str:
    path, _, number = place.rpartition(":")
    if not path or not number.isdigit() or int(number) < 1:
        raise UserError(
            f"{place!r} is no place in a log",
            help="write LOG:LINE, for example run.log:1812",
            code="bad-place",
        )
    try:
        with Path(path).open("rb") as file:
            for count, raw in enumerate(file, 1):
                if count == int(number):
                    return raw[:MAX_LINE_BYTES].decode("utf-8", "replace").strip()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path, code="unreadable") from None
    raise UserError(f"has no line {number}", where=path, code="no-such-line")


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
