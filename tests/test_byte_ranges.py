"""Many byte ranges are read with few requests."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tinyroot import write_events

from mlaas4hep.io.storage.byte_ranges import (
    GAP,
    MAX_LOCAL,
    MAX_REMOTE,
    LocalRanges,
    RangeFile,
    merge_span_arrays,
    merge_spans,
)


@given(st.sets(st.tuples(st.integers(0, 10**8), st.integers(1, 10**6)), max_size=30))
def test_every_span_is_in_one_merged_span_and_no_merged_span_is_too_long(spans):
    groups = list(merge_spans(spans, 2 * 10**8))
    assert sorted(span for *_, members in groups for span in members) == sorted(spans)
    for start, length, members in groups:
        assert length <= MAX_LOCAL
        assert all(start <= span[0] and span[0] + span[1] <= start + length for span in members)
        assert start == min(members)[0]


def test_close_spans_are_merged_and_distant_ones_are_not():
    groups = list(merge_spans([(0, 10), (10, 5), (20 + GAP, 5)], 100 + GAP))
    assert groups == [(0, 15, [(0, 10), (10, 5)]), (20 + GAP, 5, [(20 + GAP, 5)])]


def test_the_bytes_of_the_file_are_returned_and_an_error_names_its_end(tmp_path):
    path = tmp_path / "a.root"
    write_events(path, 1000)
    content = path.read_bytes()
    spans = [(0, 4), (100, 50), (len(content) - 7, 7)]
    ranges = LocalRanges(str(path))
    assert {span: bytes(found) for span, found in ranges.read(spans).items()} == {
        (start, length): content[start : start + length] for start, length in spans
    }
    assert ranges.read([]) == {}
    with pytest.raises(OSError, match=f"the file ends at byte {len(content)}, before byte {len(content) + 3}"):
        ranges.read([(len(content) - 7, 10)])
    ranges.close()


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(1000))
    ranges = LocalRanges(str(path))
    path.write_bytes(bytes(500))
    with pytest.raises(OSError, match=r"a\.bin changed while it was read"):
        ranges.read([(400, 600)])
    ranges.close()


def test_a_range_file_reads_and_seeks_like_an_open_file(tmp_path):
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
def test_merged_arrays_contain_every_span_and_are_not_too_long(spans):
    starts, lengths = np.array(spans, np.int64).T
    found, which, at = merge_span_arrays(starts, lengths)
    assert found == sorted(found)
    for (start, length), number, inside in zip(spans, which, at, strict=True):
        begin, size = found[number]
        assert begin + inside == start
        assert 0 <= inside <= inside + length <= size
    longest = max(length for _, length in spans)
    assert all(size <= MAX_REMOTE + longest for _, size in found)
