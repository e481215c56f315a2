"""Baskets decoded here against uproot: the same values, and no value where uproot has none."""

import struct

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peak_memory import peak_memory, reset_peak_memory
from realdata import real_file
from test_statistics import needs_kernel
from tinyroot import write_tree

from mlaas4hep.errors import FileUnreadable
from mlaas4hep.io import Jagged, Kind, open_source
from mlaas4hep.io.root.basket_reader import _decode_compiled
from mlaas4hep.io.root.baskets import BasketLayout, UnsupportedBasket, basket_layout_of, decode
from mlaas4hep.io.storage.byte_ranges import LocalRanges

CODECS = ["", "-lz4", "-lzma", "-zstd"]


def as_uproot_has_it(branch, start, stop):
    """Flat values, or offsets and content, from uproot alone."""
    array = branch.array(entry_start=start, entry_stop=stop)
    if array.ndim == 1 or not isinstance(array.type.content, ak.types.ListType):
        return ak.to_numpy(array)
    counts = ak.to_numpy(ak.num(array))
    return np.concatenate([[0], np.cumsum(counts)]), ak.to_numpy(ak.flatten(array))


def check_same(found, expected):
    if isinstance(found, Jagged):
        np.testing.assert_array_equal(found.offsets, expected[0])
        np.testing.assert_array_equal(found.content, expected[1])
        assert found.content.dtype == expected[1].dtype
        return
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype


@pytest.mark.parametrize(
    ("name", "tree"),
    [("nanoAOD_2015_CMS_Open_Data_ttbar.root", "Events"), ("uproot-Zmumu.root", "events")]
    + [(f"uproot-HZZ{codec}.root", "events") for codec in CODECS],
)
def test_every_branch_of_real_files_has_the_values_that_uproot_reads(name, tree):
    path = real_file(name)
    with uproot.open(path) as file, open_source(path, tree) as source:
        count = source.num_entries
        names = [column.name for column in source.columns.values() if column.kind is not Kind.OTHER]
        assert len(names) > 10
        for start, stop in ((0, count), (count // 3, count // 2), (count - 1, count), (5, 5)):
            for column in names:
                found = source.read([column], start, stop)[column]
                check_same(found, as_uproot_has_it(file[tree][column], start, stop))


def test_all_branches_of_a_nanoaod_file_are_decoded_without_uproot():
    with uproot.open(real_file("nanoAOD_2015_CMS_Open_Data_ttbar.root")) as file:
        branches = file["Events"].branches
        assert len(branches) > 100
        assert [branch.name for branch in branches if basket_layout_of(branch) is None] == []


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    """A file whose clusters are of many lengths."""
    path = tmp_path_factory.mktemp("ragged") / "a.root"
    rng = np.random.default_rng(0)
    with uproot.recreate(path) as file:
        file.mktree("Events", {"x": "float32", "v": ("float64", (2,)), "l": "var * int16", "ok": "bool"})
        for length in (1, 7, 100, 0, 3, 250):
            lengths = rng.integers(0, 6, length)
            lists = ak.unflatten(np.arange(lengths.sum(), dtype=np.int16), lengths)
            file["Events"].extend(
                {"x": rng.normal(size=length).astype("f4"), "v": rng.normal(size=(length, 2)), "l": lists,
                 "ok": rng.random(length) < 0.5}
            )  # fmt: skip
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, 361), st.integers(0, 361)), min_size=1, max_size=4))
def test_any_ranges_in_any_order_have_the_values_that_uproot_reads(ragged, stretches):
    with uproot.open(ragged) as file, open_source(str(ragged)) as source:
        for pair in stretches:
            start, stop = sorted(pair)
            found = source.read(["x", "v", "l", "ok"], start, stop)
            for name, values in found.items():
                check_same(values, as_uproot_has_it(file["Events"][name], start, stop))


def test_a_basket_that_extends_past_the_range_is_decompressed_once(tmp_path):
    write_tree(tmp_path / "a.root", {"x": np.arange(1000.0)})
    with open_source(str(tmp_path / "a.root")) as source:
        parts = [source.read(["x"], start, start + 100)["x"] for start in range(0, 300, 100)]
        (tmp_path / "a.root").write_bytes(b"")  # from here on the file has nothing to give
        parts.append(source.read(["x"], 300, 1000)["x"])
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(1000.0))


