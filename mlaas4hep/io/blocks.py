"""Split a file into blocks: ranges of entries that are read at a time.

    split_into_blocks(source.boundaries, stop=25_000, target=10_000)  # [(0, 9_800), (9_800, 19_900), (19_900, 25_000)]

The blocks depend only on the file, the selected columns and the target, never on the number of workers, so that
results that are computed block by block are reproducible.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

READ_ROWS = 10_000
"""Default number of entries per block: enough to hide the cost of a call, and small in memory."""

READ_BYTES = 200_000_000
"""Maximum bytes of decoded columns per block, unless a unit that is decoded as a whole is larger.

Reading needs up to twice as much temporarily, when the contents of baskets are concatenated."""


class ClusterSize(NamedTuple):
    """Memory that the selected columns of a cluster take, estimated from the metadata of the file.

    Attributes:
        entry_bytes: mean bytes per entry.
        unit: number of entries that are decoded together; reading fewer entries takes as much memory.
    """

    entry_bytes: float
    unit: int


def split_into_blocks(
    boundaries: Sequence[int], stop: int, target: int = READ_ROWS, sizes: Sequence[ClusterSize] = ()
) -> list[tuple[int, int]]:
    """Split the entries 0 <= i < stop into blocks of about `target` entries, or fewer if these exceed READ_BYTES.

    Consecutive clusters are joined as long as they fit. A cluster with more than twice the target entries, or with more
    than READ_BYTES, is split evenly.

    Args:
        boundaries: first entry of each cluster, and the number of entries; strictly increasing.
        sizes: size of each cluster; empty if unknown.

    Returns:
        First entry and end of each block.
    """
    ends = [end for end in boundaries if 0 < end < stop] + ([stop] if stop > 0 else [])
    ranges: list[tuple[int, int]] = []
    start = last = first = 0
    joined_bytes = 0.0
    for index, end in enumerate(ends):
        cluster_bytes = (end - last) * sizes[index].entry_bytes if sizes else 0.0
        if last > start and (end - start > target or joined_bytes + cluster_bytes > READ_BYTES):
            ranges += _split(start, last, target, sizes[first:index])
            start, first, joined_bytes = last, index, 0.0
        joined_bytes += cluster_bytes
        last = end
    if last > start:
        ranges += _split(start, last, target, sizes[first : len(ends)])
    return ranges


def _split(start: int, stop: int, target: int, sizes: Sequence[ClusterSize]) -> list[tuple[int, int]]:
    """Split one cluster if it is too large. Several clusters were joined because they fit, and stay together."""
    entries = stop - start
    count = 1 if entries <= 2 * target else -(-entries // target)
    if len(sizes) == 1:
        count = max(count, _count_by_bytes(entries, sizes[0]))
    edges = [start + entries * i // count for i in range(count + 1)]
    return list(pairwise(edges))


def _count_by_bytes(entries: int, size: ClusterSize) -> int:
    """Return the number of blocks to split a cluster into because of its bytes.

    A block decodes up to one unit more than it needs. Blocks shorter than a unit would not save memory.
    """
    if entries * size.entry_bytes <= READ_BYTES:
        return 1
    max_entries = READ_BYTES / size.entry_bytes - size.unit
    return max(math.ceil(entries / max(max_entries, size.unit, 1)), 1)
