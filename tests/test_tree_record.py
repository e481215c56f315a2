"""The record of a tree, read here and by uproot: the same branches, of the same types, at the same places."""

from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import given
from hypothesis import strategies as st
from realdata import real_file
from tinyroot import write_events

from mlaas4hep.io import Kind, open_source
from mlaas4hep.io.baskets import plan_of
from mlaas4hep.io.byte_ranges import LocalRanges
from mlaas4hep.io.tree_record import _Parser, read_record
from mlaas4hep.io.ttree import describe
from mlaas4hep.io.uproot_source import open_root_file

PLAIN = [
    *((f"uproot-HZZ{codec}.root", "events") for codec in ("", "-lz4", "-lzma", "-zstd")),
    *((f"{sample}.root", "Events") for sample in ("DY", "TT", "VBF", "ggH")),
    ("uproot-Zmumu.root", "events"),
]


def record_of(path, tree):
    ranges = LocalRanges(str(path))
    try:
        return read_record(ranges, open_root_file(ranges), tree)
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
            mine, theirs = record.plan(branch.name), plan_of(branch)
            if theirs is None:
                assert mine is None
                continue
            assert (mine.dtype, mine.shape, mine.header) == (theirs.dtype, theirs.shape, theirs.header)
            for name in ("edges", "seek", "bytes"):
                np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
        edges = [set(branch.entry_offsets) for branch in truth.branches]
        assert set.intersection(*edges) == set.intersection(*({*map(int, its)} for its in record.edges()))


@pytest.mark.parametrize(("name", "tree"), PLAIN)
def test_real_trees_are_what_uproot_says(name, tree):
    check_record(real_file(name), tree)


def test_every_type_of_number_is_known(tmp_path):
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


def test_baskets_within_the_record_are_left_to_uproot():
    path = real_file("nanoAOD_2015_CMS_Open_Data_ttbar.root")
    assert record_of(path, "Events") is None
    with open_source(path) as source:
        assert source.num_entries == 200


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


@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_bytes_end_in_an_error_or_a_tree(data, changes):
    content, key = bytearray(data[0]), data[1]
    for place, value in changes:
        content[place % len(content)] = value
    try:
        record = _Parser(bytes(content), key).tree()
    except Exception:  # then uproot reads it
        return
    for name in record.columns:
        record.plan(name)
    record.edges()
