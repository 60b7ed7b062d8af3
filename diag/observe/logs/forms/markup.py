"""Text with HTML's entities, and pages that hold a log."""

from __future__ import annotations

import re

from diag.observe.logs.forms.interface import Form
from diag.system.lazy import lazily

SAMPLE = 64 << 10
_ENTITIES = (
    (b"&lt;", b"<"),
    (b"&gt;", b">"),
    (b"&quot;", b'"'),
    (b"&#34;", b'"'),
    (b"&#39;", b"'"),
    (b"&#x27;", b"'"),
    (b"&apos;", b"'"),
    (b"&nbsp;", b" "),
    (b"&amp;", b"&"),
)
_TAG = lazily(
    rb"</?(?:a|b|body|br|button|code|div|em|font|head|html|i|li|link|meta|ol|p|pre|s|samp|script|section|span|strong|style"
    rb"|summary|details|table|tbody|td|th|thead|title|tr|tt|u|ul|svg|path|h\d|!doctype)\b[^<>\n]*>",
    re.IGNORECASE,
)
_PAGE = lazily(rb"\s*(?:<\?xml[^>]*>\s*)?<(?:!doctype html|html|body|pre)\b", re.IGNORECASE)


class Markup(Form):
    """Takes entities back, and in pages the tags off."""

    def __init__(self, tags: bool) -> None:
        super().__init__()
        self._tags = tags

    def feed(self, block: bytes, *, last: bool) -> bytes:
        """Plain text, line by line."""
        if self._tags:
            block = _TAG.sub(b"", block)
        for entity, plain in _ENTITIES:
            if entity in block:
                block = block.replace(entity, plain)
        return block

    def again(self) -> Markup:
        """The same markup."""
        return Markup(self._tags)


def is_page(sample: bytes) -> bool:
    """True for what begins as an HTML page does."""
    return _PAGE.match(sample[:4096].removeprefix(b"\xef\xbb\xbf")) is not None


def recognise_markup(sample: bytes) -> Form | None:
    """A page, or a text in which angle brackets and quotes are always escaped."""
    if is_page(sample):
        return Markup(tags=True)
    sample = sample[:SAMPLE]
    if b"&" not in sample:
        return None
    escaped = sum(sample.count(entity) for entity, _ in _ENTITIES[:7])
    if not escaped or sample.count(b"&lt;") + sample.count(b"&gt;") < sample.count(b"<"):
        return None
    if sample.count(b"&lt;") == sample.count(b"&gt;") == 0 and b'"' in sample:
        return None
    return Markup(tags=False)
