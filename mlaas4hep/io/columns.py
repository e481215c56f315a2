"""Columns of a file: their descriptions, and arrays of their values.

    Jagged(offsets=np.array([0, 2, 2, 3]), content=np.array([41.5, 12.0, 30.1]))   # lists of 2, 0 and 1 values

Flat columns are NumPy arrays of shape (events,), fixed-size ones of shape (events, size), jagged ones `Jagged`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

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
    OTHER = "other"
    """Not numeric, so that it cannot be a feature; `Column.reason` says why."""


@dataclass(frozen=True, slots=True)
class Column:
    """Description of a column of a file.

    Attributes:
        name: name in the file.
        kind: number of values per event.
        dtype: type of the numbers, in native byte order; `object` if kind is OTHER.
        size: numbers per event if kind is FIXED, else 1.
        reason: why the column cannot be a feature, if kind is OTHER.
    """

    name: str
    kind: Kind
    dtype: np.dtype[Any]
    size: int = 1
    reason: str = ""

    @classmethod
    def of(
        cls, name: str, dtype: np.dtype[Any], shape: tuple[int, ...] = (), is_list: bool = False, typename: str = ""
    ) -> Column:
        """Return the description of numbers, of arrays of a shape, or of lists; lists of arrays are unsupported.

        `typename` is the name of the type in messages, if it is not that of `dtype`.
        """
        if is_list and shape:
            return cls.unsupported(name, f"{typename or dtype.name}: lists of arrays")
        if is_list:
            return cls(name, Kind.JAGGED, dtype)
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


Values = np.ndarray | Jagged
"""Values of one column for some events."""

Columns = Mapping[str, Values]
"""Values of columns for the same events, by name."""


def offsets_of(counts: np.ndarray) -> np.ndarray:
    """Return the offsets of lists of the given lengths, int64 (lists + 1,)."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def select_events(values: Values, keep: np.ndarray) -> Values:
    """Return the values of the events for which `keep`, bool (events,), is True."""
    if isinstance(values, Jagged):
        counts = values.counts
        return Jagged(offsets_of(counts[keep]), values.content[np.repeat(keep, counts)])
    return np.asarray(values[keep])


def take_events(values: Values, rows: np.ndarray) -> Values:
    """Return the values of the events with the given numbers, int64 (events,), in this order."""
    if not isinstance(values, Jagged):
        return np.asarray(values[rows])
    counts = values.counts[rows]
    offsets = offsets_of(counts)
    positions = np.arange(offsets[-1]) + np.repeat(values.offsets[rows] - offsets[:-1], counts)
    return Jagged(offsets, values.content[positions])


def slice_events(values: Values, start: int, stop: int) -> Values:
    """Return the values of the events start <= i < stop, without copying the numbers."""
    if isinstance(values, Jagged):
        offsets = values.offsets[start : stop + 1]
        return Jagged(offsets - offsets[0], values.content[offsets[0] : offsets[-1]])
    return values[start:stop]


def slice_columns(columns: Columns, start: int, stop: int) -> Columns:
    """Return the events start <= i < stop of columns; see `slice_events`."""
    return {name: slice_events(values, start, stop) for name, values in columns.items()}


def concatenate_events(parts: Sequence[Values]) -> Values:
    """Concatenate the values of one or more ranges of events."""
    if len(parts) == 1:
        return parts[0]
    lists = [part for part in parts if isinstance(part, Jagged)]
    if not lists:
        return np.concatenate([part for part in parts if not isinstance(part, Jagged)])
    counts, contents = [part.counts for part in lists], [part.content for part in lists]
    return Jagged(offsets_of(np.concatenate(counts)), np.concatenate(contents))


def empty_columns(available: Mapping[str, Column], names: Iterable[str]) -> dict[str, Values]:
    """Return columns of a file for zero events."""
    empty: dict[str, Values] = {}
    for name in names:
        column = available[name]
        if column.kind is Kind.JAGGED:
            empty[name] = Jagged(np.zeros(1, np.int64), np.empty(0, column.dtype))
        else:
            empty[name] = np.empty((0, column.size) if column.kind is Kind.FIXED else 0, column.dtype)
    return empty


def check_readable(available: Mapping[str, Column], names: Iterable[str], location: str) -> None:
    """Raise FileUnreadable, with the name and the reason, if a column does not hold numbers."""
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
    return values.content.nbytes + values.offsets.nbytes if isinstance(values, Jagged) else values.nbytes


def canonical_bools(numbers: np.ndarray) -> np.ndarray:
    """Return bools whose bytes are 0 or 1 only, and other numbers unchanged.

    Files may store any byte as a bool, for example from uninitialised flags; every byte except 0 means True. NumPy
    assumes 0 or 1, and its results for other bytes are undefined.
    """
    if numbers.dtype != np.bool_:
        return numbers
    return np.asarray(numbers.view(np.uint8) != 0)


def kernel_buffers(values: Values) -> tuple[np.ndarray, np.ndarray | None]:
    """Return content and offsets (None if not jagged) for the compiled loops: C-contiguous, float16 as float32."""
    content = values.content if isinstance(values, Jagged) else values
    if content.dtype == np.float16:
        content = content.astype(np.float32)
    return np.ascontiguousarray(content), values.offsets if isinstance(values, Jagged) else None
