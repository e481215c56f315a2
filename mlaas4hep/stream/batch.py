"""A batch of events: inputs, labels, weights and where the events come from.

    batch.x, batch.mask, batch.y, batch.weight
    batch.inputs["jets"], batch.inputs["jets_mask"]

`generator` decides which events a batch contains.
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
        inputs: the inputs of the model, by name: float32 tensors (events, ...), normalised, 0 where a value is missing,
            and bool masks; see `reader.inputs`. Blocks that are not yet cut into batches may hold `Objects` instead.
        y: class of each event, int64 (events,); flags of a multilabel task or targets: float32 (events, classes).
        weight: weight of each event, float32 (events,).
        ids: the identifier's columns, uint64 (events,) each; int64 or float64 if a file has signed or floating ones.
        part: index in PARTS of each event's part, int8 (events,).
        file: index of each event's file, int32 (events,).
        entry: entry number of each event in its file, int64 (events,); -1 for shuffled copies.
        bin: number of each event's bin for reweighting, int32 (events,); None: events are not reweighted.
        x: float32 (events, features), if the params define no inputs.
        mask: bool (events, features), True where x has a value.
    """

    inputs: Mapping[str, Any]
    y: np.ndarray
    weight: np.ndarray
    ids: Mapping[str, np.ndarray]
    part: np.ndarray
    file: np.ndarray
    entry: np.ndarray
    bin: np.ndarray | None = None

    @property
    def x(self) -> np.ndarray:
        return np.asarray(self.inputs["x"])

    @property
    def mask(self) -> np.ndarray:
        return np.asarray(self.inputs["mask"])

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: slice | np.ndarray) -> Self:
        """Return the events that a slice, an array of indices or a bool mask selects."""
        return self.map(lambda values: values[rows])

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Return the events of one or more batches, in order."""
        first, *others = parts
        if not others:
            return first
        return first.map(lambda *columns: np.concatenate(columns), *others)

    def map(self, function: Callable[..., Any], *others: Self) -> Self:
        """Apply a function to each array, together with the corresponding arrays of other batches."""
        result: dict[str, Any] = {}
        for field in fields(self):
            first, rest = getattr(self, field.name), [getattr(other, field.name) for other in others]
            if first is None:
                continue
            if isinstance(first, Mapping):
                result[field.name] = {name: function(first[name], *(each[name] for each in rest)) for name in first}
            else:
                result[field.name] = function(first, *rest)
        return type(self)(**result)
