"""Stored bools of any byte: every byte but 0 is True, whatever reads, normalises or compares them."""

import struct

import awkward as ak
import numpy as np
import pytest
import uproot
from check_source import check_source
from realdata import case_file
from test_statistics import needs_kernel
from tinyroot import write_tree

from mlaas4hep.errors import ConfigError
from mlaas4hep.io import Jagged, open_source
from mlaas4hep.io.formats.awkward_bridge import from_awkward
from mlaas4hep.io.root.basket_reader import _decode_compiled
from mlaas4hep.io.root.baskets import BasketLayout, decode
from mlaas4hep.reader import DataReader

COMPILED = ("io.root.basket_reader", "reader.vectors", "specs.statistics", "reader.objects")
"""Modules that have a compiled loop and the same in NumPy."""

BYTES = np.arange(256, dtype=np.uint8)


@pytest.fixture(params=["compiled", "NumPy", "uproot"])
def road(request, monkeypatch):
    """One of the ways in which baskets are decoded."""
    if request.param != "compiled":
        for module in COMPILED:
            monkeypatch.setattr(f"mlaas4hep.{module}.KERNEL", None)
    if request.param == "uproot":
        monkeypatch.setattr("mlaas4hep.io.root.metadata.tree_record._Parser.tree", lambda *_: 1 / 0)
        monkeypatch.setattr("mlaas4hep.io.root.uproot_tree.basket_layout_of", lambda *_: None)
    return request.param


def write_flags(path, stored, **more):
    """Write bools with the given bytes as a number, an array and a list per event; return the lengths of the lists."""
    counts = np.arange(len(stored)) % 4
    lists = ak.unflatten(np.resize(stored, counts.sum()).view(bool), counts)
    flags = stored.view(bool)
    columns = {"flag": flags, "flags": np.stack([flags, flags[::-1]], axis=1), "hits": lists, **more}
    write_tree(path, columns, clusters=3)
    with uproot.open(path) as file:  # the bytes are in the file as they were given
        assert file["Events/flag"].array(library="np").view(np.uint8).tolist() == stored.tolist()
    return counts


def test_every_byte_except_0_is_true_in_numbers_arrays_and_lists(tmp_path, road):
    counts = write_flags(tmp_path / "a.root", BYTES)
    with open_source(str(tmp_path / "a.root")) as source:
        check_source(source)
        found = source.read(["flag", "flags", "hits"], 0, 256)
    truth = (np.arange(256) != 0).astype(np.uint8)
    assert found["flag"].view(np.uint8).tolist() == truth.tolist()
    assert found["flags"].view(np.uint8).tolist() == np.stack([truth, truth[::-1]], axis=1).tolist()
    hits = (np.arange(counts.sum()) % 256 != 0).astype(np.uint8)
    assert found["hits"].content.view(np.uint8).tolist() == hits.tolist()
    assert found["hits"].counts.tolist() == counts.tolist()


def test_specs_and_vectors_do_not_depend_on_the_byte_that_encodes_true(tmp_path, road):
    rng = np.random.default_rng(4)
    truth, x = rng.random(300) < 0.4, rng.normal(size=300).astype(np.float32)
    made = []
    for byte in (1, 255):
        path = tmp_path / f"{byte}.root"
        write_flags(path, truth.astype(np.uint8) * np.uint8(byte), x=x)
        inputs = {"hits": {"branches": ["hits"], "length": 3, "sort": "-hits"}, "event": {"branches": ["x", "flag*"]}}
        with DataReader(path) as vectors, DataReader(path, inputs=inputs) as objects:
            specs = vectors.specs
            assert specs.branches["flag"].maximum == specs.branches["hits"].maximum == 1
            chunks = [chunk.inputs for reader in (vectors, objects) for chunk in reader]
        made.append((specs.branches, [{name: values.tobytes() for name, values in one.items()} for one in chunks]))
    assert made[0] == made[1]


