"""A page of wrapped lines. rich measures and colours; lines meant for copying are left whole."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text


class Screen:
    """Collects lines of at most `width` columns."""

    def __init__(self, width: int, color: bool) -> None:
        self._width = max(width, 40)
        self._console = Console(
            width=self._width,
            force_terminal=color,
            no_color=not color,
            color_system="standard" if color else None,
            highlight=False,
            emoji=False,
            markup=False,
            legacy_windows=False,
        )
        self._lines: list[Text] = []

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
        line = Text(text, style=style if not rest else "")
        if rest:
            line.stylize(style)
            line.append(rest)
        if whole:
            self._lines.append(Text(" " * indent) + line)
            return
        room = max(self._width - indent - hang, 20)
        wrapped = line.wrap(self._console, room, tab_size=4)
        for number, piece in enumerate(wrapped or [line]):
            piece.rstrip()
            self._lines.append(Text(" " * (indent + (hang if number else 0))) + piece)

    def title(self, text: str) -> None:
        """Add a heading after an empty line."""
        self.gap()
        self.put(text, style="bold underline" if self._console.is_terminal else "bold")

    def gap(self) -> None:
        """Add an empty line, never two."""
        if self._lines and self._lines[-1].plain:
            self._lines.append(Text())

    def text(self) -> str:
        """Return the page, ending in one line break."""
        while self._lines and not self._lines[-1].plain:
            self._lines.pop()
        with self._console.capture() as captured:
            for line in self._lines:
                self._console.print(line, no_wrap=True, overflow="ignore", crop=False, soft_wrap=True)
        return captured.get()
