"""The messages that the playbooks' samples know, each with its cause: what an unknown message is compared with.

Only lines that a signal of kind `cause` or `effect` matches speak for their playbook. Lines of look-alikes that no
playbook claims are kept too, without a cause: what resembles them most accuses nobody.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import diag
from diag.playbooks.schema import Playbook
from diag.system.lazy import lazily

KNOWN = "known_lines.json"
"""Written into the wheel at build time beside the compiled playbooks."""

Line = tuple[str | None, str]
"""(cause or None for a harmless line, message without its head)."""

TELLING = ("cause", "effect")
_HEAD = lazily(r"^\s*(?:\[[^\]]{1,60}\]\s*|\([^)]{1,60}\)\s*|(?:INFO|WARNING|ERROR|W|E|I)\s+)*")


def collect(playbooks: Iterable[Playbook]) -> list[Line]:
    """Every telling line of all samples, then the look-alikes' own lines. Playbooks must carry their samples."""
    telling: dict[str, str | None] = {}
    harmless: list[str] = []
    for playbook in playbooks:
        patterns = [
            re.compile(pattern)
            for signal in playbook.signals.values()
            if signal.kind in ("log", "exception") and signal.says in TELLING
            for pattern in signal.patterns
        ]
        for text in _lines(sample.text for sample in playbook.fires):
            if any(pattern.search(text) for pattern in patterns):
                telling.setdefault(text, playbook.id)
        harmless += _lines(sample.text for sample in playbook.silent)
    return [
        *((cause, text) for text, cause in telling.items()),
        *((None, text) for text in dict.fromkeys(harmless) if text not in telling),
    ]


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in text.splitlines():
            bare = _HEAD.sub("", line).strip()
            if len(bare) > 8:
                yield bare[:400]


def dump(lines: Sequence[Line]) -> str:
    """The lines as JSON."""
    return json.dumps({"version": diag.__version__, "lines": lines}, ensure_ascii=False)


def stored(path: Path) -> list[Line] | None:
    """The lines of a stored file, or None where it is absent, cut or of another version."""
    try:
        raw = json.loads(path.read_bytes())
        if raw["version"] != diag.__version__:
            return None
        return [(cause if cause is None else str(cause), str(text)) for cause, text in raw["lines"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
