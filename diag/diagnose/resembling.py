"""No playbook fits: which known message does the failure resemble most? A guess, said as one.

Words and pairs of words are weighed by how few known messages hold them (inverse document frequency), messages
compared by the cosine of the angle between them. Figures, paths and addresses do not count.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from diag.diagnose.evidence import Evidence
from diag.model import Observation
from diag.playbooks.known_lines import Line

LEAST = 0.34
"""Cosine below which two messages have too little in common; found on held-out logs."""
LEAST_WORDS = 5
"""Words and pairs that a known message must hold to be compared with."""
NEAR_BEST = 0.75
"""Share of the best score that further guesses need."""
MAX_LINES = 60
MAX_GUESSES = 3

_STOP = frozenset(
    re.findall(
        r"\w+",
        "the an of to in is was for on at by with and or not be from this that it as are has have no you your can will we "
        "if error errors exception runtimeerror valueerror line file info warning warn traceback most recent call last "
        "failed failure critical fatal could cannot unable terminate called after throwing instance what core dumped",
    )
)
_NOISE = re.compile(r"(?:/[\w.+-]+){2,}|0x[0-9a-fA-F]+|\b[0-9a-f]{8,}\b|https?://\S+")
_MODULE = re.compile(r"^(?:[a-z_]\w*\.)+")
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


@dataclass(frozen=True, slots=True)
class Guess:
    """A cause whose known message resembles an observed one."""

    cause: str
    score: float
    line: Observation
    known: str


class KnownMessages:
    """Known messages, ready to be compared with."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = lines
        words = [_words(text) for _, text in lines]
        words = [
            one if len(one) >= LEAST_WORDS else frozenset() for one in words
        ]  # "core dumped" is everybody's
        spread = Counter(word for one in words for word in one)
        self.rarity = {word: math.log(len(lines) / count) for word, count in spread.items()}
        self.lengths = [_length(one, self.rarity) for one in words]
        self.holders: dict[str, list[int]] = defaultdict(list)
        for number, one in enumerate(words):
            for word in one:
                self.holders[word].append(number)
        self.unseen = math.log(len(lines) + 1)

    def nearest(self, text: str) -> tuple[float, int] | None:
        """(cosine, number of the known message), or None where no word is shared."""
        words = _words(text)
        rarity = {word: self.rarity.get(word, 0.0 if "+" in word else self.unseen) for word in words}
        length = _length(words, rarity)
        shared: Counter[int] = Counter()
        for word in words:
            for number in self.holders.get(word, ()):
                shared[number] += rarity[word] ** 2  # type: ignore[assignment]  # Counter of floats
        best = max(
            ((score / (length * self.lengths[number]), -number) for number, score in shared.items()),
            default=None,
        )
        return (best[0], -best[1]) if best is not None else None


def _length(words: Iterable[str], rarity: Mapping[str, float]) -> float:
    return math.sqrt(sum(rarity[word] ** 2 for word in words)) or 1.0


def _words(text: str) -> frozenset[str]:
    """Stems of the words, and of neighbouring pairs, `tensor_parallelSize` also in its parts."""
    found: list[str] = []
    for whole in re.findall(r"[A-Za-z_]+", _NOISE.sub(" ", _MODULE.sub("", text))):
        parts = _PARTS.findall(whole)
        found.append(whole.strip("_").lower())
        if len(parts) > 1:
            found += [part.lower() for part in parts]
    stems = [_stem(word) for word in found if len(word) > 1 and word not in _STOP]
    return frozenset(stems) | {f"{first}+{second}" for first, second in pairwise(stems)}


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word


@lru_cache(maxsize=2)
def _ready(lines: tuple[Line, ...]) -> KnownMessages:
    return KnownMessages(lines)


def guesses(lines: Sequence[Line], evidence: Evidence) -> list[Guess]:
    """Causes that the unexplained failures resemble, the nearest first; empty where nothing comes near."""
    if not lines:
        return []
    known = _ready(tuple(lines))
    best: dict[str, Guess] = {}
    for one in _failing_lines(evidence):
        near = known.nearest(one.text)
        if near is None or near[0] < LEAST:
            continue
        cause, text = lines[near[1]]
        if cause is not None and (cause not in best or near[0] > best[cause].score):
            best[cause] = Guess(cause, near[0], one, text)
    ordered = sorted(best.values(), key=lambda guess: -guess.score)
    return [guess for guess in ordered if guess.score >= NEAR_BEST * ordered[0].score][:MAX_GUESSES]


def _failing_lines(evidence: Evidence) -> list[Observation]:
    """What looks like a failure, ended something and was not taken back: exceptions first, each text once."""
    found: dict[str, Observation] = {}
    for item in evidence.files:
        end = item.orderly_end
        lines = [*item.exceptions, *(one for one in item.observations if one.kind == "failure")]
        for one in lines:
            if one.fields.get("ignored") or (end is not None and one.order >= end) or item.lives_on(one):
                continue
            found.setdefault(re.sub(r"\d+", "#", one.text[:300]), one)
    return list(found.values())[:MAX_LINES]
