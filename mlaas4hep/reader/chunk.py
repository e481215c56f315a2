"""Chunks: consecutive events of a file as vectors, the items that a reader yields.

chunk.x, chunk.mask, chunk.ids["event"], chunk[10:20]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlaas4hep.reader.inputs import VECTOR


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive events as vectors.

    Attributes:
        inputs: float32 tensors (events, ...) and bool masks by name, see `reader.inputs`.
        x: the vectors, float32 (events, features); normalised values are finite, padding and NaN have the fill value.
        mask: bool (events, features), True for values, False for padding and NaN.
        ids: the identifier columns, (events,) each, in the integer type of the file; never features.
        extra: additional flat columns, unchanged, and derived columns, (events,) each.
        entries: int64 (events,), the entry number of each event in the file.
    """

    inputs: Mapping[str, Any]
    ids: Mapping[str, np.ndarray]
    extra: Mapping[str, np.ndarray]
    entries: np.ndarray

    @property
    def x(self) -> np.ndarray:
        return np.asarray(self.inputs[VECTOR])

    @property
    def mask(self) -> np.ndarray:
        return np.asarray(self.inputs["mask"])

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, rows: slice | np.ndarray) -> Chunk:
        """Return the chunk of some rows, given as a slice, an index array or a bool mask."""
        return Chunk(
            {name: values[rows] for name, values in self.inputs.items()},
            {name: values[rows] for name, values in self.ids.items()},
            {name: values[rows] for name, values in self.extra.items()},
            self.entries[rows],
        )
