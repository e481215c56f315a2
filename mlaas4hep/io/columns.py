"""Columns of a file: their descriptions, and arrays of their values.

    Jagged(offsets=np.array([0, 2, 2, 3]), content=np.array([41.5, 12.0, 30.1]))   # lists of 2, 0 and 1 values

Flat columns are NumPy arrays of shape (events,), fixed-size ones of shape (events, size), jagged ones `Jagged`, and
lists of lists `Nested`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

import numpy as np

from mlaas4hep.errors import FileUnreadable


class Kind(Enum):
    """The kinds of columns, by the number of values per event."""

    FLAT = "flat"
    """One number."""
    FIXED = "fixed"
    """A fixed-size array, of the same size for all events."""
    JAGGED = "jagged"
    """A list of variable length."""
    NESTED = "nested"
    """A list of lists."""
    OTHER = "other"
    """Cannot be a feature, for example because it is not numeric; `Column.reason` says why."""

    @property
    def depth(self) -> int:
        """Number of lists of variable length around a number: 0, 1 or 2."""
        return {Kind.JAGGED: 1, Kind.NESTED: 2}.get(self, 0)


@dataclass(frozen=True, slots=True)
class Column:
    """Description of a column of a file.

    Attributes:
        name: name in the file.
        kind: number of values per event.
        dtype: type of the numbers, in native byte order; `object` if kind is OTHER.
        size: numbers per event if kind is FIXED; numbers per inner list if kind is NESTED, 0 if they vary; else 1.
        reason: why the column cannot be a feature, if kind is OTHER.
    """

    name: str
    kind: Kind
    dtype: np.dtype[Any]
    size: int = 1
    reason: str = ""

    @classmethod
    def of(cls, name: str, dtype: np.dtype[Any], shape: tuple[int, ...] = (), is_list: bool = False) -> Column:
        """Return the description of numbers, of arrays of a shape, or of lists of either."""
        if is_list:
            return cls(name, Kind.NESTED if shape else Kind.JAGGED, dtype, math.prod(shape))
        return cls(name, Kind.FIXED, dtype, math.prod(shape)) if shape else cls(name, Kind.FLAT, dtype)

    @classmethod
    def unsupported(cls, name: str, reason: str) -> Column:
        """Return the description of a column that cannot be a feature."""
        return cls(name, Kind.OTHER, np.dtype(object), reason=reason)


@dataclass(frozen=True, slots=True)
class Jagged:
    """One list of numbers per event.

    Attributes:
        offsets: int64 (events + 1,), starting at 0; the list of event i is content[offsets[i]:offsets[i + 1]].
        content: the numbers of all lists, (offsets[-1],).
    """

    offsets: np.ndarray
    content: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> np.ndarray:
        """Length of each list, int64 (events,)."""
        return np.diff(self.offsets)


@dataclass(frozen=True, slots=True)
class Nested:
    """One list of lists of numbers per event.

    Attributes:
        offsets: int64 (events + 1,), starting at 0; event i has the lists offsets[i] <= j < offsets[i + 1].
        lists: the inner lists of all events.
    """

    offsets: np.ndarray
    lists: Jagged

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> np.ndarray:
        """Number of lists per event, int64 (events,)."""
        return np.diff(self.offsets)

    @property
    def flattened(self) -> Jagged:
        """All numbers of an event as one list, without a copy of the numbers."""
        return Jagged(self.lists.offsets[self.offsets], self.lists.content)


Values = np.ndarray | Jagged | Nested
"""Values of one column for some events."""

Columns = Mapping[str, Values]
"""Values of columns for the same events, by name."""


def offsets_of(counts: np.ndarray) -> np.ndarray:
    """Return the offsets of lists of the given lengths, int64 (lists + 1,)."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def equal_offsets(count: int, size: int) -> np.ndarray:
    """Return the offsets of `count` lists of `size` items, int64 (count + 1,)."""
    return np.arange(count + 1, dtype=np.int64) * size


def positions_in(offsets: np.ndarray) -> np.ndarray:
    """Return the position of each item in its list, int64 (items,), given the offsets of the lists."""
    return np.asarray(np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets)))


def lists_of(offsets: np.ndarray, content: np.ndarray) -> Jagged | Nested:
    """Return lists of numbers, content (numbers,), or of arrays, content (arrays, *shape)."""
    if content.ndim == 1:
        return Jagged(offsets, content)
    inner = equal_offsets(len(content), math.prod(content.shape[1:]))
    return Nested(offsets, Jagged(inner, content.reshape(-1)))


