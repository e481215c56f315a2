"""What a file holds: the description of a column, and a stretch of its values.

    Jagged(offsets=np.array([0, 2, 2, 3]), content=np.array([41.5, 12.0, 30.1]))   # lists of 2, 0 and 1 values

Flat columns are NumPy arrays of shape (events,), fixed-size ones of shape (events, size), jagged ones `Jagged`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np


class Kind(Enum):
    """How many numbers a column holds for an event."""

    FLAT = "flat"
    """one number"""
    FIXED = "fixed"
    """the same number of numbers for all events"""
    JAGGED = "jagged"
    """a list of any length"""
    OTHER = "other"
    """nothing that a network could be fed with; `Column.reason` says why"""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a file, before anything of it was read.

    Attributes:
        name: its name in the file.
        kind: how many numbers it holds for an event.
        dtype: the type of one number in native byte order; `object` where kind is OTHER.
        size: numbers an event where kind is FIXED, else 1.
        reason: why it cannot be a feature, where kind is OTHER.
    """

    name: str
    kind: Kind
    dtype: np.dtype[Any]
    size: int = 1
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Jagged:
    """Lists of numbers, one an event.

    Attributes:
        offsets: int64 (events + 1,); event i has content[offsets[i]:offsets[i + 1]]; offsets[0] is 0.
        content: numbers, (offsets[-1],).
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
"""Values of one column over some events."""

Columns = Mapping[str, Values]
"""Values of columns by name, all over the same events."""


def select_events(values: Values, keep: np.ndarray) -> Values:
    """Return the values of the events where `keep`, bool (events,), is True, in order."""
    if isinstance(values, Jagged):
        counts = values.counts
        offsets = np.zeros(int(keep.sum()) + 1, np.int64)
        np.cumsum(counts[keep], out=offsets[1:])
        return Jagged(offsets, values.content[np.repeat(keep, counts)])
    kept: np.ndarray = values[keep]
    return kept


def slice_events(values: Values, start: int, stop: int) -> Values:
    """Return the values of the events start <= i < stop, without a copy of the numbers."""
    if isinstance(values, Jagged):
        offsets = values.offsets[start : stop + 1]
        return Jagged(offsets - offsets[0], values.content[offsets[0] : offsets[-1]])
    return values[start:stop]


def join_events(parts: Sequence[Values]) -> Values:
    """Return the values of some stretches of events, at least one, as those of one stretch."""
    if len(parts) == 1:
        return parts[0]
    lists = [part for part in parts if isinstance(part, Jagged)]
    if not lists:
        return np.concatenate([part for part in parts if not isinstance(part, Jagged)])
    counts = np.concatenate([part.counts for part in lists])
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return Jagged(offsets, np.concatenate([part.content for part in lists]))


def no_events(available: Mapping[str, Column], names: Iterable[str]) -> dict[str, Values]:
    """Return columns without events, of the kinds and types that a file's columns have."""
    empty: dict[str, Values] = {}
    for name in names:
        column = available[name]
        if column.kind is Kind.JAGGED:
            empty[name] = Jagged(np.zeros(1, np.int64), np.empty(0, column.dtype))
        else:
            empty[name] = np.empty((0, column.size) if column.kind is Kind.FIXED else 0, column.dtype)
    return empty


def size_of(values: Values) -> int:
    """Return how many bytes the values take."""
    return values.content.nbytes + values.offsets.nbytes if isinstance(values, Jagged) else values.nbytes


def buffers(values: Values) -> tuple[np.ndarray, np.ndarray | None]:
    """Return content and offsets as the compiled loops take them: C-contiguous, and no float16."""
    content = values.content if isinstance(values, Jagged) else values
    if content.dtype == np.float16:
        content = content.astype(np.float32)
    return np.ascontiguousarray(content), values.offsets if isinstance(values, Jagged) else None
