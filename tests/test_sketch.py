"""Quantiles from a histogram with fixed bins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.specs import sketch

FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50)


def test_there_are_eight_bins_per_factor_of_two():
    assert sketch.fill(np.array([1.0, 1.1, 1.124, 1.125, 2.0])) == {0x3F8: 3, 0x3F9: 1, 0x400: 1}
    low, high, counts = sketch.edges({0x3F8: 3, 0x3F9: 1, 0xBF8: 2})
    assert low.tolist() == [-1.125, 1.0, 1.125]
    assert high.tolist() == [-1.0, 1.125, 1.25]
    assert counts.tolist() == [2, 3, 1]


def test_a_quantile_is_linear_within_a_bin():
    bins = sketch.fill(np.array([1.0, 1.0, 1.0, 1.0]))
    assert sketch.quantiles(bins, [0, 0.5, 1], 1.0, 1.125).tolist() == [1.0, 1.0625, 1.125]
    assert sketch.quantiles(bins, [0, 0.5, 1], 1.0, 1.0).tolist() == [1.0, 1.0, 1.0]


def test_quantiles_of_an_empty_histogram_are_nan():
    assert np.isnan(sketch.quantiles({}, [0.5, 0.9], None, None)).all()


@given(FLOATS)
def test_every_value_lies_in_its_bin(values):
    numbers = np.array(values, np.float32)
    bins = sketch.fill(numbers)
    low, high, counts = sketch.edges(bins)
    assert counts.sum() == len(values)
    inside = (numbers[:, None] >= low) & (numbers[:, None] <= high)
    assert inside.any(axis=1).all()


@given(FLOATS, FLOATS)
def test_the_counts_of_two_parts_add_up_to_the_counts_of_all_values(one, other):
    parts = [sketch.fill(np.array(part, np.float32)) for part in (one, other)]
    added = {key: parts[0].get(key, 0) + parts[1].get(key, 0) for key in {*parts[0], *parts[1]}}
    assert added == sketch.fill(np.array(one + other, np.float32))


@given(FLOATS)
def test_quantiles_rise_and_stay_between_the_extremes(values):
    numbers = np.array(values, np.float32)
    found = sketch.quantiles(sketch.fill(numbers), np.linspace(0, 1, 9), numbers.min().item(), numbers.max().item())
    assert (np.diff(found) >= 0).all()
    assert found[0] >= numbers.min()
    assert found[-1] <= numbers.max()


@pytest.mark.parametrize("dtype", [np.int8, np.uint64, np.float64, bool])
def test_any_type_of_number_is_counted(dtype):
    values = np.array([1, 1, 0], np.uint8).astype(dtype)
    assert sum(sketch.fill(values.view(np.uint8) if dtype is bool else values).values()) == 3
