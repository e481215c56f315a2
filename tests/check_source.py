"""The contract of a source; every format's must pass it."""

from itertools import pairwise

import numpy as np
import pytest

from mlaas4hep.errors import BranchNotFound
from mlaas4hep.io import Jagged, Kind


def check_source(source):
    """Check every promise of `Source`, whatever the content."""
    assert source.identity
    boundaries = list(source.boundaries)
    assert boundaries[0] == 0
    assert boundaries[-1] == source.num_entries
    assert all(first < second for first, second in pairwise(boundaries))

    readable = [name for name, column in source.columns.items() if column.kind is not Kind.OTHER]
    for column in source.columns.values():
        assert bool(column.reason) == (column.kind is Kind.OTHER)
    whole = source.read(readable, 0, source.num_entries)
    for name in readable:
        check_values(whole[name], source.columns[name], source.num_entries)

    middle, end = source.num_entries // 3, source.num_entries
    for start, stop in ((0, 1), (middle, middle + 2), (end - 1, end), (middle, middle)):
        part = source.read(readable, start, stop)
        for name in readable:
            check_slice(whole[name], part[name], start, stop)

    assert source.read([], 0, 1) == {}
    with pytest.raises(BranchNotFound, match=readable[0]):
        source.read([readable[0] + "x"], 0, 1)


def check_values(values, column, events):
    """Values have the shape and the type that the column's description says, in native byte order."""
    if column.kind is Kind.JAGGED:
        assert isinstance(values, Jagged)
        assert values.offsets.dtype == np.int64
        assert values.offsets[0] == 0
        assert values.offsets[-1] == len(values.content)
        assert len(values) == events
        assert (values.counts >= 0).all()
        numbers = values.content
    else:
        assert values.shape == ((events, column.size) if column.kind is Kind.FIXED else (events,))
        numbers = values
    assert numbers.dtype == column.dtype
    assert numbers.dtype.isnative


def check_slice(whole, part, start, stop):
    """What was read of a stretch is the same stretch of what was read of all."""
    if isinstance(whole, Jagged):
        np.testing.assert_array_equal(part.counts, whole.counts[start:stop])
        np.testing.assert_array_equal(part.content, whole.content[whole.offsets[start] : whole.offsets[stop]])
    else:
        np.testing.assert_array_equal(part, whole[start:stop])
