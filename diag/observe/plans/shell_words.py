"""Shell scripts cut into commands and words that know where they stand. Nothing is run, nothing is looked up.

Variables are followed where the script itself sets them to plain text (also arrays and defaults, `${TP:-8}`); what
cannot be known stays as it is written, with its `$`, and no judge will take it for a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from diag.observe.plans.shell_flow import Flow

MAX_WORDS = 50_000
MAX_EXPANSION = 20_000
"""Characters of one expanded word: a variable that doubles itself ends here."""

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)\+?=(.*)\Z", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)(?:(:?[-=])([^{}$]*))?\}|([A-Za-z_]\w*)|\(([A-Za-z_]\w*)\))")
_ARRAY = re.compile(r"\A\$\{([A-Za-z_]\w*)\[[@*]\]\}\Z")
_HEREDOC = re.compile(r"<<-?\s*(['\"]?)([A-Za-z_]\w*)\1")
KEYWORDS = (
    "then",
    "do",
    "else",
    "elif",
    "if",
    "while",
    "until",
    "!",
    "{",
    "exec",
    "nohup",
    "time",
    "command",
    "sudo",
    "eval",
)


BROKEN, CUT, LOST = "broken", "blank behind the backslash", "no backslash"
"""A word's style where its command is cut by mistake, and how: the words behind are read as its options all the same."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word. `start`/`end` are offsets in the file, -1 where it came out of a variable."""

    text: str
    start: int = -1
    end: int = -1
    line: int | None = None
    quoted: bool = False
    style: str = "shell"


@dataclass(slots=True)
class Command:
    """One simple command with the variables set before it, in the script or on its own line."""

    words: list[Word]
    env: dict[str, Word] = field(default_factory=dict)
    line: int | None = None
    background: bool = False
    branch: tuple[tuple[int, int], ...] = ()
    """(block, alternative) of every `if` and `case` around it: two commands of one block's different alternatives never both run."""
    function: str = ""
    """The script's function that it stands in."""


