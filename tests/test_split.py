"""The part of an event is a hash of its identity, computed here once more in plain Python integers."""

import numpy as np
import pytest

from mlaas4hep.stream.split import PARTS, identity_hash, part_of

LOW64 = 2**64 - 1


def splitmix64(state):
    """SplitMix64 of Steele, Lea and Flood, on Python integers."""
    z = (state + 0x9E3779B97F4A7C15) & LOW64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & LOW64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & LOW64
    return z ^ (z >> 31)


def hash_of(*identity):
    hashed = 0
    for number in identity:
        hashed = splitmix64(hashed ^ (number & LOW64))
    return hashed


def test_the_hash_is_splitmix64_chained_over_the_identity():
    assert hash_of(0) == 0xE220A8397B1DCDAF  # the generator's published first number from seed 0
    ids = {"run": np.array([0, 1], np.uint32), "event": np.array([2**64 - 1, 2**53 + 1], np.uint64)}
    found = identity_hash(ids, np.arange(2), "any")
    assert found.dtype == np.uint64
    assert found.tolist() == [hash_of(0, 2**64 - 1), hash_of(1, 2**53 + 1)]


def test_the_type_of_the_columns_does_not_matter():
    for dtype in (np.int16, np.uint32, np.int64, np.uint64):
        assert identity_hash({"run": np.array([7], dtype)}, np.arange(1), "").tolist() == [hash_of(7)]


def test_neighbours_beyond_2_to_the_53_have_hashes_of_their_own():
    ids = {"event": np.arange(2**60, 2**60 + 1000, dtype=np.uint64)}
    assert len(set(identity_hash(ids, np.arange(1000), "").tolist())) == 1000


def test_an_event_without_identifiers_is_identified_by_its_file_and_entry():
    one, other = (identity_hash({}, np.array([0, 1, 2]), name) for name in ("uuid-1:Events", "uuid-2:Events"))
    assert len({*one.tolist(), *other.tolist()}) == 6
    assert identity_hash({}, np.array([2]), "uuid-1:Events").tolist() == one[2:].tolist()


def test_shares_cut_the_range_of_the_hash():
    edges = [0, int(0.7 * 2**64) - 2**12, int(0.7 * 2**64) + 2**12, int(0.85 * 2**64) + 2**12, 2**64 - 1]
    assert part_of(np.array(edges, np.uint64), [0.7, 0.15, 0.15]).tolist() == [0, 0, 1, 2, 2]
    assert PARTS == ("train", "valid", "test")


@pytest.mark.parametrize("shares", [[0.7, 0.15, 0.15], [0.1, 0.1, 0.8]])
def test_consecutive_events_fall_into_parts_in_proportion(shares):
    ids = {"run": np.full(100_000, 1), "luminosityBlock": np.arange(100_000) // 100, "event": np.arange(100_000)}
    parts = part_of(identity_hash(ids, np.arange(100_000), ""), shares)
    np.testing.assert_allclose(np.bincount(parts) / 100_000, shares, atol=0.006)  # four standard deviations
    first, second = parts[:-1], parts[1:]
    assert np.corrcoef(first, second)[0, 1] == pytest.approx(0, abs=0.015)


def test_a_larger_training_share_takes_events_from_others_and_gives_none_away():
    hashed = identity_hash({"event": np.arange(1000)}, np.arange(1000), "")
    small, large = (part_of(hashed, [share, 0.1, 0.9 - share]) for share in (0.5, 0.6))
    assert (large[small == 0] == 0).all()
