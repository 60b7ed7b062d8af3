"""From bad directions to the node they have in common. Pure."""

from __future__ import annotations

from collections.abc import Sequence

Ends = tuple[int, int]


def blame(
    ranks: Sequence[int], bad: Sequence[Ends], every: Sequence[Ends]
) -> list[tuple[int | None, list[Ends]]]:
    """Bad directions grouped by the node they have in common; None and one pair where there is none.

    A node is to blame where all (of three or more nodes: at least 70 %) of its incoming or outgoing directions are bad.
    """
    left = list(bad)
    result: list[tuple[int | None, list[Ends]]] = []
    while left and len(ranks) > 2:
        scores: dict[int, int] = {}
        for rank in ranks:
            for side in (0, 1):
                mine = [ends for ends in left if ends[side] == rank]
                tested = [ends for ends in every if ends[side] == rank]
                if len(mine) > 1 and len(mine) >= 0.7 * len(tested):
                    scores[rank] = max(scores.get(rank, 0), sum(rank in ends for ends in left))
        if not scores:
            break
        worst = max(scores, key=lambda rank: scores[rank])
        result.append((worst, [ends for ends in left if worst in ends]))
        left = [ends for ends in left if worst not in ends]
    pairs = list(dict.fromkeys(tuple(sorted(ends)) for ends in left))
    return result + [(None, [ends for ends in left if sorted(ends) == list(pair)]) for pair in pairs]
