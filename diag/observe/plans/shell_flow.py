"""What is known of a script's variables where its branches meet again.

A variable that every alternative of an `if` or `case` leaves alike is known afterwards; one that they leave different is
not, so nobody judges a value that only one of them sets. What only some alternatives append to a list of options leaves
the list known and marks that there may be more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diag.observe.plans.shell_words import Word

MAX_DEPTH = 200


@dataclass(slots=True)
class _Block:
    number: int
    loop: bool
    known: dict[str, Word]
    arrays: dict[str, list[Word]]
    index: int = 0
    complete: bool = False
    """An `else` was there, so one of the alternatives did run."""
    ends: list[tuple[dict[str, Word], dict[str, list[Word]]]] = field(default_factory=list)


class Flow:
    """Variables and arrays while a script is read from top to bottom."""

    def __init__(self, known: dict[str, Word]) -> None:
        self.known = known
        self.arrays: dict[str, list[Word]] = {}
        self._exported: set[str] = set(known)
        self._all_exported = False
        self._blocks: list[_Block] = []
        self._count = 0
        self._name, self._depth = "", 0
        self.function = ""
        """The function whose body is being read."""

    def named(self, words: Sequence[Word], operator: str) -> bool:
        """True for the `name(` of a function's definition; its body is what the next brace opens."""
        if operator != "(" or len(words) != 1 or words[0].quoted:
            return False
        self._name = words[0].text
        return True

    def brace(self, word: str) -> bool:
        """Whether a command's first word is a brace that opens or closes a function's body."""
        if word == "{" and (self._name or self.function):
            self._depth += 1
            self.function, self._name = self.function or self._name, ""
            return True
        if word == "}" and self.function:
            self._depth -= 1
            self.function = self.function if self._depth else ""
            return True
        if word != "{":
            self._name = ""
        return False

    @property
    def branch(self) -> tuple[tuple[int, int], ...]:
        """Where the next command stands."""
        return tuple((block.number, block.index) for block in self._blocks if not block.loop)

    def export(self, words: Sequence[str]) -> None:
        """`export`, `declare -x` and `set -a`: what reaches the commands that follow."""
        if words[0] == "export" or (words[0] in ("declare", "typeset") and "-x" in words[1:2]):
            self._exported |= {word.partition("=")[0].rstrip("+") for word in words[1:]}
        elif words[0] == "set" and ("-a" in words[1:2] or "allexport" in words):
            self._all_exported = True

    def exports(self, name: str) -> bool:
        """Whether a command started now sees this variable."""
        return self._all_exported or name in self._exported

    def enter(self, word: str) -> None:
        """`if`, `case` or a loop begins."""
        if len(self._blocks) < MAX_DEPTH:
            self._count += 1
            loop = word in ("for", "while", "until", "select")
            self._blocks.append(_Block(self._count, loop, dict(self.known), dict(self.arrays)))

    def alternative(self, *, last: bool = False) -> None:
        """`elif`, `else` or `;;`: the next alternative begins with what was known before the first."""
        if not self._blocks or self._blocks[-1].loop:
            return
        block = self._blocks[-1]
        block.ends.append((dict(self.known), dict(self.arrays)))
        block.index += 1
        block.complete = block.complete or last
        self._restore(block.known, block.arrays)

    def leave(self) -> None:
        """`fi`, `esac` or `done`: what the alternatives agree on stays."""
        if not self._blocks:
            return
        block = self._blocks.pop()
        ends = [*block.ends, (dict(self.known), dict(self.arrays))]
        if not block.complete:
            ends.append((block.known, block.arrays))
        self._restore(
            _joined(block.known, [known for known, _ in ends]),
            _joined_arrays(block.arrays, [arrays for _, arrays in ends]),
        )

    def doubt(self, before: Mapping[str, Word]) -> None:
        """What a command after `&&` or `||` has set may not have been set."""
        merged = _joined(before, [dict(before), dict(self.known)])
        self.known.clear()
        self.known.update(merged)

    def _restore(self, known: Mapping[str, Word], arrays: Mapping[str, list[Word]]) -> None:
        known, arrays = dict(known), dict(arrays)
        self.known.clear()
        self.known.update(known)
        self.arrays.clear()
        self.arrays.update(arrays)


def _joined(before: Mapping[str, Word], ends: Sequence[Mapping[str, Word]]) -> dict[str, Word]:
    merged: dict[str, Word] = {}
    for name in dict.fromkeys(name for end in ends for name in end):
        found = [end[name] for end in ends if name in end]
        if len({word.text for word in found}) == 1:
            merged[name] = found[0]
        elif name in before and all(word.text.startswith(before[name].text) for word in found):
            old = before[name].text
            if (
                not old or " " in old or old.startswith("-")
            ):  # a string of options that some alternatives lengthen
                merged[name] = replace(before[name], text=f"{old} ${{{name}}}".strip(), start=-1, end=-1)
    return merged


def _joined_arrays(
    before: Mapping[str, list[Word]], ends: Sequence[Mapping[str, list[Word]]]
) -> dict[str, list[Word]]:
    merged: dict[str, list[Word]] = {}
    for name in dict.fromkeys(name for end in ends for name in end):
        found = [end[name] for end in ends if name in end]
        texts = [[word.text for word in words] for words in found]
        if all(each == texts[0] for each in texts):
            merged[name] = found[0]
            continue
        common: list[Word] = []
        for words in zip(*found, strict=False):
            if len({word.text for word in words}) > 1:
                break
            common.append(words[0])
        some = next(words for words in found if words)
        merged[name] = [*common, replace(some[0], text=f"${{{name}[@]}}", start=-1, end=-1, quoted=False)]
    return merged
