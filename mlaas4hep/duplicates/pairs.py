"""Numbers of events that files have in common, by pair of files.

    rows, event, distinct = repeated(records)
    pairs = merge_pairs([pairs_of(rows, event)])

A pair is a row of 64-bit integers, see `Pair`. A file forms a pair with itself if an event occurs more than once in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum

import numpy as np

from mlaas4hep.duplicates.records import files_of, hashes, sort_rows

_AT_A_TIME = 1_000_000
"""Number of pairs to compute at a time."""


class Pair(IntEnum):
    """The columns of a pair. The identifiers of the example follow.

    The example is the shared event whose earliest place, in any file, is the smallest; `first` is that place.
    """

    file, other, shared, first, place, other_place, width = range(7)


def repeated(records: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Find the records whose identity occurs more than once.

    Returns:
        These records, sorted by identity and place; for each of them the number of its event, 0, 1, ...; and the
        number of distinct identities of all records.
    """
    hashed = hashes(records)
    order = np.argsort(hashed)
    hashed = hashed[order]
    is_candidate = np.zeros(len(records), bool)  # equal identities have equal hashes
    is_candidate[1:] = hashed[1:] == hashed[:-1]
    is_candidate[:-1] |= is_candidate[1:]
    rows = records[order[is_candidate]]
    del order, hashed
    order, _ = sort_rows(rows)
    rows = rows[order]
    _, starts = sort_rows(rows[:, :-1])
    counts = np.diff(starts, append=len(rows))
    distinct = len(records) - len(rows) + len(counts)
    return rows[np.repeat(counts > 1, counts)], np.repeat(np.arange(sum(counts > 1)), counts[counts > 1]), distinct


def pairs_of(rows: np.ndarray, event: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the pairs of files that share events, given the result of `repeated`; a pair may occur several times."""
    places = rows[:, -1]
    first = places[np.searchsorted(event, event)]
    file = files_of(places)
    is_new = np.ones(len(rows), bool)  # whether a row is the first one of its event in its file
    is_new[1:] = (event[1:] != event[:-1]) | (file[1:] != file[:-1])
    second = np.flatnonzero(~is_new[1:] & is_new[:-1]) + 1
    yield _pairs(rows, first, second - 1, second, np.ones(len(second), np.uint64))
    for same_size in _by_number_of_files(np.flatnonzero(is_new), event):
        same_size = same_size[np.argsort(first[same_size[:, 0]], kind="stable")]
        order, starts = sort_rows(file[same_size])  # events that are in the same files are counted together
        shared = np.diff(starts, append=len(order)).astype(np.uint64)
        earliest = same_size[order[starts]]
        one, other = np.triu_indices(earliest.shape[1], 1)
        step = max(_AT_A_TIME // len(one), 1)
        for start in range(0, len(earliest), step):
            some = earliest[start : start + step]
            repeats = np.repeat(shared[start : start + step], len(one))
            yield _pairs(rows, first, some[:, one].ravel(), some[:, other].ravel(), repeats)


def _by_number_of_files(indices: np.ndarray, event: np.ndarray) -> Iterator[np.ndarray]:
    """Yield indices of rows, (events, files), for each number of files from 2 that contain the same event.

    Args:
        indices: one index per event and file, sorted.
        event: number of the event of each row.
    """
    counts = np.bincount(event[indices])
    begin = np.cumsum(counts) - counts
    for number in np.unique(counts[counts > 1]).tolist():
        yield indices[begin[counts == number][:, None] + np.arange(number)]


def _pairs(rows: np.ndarray, first: np.ndarray, one: np.ndarray, other: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Return the pairs of the rows with the indices `one` and `other`."""
    places, other_places = rows[one, -1], rows[other, -1]
    columns = [files_of(places), files_of(other_places), shared, first[one], places, other_places]
    return merge_pairs([np.column_stack([*columns, rows[one, :-1]])])


def merge_pairs(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Add up the numbers of shared events of equal pairs, and keep the earliest example of each."""
    pairs = np.concatenate(parts)
    pairs = pairs[np.argsort(pairs[:, Pair.first])]
    order, starts = sort_rows(pairs[:, [Pair.file, Pair.other]])
    pairs = pairs[order]
    merged: np.ndarray = pairs[starts]
    if len(merged):
        merged[:, Pair.shared] = np.add.reduceat(pairs[:, Pair.shared], starts)
    return merged
