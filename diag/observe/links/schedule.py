"""Who tests with whom, when: rounds of disjoint pairs, so that a node is in one test at a time. Pure.

Up to 64 nodes every pair is tested: n-1 rounds (n for odd n) of n/2 pairs that run side by side, O(n) time. Above, rings
with steps 1, 2, 4, ... are sampled: O(log n) rounds, 2·log2(n) links a node. The steps are also bisections: step n/2
crosses every cut into halves, step 1 joins all nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

ALL_PAIRS_UP_TO = 64

Pair = tuple[int, int]


def plan_rounds(ranks: Sequence[int]) -> list[list[Pair]]:
    """Rounds of pairs (lower rank first). No rank occurs twice in a round, no pair in two rounds."""
    return _tournament(ranks) if len(ranks) <= ALL_PAIRS_UP_TO else _rings(ranks)


def _tournament(ranks: Sequence[int]) -> list[list[Pair]]:
    """The circle method: one stays, the others turn."""
    seats: list[int | None] = list(ranks)
    if len(seats) % 2:
        seats.append(None)
    rounds = []
    for _ in range(len(seats) - 1):
        facing = zip(seats[: len(seats) // 2], reversed(seats[len(seats) // 2 :]), strict=True)
        rounds.append([(min(a, b), max(a, b)) for a, b in facing if a is not None and b is not None])
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return [one for one in rounds if one]


def _rings(ranks: Sequence[int]) -> list[list[Pair]]:
    count = len(ranks)
    steps = []
    step = 1
    while step <= count // 2:
        steps.append(step)
        step *= 2
    if count // 2 not in steps:
        steps.append(count // 2)
    seen: set[Pair] = set()
    rounds: list[list[Pair]] = []
    for step in steps:
        ring = [(min(i, (i + step) % count), max(i, (i + step) % count)) for i in range(count)]
        rounds += _disjoint([pair for pair in dict.fromkeys(ring) if pair not in seen])
        seen.update(ring)
    return [[(min(ranks[a], ranks[b]), max(ranks[a], ranks[b])) for a, b in one] for one in rounds]


def _disjoint(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Greedy: a ring needs two rounds, or three where its length is odd."""
    rounds: list[tuple[set[int], list[Pair]]] = []
    for pair in pairs:
        for busy, chosen in rounds:
            if busy.isdisjoint(pair):
                busy.update(pair)
                chosen.append(pair)
                break
        else:
            rounds.append((set(pair), [pair]))
    return [chosen for _, chosen in rounds]
