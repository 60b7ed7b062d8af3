"""From bad directions to the node they have in common. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

Ends = tuple[int, int]


def blame(
    ranks: Sequence[int], bad: Sequence[Ends], every: Sequence[Ends]
) -> list[tuple[int | None, list[Ends]]]:
    """Bad directions grouped by the node they have in common; None and one pair where there is none.

    A node is to blame where all (of three or more nodes: at least 70 %) of its incoming or outgoing directions are bad.
    """
    left = list(bad)
    tested = [Counter(ends[side] for ends in every) for side in (0, 1)]
    result: list[tuple[int | None, list[Ends]]] = []
    while left and len(ranks) > 2:
        mine = [Counter(ends[side] for ends in left) for side in (0, 1)]
        scores = {
            rank: mine[0][rank] + mine[1][rank]
            for rank in ranks
            if any(mine[side][rank] > 1 and mine[side][rank] >= 0.7 * tested[side][rank] for side in (0, 1))
        }
        if not scores:
            break
        worst = max(scores, key=lambda rank: scores[rank])
        result.append((worst, [ends for ends in left if worst in ends]))
        left = [ends for ends in left if worst not in ends]
    pairs: dict[Ends, list[Ends]] = {}
    for ends in left:
        pairs.setdefault((min(ends), max(ends)), []).append(ends)
    return result + [(None, both) for both in pairs.values()]
