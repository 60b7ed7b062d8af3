"""A page of wrapped lines. Lines meant for copying are left whole.

Written without rich: drawing a page needs a dozen escape codes, and importing rich takes longer than reading most logs.
"""

from __future__ import annotations

import textwrap

_CODES = {
    "bold": "1", "dim": "2", "underline": "4", "red": "31", "green": "32", "yellow": "33", "magenta": "35", "cyan": "36",
}  # fmt: skip
"""Select Graphic Rendition codes (ECMA-48, 8.3.117)."""


class Screen:
    """Collects lines of at most `width` columns."""

    def __init__(self, width: int, color: bool) -> None:
        self._width = max(width, 40)
        self._color = color
        self._lines: list[str] = []

    def put(
        self,
        text: str,
        *,
        indent: int = 0,
        hang: int = 0,
        style: str = "",
        rest: str = "",
        whole: bool = False,
    ) -> None:
        """Add a paragraph; continuation lines are `hang` columns further in; `rest` follows unstyled.

        `whole` keeps the line in one piece however long it is.
        """
        room = max(self._width - indent, 20)
        pieces = [text + rest] if whole else self._wrap(text + rest, room, hang)
        styled = len(text)  # how many characters are still to be styled
        for number, piece in enumerate(pieces):
            inner = indent + (hang if number else 0)
            head, tail = piece[:styled], piece[styled:]
            styled = max(0, styled - len(piece) - 1)
            self._lines.append(" " * inner + self._paint(head, style) + tail)

    def title(self, text: str) -> None:
        """Add a heading after an empty line."""
        self.gap()
        self.put(text, style="bold underline")

    def gap(self) -> None:
        """Add an empty line, never two."""
        if self._lines and self._lines[-1]:
            self._lines.append("")

    def text(self) -> str:
        """Return the page, ending in one line break."""
        while self._lines and not self._lines[-1]:
            self._lines.pop()
        return "\n".join(self._lines) + "\n"

    @staticmethod
    def _wrap(text: str, room: int, hang: int) -> list[str]:
        lines = textwrap.wrap(
            text,
            room,
            subsequent_indent=" " * hang,
            break_on_hyphens=False,
            drop_whitespace=True,
            replace_whitespace=False,
        )
        return [line[hang:] if number else line for number, line in enumerate(lines)] or [""]

    def _paint(self, text: str, style: str) -> str:
        if not self._color or not style or not text:
            return text
        codes = ";".join(_CODES[word] for word in style.split())
        return f"\x1b[{codes}m{text}\x1b[0m"
