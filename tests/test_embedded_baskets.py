"""Baskets that are embedded in the record of a tree: their values, whichever code reads the record and the baskets.

ROOT 6.40 wrote `files/embedded.root` (`files/write_embedded.C`, which has the same formulas).
"""

import struct
from pathlib import Path

import numpy as np
import pytest
import uproot
from check_source import check_source
from test_statistics import needs_kernel

from mlaas4hep.errors import FileUnreadable
from mlaas4hep.io import Jagged, open_source
from mlaas4hep.io.root.basket_reader import BasketReader
from mlaas4hep.io.root.metadata.tree_record import _Parser, read_record
from mlaas4hep.io.root.tree_keys import find_tree, read_object
from mlaas4hep.io.root.uproot_source import open_root_file
from mlaas4hep.io.storage.byte_ranges import LocalRanges

PATH = Path(__file__).parent / "files" / "embedded.root"
ENTRIES = {"only": 30, "last": 250, "small": 200, "memory": 150, "empty": 0, "flushed": 200}
MEMORY = {"event": 6, "d": 6, "b": 1, "three": 5, "n": 3}
"""Number of embedded baskets by branch of the tree `memory`: 1 byte to 8 bytes per entry, in baskets of 300 bytes."""


def truth(entries):
    """The columns of a tree, as `write_embedded.C` computes them."""
    i = np.arange(entries)
    counts = 7 * i % 5
    entry, k = np.repeat(i, counts), np.concatenate([[], *map(np.arange, counts)]).astype(int)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return {
        "event": (10_000_000_000 + i).astype(np.uint64),
        "d": i / 2,
        "b": i % 3 == 0,
        "three": (np.arange(3) - i[:, None]).astype(np.int16),
        "n": counts.astype(np.int32),
        "pt": Jagged(offsets, (entry + k / 4).astype(np.float32)),
        "id": Jagged(offsets, (entry + k).astype(np.uint8)),
    }


def check_values(found, expected):
    assert list(found) == list(expected)
    for name, values in expected.items():
        if isinstance(values, Jagged):
            np.testing.assert_array_equal(found[name].offsets, values.offsets)
            values, found[name] = values.content, found[name].content
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype


def check_tree(tree):
    expected = truth(ENTRIES[tree])
    with open_source(str(PATH), tree) as source:
        assert source.num_entries == ENTRIES[tree]
        assert list(source.columns) == [*expected, "text"]
        check_values(source.read(list(expected), 0, source.num_entries), expected)
        if source.num_entries:
            check_source(source)


@pytest.mark.parametrize("tree", ENTRIES)
def test_the_record_is_read_without_uproot(tree):
    ranges = LocalRanges(str(PATH))
    with open_root_file(ranges) as file:
        record = read_record(ranges, find_tree(file, tree, ""))
    assert record.entries == ENTRIES[tree]
    for name in truth(1):
        layout = record.basket_layout(name)
        assert bool(layout.embedded) == (tree not in ("empty", "flushed"))
        if tree == "memory":
            assert len(layout.embedded) == MEMORY.get(name, len(layout.embedded))
            assert not len(layout.seek)


@needs_kernel
@pytest.mark.parametrize("tree", ENTRIES)
def test_values_are_those_that_were_written(tree):
    check_tree(tree)


@pytest.mark.parametrize("tree", ENTRIES)
def test_numpy_reads_the_same_values(tree, monkeypatch):
    monkeypatch.setattr("mlaas4hep.io.root.basket_reader.KERNEL", None)
    check_tree(tree)


@pytest.mark.parametrize("tree", ENTRIES)
def test_records_that_uproot_reads_give_the_same_values(tree, monkeypatch):
    monkeypatch.setattr("mlaas4hep.io.root.ttree.read_record", lambda *_: None)
    check_tree(tree)


def test_sizes_of_embedded_baskets_count_once(monkeypatch):
    with open_source(str(PATH), "last") as source:
        names = list(truth(1))
        assert list(source.boundaries) == [0, 100, 200, 250]
        sizes = source.cluster_sizes(names)
        lists = 4 * (7 * np.arange(250) % 5).sum()  # bytes of `pt`
        bytes_per_entry = 8 + 8 + 1 + 6 + 4 + (lists + lists / 4) / 250
        total = sum(size.entry_bytes * entries for size, entries in zip(sizes, (100, 100, 50), strict=True))
        assert bytes_per_entry * 250 <= total < 3 * bytes_per_entry * 250
    monkeypatch.setattr("mlaas4hep.io.root.ttree.read_record", lambda *_: None)
    with open_source(str(PATH), "last") as source:
        assert source.cluster_sizes(names) == sizes


def record_of(tree):
    """The bytes of a record, and the length of its key."""
    with uproot.open(PATH) as file:
        key = file.key(tree)
        return read_object(LocalRanges(str(PATH)), key), int(key.fKeylen)


@pytest.mark.parametrize("flipped", [0x01, 0x80, 0xFF])
def test_a_record_with_a_changed_byte_is_read_or_refused(flipped):
    content, origin = record_of("only")
    content, reader = bytearray(content), BasketReader(LocalRanges(str(PATH)))
    used = refused = 0
    for place in range(len(content)):
        content[place] ^= flipped
        try:
            record = _Parser(bytes(content), origin).tree("TTree", "")
        except Exception:  # then uproot reads the tree, or reports the damage
            refused += 1
        else:
            layouts = {name: layout for name in record.columns if (layout := record.basket_layout(name))}
            if record.entries == 30:
                values = reader.read(layouts, 0, 30)
                assert all(len(column) == 30 for column in values.values())
            used += 1
        content[place] ^= flipped
    assert used > 100
    assert refused > 100


KEY = struct.Struct(">ihiIhhii")
"""A TKey from fNbytes to fSeekPdir; the positions have 32 bits."""


def write_with_record(path, tree, record):
    """Write a copy of the file with another record of a tree, which is not compressed."""
    content = PATH.read_bytes()
    with uproot.open(PATH) as file:
        key = file.key(tree)
        header = content[key.fSeekKey : key.fSeekKey + key.fKeylen]
    fields = list(KEY.unpack_from(header))
    fields[0], fields[2], fields[6] = len(header) + len(record), len(record), len(content)
    changed = KEY.pack(*fields) + header[KEY.size :]
    content = bytearray(content.replace(header, changed) + changed + record)
    content[12:16] = struct.pack(">i", len(content))  # fEND
    path.write_bytes(content)


def test_the_error_about_damaged_offsets_names_the_branch(tmp_path):
    record, _ = record_of("only")
    counts = 7 * np.arange(30) % 5
    starts = 4 * np.concatenate([[0], np.cumsum(counts)[:-1]])
    lists = ((key + starts).astype(">i4").tobytes() for key in range(200))
    offsets = next(offsets for offsets in lists if offsets in record)
    assert record.count(offsets) == 1
    write_with_record(tmp_path / "good.root", "only", record)
    with open_source(str(tmp_path / "good.root"), "only") as source:
        check_values(source.read(list(truth(1)), 0, 30), truth(30))
    damaged = offsets[:40] + struct.pack(">i", 30_000) + offsets[44:]
    write_with_record(tmp_path / "bad.root", "only", record.replace(offsets, damaged))
    with open_source(str(tmp_path / "bad.root"), "only") as source:
        with pytest.raises(FileUnreadable, match=r"cannot read branch 'pt' of .*bad.root, entries 0 to 29: "):
            source.read(list(truth(1)), 0, 30)
        rest = {name: values for name, values in truth(30).items() if name != "pt"}
        check_values(source.read(list(rest), 0, 30), rest)