class _Lexer:
    """Cuts text into words and operators; quotes, escapes, comments, continuations, here-documents."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.heredocs: list[str] = []
        self.line = 1

    def tokens(self) -> Iterator[Word]:
        """Words, and operators as words with `style` operator."""
        text, size = self.text, len(self.text)
        while self.at < size:
            char = text[self.at]
            if char == "\n":
                yield Word("\n", self.at, self.at + 1, self.line, style="operator")
                self._step()
                self._skip_heredocs()
            elif char in " \t\r":
                self.at += 1
            elif char == "\\" and re.match(r"\\[ \t\r]*\n", text[self.at : self.at + 80]):
                start, self.at = self.at, text.index("\n", self.at) + 1
                if (
                    re.match(r"[ \t]*--[A-Za-z]", text[self.at : self.at + 200])
                    and " " in text[start : self.at]
                ):
                    yield Word(CUT, start + 1, self.at - 1, self.line, style=BROKEN)  # what is meant is plain
                self.line += 1
            elif char == "#":
                end = text.find("\n", self.at)
                self.at = size if end < 0 else end
            elif char in ";&|()":
                width = 2 if text[self.at : self.at + 2] in (";;", "&&", "||") else 1
                yield Word(
                    text[self.at : self.at + width], self.at, self.at + width, self.line, style="operator"
                )
                self.at += width
            elif char in "<>":
                self._redirection()
            else:
                yield self._word()

    def _step(self) -> None:
        self.at += 1
        self.line += 1

    def _redirection(self) -> None:
        found = _HEREDOC.match(self.text, self.at)
        if found:
            self.heredocs = [*self.heredocs, found.group(2)]
            self.at = found.end()
            return
        match = re.compile(r"(?:<<<|>>|>\||[<>]&?)\s*(?:&?\d+-?|[^\s;&|()<>]+)?").match(self.text, self.at)
        self.at = match.end() if match and match.end() > self.at else self.at + 1

    def _skip_heredocs(self) -> None:
        for name in self.heredocs:
            found = re.compile(rf"^[ \t]*{re.escape(name)}[ \t]*$", re.MULTILINE).search(self.text, self.at)
            end = found.end() if found else len(self.text)
            self.line += self.text.count("\n", self.at, end)
            self.at = end
        self.heredocs = []

    def _word(self) -> Word:
        text, size, start, line = self.text, len(self.text), self.at, self.line
        out: list[str] = []
        quoted = text[start] in "'\""
        while self.at < size:
            char = text[self.at]
            if char in " \t\r\n;&|)<>" or (char == "(" and not (out and out[-1].endswith("="))):
                break
            if char == "(":
                out.append(self._balanced("(", ")"))
            elif char == "\\":
                if re.match(r"\\[ \t\r]*\n", text[self.at : self.at + 80]):
                    break
                out.append(text[self.at + 1 : self.at + 2])
                self.at += 2
            elif char == "'":
                out.append(self._single())
            elif char == '"':
                out.append(self._double())
            elif char == "$" and text[self.at + 1 : self.at + 2] in ("(", "{"):
                opening = text[self.at + 1]
                self.at += 1
                out.append("$" + self._balanced(opening, ")" if opening == "(" else "}"))
            elif char == "`":
                end = text.find("`", self.at + 1)
                end = size if end < 0 else end + 1
                out.append("$(" + text[self.at + 1 : end - 1] + ")")
                self.at = end
            else:
                out.append(char)
                self.at += 1
        self.at = min(self.at, size)
        return Word("".join(out), start, self.at, line, quoted and text[start] == "'")

    def _single(self) -> str:
        end = self.text.find("'", self.at + 1)
        end = len(self.text) if end < 0 else end
        inner = self.text[self.at + 1 : end]
        self.line += inner.count("\n")
        self.at = end + 1
        return inner

    def _double(self) -> str:
        out: list[str] = []
        self.at += 1
        text, size = self.text, len(self.text)
        while self.at < size and text[self.at] != '"':
            if text[self.at] == "\\" and text[self.at + 1 : self.at + 2] in ('"', "\\", "$", "`", "\n"):
                if text[self.at + 1] != "\n":
                    out.append(text[self.at + 1])
                else:
                    self.line += 1
                self.at += 2
                continue
            self.line += text[self.at] == "\n"
            out.append(text[self.at])
            self.at += 1
        self.at += 1
        return "".join(out)

    def _balanced(self, opening: str, closing: str) -> str:
        start, depth = self.at, 0
        while self.at < len(self.text):
            char = self.text[self.at]
            self.line += char == "\n"
            self.at += 1
            if char == opening:
                depth += 1
            elif char == closing:
                depth -= 1
                if depth == 0:
                    break
        return self.text[start : self.at]


def commands(text: str, env: Mapping[str, Word] | None = None) -> Iterator[Command]:
    """Every simple command of a script, in order, with what has been set so far.

    A line that begins with an option goes on with the command above it: a backslash is missing there.
    """
    held: Command | None = None
    for command in _commands(text, env):
        if held is not None and re.match(r"--[A-Za-z]", command.words[0].text) and _follows(held, command):
            end = held.words[-1].end
            mark = Word(LOST, end, end, held.words[-1].line, style=BROKEN)
            held.words = [*held.words, mark, *command.words]
            held.background = command.background
            continue
        if held is not None:
            yield held
        held = command
    if held is not None:
        yield held


def _follows(one: Command, other: Command) -> bool:
    last, first = one.words[-1], other.words[0]
    return (
        not one.background
        and not last.quoted
        and "\n" not in last.text
        and last.line is not None
        and first.line == last.line + 1
        and one.branch == other.branch
    )


def _commands(text: str, env: Mapping[str, Word] | None) -> Iterator[Command]:
    flow = Flow(dict(env or {}))
    words: list[Word] = []
    joined = ""
    for count, token in enumerate(_Lexer(text).tokens()):
        if count > MAX_WORDS:
            return
        if token.style != "operator":
            words.append(token)
            if len(words) == 1 and flow.brace(token.text):
                words = []
            continue
        pattern = token.text in (")", "|") and words and words[0].text.startswith("-")  # of a `case`
        if words and not pattern and not flow.named(words, token.text):
            yield from _one(words, flow, joined, background=token.text == "&")
        if token.text == ";;":
            flow.alternative()
        joined = token.text
        words = []
    if words:
        yield from _one(words, flow, joined, background=False)


def _one(words: list[Word], flow: Flow, joined: str, *, background: bool) -> Iterator[Command]:
    """One command's words: the flow's keywords are followed, the rest is a command or sets something."""
    first = words[0].text if not words[0].quoted else ""
    if first in ("if", "case", "for", "while", "until", "select"):
        flow.enter(first)
    elif first in ("else", "elif"):
        flow.alternative(last=first == "else")
    elif first in ("fi", "esac", "done"):
        flow.leave()
        return
    before = dict(flow.known) if joined in ("&&", "||") else None
    for command in _finish(words, flow, background=background):
        command.branch = flow.branch
        command.function = flow.function
        yield command
    if before is not None:
        flow.doubt(before)


def _finish(words: list[Word], flow: Flow, *, background: bool) -> Iterator[Command]:
    known, arrays = flow.known, flow.arrays
    again = False
    while words and words[0].text in KEYWORDS:
        again = again or words[0].text == "eval"
        words = words[1:]
    if words and words[0].text in ("export", "declare", "readonly", "local", "typeset", "set", "env"):
        exported = words[0].text != "env"
        flow.export([word.text for word in words])
        words = [
            word for index, word in enumerate(words) if index and not (exported and word.text.startswith("-"))
        ]
    own: dict[str, Word] = {}
    while words and not words[0].quoted and (match := _ASSIGNMENT.match(words[0].text)):
        name, value = match.groups()
        if value.startswith("(") and value.endswith(")"):
            offset = words[0].start + len(words[0].text) - len(value)
            inner = [
                replace(
                    word,
                    start=word.start + offset + 1,
                    end=word.end + offset + 1,
                    line=(words[0].line or 1) + (word.line or 1) - 1,
                )
                for word in _Lexer(value[1:-1]).tokens()
                if word.style not in ("operator", BROKEN)
            ]
            arrays[name] = [*(arrays.get(name, []) if f"{name}+=" in words[0].text else []), *inner]
        else:
            offset = words[0].end - len(value) if words[0].end - words[0].start == len(words[0].text) else -1
            old = (
                known[name].text + " "
                if f"{name}+=" in words[0].text[: len(name) + 2] and name in known
                else ""
            )
            own[name] = Word(
                old + expand(value, known),
                offset if not old else -1,
                words[0].end if offset >= 0 and not old else -1,
                words[0].line,
            )
        words = words[1:]
    if not words:
        known.update(own)
        return
    expanded = list(_expanded(words, {**known, **own}, arrays))
    if again:  # `eval` reads its words once more
        expanded = [
            part if part.text == word.text else Word(part.text, line=word.line)
            for word in expanded
            for part in ([word] if not re.search(r"\s", word.text) else split(word.text))
        ]
    if expanded:
        inherited = {name: word for name, word in known.items() if flow.exports(name)}
        yield Command(expanded, {**inherited, **own}, expanded[0].line or words[0].line, background)


def _expanded(
    words: list[Word], known: Mapping[str, Word], arrays: Mapping[str, list[Word]]
) -> Iterator[Word]:
    for word in words:
        array = _ARRAY.match(word.text)
        if array and array.group(1) in arrays:
            yield from _expanded(arrays[array.group(1)], known, {})
        elif "$" in word.text and not word.quoted:
            text = expand(word.text, known)
            if text == word.text:
                yield word
            elif re.search(r"\s", text) and _VARIABLE.fullmatch(word.text):
                yield from (
                    Word(part.text, -1, -1, word.line)
                    for part in _Lexer(text).tokens()
                    if part.style not in ("operator", BROKEN)
                )
            elif text:
                yield replace(word, text=text, start=-1, end=-1)
        else:
            yield word


def split(text: str) -> list[Word]:
    """The words of a piece of a command line."""
    return [word for word in _Lexer(text).tokens() if word.style not in ("operator", BROKEN)]


def expand(text: str, known: Mapping[str, Word]) -> str:
    """`$NAME`, `${NAME}`, `${NAME:-default}` and Kubernetes' `$(NAME)` where they are known; anything else stays."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1) or match.group(4) or match.group(5)
        if name in known:
            return known[name].text
        if match.group(2) and match.group(3) is not None:
            return re.sub(r"\A(['\"])(.*)\1\Z", r"\2", match.group(3))  # ${RANK:-"0"} is 0
        return match.group(0)

    return _VARIABLE.sub(value, text)[:MAX_EXPANSION] if "$" in text else text
