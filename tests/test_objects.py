"""Objects agree with awkward-array, and the compiled loop gives the same bits as NumPy."""

import awkward as ak
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numbers_of import tables
from test_statistics import expected, needs_kernel

from mlaas4hep.errors import ConfigError
from mlaas4hep.io import Jagged, Nested
from mlaas4hep.io.formats.awkward_bridge import to_awkward
from mlaas4hep.reader import METHODS, Normalisation, objects
from mlaas4hep.reader.objects import ObjectLayout, Objects, gather, make_objects, with_kernel, with_numpy


def collection(events, seed=0, names=("pt", "eta", "index")):
    """Lists of the same lengths, in no order."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 7, events))])
    return {name: Jagged(offsets, rng.permutation(offsets[-1]).astype("f4")) for name in names}


@pytest.mark.parametrize("length", [1, 4, 9])
@pytest.mark.parametrize("descending", [False, True])
def test_objects_agree_with_awkward_array(length, descending):
    table = collection(200)
    layout = ObjectLayout("jets", ("pt", "eta"), length, "index", descending)
    made, lost = make_objects(table, 200, layout, None)
    x, mask = made.pad()
    arrays = {name: ak.unflatten(lists.content, lists.counts) for name, lists in table.items()}
    order = ak.argsort(arrays["index"], ascending=not descending)
    for index, name in enumerate(layout.branches):
        truth = ak.fill_none(ak.pad_none(arrays[name][order], length, clip=True), 0)
        assert np.array_equal(x[:, :, index], ak.to_numpy(truth))
    counts = ak.to_numpy(ak.num(arrays["pt"]))
    assert np.array_equal(mask.sum(axis=1), np.minimum(counts, length))
    assert (np.diff(mask.astype(int)) <= 0).all()
    assert lost == np.maximum(counts - length, 0).sum()


@needs_kernel
@given(tables(), st.integers(1, 5), st.sampled_from([None, *METHODS]), st.sampled_from([np.nan, 0.0, -7.5]), st.data())
def test_random_lists_give_the_same_bits_compiled(block, length, method, fill, data):
    table, _ = block
    lists = [name for name, values in table.items() if isinstance(values, Jagged)]
    if not lists:
        return
    first = table[lists[0]]
    alike = [name for name in lists if np.array_equal(table[name].offsets, first.offsets)]
    sort = data.draw(st.sampled_from(["", *alike]))
    layout = ObjectLayout("some", tuple(alike), length, sort, data.draw(st.booleans()))
    normalisation = Normalisation.of(expected([block]), layout, method) if method else None
    total = int(np.minimum(first.counts, length).sum())
    arguments = ([table[name] for name in alike], table[sort] if sort else None, layout, normalisation, fill, total)
    found, truth = with_kernel(*arguments), with_numpy(*arguments)
    assert np.array_equal(found, truth, equal_nan=True)
    assert np.array_equal(np.signbit(found[~np.isnan(found)]), np.signbit(truth[~np.isnan(truth)]))


@needs_kernel
@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=6), min_size=1, max_size=3), st.data())
def test_events_of_several_blocks_are_padded_the_same_compiled(counts, data):
    rng = np.random.default_rng(0)
    sources = [
        Objects(rng.normal(size=(sum(some), 3)).astype("f4"), np.concatenate([[0], np.cumsum(some)]), (4,))
        for some in counts
    ]
    block = np.array(data.draw(st.lists(st.integers(0, len(sources) - 1), max_size=20)), np.int64)
    row = np.array([data.draw(st.integers(0, len(sources[index]) - 1)) for index in block], np.int64)
    found = gather(sources, block, row, -3.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "KERNEL", None)
        truth = gather(sources, block, row, -3.0)
    for one, other in zip(found, truth, strict=True):
        assert np.array_equal(one, other)


def nested(events, seed=0, names=("x", "y")):
    """Lists of lists of the same lengths, and a list in no order."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 6, events))])
    inner = np.concatenate([[0], np.cumsum(rng.integers(0, 5, offsets[-1]))])
    table = {name: Nested(offsets, Jagged(inner, rng.permutation(inner[-1]))) for name in names}
    return {**table, "index": Jagged(offsets, rng.permutation(offsets[-1]).astype("f4"))}


@pytest.mark.parametrize(("length", "inner"), [(1, 1), (3, 2), (8, 8)])
@pytest.mark.parametrize("sort", ["", "index"])
def test_parts_of_objects_agree_with_awkward_array(length, inner, sort):
    table = nested(200)
    layout = ObjectLayout("hits", ("x", "y"), length, sort, True, inner)
    made, lost = make_objects(table, 200, layout, None)
    x, mask = made.pad(fill=-1)
    arrays = {name: to_awkward(values) for name, values in table.items()}
    order = ak.argsort(arrays["index"], ascending=False) if sort else ak.local_index(arrays["index"])
    for index, name in enumerate(layout.branches):
        kept = ak.pad_none(arrays[name][order], length, clip=True)
        truth = ak.pad_none(ak.fill_none(kept, [], axis=1), inner, axis=2, clip=True)
        assert np.array_equal(x[..., index], ak.to_numpy(ak.fill_none(truth, -1, axis=2)))
        assert np.array_equal(mask, ak.to_numpy(~ak.is_none(truth, axis=2)))
    assert lost == len(table["x"].lists.content) - mask.sum()


