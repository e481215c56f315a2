"""Some events of a sample, with all that training needs to know of them.

    for batch in rebatch(chunks, 256): ...

How the events of a batch are chosen is decided in `generator`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from typing_extensions import Self


@dataclass(frozen=True, slots=True)
class Batch:
    """Some events of a sample.

    Attributes:
        x: float32 (events, features), normalised, 0 where there is no value.
        mask: bool (events, features), True where a value stands.
        y: int64 (events,), the class of each event.
        weight: float32 (events,).
        ids: the identifier's columns, uint64 (events,) each; int64 or float64 where a file has signed or real ones.
        file: int32 (events,), index of the file that the event came from.
        entry: int64 (events,), number of the event in that file; -1 for the shuffled copies of `contrast`.
    """

    x: np.ndarray
    mask: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    ids: Mapping[str, np.ndarray]
    file: np.ndarray
    entry: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: slice | np.ndarray) -> Self:
        """Return some of the events: a slice, an index or a bool mask."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "ids"}
        ids = {name: values[rows] for name, values in self.ids.items()}
        return type(self)(ids=ids, **{name: values[rows] for name, values in arrays.items()})

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Return the events of at least one part, in order."""
        if len(parts) == 1:
            return parts[0]
        names = [field.name for field in fields(cls) if field.name != "ids"]
        ids = {name: np.concatenate([part.ids[name] for part in parts]) for name in parts[0].ids}
        return cls(ids=ids, **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def rebatch(chunks: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Cut chunks of any size into batches of `size` events, in order; the last one may be short."""
    rest: list[Batch] = []
    waiting = 0
    for chunk in chunks:
        start = 0
        while waiting + len(chunk) - start >= size:
            stop = start + size - waiting
            yield Batch.concatenate([*rest, chunk[start:stop]])
            rest, waiting, start = [], 0, stop
        if start < len(chunk):
            rest.append(chunk[start:])
            waiting += len(chunk) - start
    if rest:
        yield Batch.concatenate(rest)
