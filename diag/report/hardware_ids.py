"""Serial numbers of things and people: GPU UUIDs, MACs, InfiniBand GUIDs, serials, e-mail addresses."""

from __future__ import annotations

import re

from diag.system.lazy import lazily

_GPU_UUID = lazily(
    r"\b(?P<kind>GPU|MIG|NVSwitch|SWX)-(?P<id>(?:GPU-)?[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}(?:/\d+/\d+)?)"
)
_MAC = lazily(
    r"(?<![\w:-])(?:(?:[0-9a-fA-F]{2}:){19}|(?:[0-9a-fA-F]{2}:){7}|(?:[0-9a-fA-F]{2}[:-]){5})[0-9a-fA-F]{2}(?![\w:-])"
)
_GUID = lazily(r"(?<![\w:])[0-9a-fA-F]{4}(?::[0-9a-fA-F]{4}){3}(?![\w:])")
_NAMED_GUID = lazily(
    r"(?i)(?P<head>guid['\"]?\s{0,3}[=:]?\s{0,3}['\"]?)(?P<id>0x[0-9a-f]{8,16}|[0-9a-f]{16})\b"
)
_SERIAL = lazily(
    r"(?i)(?P<head>\bserial(?:[ _-]?(?:number|no|num))?['\"]?\s{0,20}[=:]\s{0,3}['\"]?)(?P<id>[A-Z0-9][A-Z0-9-]{5,})\b"
)
_EMAIL = lazily(
    r"(?<![\w.+/-])(?!git@)[A-Za-z0-9_.+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,8}\.[A-Za-z]{2,20}\b(?![:/][\w~])"
)
_SERIAL_KEY = lazily(r"(?i)(?:.*[_-])?serial(?:_number|_no)?$")

_NO_MAC = frozenset({"00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"})


def names_serial(key: str) -> bool:
    """Return whether a field of this name holds a serial number."""
    return bool(_SERIAL_KEY.match(key))


class IdBook:
    """Gives every id its stand-in."""

    def __init__(self) -> None:
        self._books: dict[str, dict[str, str]] = {}

    def counts(self) -> dict[str, int]:
        """How many different ids of each kind were met."""
        return {kind: len(book) for kind, book in self._books.items()}

    def serial(self, value: str) -> str:
        """Return the stand-in of a serial number (an empty or unreadable one stays)."""
        return (
            value
            if len(value) < 4 or value.lower() in ("none", "n/a", "[n/a]", "unknown")
            else self._note("serials", value, "serial-{}")
        )

    def replace(self, text: str) -> str:
        """Return the text with every id replaced that shows itself by form or name."""
        text = _GPU_UUID.sub(
            lambda found: self._note("gpu_uuids", found[0], found["kind"] + "-uuid-{}"), text
        )
        if "@" in text:
            text = _EMAIL.sub(lambda found: self._note("emails", found[0], "email-{}"), text)
        if ":" in text or "-" in text:
            text = _MAC.sub(self._mac, text)
            text = _GUID.sub(lambda found: self._note("guids", found[0], "0000:0000:0000:{:04x}"), text)
        text = _NAMED_GUID.sub(
            lambda found: found["head"] + self._note("guids", found["id"], "0x{:016x}"), text
        )
        return _SERIAL.sub(
            lambda found: found["head"] + self._note("serials", found["id"], "serial-{}"), text
        )

    def sweep(self, text: str) -> str:
        """Return the text with every id replaced that is known by now, wherever it stands."""
        for book in self._books.values():
            for original, stand_in in book.items():
                if original in text:
                    text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(original)}(?![A-Za-z0-9])", stand_in, text)
        return text

    def _mac(self, found: re.Match[str]) -> str:
        word = found[0].lower().replace("-", ":")
        return (
            found[0]
            if word in _NO_MAC or word.startswith("02:00:00:00:")
            else self._note("macs", found[0], "02:00:00:00:00:{:02x}")
        )

    def _note(self, kind: str, original: str, form: str) -> str:
        book = self._books.setdefault(kind, {})
        if original in book.values():
            return original
        key = original.lower() if kind in ("macs", "guids", "gpu_uuids") else original
        known = (
            next((stand_in for seen, stand_in in book.items() if seen.lower() == key), None)
            if key != original
            else book.get(key)
        )
        if known is None:
            known = form.format(len(book) + 1)
        book[original] = known
        return known
