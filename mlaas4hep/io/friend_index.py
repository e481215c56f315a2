"""Find the entry of a friend tree that belongs to each entry of the main tree, by the values of some columns.

    lookup = build_lookup(main, friend, {"run": "run", "event": "event"})
    lookup.rows                     # int64 (main entries,): 2, 0, MISSING, 1

ROOT does the same with `TTree::BuildIndex`, for at most two columns. Values are compared exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from mlaas4hep.errors import BranchNotFound, ConfigError, FileUnreadable, Unreachable, nearest
from mlaas4hep.io.blocks import split_into_blocks
from mlaas4hep.io.columns import Column, Columns, Kind
from mlaas4hep.io.source import Source

MISSING = -1
"""Row of an entry that the friend does not have."""
UNKNOWN = -2
"""Row of an entry whose values in the index, or possibly those of its partner, are damaged."""

BLOCK_ROWS = 1_000_000
"""Number of entries of the index that are read at a time."""

Damage = tuple[int, int, str]
"""First entry and end of a damaged range, and the reason."""


@dataclass(frozen=True)
class Lookup:
    """The entry of the friend for each entry of the main tree.

    Attributes:
        rows: entry numbers in the friend, MISSING or UNKNOWN, int64 (main entries,).
        ambiguous: number of main entries with several entries in the friend, of which the first is used.
        damage: damaged ranges of the index in the main tree.
        friend_damage: why a part of the index in the friend cannot be read; "" if all of it can be read.
    """

    rows: np.ndarray
    ambiguous: int
    damage: Sequence[Damage]
    friend_damage: str

    @property
    def has_missing(self) -> bool:
        """Whether the friend lacks an entry of the main tree."""
        return bool((self.rows == MISSING).any())

    def known_rows(self, start: int, stop: int) -> np.ndarray:
        """Return the rows of the entries start <= i < stop; raise FileUnreadable if one of them is UNKNOWN."""
        rows = self.rows[start:stop]
        unknown = np.flatnonzero(rows == UNKNOWN)
        if len(unknown):
            entry = start + int(unknown[0])
            reasons = (reason for begin, end, reason in self.damage if begin <= entry < end)
            raise FileUnreadable(f"cannot match entry {entry} by index: {next(reasons, self.friend_damage)}")
        return np.asarray(rows)


def build_lookup(main: Source, friend: Source, index: Mapping[str, str]) -> Lookup:
    """Read the columns of an index and match the entries; damaged entries become UNKNOWN.

    Args:
        index: name of each column in the friend, by its name in the main tree.

    Raises:
        BranchNotFound: a column does not exist.
        ConfigError: a column does not contain one integer per entry.
        Unreachable: a file cannot be read at present.
    """
    for source, names in ((main, index.keys()), (friend, index.values())):
        for name in names:
            _check_column(source, name)
    ours = _read(main, list(index))
    bounds = [(int(column.min()), int(column.max())) for column in ours.columns if len(column)]
    theirs = _read(friend, list(index.values()), bounds)
    found, ambiguous = match_rows(ours.columns, theirs.columns)
    rows = np.full(main.num_entries, UNKNOWN, np.int64)
    absent = UNKNOWN if theirs.damage else MISSING  # it could be in the damaged part
    rows[ours.rows] = np.where(found >= 0, theirs.rows[found], absent) if len(theirs.rows) else absent
    return Lookup(rows, ambiguous, ours.damage, theirs.damage[0][2] if theirs.damage else "")


def match_rows(main: Sequence[np.ndarray], friend: Sequence[np.ndarray]) -> tuple[np.ndarray, int]:
    """Return the first row of `friend` with the values of each row of `main`.

    Args:
        main, friend: the columns of the index, integers (rows,) each.

    Returns:
        The rows, or MISSING, int64 (main rows,); and the number of rows of `main` with several rows in `friend`.
    """
    keys = [key for pair in zip(main, friend, strict=True) for key in _common_keys(*pair)]
    order = np.lexsort(keys)
    is_new = np.zeros(len(order), bool)
    for key in keys:
        ordered = key[order]
        is_new[1:] |= ordered[1:] != ordered[:-1]
    group = np.empty(len(order), np.int64)
    group[order] = np.cumsum(is_new)
    of_main, of_friend = group[: len(main[0])], group[len(main[0]) :]
    first = np.full(len(order), MISSING, np.int64)
    first[of_friend[::-1]] = np.arange(len(of_friend))[::-1]  # the last assignment counts: the earliest row
    several = np.bincount(of_friend, minlength=len(order)) > 1
    return first[of_main], int(several[of_main].sum())


def _common_keys(main: np.ndarray, friend: np.ndarray) -> Iterator[np.ndarray]:
    """Yield arrays that are equal where the values are; NumPy would compare int64 and uint64 as float64."""
    both = main, friend
    if main.dtype.kind == friend.dtype.kind:
        yield np.concatenate(both)
        return
    yield np.concatenate([values < 0 for values in both])
    yield np.concatenate([values.astype(np.uint64) for values in both])


def _check_column(source: Source, name: str) -> None:
    column = source.columns.get(name)
    if column is None:
        close = nearest(name, source.columns)
        raise BranchNotFound(f"index column '{name}' is not in {source.location}", nearest=close)
    if source.num_entries and (column.kind is not Kind.FLAT or column.dtype.kind not in "iu"):
        raise ConfigError(
            f"index column '{name}' of {source.location} is {_form(column)}",
            hint="an index needs one integer per entry, without missing values",
        )


def _form(column: Column) -> str:
    if column.kind is Kind.OTHER:
        return f"not numeric: {column.reason}"
    return f"{column.dtype.name} ({column.kind.value})"


class _IndexColumns(NamedTuple):
    """The columns of an index.

    Attributes:
        rows: entry numbers of their values, int64 (rows,).
        columns: integers (rows,) each.
        damage: ranges of entries that cannot be read.
    """

    rows: np.ndarray
    columns: Sequence[np.ndarray]
    damage: Sequence[Damage]


def _read(source: Source, names: Sequence[str], bounds: Sequence[tuple[int, int]] = ()) -> _IndexColumns:
    """Read the columns of an index; leave out rows with values outside the bounds (minimum, maximum), if given."""
    damage: list[Damage] = []
    rows = [np.empty(0, np.int64)]
    parts = [[np.empty(0, source.columns[name].dtype)] for name in names]
    for start, values in _read_blocks(source, names, damage):
        arrays = [np.asarray(values[name]) for name in names]
        keep = np.ones(len(arrays[0]), bool)
        for array, limits in zip(arrays, bounds, strict=False):
            keep &= _within(array, *limits)
        rows.append(start + np.flatnonzero(keep))
        for part, array in zip(parts, arrays, strict=True):
            part.append(array[keep])
    return _IndexColumns(np.concatenate(rows), [np.concatenate(part) for part in parts], damage)


def _read_blocks(source: Source, names: Sequence[str], damage: list[Damage]) -> Iterator[tuple[int, Columns]]:
    """Yield columns by first entry, without damaged clusters, which are added to `damage`."""
    for start, stop in split_into_blocks(source.boundaries, source.num_entries, BLOCK_ROWS):
        try:
            yield start, source.read(names, start, stop)
        except Unreachable:
            raise
        except FileUnreadable:
            yield from _read_clusters(source, names, start, stop, damage)


def _read_clusters(
    source: Source, names: Sequence[str], start: int, stop: int, damage: list[Damage]
) -> Iterator[tuple[int, Columns]]:
    """Read a block cluster by cluster; see `_read_blocks`."""
    edges = [start, *(edge for edge in source.boundaries if start < edge < stop), stop]
    for begin, end in pairwise(edges):
        try:
            yield begin, source.read(names, begin, end)
        except Unreachable:
            raise
        except FileUnreadable as error:
            damage.append((begin, end, error.what))


def _within(values: np.ndarray, low: int, high: int) -> np.ndarray:
    limits = np.iinfo(values.dtype)
    low, high = max(low, limits.min), min(high, limits.max)
    return np.asarray((values >= low) & (values <= high)) if low <= high else np.zeros(len(values), bool)
