"""The record of a tree, read here and by uproot: the same branches, of the same types, at the same places."""

from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from realdata import real_file
from tinyroot import write_events

from mlaas4hep.io import Kind
from mlaas4hep.io.root.baskets import basket_layout_of
from mlaas4hep.io.root.metadata.tree_record import _Parser, read_record
from mlaas4hep.io.root.tree_keys import find_tree
from mlaas4hep.io.root.uproot_source import open_root_file
from mlaas4hep.io.root.uproot_tree import describe
from mlaas4hep.io.storage.byte_ranges import LocalRanges

PLAIN = [
    *((f"uproot-HZZ{codec}.root", "events") for codec in ("", "-lz4", "-lzma", "-zstd")),
    *((f"{sample}.root", "Events") for sample in ("DY", "TT", "VBF", "ggH")),
    ("uproot-Zmumu.root", "events"),
    ("nanoAOD_2015_CMS_Open_Data_ttbar.root", "Events"),
    *((f"uproot-sample-{version}-zlib.root", "sample") for version in ("5.23.02", "5.25.02", "5.28.00", "6.20.04")),
    ("uproot-hepdata-example.root", "ntuple"),
    ("uproot-issue413.root", "mytree"),
]


def record_of(path, tree):
    ranges = LocalRanges(str(path))
    try:
        return read_record(ranges, find_tree(open_root_file(ranges), tree, str(path)))
    finally:
        ranges.close()


def check_record(path, tree):
    record = record_of(path, tree)
    with uproot.open(path) as file:
        truth = file[tree]
        assert (record.name, record.entries) == (truth.name, truth.num_entries)
        assert list(record.columns) == [branch.name for branch in truth.branches]
        for branch in truth.branches:
            assert record.columns[branch.name] == describe(branch.name, branch)
            mine, theirs = record.basket_layout(branch.name), basket_layout_of(branch)
            if theirs is None:
                assert mine is None
                continue
            assert (mine.dtype, mine.shape, mine.header) == (theirs.dtype, theirs.shape, theirs.header)
            for name in ("edges", "seek", "bytes"):
                np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
            assert len(mine.embedded) == len(theirs.embedded)
        edges = [set(branch.entry_offsets) for branch in truth.branches]
        assert set.intersection(*edges) == set.intersection(*({*map(int, its)} for its in record.edges()))


@pytest.mark.parametrize(("name", "tree"), PLAIN)
def test_records_of_real_trees_agree_with_uproot(name, tree):
    check_record(real_file(name), tree)


def test_every_number_type_is_supported(tmp_path):
    kinds = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")
    with uproot.recreate(tmp_path / "a.root") as file:
        types = {**{kind: kind for kind in kinds}, "three": ("float32", (3,)), "lists": "var * int16"}
        file.mkdir("deep/er").mktree("tree", types, title="a title")
        for events in (5, 7):
            columns = {kind: np.zeros(events, kind) for kind in kinds}
            lists = ak.unflatten(np.arange(events, dtype=np.int16), np.ones(events, int))
            file["deep/er/tree"].extend({**columns, "three": np.zeros((events, 3), "f4"), "lists": lists})
    check_record(tmp_path / "a.root", "deep/er/tree")
    columns = record_of(tmp_path / "a.root", "deep/er/tree").columns
    assert {name: columns[name].dtype for name in kinds} == {name: np.dtype(name) for name in kinds}
    assert (columns["three"].kind, columns["three"].size) == (Kind.FIXED, 3)


def test_packed_numbers_are_left_to_uproot():
    assert record_of(Path(__file__).parent / "files" / "leaves.root", "Events") is None


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The record of a small tree, as its bytes, and the length of its key."""
    path = tmp_path_factory.mktemp("record") / "a.root"
    write_events(path, 100)
    with uproot.open(path) as file:
        chunk, _ = file.key("Events").get_uncompressed_chunk_cursor()
        return bytes(chunk.raw_data), int(file.key("Events").fKeylen)


@pytest.mark.parametrize("flipped", [0x01, 0x80, 0xFF])
def test_a_tree_with_a_changed_byte_in_its_record_is_usable_or_refused_at_once(data, flipped):
    content, key = bytearray(data[0]), data[1]
    used = refused = 0
    for place in range(len(content)):
        content[place] ^= flipped
        try:
            record = _Parser(bytes(content), key).tree("TTree", "")
        except Exception:  # then uproot reads it
            refused += 1
        else:
            used += 1
            for name in record.columns:
                record.basket_layout(name)
            record.edges()
        content[place] ^= flipped
    assert used > 100
    assert refused > 100