@needs_kernel
@pytest.mark.parametrize("method", [None, *METHODS])
def test_parts_of_objects_have_the_same_bits_compiled(method):
    table = nested(300, seed=1)
    layout = ObjectLayout("hits", ("x", "y"), 4, "index", False, 3)
    normalisation = Normalisation.of(expected([(table, 300)]), layout, method) if method else None
    rows = np.random.default_rng(0).integers(0, 300, 100)
    found = make_objects(table, 300, layout, normalisation)[0].pad(rows, -2.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "KERNEL", None)
        truth = make_objects(table, 300, layout, normalisation)[0].pad(rows, -2.0)
    for one, other in zip(found, truth, strict=True):
        assert one.tobytes() == other.tobytes()


def test_parts_of_different_lengths_are_refused():
    table = {**nested(20), "z": nested(20, seed=2)["x"]}
    with pytest.raises(ConfigError, match="'x' and 'z' have lists of different lengths"):
        make_objects(table, 20, ObjectLayout("hits", ("x", "z"), 4, inner_length=4), None)
    other = Nested(table["x"].offsets, Jagged(table["x"].lists.offsets * 2, np.tile(table["x"].lists.content, 2)))
    with pytest.raises(ConfigError, match="'x' and 'w' have lists of different lengths"):
        make_objects({**table, "w": other}, 20, ObjectLayout("hits", ("x", "w"), 4, inner_length=4), None)


@needs_kernel
def test_the_compiled_loop_refuses_cells_out_of_range():
    for cells in (np.array([0, 4], np.int32), np.array([0, -1], np.int32), np.array([0], np.int32)):
        source = Objects(np.zeros((2, 1), np.float32), np.array([0, 2]), (2, 2), cells)
        with pytest.raises(IndexError):
            gather([source], np.array([0]), np.array([0]))


@needs_kernel
def test_the_compiled_loop_refuses_indices_out_of_range():
    source = Objects(np.zeros((3, 2), np.float32), np.array([0, 2, 3]), (2,))
    for block, row in [(0, 2), (0, -1), (1, 0)]:
        with pytest.raises(IndexError):
            gather([source], np.array([block]), np.array([row]))
    with pytest.raises(IndexError):
        gather([Objects(source.content, np.array([0, 4]), (4,))], np.array([0]), np.array([0]))


def test_equal_keys_keep_their_order_and_nan_comes_last():
    offsets = np.array([0, 4])
    table = {"key": Jagged(offsets, np.array([1, np.nan, 3, 1.0])), "value": Jagged(offsets, np.arange(4))}
    for descending, truth in [(False, [0, 3, 2, 1]), (True, [2, 0, 3, 1])]:
        made, _ = make_objects(table, 1, ObjectLayout("o", ("value",), 4, "key", descending), None)
        assert made.content[:, 0].tolist() == truth


def test_nan_is_replaced_by_the_fill_value():
    offsets = np.array([0, 2, 2])
    table = {"pt": Jagged(offsets, np.array([np.nan, 2.0])), "eta": Jagged(offsets, np.array([1.0, np.nan]))}
    x, mask = make_objects(table, 2, ObjectLayout("o", ("pt", "eta"), 3), None, 0.0)[0].pad()
    assert x.tolist() == [[[0, 1], [2, 0], [0, 0]], [[0, 0]] * 3]
    assert mask.tolist() == [[True, True, False], [False, False, False]]


@pytest.mark.parametrize("kernel", [True, False])
def test_the_place_of_an_object_whose_features_are_all_nan_is_padded(kernel, monkeypatch):
    if not kernel:
        monkeypatch.setattr(objects, "KERNEL", None)
    offsets = np.array([0, 3, 5])
    table = {"pt": Jagged(offsets, np.array([1.0, np.nan, 3.0, 4.0, np.nan])),
             "key": Jagged(offsets, np.array([3, 2, 1, 5, 6]))}  # fmt: skip
    made, dropped = make_objects(table, 2, ObjectLayout("o", ("pt",), 2, "key", descending=True), None, 0.0)
    complete, _ = make_objects({"pt": table["key"]}, 2, ObjectLayout("o", ("pt",), 2), None, 0.0)
    x, mask = gather([made, complete], np.array([0, 1, 0]), np.array([1, 0, 0]), -1.0)
    assert x[..., 0].tolist() == [[-1, 4], [3, 2], [1, -1]]
    assert mask.tolist() == [[False, True], [True, True], [True, False]]
    assert dropped == 1


def test_the_error_for_lists_of_two_collections_names_them():
    table = {"pt": Jagged(np.array([0, 2]), np.zeros(2)), "eta": Jagged(np.array([0, 1]), np.zeros(1))}
    with pytest.raises(ConfigError, match=r"input 'jets': 'pt' and 'eta' have lists of different lengths"):
        make_objects(table, 1, ObjectLayout("jets", ("pt", "eta"), 3), None)
