"""The compiled conversion to vectors gives the same bits as NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numbers_of import tables
from test_statistics import expected, needs_kernel

from mlaas4hep.compiled import KERNEL
from mlaas4hep.io import Jagged
from mlaas4hep.reader import METHODS, Normalisation, VectorLayout
from mlaas4hep.reader.normalise import asinh
from mlaas4hep.reader.vectors import with_kernel, with_numpy


def bits(vectors):
    x, mask, truncated = vectors
    x = np.where(np.isnan(x), np.float32(np.nan), x)  # one NaN is as good as another
    return x.view(np.uint32).tolist(), mask.tolist(), truncated


@needs_kernel
@given(tables(), st.sampled_from([None, *METHODS]), st.sampled_from([np.nan, 0.0, -7.5]), st.data())
def test_random_events_give_the_same_bits(block, method, fill, data):
    table, events = block
    specs = expected([block])
    if data.draw(st.booleans()):  # specs of other events: lists are cut, values lie outside
        half = {name: values[: events // 2] for name, values in table.items() if isinstance(values, np.ndarray)}
        specs = type(specs)({**specs.branches, **expected([(half, events // 2)]).branches}, events) if half else specs
    layout = VectorLayout.of(specs)
    normalisation = Normalisation.of(specs, layout, method) if method else None
    arguments = (table, events, layout, normalisation, fill)
    assert bits(with_kernel(*arguments)) == bits(with_numpy(*arguments))


@needs_kernel
@pytest.mark.parametrize("events", [1, 31, 32, 33, 100])
def test_branches_of_one_collection_are_written_as_if_they_were_independent(events):
    rng = np.random.default_rng(events)
    lengths = rng.integers(0, 6, events)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    table = {f"flat{i:02}": rng.normal(size=events).astype("f4") for i in range(37)}
    table |= {f"jet{i:02}": Jagged(offsets, rng.normal(size=offsets[-1])) for i in range(20)}
    table["other"] = Jagged(np.arange(events + 1), rng.normal(size=events))
    table["jet03"].content[::3] = np.nan
    table["flat05"][::2] = np.nan
    specs = expected([(table, events)])
    short = specs.branches["jet07"]
    specs.branches["jet07"] = type(short)(short.kind, 2, short.count, 0, 0, short.minimum, short.maximum)
    layout = VectorLayout.of(specs)
    normalisation = Normalisation.of(specs, layout, "minmax")
    found = with_kernel(table, events, layout, normalisation, 0.0)
    truth = with_numpy(table, events, layout, normalisation, 0.0)
    assert bits(found) == bits(truth)
    lost = int(np.maximum(lengths - 2, 0).sum())
    assert found[2] == ({"jet07": lost} if lost else {})


@needs_kernel
def test_arguments_of_wrong_sizes_are_refused():
    x, mask = np.empty((2, 3), np.float32), np.empty((2, 3), bool)
    column = (np.zeros(2), None)
    with pytest.raises(ValueError, match="x: size differs"):
        KERNEL.assemble([column], 2, np.array([1]), None, None, 0.0, x, mask)
    with pytest.raises(ValueError, match="a width"):
        KERNEL.assemble([column], 2, np.array([3]), None, None, 0.0, x, mask)
    with pytest.raises(TypeError, match="items of type"):
        KERNEL.assemble([(np.zeros(2, ">f8"), None)], 2, np.array([3]), None, None, 0.0, x, mask)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_asinh_agrees_with_float64_to_half_a_unit_of_float32(values):
    t = np.array(values, np.float32)
    truth = np.arcsinh(t.astype(np.float64))
    error = np.abs(asinh(t).astype(np.float64) - truth)
    assert (error <= 0.5001 * np.spacing(np.abs(truth).astype(np.float32))).all()
