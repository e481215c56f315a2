"""Batches are cut and joined, and nothing is lost at the seams."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.stream.batch import Batch, rebatch


def numbered(start, stop):
    """Events whose every field can be told from their number."""
    number = np.arange(start, stop)
    return Batch(
        inputs={
            "x": np.stack([number, -number], axis=1).astype(np.float32),
            "mask": np.stack([number % 2 == 0, number > 0], axis=1),
        },
        y=number % 3, weight=number.astype(np.float32), ids={"event": number + 2**60}, file=number.astype(np.int32),
        entry=number,
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


def test_the_last_short_batch_is_kept():
    batches = list(rebatch([numbered(0, 5), numbered(5, 6), numbered(6, 11)], 4))
    assert [batch.entry.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


def test_empty_chunks_make_no_batches():
    assert list(rebatch([], 3)) == []
    assert list(rebatch([numbered(0, 0), numbered(0, 0)], 3)) == []
    assert [len(batch) for batch in rebatch([numbered(0, 3), numbered(3, 3)], 3)] == [3]


@given(st.lists(st.integers(0, 20), max_size=10), st.integers(1, 15))
def test_every_event_comes_once_in_order_with_all_its_fields(lengths, size):
    edges = np.cumsum([0, *lengths]).tolist()
    batches = list(rebatch([numbered(*edge) for edge in pairwise(edges)], size))
    assert [entry for batch in batches for entry in batch.entry.tolist()] == list(range(edges[-1]))
    assert all(len(batch) == size for batch in batches[:-1])
    for batch in batches:
        assert 0 < len(batch) <= size
        check_fields(batch)


def test_rows_are_chosen_by_slice_index_and_mask_in_all_fields():
    batch = numbered(0, 6)
    for rows, expected in (
        (slice(1, 3), [1, 2]),
        (np.array([4, 0]), [4, 0]),
        (np.array([True, False] * 3), [0, 2, 4]),
    ):
        assert batch[rows].entry.tolist() == expected
        check_fields(batch[rows])
