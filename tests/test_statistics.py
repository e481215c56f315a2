"""The compiled first pass against `BranchSpecs.of`, bit by bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numbers_of import tables

from mlaas4hep.compiled import KERNEL
from mlaas4hep.io import Jagged, Kind
from mlaas4hep.specs.specs import BranchSpecs, Specs
from mlaas4hep.specs.statistics import Statistics

needs_kernel = pytest.mark.skipif(KERNEL is None, reason="the compiled loops were not built: there is no C++ compiler")


def kind_of(values):
    if isinstance(values, np.ndarray):
        return Kind.FLAT if values.ndim == 1 else Kind.FIXED
    return Kind.JAGGED if isinstance(values, Jagged) else Kind.NESTED


def expected(blocks):
    parts = [
        Specs({name: BranchSpecs.of(values, kind_of(values)) for name, values in table.items()}, events)
        for table, events in blocks
    ]
    return Specs.merge_all(parts)


@needs_kernel
@given(tables())
def test_one_block_of_any_columns_gives_the_specs_that_numpy_gives(block):
    table, events = block
    statistics = Statistics({name: kind_of(values) for name, values in table.items()})
    statistics.add(table, events)
    found, truth = statistics.specs(), expected([block])
    if events:
        assert found == truth
    for name, branch in truth.branches.items():
        assert repr(found.branches[name].minimum) == repr(branch.minimum)  # tells -0.0, 0 and 0.0 apart
        assert repr(found.branches[name].maximum) == repr(branch.maximum)


@needs_kernel
@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "u4", "i8", "u8"])
def test_blocks_may_be_longer_than_the_chunks_of_the_compiled_loop(dtype):
    rng = np.random.default_rng(1)
    spread = rng.normal(size=150_000) * 10.0 ** rng.integers(-3, 4, 150_000)
    values = spread.astype(dtype) if dtype[0] == "f" else np.abs(spread * 7).astype(dtype)
    blocks = [({"c": values[:70_000]}, 70_000), ({"c": values[70_000:]}, 80_000)]
    statistics = Statistics({"c": Kind.FLAT})
    for table, events in blocks:
        statistics.add(table, events)
    assert statistics.specs() == expected(blocks)


@needs_kernel
def test_sums_at_both_ends_of_float64_are_exact():
    tiny = np.array([5e-324, 1e-310, -3e-200, 2.0**-449, 2.0**-450, 2.0**-451], np.float64)
    large = np.array([3.4e38, -3.4e38, 1.0, 1e-300, 3.4028234663852886e38, 1e39, np.nan, -np.inf], np.float64)
    for values in (tiny, large):
        statistics = Statistics({"c": Kind.FLAT})
        statistics.add({"c": values}, len(values))
        assert statistics.specs() == expected([({"c": values}, len(values))])


@needs_kernel
def test_the_dtype_of_a_column_may_change_between_blocks():
    blocks = [({"c": np.array([1, 2, 3])}, 3), ({"c": np.array([0.5, 9.5])}, 2)]
    statistics = Statistics({"c": Kind.FLAT})
    for table, events in blocks:
        statistics.add(table, events)
    assert statistics.specs() == expected(blocks)


@needs_kernel
@given(st.data())
def test_the_compiled_loop_refuses_invalid_offsets(data):
    offsets = np.array(data.draw(st.lists(st.integers(-3, 9), min_size=4, max_size=4)), np.int64)
    right = offsets[0] == 0 and offsets[-1] == 5 and (np.diff(offsets) >= 0).all()
    statistics = Statistics({"c": Kind.JAGGED})
    column = {"c": Jagged(offsets, np.arange(5.0))}
    if right:
        statistics.add(column, 3)
    else:
        with pytest.raises(ValueError, match="offsets that do not fit"):
            statistics.add(column, 3)
