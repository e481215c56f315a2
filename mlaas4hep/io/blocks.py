"""Which stretches of a file to read at a time.

    blocks(source.boundaries, stop=25_000, target=10_000)    # [(0, 9_800), (9_800, 19_900), (19_900, 25_000)]

The cut depends on the file and the target alone, never on workers, so that everything computed block by block has
one answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

READ_ROWS = 10_000
"""Events that are read at a time where nothing else is asked: enough to hide the cost of a call, small in memory."""


def blocks(boundaries: Sequence[int], stop: int, target: int = READ_ROWS) -> list[tuple[int, int]]:
    """Cut the entries 0 <= i < stop into stretches of about `target` entries.

    Neighbouring clusters are joined while they fit; a cluster of more than twice the target is cut evenly.

    Args:
        boundaries: where clusters begin, 0 and the number of entries included, strictly increasing.
        stop: entries from here on are left out.
        target: wanted number of entries.
    """
    ends = [end for end in boundaries if 0 < end < stop] + ([stop] if stop > 0 else [])
    cut: list[tuple[int, int]] = []
    start = last = 0
    for end in ends:
        if end - start > target and last > start:
            cut.append((start, last))
            start = last
        last = end
    if last > start:
        cut.append((start, last))
    return [piece for begin, end in cut for piece in _pieces(begin, end, target)]


def _pieces(start: int, stop: int, target: int) -> list[tuple[int, int]]:
    count = 1 if stop - start <= 2 * target else -(-(stop - start) // target)
    edges = [start + (stop - start) * i // count for i in range(count + 1)]
    return list(pairwise(edges))
