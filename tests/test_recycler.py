"""Memory that is used again, and never while somebody looks at it."""

import gc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.io.recycler import Recycler


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_comes_back_when_the_last_view_is_gone():
    recycler = Recycler(keep=1)
    first = recycler.empty((1000, 3), np.float32)
    where, view = address(first), first[500:, 1]
    del first
    second = recycler.empty((1000, 3), np.float32)
    assert address(second) != where
    del view
    gc.collect()
    assert address(recycler.empty((900, 3), np.float32)) == where


def test_memory_of_another_size_is_not_taken():
    recycler = Recycler(keep=1)
    array = recycler.empty((1000,), np.uint8)
    where = address(array)
    del array
    small = recycler.empty((10,), np.uint8)
    assert address(small) != where


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=40))
def test_arrays_in_use_keep_their_content(steps):
    recycler, held = Recycler(keep=3), []
    for number, (drop, size) in enumerate(steps):
        if drop and held:
            held.pop(0)
        array = recycler.empty((size, 2), np.int64)
        assert array.flags.writeable
        array[:] = number
        held.append((number, array))
        assert all((kept == value).all() for value, kept in held)
