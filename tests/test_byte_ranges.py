"""Few requests for many stretches of bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tinyroot import write_events

from mlaas4hep.io.byte_ranges import GAP, LONGEST, SHORT, LocalRanges, RangeFile, join, stretches


@given(st.sets(st.tuples(st.integers(0, 10**8), st.integers(1, 10**6)), max_size=30))
def test_every_place_lies_within_one_stretch_and_no_stretch_is_too_long(places):
    groups = list(join(places, 2 * 10**8))
    assert sorted(place for *_, members in groups for place in members) == sorted(places)
    for start, length, members in groups:
        assert length <= LONGEST
        assert all(start <= place[0] and place[0] + place[1] <= start + length for place in members)
        assert start == min(members)[0]


def test_neighbours_are_read_together_and_those_far_apart_are_not():
    groups = list(join([(0, 10), (10, 5), (20 + GAP, 5)], 100 + GAP))
    assert groups == [(0, 15, [(0, 10), (10, 5)]), (20 + GAP, 5, [(20 + GAP, 5)])]


def test_bytes_are_those_of_the_file_and_its_end_is_named(tmp_path):
    path = tmp_path / "a.root"
    write_events(path, 1000)
    content = path.read_bytes()
    places = [(0, 4), (100, 50), (len(content) - 7, 7)]
    ranges = LocalRanges(str(path))
    assert {place: bytes(found) for place, found in ranges.read(places).items()} == {
        (start, length): content[start : start + length] for start, length in places
    }
    assert ranges.read([]) == {}
    with pytest.raises(OSError, match=f"the file ends at byte {len(content)}, before byte {len(content) + 3}"):
        ranges.read([(len(content) - 7, 10)])
    ranges.close()


def test_a_file_that_shrinks_while_it_is_read_is_noticed(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(1000))
    ranges = LocalRanges(str(path))
    path.write_bytes(bytes(500))
    with pytest.raises(OSError, match=r"a\.bin changed while it was read"):
        ranges.read([(400, 600)])
    ranges.close()


def test_a_range_file_reads_and_seeks_as_an_open_file_does(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(range(256)) * 10)
    ranges = LocalRanges(str(path))
    with path.open("rb") as truth, RangeFile(ranges) as file:
        for offset, whence, length in ((5, 0, 10), (3, 1, 4), (-6, 2, 100), (0, 0, -1)):
            assert file.seek(offset, whence) == truth.seek(offset, whence)
            assert file.read(length) == truth.read(length)
            assert file.tell() == truth.tell()
    ranges.close()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20_000_000), st.integers(0, 9_000_000)), min_size=1, max_size=30))
def test_stretches_hold_every_place_and_are_not_longer_than_they_must_be(places):
    starts, lengths = np.array(places, np.int64).T
    found, which, at = stretches(starts, lengths)
    assert found == sorted(found)
    for (start, length), number, inside in zip(places, which, at, strict=True):
        begin, size = found[number]
        assert begin + inside == start
        assert 0 <= inside <= inside + length <= size
    longest = max(length for _, length in places)
    assert all(size <= SHORT + longest for _, size in found)