@pytest.mark.parametrize("compression", [uproot.ZLIB(1), uproot.LZ4(1), uproot.ZSTD(1), None])
def test_a_flipped_bit_gives_the_right_values_or_an_error(tmp_path, compression):
    rng = np.random.default_rng(3)
    lists = ak.unflatten(rng.normal(size=900).astype("f4"), rng.multinomial(900, [1 / 300] * 300))
    flat = rng.integers(0, 50, 300)
    with uproot.recreate(tmp_path / "a.root", compression=compression) as file:
        file.mktree("Events", {"x": "int64", "l": "var * float32"})
        file["Events"].extend({"x": flat, "l": lists})
    content = (tmp_path / "a.root").read_bytes()
    with uproot.open(tmp_path / "a.root") as file:
        spans = []
        for branch in file["Events"].branches:
            spans.append((int(branch.member("fBasketSeek")[0]), int(branch.member("fBasketBytes")[0])))
    refused = 0
    for seek, length in spans:
        for position in rng.choice(length, 60, replace=False):
            damaged = bytearray(content)
            damaged[seek + position] ^= 1 << rng.integers(8)
            (tmp_path / "b.root").write_bytes(damaged)
            try:
                with open_source(str(tmp_path / "b.root")) as source:
                    found = source.read(["x", "l"], 0, 300)
            except FileUnreadable:
                refused += 1
                continue
            with uproot.open(tmp_path / "b.root") as file:  # where nothing has a checksum, both read the same
                for name in ("x", "l"):
                    check_same(found[name], as_uproot_has_it(file["Events"][name], 0, 300))
    assert refused > 0


@needs_kernel
@pytest.mark.parametrize("name", [f"uproot-HZZ{codec}.root" for codec in CODECS] + ["uproot-Zmumu.root", "ggH.root"])
def test_the_compiled_loop_and_numpy_give_the_same_bits(name):
    ranges = LocalRanges(real_file(name))
    with uproot.open(real_file(name)) as file:
        layouts = {
            branch.name: layout
            for branch in file.values()[0].branches
            if (layout := basket_layout_of(branch)) is not None
        }
    baskets = [(name, index) for name, layout in layouts.items() for index in range(len(layout.seek))]
    assert len(baskets) > 10
    places = [(int(layouts[name].seek[index]), int(layouts[name].bytes[index])) for name, index in baskets]
    memory = ranges.read(places)
    contents = [memory[place] for place in places]
    counts = [layouts[name].edges[index + 1] - layouts[name].edges[index] for name, index in baskets]
    sizes = [(number, 0, len(content)) for number, content in enumerate(contents)]
    jobs = [
        (*size, count, *layouts[name].constants) for size, count, (name, _) in zip(sizes, counts, baskets, strict=True)
    ]
    found = _decode_compiled([layouts[name] for name, _ in baskets], np.array(jobs, np.int64), contents)
    for (name, index), content, mine in zip(baskets, contents, found, strict=True):
        truth = decode(layouts[name], index, content)
        if isinstance(truth, Jagged):
            np.testing.assert_array_equal(mine.offsets, truth.offsets)
            mine, truth = mine.content, truth.content
        assert (mine.dtype, mine.shape, mine.tobytes()) == (truth.dtype, truth.shape, truth.tobytes())
    ranges.close()


def test_a_small_basket_that_declares_two_gigabytes_does_not_allocate_them():
    key, entries, claimed = 57, 8, 2_000_000_000
    record = b"ZL\x08" + (100).to_bytes(3, "little") + (16_000_000).to_bytes(3, "little") + bytes(100)
    head = struct.pack(">ihiIhh", key + len(record), 4, claimed, 0, key, 1)
    tail = struct.pack(">Hiiii", 2, 32_000, 1000, entries, key + 4 * entries) + b"\0"
    basket = memoryview(head + bytes(key - len(head) - len(tail)) + tail + record)
    one = np.zeros(1, np.int64)
    layout = BasketLayout(np.dtype(">f4"), (), 0, np.array([0, entries]), one, one + len(basket))
    jobs = np.array([(0, 0, len(basket), entries, *layout.constants)], np.int64)
    before = reset_peak_memory()
    assert _decode_compiled([layout], jobs, [basket]) == [None]
    with pytest.raises(UnsupportedBasket):
        decode(layout, 0, basket)
    assert peak_memory() - before < 200e6