def test_cuts_labels_and_identifiers_treat_every_true_as_1(tmp_path, road):
    write_flags(tmp_path / "a.root", BYTES, x=np.arange(256.0))
    (tmp_path / "cuts.json").write_text('{"define": {"twice": "flag + flag"}, "cut": "flag == 1"}')
    with DataReader(
        tmp_path / "a.root", selected_branches=["x", "twice"], identifier=["flag"], normalise="none",
        preproc=tmp_path / "cuts.json",
    ) as reader:  # fmt: skip
        assert reader.unique("flag").view(np.uint8).tolist() == [1]
        chunk = next(iter(reader))
    assert len(chunk) == 255
    assert chunk.ids["flag"].view(np.uint8).tolist() == [1] * 255
    assert chunk.x[:, reader.columns.index("twice")].tolist() == [2] * 255


def basket_of_vectors(lists):
    """Return the bytes of a basket as ROOT writes std::vector<bool>, and their layout."""
    data = [struct.pack(">IHI", 0x40000000 | 6 + len(one), 10, len(one)) + bytes(one) for one in lists]
    key = 60
    starts = key + np.cumsum([0, *map(len, data)])
    offsets = np.array([len(lists) + 1, *starts[:-1], 0], ">i4").tobytes()
    content, border = b"".join(data) + offsets, int(starts[-1])
    head = struct.pack(">ihiIhh", key + len(content), 4, len(content), 0, key, 1)
    tail = struct.pack(">Hiiii", 2, 32_000, 1000, len(lists), border) + b"\0"
    basket = memoryview(head + bytes(key - len(head) - len(tail)) + tail + content)
    one = np.zeros(1, np.int64)
    return basket, BasketLayout(np.dtype(bool), None, 10, np.array([0, len(lists)]), one, one + len(basket))


@needs_kernel
def test_vectors_of_bools_contain_0_and_1():
    basket, layout = basket_of_vectors([[1, 0, 7], [], [255, 2]])
    jobs = np.array([(0, 0, len(basket), 3, *layout.constants)], np.int64)
    for found in (decode(layout, 0, basket), *_decode_compiled([layout], jobs, [basket])):
        assert isinstance(found, Jagged)
        assert found.content.dtype == bool
        assert found.content.view(np.uint8).tolist() == [1, 0, 1, 1, 1]
        assert found.offsets.tolist() == [0, 3, 3, 5]


def test_a_missing_bool_is_nan_if_it_is_declared_and_an_error_otherwise():
    array = ak.Array([True, None, False])
    with pytest.raises(ConfigError, match="bools are missing, although the metadata declare none; exclude the column"):
        from_awkward(array, np.dtype(bool))
    np.testing.assert_array_equal(from_awkward(array, np.dtype(np.float64)), [1, np.nan, 0])


def test_flags_in_files_of_users_are_0_and_1(road):
    with DataReader(case_file("boolA.root"), normalise="none", identifier=[]) as reader:
        assert (reader.specs.branches["flag"].minimum, reader.specs.branches["flag"].maximum) == (0, 1)
        flags = np.concatenate([chunk.x[:, reader.columns.index("flag")] for chunk in reader])
    with uproot.open(case_file("boolA.root")) as file:
        stored = file["Events/flag"].array(library="np").view(np.uint8)
    assert stored.max() > 1
    np.testing.assert_array_equal(flags, stored != 0)


def test_classes_cannot_be_distinguished_by_the_byte_that_encodes_true(road):
    shares = []
    for name in ("skewA.root", "skewB.root"):
        with DataReader(case_file(name), normalise="none", identifier=[]) as reader:
            flags = np.concatenate([chunk.x[:, reader.columns.index("flag")] for chunk in reader])
        assert set(flags.tolist()) == {0, 1}
        shares.append(flags.mean())
    area = 0.5 + (shares[1] - shares[0]) / 2  # under the ROC curve of a score of two values
    assert abs(area - 0.5) < 0.05
