"""The stretches that files are read in."""

from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.io.blocks import blocks


@given(st.sets(st.integers(1, 10_000), max_size=30), st.integers(0, 12_000), st.integers(1, 3000))
def test_blocks_hold_every_entry_once_and_are_of_about_the_wanted_size(inner, stop, target):
    boundaries = sorted({0, 10_000, *inner})
    stop = min(stop, 10_000)
    cut = blocks(boundaries, stop, target)
    assert [entry for start, end in cut for entry in range(start, end)] == list(range(stop))
    assert all(0 < end - start <= 2 * target for start, end in cut)


def test_blocks_join_small_clusters_and_cut_large_ones():
    assert blocks([0, 40, 80, 120, 160], 160, 100) == [(0, 80), (80, 160)]
    assert blocks([0, 1000], 1000, 400) == [(0, 333), (333, 666), (666, 1000)]
    assert blocks([0, 150], 150, 100) == [(0, 150)]
    assert blocks([0], 0, 100) == []


def test_the_example_of_the_docstring_holds():
    assert blocks([0, 9_800, 19_900, 30_000], 25_000, 10_000) == [(0, 9_800), (9_800, 19_900), (19_900, 25_000)]


def test_a_stop_within_a_cluster_cuts_it():
    assert blocks([0, 100, 200], 150, 100) == [(0, 100), (100, 150)]
    assert blocks([0, 100, 200], 1, 100) == [(0, 1)]


def test_a_cluster_of_more_than_twice_the_target_is_cut_evenly():
    assert blocks([0, 201], 201, 100) == [(0, 67), (67, 134), (134, 201)]
    assert blocks([0, 200], 200, 100) == [(0, 200)]
