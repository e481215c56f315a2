"""Blocks by hand; the property tests are in test_io.py."""

from mlaas4hep.io.blocks import blocks


def test_the_example_of_the_docstring_holds():
    assert blocks([0, 9_800, 19_900, 30_000], 25_000, 10_000) == [(0, 9_800), (9_800, 19_900), (19_900, 25_000)]


def test_a_stop_within_a_cluster_cuts_it():
    assert blocks([0, 100, 200], 150, 100) == [(0, 100), (100, 150)]
    assert blocks([0, 100, 200], 1, 100) == [(0, 1)]


def test_a_cluster_of_more_than_twice_the_target_is_cut_evenly():
    assert blocks([0, 201], 201, 100) == [(0, 67), (67, 134), (134, 201)]
    assert blocks([0, 200], 200, 100) == [(0, 200)]
