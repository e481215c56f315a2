"""Records of events: the values that identify an event, and where it is.

    records = make_records([runs, lumis, events], file=3, entries=np.arange(1000))
    values, file, entry = records[0, :-1], *place_of(records[0, -1])

A record is a row of 64-bit integers: the bits of each identifier (as uint64, int64 or float64), and the place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlaas4hep.stream.split import identity_hash

_ENTRY_BITS = 40
"""Low bits of a place, which hold the entry; the others hold the index of the file."""


def make_records(identifiers: Sequence[np.ndarray], file: int, entries: np.ndarray) -> np.ndarray:
    """Return the records of events of one file, uint64 (events, identifiers + 1).

    Args:
        identifiers: values of each identifier as uint64, int64 or float64, (events,) each.
        entries: entry numbers, (events,).
    """
    place = entries.astype(np.uint64) | np.uint64(file << _ENTRY_BITS)
    return np.stack([*(values.view(np.uint64) for values in identifiers), place], axis=1)


def files_of(places: np.ndarray) -> np.ndarray:
    """Return the index of the file for places of any shape."""
    files: np.ndarray = places >> np.uint64(_ENTRY_BITS)
    return files


def place_of(place: int) -> tuple[int, int]:
    """Return the index of the file and the entry number."""
    return place >> _ENTRY_BITS, place & ((1 << _ENTRY_BITS) - 1)


def hashes(records: np.ndarray) -> np.ndarray:
    """Return a hash of the identity of each record, uint64 (events,), uniform over its range."""
    identifiers = {str(index): column for index, column in enumerate(records[:, :-1].T)}
    return identity_hash(identifiers, records[:, -1], "")


def sort_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort rows by their first column, then by the second one, and so on.

    Returns:
        The stable order, (rows,), and the positions in this order at which a row differs from the one before.
    """
    order = np.lexsort(rows.T[::-1])
    is_new = np.ones(len(rows), bool)
    is_new[1:] = is_different(rows[order])
    return order, np.flatnonzero(is_new)


def is_different(rows: np.ndarray) -> np.ndarray:
    """Return whether each row but the first differs from the one before, (rows - 1,)."""
    different = np.zeros(max(len(rows) - 1, 0), bool)
    for column in rows.T:
        different |= column[1:] != column[:-1]
    return different
