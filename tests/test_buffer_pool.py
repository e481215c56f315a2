"""Memory is reused, but never while an array refers to it."""

import gc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.io.buffer_pool import BufferPool


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_reused_after_the_last_view_is_deleted():
    pool = BufferPool(limit=20_000, min_bytes=1)
    first = pool.empty((1000, 3), np.float32)
    where, view = address(first), first[500:, 1]
    del first
    second = pool.empty((1000, 3), np.float32)
    assert address(second) != where
    del view
    gc.collect()
    assert address(pool.empty((900, 3), np.float32)) == where


def test_memory_of_a_very_different_size_is_not_reused():
    pool = BufferPool(limit=20_000, min_bytes=1)
    array = pool.empty((1000,), np.uint8)
    where = address(array)
    del array
    small = pool.empty((10,), np.uint8)
    assert address(small) != where


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=40))
def test_arrays_in_use_keep_their_content(steps):
    pool, held = BufferPool(limit=1000, min_bytes=1), []
    for number, (drop, size) in enumerate(steps):
        if drop and held:
            held.pop(0)
        array = pool.empty((size, 2), np.int64)
        assert array.flags.writeable
        array[:] = number
        held.append((number, array))
        assert all((kept == value).all() for value, kept in held)


def test_the_pool_keeps_no_more_than_its_limit():
    pool = BufferPool(limit=2500, min_bytes=1)
    arrays = [pool.empty((1000,), np.uint8) for _ in range(4)]
    first, second, *_ = places = [address(array) for array in arrays]
    while arrays:
        del arrays[0]
    again = [address(array) for array in [pool.empty((1000,), np.uint8) for _ in range(2)]]
    assert sorted(again) == sorted(places[2:])
    assert first not in again
    assert second not in again
