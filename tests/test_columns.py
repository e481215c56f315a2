"""Columns and what is cut out of them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numbers_of import columns

from mlaas4hep.io import Jagged
from mlaas4hep.io.columns import concatenate_events, select_events, slice_events, take_events
from mlaas4hep.io.formats.awkward_bridge import from_awkward, to_awkward


def test_selected_events_keep_their_lists():
    lists = Jagged(np.array([0, 2, 2, 5]), np.array([1, 2, 3, 4, 5]))
    kept = select_events(lists, np.array([True, False, True]))
    assert kept.offsets.tolist() == [0, 2, 5]
    assert kept.content.tolist() == [1, 2, 3, 4, 5]
    assert select_events(lists, np.array([False, True, False])).content.tolist() == []


def as_lists(values):
    return to_awkward(values).tolist()


@given(st.data())
def test_events_of_any_columns_are_cut_out_as_awkward_array_does(data):
    values = data.draw(columns(9, ["i4"]))
    lists, array = as_lists(values), to_awkward(values)
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=9, max_size=9)))
    rows = np.array(data.draw(st.lists(st.integers(0, 8), max_size=12)), np.int64)
    start, stop = sorted(data.draw(st.tuples(st.integers(0, 9), st.integers(0, 9))))
    assert as_lists(select_events(values, keep)) == array[keep].tolist()
    assert as_lists(take_events(values, rows)) == array[rows].tolist()
    assert as_lists(slice_events(values, start, stop)) == lists[start:stop]
    parts = [slice_events(values, 0, start), slice_events(values, start, stop), slice_events(values, stop, 9)]
    assert as_lists(concatenate_events(parts)) == lists
    assert as_lists(from_awkward(array)) == lists
