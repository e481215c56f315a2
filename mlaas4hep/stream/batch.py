"""Some events of a sample, with all that training needs to know of them.

    batch.x, batch.mask, batch.y, batch.weight
    batch.inputs["jets"], batch.inputs["jets_mask"]

How the events of a batch are chosen is decided in `generator`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from typing_extensions import Self


@dataclass(frozen=True, slots=True)
class Batch:
    """Some events of a sample.

    Attributes:
        inputs: what a model is given, by name: float32 tensors (events, ...), normalised, 0 where there is no value,
            and bool masks; see `reader.inputs`. In a block that batches are made of, objects may be `Objects` instead.
        y: int64 (events,), the class of each event.
        weight: float32 (events,).
        ids: the identifier's columns, uint64 (events,) each; int64 or float64 where a file has signed or real ones.
        part: int8 (events,), the index in PARTS of the part that the event belongs to.
        file: int32 (events,), index of the file that the event came from.
        entry: int64 (events,), number of the event in that file; -1 for the shuffled copies of `contrast`.
        x: the vectors, float32 (events, features), where the params name no inputs.
        mask: bool (events, features), True where a value stands.
    """

    inputs: Mapping[str, Any]
    y: np.ndarray
    weight: np.ndarray
    ids: Mapping[str, np.ndarray]
    part: np.ndarray
    file: np.ndarray
    entry: np.ndarray

    @property
    def x(self) -> np.ndarray:
        x: np.ndarray = self.inputs["x"]
        return x

    @property
    def mask(self) -> np.ndarray:
        mask: np.ndarray = self.inputs["mask"]
        return mask

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: slice | np.ndarray) -> Self:
        """Return some of the events: a slice, an index or a bool mask."""
        return self.map(lambda values: values[rows])

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Return the events of at least one part, in order."""
        first, *others = parts
        if not others:
            return first
        return first.map(lambda *columns: np.concatenate(columns), *others)

    def map(self, do: Callable[..., Any], *others: Self) -> Self:
        """Return a batch of what `do` makes of each array, and of the same array of other batches."""
        made: dict[str, Any] = {}
        for field in fields(self):
            mine, theirs = getattr(self, field.name), [getattr(other, field.name) for other in others]
            if isinstance(mine, Mapping):
                made[field.name] = {name: do(mine[name], *(each[name] for each in theirs)) for name in mine}
            else:
                made[field.name] = do(mine, *theirs)
        return type(self)(**made)
