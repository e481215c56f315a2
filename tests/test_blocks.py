"""Files are split into blocks."""

from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.io.blocks import READ_BYTES, ClusterSize, split_into_blocks


@given(st.sets(st.integers(1, 10_000), max_size=30), st.integers(0, 12_000), st.integers(1, 3000))
def test_blocks_contain_every_entry_once_and_have_about_the_target_size(inner, stop, target):
    boundaries = sorted({0, 10_000, *inner})
    stop = min(stop, 10_000)
    cut = split_into_blocks(boundaries, stop, target)
    assert [entry for start, end in cut for entry in range(start, end)] == list(range(stop))
    assert all(0 < end - start <= 2 * target for start, end in cut)


def test_small_clusters_are_joined_and_large_ones_are_split():
    assert split_into_blocks([0, 40, 80, 120, 160], 160, 100) == [(0, 80), (80, 160)]
    assert split_into_blocks([0, 1000], 1000, 400) == [(0, 333), (333, 666), (666, 1000)]
    assert split_into_blocks([0, 150], 150, 100) == [(0, 150)]
    assert split_into_blocks([0], 0, 100) == []


def test_the_example_of_the_docstring_holds():
    ranges = split_into_blocks([0, 9_800, 19_900, 30_000], 25_000, 10_000)
    assert ranges == [(0, 9_800), (9_800, 19_900), (19_900, 25_000)]


def test_a_cluster_is_truncated_at_the_last_entry_to_read():
    assert split_into_blocks([0, 100, 200], 150, 100) == [(0, 100), (100, 150)]
    assert split_into_blocks([0, 100, 200], 1, 100) == [(0, 1)]


def test_a_cluster_of_more_than_twice_the_target_is_split_evenly():
    assert split_into_blocks([0, 201], 201, 100) == [(0, 67), (67, 134), (134, 201)]
    assert split_into_blocks([0, 200], 200, 100) == [(0, 200)]


def test_clusters_are_also_joined_and_split_by_their_bytes():
    third, small = ClusterSize(READ_BYTES / 31, 1), ClusterSize(1, 1)
    assert split_into_blocks([0, 10, 20, 30, 40], 40, 100, [third] * 4) == [(0, 30), (30, 40)]
    assert split_into_blocks([0, 10, 20, 30, 40], 35, 100, [small, third, small, third]) == [(0, 35)]
    assert split_into_blocks([0, 40, 50], 50, 100, [ClusterSize(READ_BYTES / 11.5, 1), small]) == [
        (0, 10),
        (10, 20),
        (20, 30),
        (30, 40),
        (40, 50),
    ]


def test_a_cluster_that_is_decoded_as_a_whole_is_split_by_entries_only():
    size = ClusterSize(READ_BYTES, 300)
    assert split_into_blocks([0, 300], 300, 200, [size]) == [(0, 300)]
    assert split_into_blocks([0, 300], 300, 100, [size]) == [(0, 100), (100, 200), (200, 300)]


@given(
    st.lists(st.tuples(st.integers(1, 500), st.floats(0, READ_BYTES), st.integers(1, 600)), min_size=1, max_size=20),
    st.integers(1, 5000),
    st.integers(1, 1000),
)
def test_blocks_of_any_clusters_contain_every_entry_once_and_respect_the_limit_of_bytes(clusters, stop, target):
    boundaries = [0]
    for length, _, _ in clusters:
        boundaries.append(boundaries[-1] + length)
    sizes = [ClusterSize(size, unit) for _, size, unit in clusters]
    stop = min(stop, boundaries[-1])
    cut = split_into_blocks(boundaries, stop, target, sizes)
    assert [entry for start, end in cut for entry in range(start, end)] == list(range(stop))
    assert all(0 < end - start <= 2 * target for start, end in cut)
    per_entry = [size for size, (length, _, _) in zip(sizes, clusters, strict=True) for _ in range(length)]
    for start, end in cut:
        taken = sum(size.entry_bytes for size in per_entry[start:end])
        assert taken <= READ_BYTES * 1.000001 or end - start <= max(per_entry[start].unit, 1)
