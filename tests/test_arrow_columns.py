"""Arrow arrays as columns, against the Python objects that pyarrow makes of them, and against awkward-array."""

from concurrent.futures import ThreadPoolExecutor

import awkward as ak
import numpy as np
import pytest
from check_source import check_values
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas4hep.errors import ConfigError
from mlaas4hep.io import Kind, open_source
from mlaas4hep.io.columns import Column
from mlaas4hep.io.formats.arrow_columns import UnsupportedArray, read_column
from mlaas4hep.io.formats.awkward_bridge import leaves_of, to_awkward

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

NUMBERS = {
    "int8": st.integers(-(2**7), 2**7 - 1),
    "uint16": st.integers(0, 2**16 - 1),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**53), 2**53),
    "uint64": st.integers(0, 2**53),
    "float32": st.floats(width=32, allow_nan=False),
    "float64": st.floats(allow_nan=False),
    "bool": st.booleans(),
}

LISTS = {
    "number": (lambda kind: kind, lambda item: item),
    "list": (pa.list_, lambda item: st.lists(item, max_size=3)),
    "large list": (pa.large_list, lambda item: st.lists(item, max_size=3)),
    "array": (lambda kind: pa.list_(kind, 2), lambda item: st.lists(item, min_size=2, max_size=2)),
    "lists": (lambda kind: pa.list_(pa.list_(kind)), lambda item: st.lists(st.lists(item, max_size=3), max_size=3)),
    "list of arrays": (
        lambda kind: pa.list_(pa.list_(kind, 2)),
        lambda item: st.lists(st.lists(item, min_size=2, max_size=2), max_size=3),
    ),
    "array of lists": (
        lambda kind: pa.list_(pa.list_(kind), 2),
        lambda item: st.lists(st.lists(item, max_size=3), min_size=2, max_size=2),
    ),
}


def promised(value, depth, dtype):
    """Return what the reader promises: numbers of this type, missing ones are NaN, missing lists are empty."""
    if depth == 0:
        return dtype.type(np.nan if value is None else value).item()
    return [] if value is None else [promised(one, depth - 1, dtype) for one in value]


@pytest.mark.parametrize("form", LISTS)
@pytest.mark.parametrize("number", NUMBERS)
@settings(max_examples=20)
@given(data=st.data())
def test_arrays_have_the_numbers_that_pyarrow_gives(form, number, data):
    make_type, make_values = LISTS[form]
    missing = data.draw(st.booleans())
    item = st.none() | NUMBERS[number] if missing else NUMBERS[number]
    values = make_values(item)
    if missing and form in ("list", "large list", "lists"):
        values = st.none() | values
    events = data.draw(st.lists(values, max_size=6))
    start = data.draw(st.integers(0, len(events)))
    array = pa.array(events, make_type(pa.type_for_alias(number)))[start:]
    leaf = leaves_of(ak.from_arrow_schema(pa.schema([pa.field("c", array.type)])), None if missing else frozenset())[
        "c"
    ]
    found = read_column(pa.chunked_array([array]), (), leaf.column)
    check_values(found, leaf.column, len(events) - start)
    depth = {"number": 0, "list": 1, "large list": 1, "array": 1}.get(form, 2)
    truth = [promised(event, depth, leaf.column.dtype) for event in array.to_pylist()]
    assert repr(to_awkward(found).tolist()) == repr(truth)


