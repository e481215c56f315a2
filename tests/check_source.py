"""The contract of a source; every format's must pass it."""

from itertools import pairwise

import numpy as np
import pytest

from mlaas4hep.errors import BranchNotFound, FileUnreadable
from mlaas4hep.io import Jagged, Kind, Nested

SINGLE = 100
"""How many columns are read on their own, too: a column does not depend on which others are read with it."""


def check_source(source):
    """Check every promise of `Source`, whatever the content."""
    assert source.identity
    boundaries = list(source.boundaries)
    assert boundaries[0] == 0
    assert boundaries[-1] == source.num_entries
    assert all(first < second for first, second in pairwise(boundaries))

    assert len(set(source.columns)) == len(list(source.columns))
    assert all(column.name == name for name, column in source.columns.items())

    readable = [name for name, column in source.columns.items() if column.kind is not Kind.OTHER]
    for name, column in source.columns.items():
        assert column.name == name
        assert bool(column.reason) == (column.kind is Kind.OTHER)
        if column.kind is Kind.OTHER:
            with pytest.raises(FileUnreadable) as refusal:
                source.read([name], 0, 1)
            assert f"'{name}'" in str(refusal.value)
            assert column.reason in str(refusal.value)
    whole = source.read(readable, 0, source.num_entries)
    for name in readable:
        check_values(whole[name], source.columns[name], source.num_entries)

    check_sizes(source, readable, whole)

    middle, end = source.num_entries // 3, source.num_entries
    borders = [(max(entry - 1, 0), min(entry + 1, end)) for entry in boundaries[:20]]
    for start, stop in ((0, 1), (middle, middle + 2), (end - 1, end), (middle, middle), *borders):
        part = source.read(readable, start, stop)
        assert {name: len(values) for name, values in part.items()} == dict.fromkeys(readable, stop - start)
        for name in readable:
            check_slice(whole[name], part[name], start, stop)

    for name in readable[:SINGLE]:
        check_slice(whole[name], source.read([name], middle, middle + 2)[name], middle, middle + 2)

    assert source.read([], 0, 1) == {}
    with pytest.raises(BranchNotFound, match=readable[0]):
        source.read([readable[0] + "x"], 0, 1)


def check_sizes(source, names, whole):
    """There is an estimated size for each cluster, and together they are not less than those of the decoded numbers."""
    sizes = source.cluster_sizes(names)
    boundaries = list(source.boundaries)
    assert len(sizes) == len(boundaries) - 1
    spans = list(pairwise(boundaries))
    assert all(0 <= size.unit <= stop - start for size, (start, stop) in zip(sizes, spans, strict=True))
    estimated = sum(size.entry_bytes * (stop - start) for size, (start, stop) in zip(sizes, spans, strict=True))
    assert estimated >= 0.7 * sum(numbers_of(values).nbytes for values in whole.values())


def numbers_of(values):
    """All numbers of a column."""
    if isinstance(values, Nested):
        return values.lists.content
    return values.content if isinstance(values, Jagged) else values


def check_values(values, column, events):
    """Values have the shape and the type that the column's description says, in native byte order."""
    if column.kind is Kind.NESTED:
        assert isinstance(values, Nested)
        check_offsets(values.offsets, events, len(values.lists))
        check_offsets(values.lists.offsets, len(values.lists), len(values.lists.content))
        assert column.size == 0 or (values.lists.counts == column.size).all()
    elif column.kind is Kind.JAGGED:
        assert isinstance(values, Jagged)
        check_offsets(values.offsets, events, len(values.content))
    else:
        assert values.shape == ((events, column.size) if column.kind is Kind.FIXED else (events,))
    numbers = numbers_of(values)
    assert numbers.dtype == column.dtype
    assert numbers.dtype.isnative
    if numbers.dtype == bool:
        assert numbers.view(np.uint8).max(initial=0) <= 1


def check_offsets(offsets, lists, items):
    """These are the offsets of so many lists with so many items together."""
    assert offsets.dtype == np.int64
    assert offsets[0] == 0
    assert offsets[-1] == items
    assert len(offsets) == lists + 1
    assert (np.diff(offsets) >= 0).all()


def check_slice(whole, part, start, stop):
    """What was read of a stretch is the same stretch of what was read of all."""
    if isinstance(whole, Nested):
        np.testing.assert_array_equal(part.counts, whole.counts[start:stop])
        check_slice(whole.lists, part.lists, *whole.offsets[[start, stop]])
    elif isinstance(whole, Jagged):
        np.testing.assert_array_equal(part.counts, whole.counts[start:stop])
        np.testing.assert_array_equal(part.content, whole.content[whole.offsets[start] : whole.offsets[stop]])
    else:
        np.testing.assert_array_equal(part, whole[start:stop])
