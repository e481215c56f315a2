"""Memory that is used again, and never while somebody looks at it."""

import gc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.io.recycler import Recycler


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_comes_back_when_the_last_view_is_gone():
    recycler = Recycler(limit=20_000, small=1)
    first = recycler.empty((1000, 3), np.float32)
    where, view = address(first), first[500:, 1]
    del first
    second = recycler.empty((1000, 3), np.float32)
    assert address(second) != where
    del view
    gc.collect()
    assert address(recycler.empty((900, 3), np.float32)) == where


def test_memory_of_another_size_is_not_taken():
    recycler = Recycler(limit=20_000, small=1)
    array = recycler.empty((1000,), np.uint8)
    where = address(array)
    del array
    small = recycler.empty((10,), np.uint8)
    assert address(small) != where


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=40))
def test_arrays_in_use_keep_their_content(steps):
    recycler, held = Recycler(limit=1000, small=1), []
    for number, (drop, size) in enumerate(steps):
        if drop and held:
            held.pop(0)
        array = recycler.empty((size, 2), np.int64)
        assert array.flags.writeable
        array[:] = number
        held.append((number, array))
        assert all((kept == value).all() for value, kept in held)


def test_no_more_than_the_limit_is_kept():
    recycler = Recycler(limit=2500, small=1)
    arrays = [recycler.empty((1000,), np.uint8) for _ in range(4)]
    first, second, *_ = places = [address(array) for array in arrays]
    while arrays:
        del arrays[0]
    again = [address(array) for array in [recycler.empty((1000,), np.uint8) for _ in range(2)]]
    assert sorted(again) == sorted(places[2:])
    assert first not in again
    assert second not in again
