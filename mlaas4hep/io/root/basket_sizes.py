"""Estimate the decoded size of the clusters of a TTree.

    cluster_sizes([Baskets(edges, stored, decoded)], boundaries=[0, 1000, 2000])

A tree contains the total decompressed size of all baskets of a branch, but not the size of each basket. The estimate
divides the total by compressed bytes and by entries, and takes the larger share for each basket.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mlaas4hep.io.blocks import ClusterSize


class Baskets(NamedTuple):
    """The baskets of one branch.

    Attributes:
        edges: int64 (baskets + 1,), basket i holds the entries edges[i] <= entry < edges[i + 1].
        stored: compressed bytes of each basket, (baskets,).
        decoded: decompressed bytes of all baskets together.
        is_even: whether all entries take the same number of bytes.
    """

    edges: np.ndarray
    stored: np.ndarray
    decoded: int
    is_even: bool = False


def cluster_sizes(branches: Iterable[Baskets], boundaries: Sequence[int]) -> list[ClusterSize]:
    """Return the size of each cluster; see `Source.cluster_sizes`."""
    groups: dict[bytes, list[Baskets]] = {}
    for baskets in branches:
        groups.setdefault(baskets.edges.tobytes(), []).append(baskets)
    sums = np.zeros((2, len(boundaries)))  # cumulative: bytes, and bytes times entries of their basket
    for group in groups.values():
        edges = group[0].edges
        lengths = np.diff(edges)
        sizes = _basket_sizes(group, lengths)
        for total, values in zip(sums, (sizes, sizes * lengths), strict=True):
            total += np.interp(boundaries, edges, np.concatenate([[0.0], np.cumsum(values)]))
    size, product = np.rint(np.diff(sums))
    units = np.rint(product / np.maximum(size, 1)).astype(np.int64)
    return list(map(ClusterSize, (size / np.diff(boundaries)).tolist(), units.tolist()))


def _basket_sizes(group: Sequence[Baskets], lengths: np.ndarray) -> np.ndarray:
    """Return the decoded bytes of branches with the same edges per basket, float64 (baskets,)."""
    entries = max(int(lengths.sum()), 1)
    even = lengths * (sum(float(baskets.decoded) for baskets in group if baskets.is_even) / entries)
    uneven = [baskets for baskets in group if not baskets.is_even]
    if not uneven:
        return even
    stored = np.array([baskets.stored for baskets in uneven], np.float64)
    total = np.maximum(stored.sum(axis=1), 1)
    decoded = np.maximum([float(baskets.decoded) for baskets in uneven], total)
    shares = np.maximum(stored / total[:, None], lengths / entries)
    return np.asarray(even + (decoded[:, None] * shares).sum(axis=0))