@given(st.lists(st.none() | st.fixed_dictionaries({"pt": st.none() | st.floats(width=32), "q": st.integers(-1, 1)})))
def test_fields_of_missing_structs_are_missing(events):
    kind = pa.struct([("pt", pa.float32()), ("q", pa.int32())])
    chunks = pa.chunked_array([pa.array(events, kind)])
    pt = read_column(chunks, ("pt",), Column("muon.pt", Kind.FLAT, np.dtype("f4")))
    truth = [np.nan if event is None or event["pt"] is None else event["pt"] for event in events]
    np.testing.assert_array_equal(pt, np.array(truth, "f4"))
    q = read_column(chunks, ("q",), Column("muon.q", Kind.FLAT, np.dtype("f8")))
    np.testing.assert_array_equal(q, [np.nan if event is None else event["q"] for event in events])
    lists = pa.chunked_array([pa.array([events[:2], None, events[2:]], pa.list_(kind))])
    jagged = read_column(lists, ("pt",), Column("muon.pt", Kind.JAGGED, np.dtype("f4")))
    np.testing.assert_array_equal(jagged.content, np.array(truth, "f4"))
    assert jagged.counts.tolist() == [len(events[:2]), 0, len(events[2:])]


def test_lists_that_are_missing_may_have_values_behind_them():
    offsets, content = pa.array([0, 2, 3, 5], pa.int32()), pa.array([1, 2, 3, 4, 5], pa.int32())
    lists = pa.ListArray.from_arrays(offsets, content, mask=pa.array([False, True, False]))
    found = read_column(pa.chunked_array([lists]), (), Column("x", Kind.JAGGED, np.dtype("i4")))
    assert (found.offsets.tolist(), found.content.tolist()) == ([0, 2, 2, 4], [1, 2, 4, 5])


def test_missing_integers_that_the_metadata_do_not_declare_are_an_error():
    for values, dtype, noun in (([1, None], "i8", "integers"), ([True, None], "?", "bools")):
        with pytest.raises(ConfigError, match=f"{noun} are missing"):
            read_column(pa.chunked_array([pa.array(values)]), (), Column("x", Kind.FLAT, np.dtype(dtype)))


@pytest.mark.parametrize(
    "array",
    [
        pa.array(["a"]),
        pa.array([{"a": 1}]),
        pa.array([[[[1]]]]),
        pa.array([1]).dictionary_encode(),
        pa.array([None, [1, 2]], pa.list_(pa.int32(), 2)),
        pa.array([np.float16(1), None], pa.float16()),
    ],
    ids=str,
)
def test_other_arrays_are_left_to_awkward_array(array):
    kind = Kind.FIXED if pa.types.is_fixed_size_list(array.type) else Kind.FLAT
    with pytest.raises(UnsupportedArray):
        read_column(pa.chunked_array([array]), (), Column("x", kind, np.dtype("f4")))


def test_columns_that_are_left_to_awkward_array_are_read_with_the_others(tmp_path):
    table = {"half": pa.array([np.float16(1.5), None], pa.float16()), "x": [1.0, 2.0], "n": [[1], [2, 3]]}
    parquet.write_table(pa.table(table), tmp_path / "a.parquet")
    with open_source(str(tmp_path / "a.parquet")) as source:
        found = source.read(["n", "half", "x"], 0, 2)
    assert list(found) == ["n", "half", "x"]
    np.testing.assert_array_equal(found["half"], [1.5, np.nan])
    assert found["x"].tolist() == [1, 2]
    assert found["n"].content.tolist() == [1, 2, 3]


def test_threads_read_row_groups_at_the_same_time(tmp_path):
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 5, 20_000)
    table = {
        "n": np.arange(20_000),
        "x": ak.to_arrow(ak.unflatten(rng.normal(size=counts.sum()), counts), extensionarray=False),
    }
    parquet.write_table(pa.table(table), tmp_path / "a.parquet", row_group_size=500)
    blocks = [(start, min(start + 700, 20_000)) for start in range(0, 20_000, 700)]
    with open_source(str(tmp_path / "a.parquet")) as source, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda block: source.read(["n", "x"], *block), [*blocks, *blocks]))
    for (start, stop), columns in zip([*blocks, *blocks], found, strict=True):
        assert columns["n"].tolist() == list(range(start, stop))
        assert columns["x"].counts.tolist() == counts[start:stop].tolist()
