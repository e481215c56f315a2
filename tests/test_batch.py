"""Batches are cut and joined, and nothing is lost at the seams."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numbers_of import tables
from test_statistics import needs_kernel

from mlaas4hep.stream.batch import Batch
from mlaas4hep.stream.row_selection import RowSelection, gather_with_kernel, gather_with_numpy, rebatch


def numbered(start, stop):
    """Events whose every field can be told from their number."""
    number = np.arange(start, stop)
    return Batch(
        inputs={
            "x": np.stack([number, -number], axis=1).astype(np.float32),
            "mask": np.stack([number % 2 == 0, number > 0], axis=1),
        },
        y=number % 3, weight=number.astype(np.float32), ids={"event": number + 2**60},
        part=(number % 3).astype(np.int8), file=number.astype(np.int32), entry=number,
    )  # fmt: skip


def check_fields(batch):
    """Every field belongs to the event whose number `entry` is."""
    number = batch.entry
    np.testing.assert_array_equal(batch.x, np.stack([number, -number], axis=1))
    np.testing.assert_array_equal(batch.mask, np.stack([number % 2 == 0, number > 0], axis=1))
    np.testing.assert_array_equal(batch.y, number % 3)
    np.testing.assert_array_equal(batch.ids["event"], number + 2**60)
    np.testing.assert_array_equal(batch.file, number)
    np.testing.assert_array_equal(batch.weight, number)


def batches(chunks, size):
    return [selection.gather() for selection in rebatch([RowSelection.of(chunk) for chunk in chunks], size)]


def test_the_last_short_batch_is_kept():
    found = batches([numbered(0, 5), numbered(5, 6), numbered(6, 11)], 4)
    assert [batch.entry.tolist() for batch in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


def test_empty_chunks_yield_no_batches():
    assert batches([], 3) == []
    assert batches([numbered(0, 0), numbered(0, 0)], 3) == []
    assert [len(batch) for batch in batches([numbered(0, 3), numbered(3, 3)], 3)] == [3]


@given(st.lists(st.integers(0, 20), max_size=10), st.integers(1, 15))
def test_every_event_is_yielded_once_in_order_with_all_its_fields(lengths, size):
    edges = np.cumsum([0, *lengths]).tolist()
    found = batches([numbered(*edge) for edge in pairwise(edges)], size)
    assert [entry for batch in found for entry in batch.entry.tolist()] == list(range(edges[-1]))
    assert all(len(batch) == size for batch in found[:-1])
    for batch in found:
        assert 0 < len(batch) <= size
        check_fields(batch)


def test_a_slice_an_index_array_or_a_mask_selects_rows_of_all_fields():
    batch = numbered(0, 6)
    for rows, expected in (
        (slice(1, 3), [1, 2]),
        (np.array([4, 0]), [4, 0]),
        (np.array([True, False] * 3), [0, 2, 4]),
    ):
        assert batch[rows].entry.tolist() == expected
        check_fields(batch[rows])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_events_in_any_order_have_the_values_of_their_blocks(lengths, random):
    edges = np.cumsum([0, *lengths]).tolist()
    whole = RowSelection.concatenate([RowSelection.of(numbered(*edge)) for edge in pairwise(edges)])
    order = np.array(random.sample(range(edges[-1]), edges[-1]), np.int64)
    batch = whole[order].gather()
    assert batch.entry.tolist() == order.tolist()
    check_fields(batch)


@needs_kernel
@given(tables(), st.data())
def test_the_compiled_loop_copies_the_same_values_as_numpy(block, data):
    table, events = block
    arrays = [values for values in table.values() if isinstance(values, np.ndarray) and values.dtype != np.float16]
    for array in arrays if events else []:
        sources = [array, array[: events // 2 + 1][::-1]]
        which = np.array(data.draw(st.lists(st.integers(0, 1), max_size=20)), np.int64)
        rows = np.array([data.draw(st.integers(0, len(sources[index]) - 1)) for index in which], np.int64)
        found, truth = gather_with_kernel(sources, which, rows), gather_with_numpy(sources, which, rows)
        assert found.dtype == truth.dtype
        assert found.tobytes() == truth.tobytes()


@needs_kernel
def test_the_compiled_loop_refuses_rows_outside_of_the_blocks():
    for block, row in [(0, 3), (0, -1), (1, 0), (-1, 0)]:
        with pytest.raises(IndexError):
            gather_with_kernel([np.arange(3.0)], np.array([block]), np.array([row]))
