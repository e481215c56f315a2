"""Few requests for many stretches of bytes."""

import pytest
import uproot
from hypothesis import given
from hypothesis import strategies as st
from tinyroot import write_events

from mlaas4hep.io.byte_ranges import GAP, LONGEST, LocalRanges, UprootRanges, join


@given(st.sets(st.tuples(st.integers(0, 10**8), st.integers(1, 10**6)), max_size=30))
def test_every_place_lies_within_one_stretch_and_no_stretch_is_too_long(places):
    groups = join(places)
    assert sorted(place for *_, members in groups for place in members) == sorted(places)
    for start, length, members in groups:
        assert length <= LONGEST
        assert all(start <= place[0] and place[0] + place[1] <= start + length for place in members)
        assert start == min(members)[0]


def test_neighbours_are_read_together_and_those_far_apart_are_not():
    assert join([(0, 10), (10, 5), (20 + GAP, 5)]) == [(0, 15, [(0, 10), (10, 5)]), (20 + GAP, 5, [(20 + GAP, 5)])]


def test_bytes_are_those_of_the_file_and_its_end_is_named(tmp_path):
    path = tmp_path / "a.root"
    write_events(path, 1000)
    content = path.read_bytes()
    places = [(0, 4), (100, 50), (len(content) - 7, 7)]
    with uproot.open(path) as file:
        for ranges in (LocalRanges(str(path)), UprootRanges(file)):
            assert {place: bytes(found) for place, found in ranges.read(places).items()} == {
                (start, length): content[start : start + length] for start, length in places
            }
            assert ranges.read([]) == {}
            ranges.close()
    ranges = LocalRanges(str(path))
    with pytest.raises(OSError, match=f"the file ends at byte {len(content)}, before byte {len(content) + 3}"):
        ranges.read([(len(content) - 7, 10)])
    ranges.close()
