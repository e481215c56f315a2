"""Which part of the sample an event belongs to: training, validation or test.

    parts = part_of(identity_hash(chunk.ids, chunk.entries, reader.identity), [0.7, 0.15, 0.15])

The rule is a hash of the event's identity (run, luminosityBlock, event). It depends on nothing else: not on the order,
the number of workers, the names of files or the seed, so that an event that was in the test part stays there, and
copies of an event fall into the same part. Where a file has no identifiers, the identity is the file's own (its UUID)
and the number of the entry.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

PARTS = ("train", "valid", "test")


def identity_hash(ids: Mapping[str, np.ndarray], entries: np.ndarray, identity: str) -> np.ndarray:
    """Return a hash of each event's identity, uint64 (events,), uniform over its range."""
    columns = list(ids.values())
    if not columns:
        digest = hashlib.blake2b(identity.encode(), digest_size=8).digest()
        columns = [np.full(len(entries), int.from_bytes(digest, "little"), np.uint64), entries]
    hashed = np.zeros(len(entries), np.uint64)
    for column in columns:
        bits = column.astype(np.float64).view(np.uint64) if column.dtype.kind == "f" else column.astype(np.uint64)
        hashed = _mix(hashed ^ bits)
    return hashed


def part_of(hashed: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Return the index in PARTS of each event, int8 (events,), given the shares of the parts (sum 1)."""
    edges = np.cumsum(shares)[:-1]
    return np.searchsorted(edges, hashed / 2.0**64, side="right").astype(np.int8)


def _mix(z: np.ndarray) -> np.ndarray:
    """One step of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection of 64 bits that leaves no pattern."""
    with np.errstate(over="ignore"):
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = z ^ (z >> np.uint64(31))
    return mixed
