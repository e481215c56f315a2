"""Merged specs have the same bits however the data were divided; reference: Python's fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tinyroot import write_events

from mlaas4hep.io import Kind
from mlaas4hep.reader import DataReader
from mlaas4hep.specs.specs import BranchSpecs

VALUES = st.lists(st.floats(width=32), max_size=30) | st.lists(st.integers(-(2**40), 2**40), max_size=30)


def specs_of(values):
    return BranchSpecs.of(np.array(values, np.float64), Kind.FLAT)


@settings(max_examples=150, deadline=None)
@given(VALUES, st.integers(0, 30))
def test_counts_and_extremes_do_not_depend_on_the_division(values, cut):
    whole, parts = specs_of(values), specs_of(values[:cut]).merge(specs_of(values[cut:]))
    for statistic in ("dim", "count", "nan", "inf", "minimum", "maximum", "bins"):
        assert getattr(parts, statistic) == getattr(whole, statistic)


@settings(max_examples=150, deadline=None)
@given(VALUES, st.integers(0, 30))
def test_sums_do_not_depend_on_the_division(values, cut):
    whole, parts = specs_of(values), specs_of(values[:cut]).merge(specs_of(values[cut:]))
    assert (parts.total, parts.squares) == (whole.total, whole.squares)


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_the_mean_is_exact_and_rounded_once(values):
    finite = [Fraction(value) for value in values if math.isfinite(value)]
    if finite:
        assert specs_of(values).mean == float(sum(finite) / len(finite))


def test_the_sum_of_three_floats_is_that_of_their_fractions():
    values = [0.1, 0.2, 0.4]
    assert Fraction(specs_of(values).total, 2**1074) == sum(map(Fraction, values))


@pytest.mark.parametrize("clusters", [2, 7])
def test_a_first_pass_does_not_depend_on_the_clusters_of_the_file(tmp_path, clusters):
    write_events(tmp_path / "one.root", 25_000, seed=3, clusters=1)
    write_events(tmp_path / "other.root", 25_000, seed=3, clusters=clusters)
    one, other = (DataReader(tmp_path / name).specs for name in ("one.root", "other.root"))
    assert one.branches.keys() == other.branches.keys() >= {"met", "pt"}
    for name, branch in one.branches.items():
        assert (other.branches[name].mean, other.branches[name].std) == (branch.mean, branch.std), name
