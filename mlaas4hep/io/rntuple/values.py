"""Build the values of a column from its stored columns.

values_of(leaf, {StoredColumn(2, -1, 1): offsets, StoredColumn(3, 2, 1): numbers}, events=12_000)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mlaas4hep.io.columns import Jagged, Kind, Nested, Values, equal_offsets
from mlaas4hep.io.formats.awkward_bridge import LeafColumn
from mlaas4hep.io.rntuple.leaves import Leaf, StoredColumn


def values_of(leaf: Leaf, stored: Mapping[StoredColumn, np.ndarray], events: int) -> Values:
    """Return the values of a column, given the elements of its stored columns, for a number of events."""
    column, offsets = leaf.column, [stored[one] for one in leaf.lists]
    numbers = _numbers(leaf, stored)
    if column.kind is Kind.NESTED:
        if len(offsets) == 2:
            return Nested(offsets[0], Jagged(offsets[1], numbers))
        if column.size:  # lists of arrays
            return Nested(offsets[0], Jagged(equal_offsets(len(numbers) // column.size, column.size), numbers))
        return Nested(equal_offsets(events, leaf.lists[0].factor), Jagged(offsets[0], numbers))  # arrays of lists
    if column.kind is Kind.JAGGED:
        return Jagged(offsets[0], numbers)
    return numbers.reshape(events, column.size) if column.kind is Kind.FIXED else numbers


def _numbers(leaf: Leaf, stored: Mapping[StoredColumn, np.ndarray]) -> np.ndarray:
    assert leaf.values is not None
    numbers = stored[leaf.values]
    if leaf.counts_lists:
        return np.diff(numbers).astype(leaf.column.dtype, copy=False)
    if leaf.present is None:
        return numbers
    is_rounded = numbers.dtype.kind in "iu" and numbers.dtype.itemsize == 8
    counts = np.diff(stored[leaf.present])
    if (counts > 1).any():
        raise ValueError(f"'{leaf.column.name}' has several values in place of one optional value")
    filled = np.full(len(counts), np.nan, leaf.column.dtype)
    filled[counts == 1] = numbers
    LeafColumn(leaf.column, (), is_rounded).warn_of_rounding(filled)
    return filled
