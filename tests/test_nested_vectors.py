"""The compiled reading of vectors of vectors, against Python's `struct` and uproot."""

import struct
from contextlib import suppress

import numpy as np
import pytest
import uproot
from hypothesis import given
from hypothesis import strategies as st
from test_root_truth import FILES
from test_statistics import needs_kernel

from mlaas4hep.io import Jagged, open_source
from mlaas4hep.io.formats.awkward_bridge import to_awkward
from mlaas4hep.io.root import nested_vectors
from mlaas4hep.io.root.nested_vectors import decode_vectors, nested_vector_of

pytestmark = needs_kernel

CODES = {"i1": "b", "u1": "B", "i2": "h", "u4": "I", "i8": "q", "f4": "f", "f8": "d"}

NUMBERS = st.lists(st.lists(st.lists(st.integers(0, 100), max_size=4), max_size=4), max_size=5)


def stored(events, code):
    """Return the bytes of each event as ROOT writes them."""
    entries = []
    for vectors in events:
        body = struct.pack(">hi", 9, len(vectors))
        for numbers in vectors:
            body += struct.pack(f">i{len(numbers)}{code}", len(numbers), *numbers)
        entries.append(struct.pack(">I", 0x40000000 | len(body)) + body)
    return entries


def joined(entries):
    offsets = np.concatenate([[0], np.cumsum([len(entry) for entry in entries], dtype=np.int64)]).astype(np.int64)
    return Jagged(offsets, np.frombuffer(b"".join(entries), np.uint8))


@given(NUMBERS, st.sampled_from(sorted(CODES)))
def test_vectors_of_vectors_have_the_numbers_that_were_stored(events, dtype):
    found = decode_vectors(joined(stored(events, CODES[dtype])), np.dtype(dtype))
    assert found.lists.content.dtype == dtype
    assert to_awkward(found).tolist() == events


def test_every_byte_except_0_is_true():
    found = decode_vectors(joined(stored([[[0, 1, 2, 255]]], "B")), np.dtype(bool))
    assert found.lists.content.view(np.uint8).tolist() == [0, 1, 1, 1]


@given(NUMBERS.filter(bool), st.data())
def test_damaged_bytes_are_an_error_or_other_numbers(events, data):
    entries = joined(stored(events, "f"))
    content = entries.content.copy()
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ValueError):
        found = decode_vectors(Jagged(entries.offsets, content), np.dtype("f4"))
        assert found.offsets[-1] == len(found.lists)
        assert found.lists.offsets[-1] == len(found.lists.content)


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"\x40\0\0\6\0\x09\0\0\0\1",  # a vector without its length
        b"\x40\0\0\6\0\x09\xff\xff\xff\xff",  # -1 vectors
        b"\x40\0\0\x0a\0\x09\0\0\0\1\xff\xff\xff\xff",  # -1 numbers
        b"\x40\0\0\x0a\0\x09\0\0\0\1\x40\0\0\0",  # 2^30 numbers
        b"\x40\0\0\7\0\x09\0\0\0\0\0",  # a byte too many
        b"\x40\0\0\6\x40\x09\0\0\0\0",  # stored member by member
        b"\0\0\0\6\0\x09\0\0\0\0",  # without the flag of a length
    ],
)
def test_lengths_that_do_not_fit_are_refused(entry):
    with pytest.raises(ValueError, match="the lengths of its vectors are damaged"):
        decode_vectors(joined([entry]), np.dtype("f4"))


def test_positions_outside_the_bytes_are_refused():
    data, inner = np.zeros(10, np.uint8), np.zeros(1, np.int64)
    for starts in ([0, 11], [-1, 10], [5, 4], []):
        with pytest.raises(ValueError, match="starts"):
            nested_vectors.KERNEL.measure_vectors(data, np.array(starts, np.int64), 4, inner)


def test_branches_are_read_as_by_uproot(monkeypatch):
    file, names = str(FILES / "physlite.root"), ["AnalysisJetsAuxDyn.SumPtTrk", "AnalysisJetsAuxDyn.NumTrkPt500"]
    with uproot.open(file) as opened, open_source(file, "CollectionTree") as source:
        tree = opened["CollectionTree"]
        assert [nested_vector_of(tree[name].interpretation) for name in names] == ["f4", "i4"]
        assert nested_vector_of(tree["vvv"].interpretation) is None
        found = source.read(names, 3, 57)
        assert {name: to_awkward(found[name]).tolist() for name in names} == {
            name: tree[name].array(entry_start=3, entry_stop=57).tolist() for name in names
        }
    monkeypatch.setattr(nested_vectors, "KERNEL", None)
    with open_source(file, "CollectionTree") as source:
        again = source.read(names, 3, 57)
    for name in names:
        np.testing.assert_array_equal(again[name].lists.content, found[name].lists.content)
        np.testing.assert_array_equal(again[name].lists.offsets, found[name].lists.offsets)
