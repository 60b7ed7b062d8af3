"""What must not leave the machine is taken out of the whole report before the first byte is written.

Secrets vanish; names and addresses get stand-ins that are the same wherever they occur, so that the report still tells
its story. It fails closed: where the check at the end finds an original, nothing is written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from diag.model import Redaction, Report
from diag.report import hardware_ids, names
from diag.report.addresses import AddressBook
from diag.report.jsonform import from_json, to_json
from diag.report.secrets import STAND_IN, harmless, hide_secrets, names_secret
from diag.system.lazy import lazily

Path = tuple[str, ...]
"""Where a string stands in the JSON form: the keys on the way, lists left out."""

_KEPT = frozenset(
    [
        *((key,) for key in ("schema", "created", "command", "verdict")),
        ("tool", "name"), ("tool", "version"),
        *(("diagnoses", key) for key in ("id", "strength", "role", "severity", "echoes")),
        ("diagnoses", "culprit", "phase"), ("diagnoses", "fixes", "risk"),
        *(("findings", key) for key in ("probe", "status", "reason")),
        ("inputs", "kind"), ("unexplained", "phase"),
    ]
)  # fmt: skip
"""Closed sets and ids of ours; nothing of the machine is in them."""

_HOST_KEYS = lazily(
    r"(?i)(?:.*[_-])?(?:host|hostname|hosts|hostnames|host_name|nodename|node_name|nodelist|fqdn|master_addr|dns_name|peer|peers|node|nodes)$"
)
_USER_KEYS = lazily(r"(?i)(?:.*[_-])?(?:user|users|username|user_name|logname|login|owner)$")
_MODEL_KEYS = lazily(r"(?i)(?:served_)?model(?:_name|_path)?$")
_MODEL = lazily(r"[\w.-]+/[\w.-]+")

ATTEMPTS = 4
"""A random key whose stand-ins meet an original address is thrown away."""


class RedactionError(Exception):
    """Something that was to be taken out is still there; the report must not be written."""


def redact(report: Report, *, key: bytes | None = None, incident: str | None = None) -> Report:
    """Return the report without secrets, names and addresses. Raises RedactionError; never returns half-done work.

    Stand-ins are numbered (`host-1`). With an `incident`, a phrase that the nodes of one job share, they are derived
    from it (`host-3fa29c`), so that one host is the same in all nodes' reports. `key` makes addresses repeatable.
    """
    return redact_together([report], key=key, incident=incident)[0]


def redact_together(
    reports: Sequence[Report], *, key: bytes | None = None, incident: str | None = None
) -> tuple[Report, ...]:
    """Like `redact` for several reports at once: a name in two of them gets one stand-in."""
    if all(report.redaction.applied for report in reports):
        return tuple(reports)
    seed = incident.encode() if incident else key
    problem = ""
    for attempt in range(ATTEMPTS):
        chosen = (seed + bytes([attempt]) if attempt else seed) if seed else os.urandom(32)
        try:
            return _Redactor(chosen[:64], incident).work(reports)
        except RedactionError as error:
            problem = str(error)
        except Exception as error:
            raise RedactionError(f"redaction failed with {type(error).__name__}") from error
    raise RedactionError(problem)


def own_names() -> tuple[str, str]:
    """Return (host, user) of this machine; empty where they cannot be told."""
    user = os.environ.get("LOGNAME") or os.environ.get("USER") or ""
    if not user:
        import pwd

        try:
            user = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:  # a container without an entry for its user
            user = ""
    return os.uname().nodename, user


class _Redactor:
    """One report's books: who got which stand-in."""

    def __init__(self, key: bytes, incident: str | None) -> None:
        self._hosts = names.NameBook("host", incident)
        self._users = names.NameBook("user", incident)
        self._addresses = AddressBook(key)
        self._ids = hardware_ids.IdBook()
        self._secrets: set[str] = set()
        self._models: re.Pattern[str] | None = None

    def work(self, reports: Sequence[Report]) -> tuple[Report, ...]:
        data = [to_json(report) for report in reports]
        self._learn(data)
        clean = self._walk(data, ())
        clean = self._recheck(clean)
        counts = {
            "addresses": len(self._addresses.originals),
            "hosts": self._hosts.count,
            "secrets": len(self._secrets),
            "users": self._users.count,
            **self._ids.counts(),
        }
        redaction = Redaction(
            applied=True, counts={kind: count for kind, count in sorted(counts.items()) if count}
        )
        return tuple(replace(from_json(one), redaction=redaction) for one in clean)

    # what is there

    def _learn(self, data: Any) -> None:
        """Go through everything once, so that a name known from one place is replaced at all places."""
        models: set[str] = set()
        for path, value in _strings(data):
            key = path[-1] if path else ""
            self._learn_field(key, value)
            for word in names.host_names(value):
                self._hosts.add(word)
            for word in names.user_names(value):
                self._users.add(word)
            if _MODEL_KEYS.match(key) and _MODEL.fullmatch(value):
                models.add(value)
        host, user = own_names()
        if names.can_be_host(host) and self._mentions(data, host):
            self._hosts.add(host)
        if names.can_be_user(user) and self._mentions(data, user):
            self._users.add(user)
        kept = sorted(
            model for model in models if not {*model.split("/")} & (self._users.free | self._hosts.free)
        )
        if kept:
            self._models = re.compile("|".join(map(re.escape, kept)))

    def _learn_field(self, key: str, value: str) -> None:
        if _HOST_KEYS.match(key):
            for word in (
                re.split(r"[,\s]+", value)
                if re.fullmatch(r"[\w.,\s-]+", value) and " " not in value
                else [value]
            ):
                if names.can_be_host(word) and not (
                    word.lower() in names.VOCABULARY and not key.lower().endswith(("host", "hostname"))
                ):
                    self._hosts.add(word)
        elif _USER_KEYS.match(key) and names.can_be_user(value):
            self._users.add(value)

    def _mentions(self, data: Any, name: str) -> bool:
        pattern = re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", re.IGNORECASE)
        return any(pattern.search(value) for _, value in _strings(data))

    # taking it out

    def _walk(self, value: Any, path: Path, key: str = "") -> Any:
        if path in _KEPT:
            return value
        if isinstance(value, str):
            return self._field(value, key)
        if isinstance(value, Mapping):
            named = value.get("name") or value.get("key")
            hidden = named if isinstance(named, str) and names_secret(named) else None
            return {
                (self._text(name) if _open(path) else name): self._walk(
                    item, (*path, name), hidden if hidden and name == "value" else name
                )
                for name, item in value.items()
            }
        if isinstance(value, list):
            return [
                self._walk(item, path, self._key_of_item(value, number, key))
                for number, item in enumerate(value)
            ]
        return value

    @staticmethod
    def _key_of_item(items: list[Any], number: int, key: str) -> str:
        """An argument after `--api-key` belongs to that option, every other item to the list's own key."""
        before = items[number - 1] if number else None
        return before if isinstance(before, str) and before.startswith("-") and names_secret(before) else key

    def _field(self, value: str, key: str) -> str:
        if names_secret(key) and not harmless(value) and len(value) < 4096:
            self._secrets.add(value)
            return STAND_IN
        if hardware_ids.names_serial(key):
            return self._ids.serial(value)
        if _HOST_KEYS.match(key) and key.lower().endswith(("host", "hostname")) and names.can_be_host(value):
            return self._hosts.add(value)
        if _USER_KEYS.match(key) and names.can_be_user(value):
            return self._users.add(value)
        return self._text(value)

    def _text(self, text: str) -> str:
        text, taken = hide_secrets(text)
        self._secrets.update(taken)
        text = self._ids.replace(text)
        text, _ = self._addresses.replace(text)
        return self._between_models(text, self._names)

    def _names(self, text: str) -> str:
        text = names.replace_at_places(text, self._hosts, self._users)
        return self._users.replace_free(self._hosts.replace_free(text))

    def _between_models(self, text: str, work: Callable[[str], str]) -> str:
        """Public model names are no secret and must stay readable, whoever is called like a part of them."""
        if self._models is None or not self._models.search(text):
            return work(text)
        parts, position = [], 0
        for found in self._models.finditer(text):
            parts += [work(text[position : found.start()]), found[0]]
            position = found.end()
        return "".join([*parts, work(text[position:])])

    # the check

    def _recheck(self, data: Any) -> Any:
        """Replace what one place taught and another place still shows; refuse if an original survives even that."""
        met = set(self._addresses.originals) & set(self._addresses.originals.values())
        if met:
            raise RedactionError("a stand-in address equals an address that was to be hidden")
        if self._leaks(data):
            data = self._map_strings(data, self._sweep)
        left = self._leaks(data)
        if left:
            raise RedactionError(f"after redaction the report still holds {', '.join(sorted(left))}")
        return data

    def _sweep(self, text: str) -> str:
        for secret in sorted(self._long_secrets(), key=len, reverse=True):
            text = text.replace(secret, STAND_IN)
        for original, stand_in in self._addresses.originals.items():
            text = _whole(original).sub(stand_in, text)
        text = self._ids.sweep(text)
        return self._between_models(
            text, lambda part: self._users.replace_free(self._hosts.replace_free(part))
        )

    def _leaks(self, data: Any) -> set[str]:
        """Return the kinds of which an original is still there."""
        found: set[str] = set()
        watched = [_whole(original) for original in self._addresses.originals]
        for _, value in _strings(data):
            if any(secret in value for secret in self._long_secrets()):
                found.add("a secret")
            if any(pattern.search(value) for pattern in watched):
                found.add("an address")
            if self._ids.sweep(value) != value:
                found.add("a hardware id or e-mail address")
            for what, book in (("a host name", self._hosts), ("a user name", self._users)):
                if self._between_models(value, book.replace_free) != value:
                    found.add(what)
        return found

    def _long_secrets(self) -> set[str]:
        """A short or numeric secret cannot be searched for without hitting everything."""
        return {secret for secret in self._secrets if len(secret) >= 6 and not secret.isdigit()}

    def _map_strings(self, value: Any, work: Callable[[str], str], path: Path = ()) -> Any:
        if path in _KEPT:
            return value
        if isinstance(value, str):
            return work(value)
        if isinstance(value, Mapping):
            return {
                (work(name) if _open(path) else name): self._map_strings(item, work, (*path, name))
                for name, item in value.items()
            }
        if isinstance(value, list):
            return [self._map_strings(item, work, path) for item in value]
        return value


def _open(path: Path) -> bool:
    """Return whether the keys of an object at this place are data, not schema: facts may be filed under host names."""
    return (path[:1] == ("facts",) and len(path) > 1) or path[:2] == ("findings", "data")


def _strings(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Yield every string that redaction looks at, with its place."""
    if path in _KEPT:
        return
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        if _open(path):
            yield from (((), name) for name in value)
        for name, item in value.items():
            yield from _strings(item, (*path, name))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, path)


def _whole(original: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.:]){re.escape(original)}(?![\w:]|\.\d)")