def split_lists(lists: Jagged, size: int) -> Nested:
    """Split each list into lists of `size` numbers; raise ValueError if its length is not a multiple of `size`."""
    if (lists.offsets % size).any():
        raise ValueError(f"the length of a list is not a multiple of {size}")
    return Nested(lists.offsets // size, Jagged(equal_offsets(len(lists.content) // size, size), lists.content))


def select_events(values: Values, keep: np.ndarray) -> Values:
    """Return the values of the events for which `keep`, bool (events,), is True."""
    if isinstance(values, np.ndarray):
        return np.asarray(values[keep])
    counts = values.counts
    offsets, kept = offsets_of(counts[keep]), np.repeat(keep, counts)
    if isinstance(values, Jagged):
        return Jagged(offsets, values.content[kept])
    return Nested(offsets, _lists(select_events(values.lists, kept)))


def take_events(values: Values, rows: np.ndarray) -> Values:
    """Return the values of the events with the given numbers, int64 (events,), in this order."""
    if isinstance(values, np.ndarray):
        return np.asarray(values[rows])
    counts = values.counts[rows]
    offsets = offsets_of(counts)
    positions = np.arange(offsets[-1]) + np.repeat(values.offsets[rows] - offsets[:-1], counts)
    if isinstance(values, Jagged):
        return Jagged(offsets, values.content[positions])
    return Nested(offsets, _lists(take_events(values.lists, positions)))


def slice_events(values: Values, start: int, stop: int) -> Values:
    """Return the values of the events start <= i < stop, without copying the numbers."""
    if isinstance(values, np.ndarray):
        return values[start:stop]
    offsets = values.offsets[start : stop + 1]
    begin, end = offsets[0], offsets[-1]
    if isinstance(values, Jagged):
        return Jagged(offsets - begin, values.content[begin:end])
    return Nested(offsets - begin, _lists(slice_events(values.lists, begin, end)))


def _lists(values: Values) -> Jagged:
    assert isinstance(values, Jagged)
    return values


def slice_columns(columns: Columns, start: int, stop: int) -> Columns:
    """Return the events start <= i < stop of columns; see `slice_events`."""
    return {name: slice_events(values, start, stop) for name, values in columns.items()}


def concatenate_events(parts: Sequence[Values]) -> Values:
    """Concatenate the values of one or more ranges of events."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(cast(Sequence[np.ndarray], parts))
    lists = cast(Sequence[Jagged | Nested], parts)
    offsets = offsets_of(np.concatenate([part.counts for part in lists]))
    if isinstance(parts[0], Jagged):
        return Jagged(offsets, np.concatenate([part.content for part in cast(Sequence[Jagged], parts)]))
    return Nested(offsets, _lists(concatenate_events([part.lists for part in cast(Sequence[Nested], parts)])))


def empty_columns(available: Mapping[str, Column], names: Iterable[str]) -> dict[str, Values]:
    """Return columns of a file for zero events."""
    return {name: _empty(available[name]) for name in names}


def _empty(column: Column) -> Values:
    if column.kind.depth:
        return empty_lists(column, 0)
    return np.empty((0, column.size) if column.kind is Kind.FIXED else 0, column.dtype)


def empty_lists(column: Column, events: int) -> Jagged | Nested:
    """Return an empty list for each event, or an empty list of lists."""
    offsets, numbers = np.zeros(events + 1, np.int64), np.empty(0, column.dtype)
    if column.kind is Kind.JAGGED:
        return Jagged(offsets, numbers)
    return Nested(offsets, Jagged(np.zeros(1, np.int64), numbers))


def check_readable(available: Mapping[str, Column], names: Iterable[str], location: str) -> None:
    """Raise FileUnreadable, with the name and the reason, if a column is of kind OTHER."""
    for name in names:
        if available[name].kind is Kind.OTHER:
            raise FileUnreadable(
                f"cannot read branch '{name}' of {location}: {available[name].reason}",
                hint=f"exclude it: --exclude-branches={name}",
            )


def check_lengths(columns: Columns, entries: int) -> None:
    """Raise ValueError, with the name, if a column does not have a value, or a list, for every entry."""
    for name, values in columns.items():
        if len(values) != entries:
            raise ValueError(f"'{name}' has {len(values)} entries instead of {entries}")


def nbytes(values: Values) -> int:
    """Return the number of bytes that the values take."""
    if isinstance(values, np.ndarray):
        return values.nbytes
    return values.offsets.nbytes + (values.content.nbytes if isinstance(values, Jagged) else nbytes(values.lists))


def canonical_bools(numbers: np.ndarray) -> np.ndarray:
    """Return bools whose bytes are 0 or 1 only, and other numbers unchanged.

    Files may store any byte as a bool, for example from uninitialised flags; every byte except 0 means True. NumPy
    assumes 0 or 1, and its results for other bytes are undefined.
    """
    if numbers.dtype != np.bool_:
        return numbers
    return np.asarray(numbers.view(np.uint8) != 0)


def kernel_buffers(values: np.ndarray | Jagged) -> tuple[np.ndarray, np.ndarray | None]:
    """Return content and offsets (None if not jagged) for the compiled loops: C-contiguous, float16 as float32."""
    content = values.content if isinstance(values, Jagged) else values
    if content.dtype == np.float16:
        content = content.astype(np.float32)
    return np.ascontiguousarray(content), values.offsets if isinstance(values, Jagged) else None
