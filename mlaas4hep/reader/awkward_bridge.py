"""Columns as awkward arrays, and back.

    lists = to_awkward(Jagged(np.array([0, 2, 3]), pt))
    from_awkward(lists[:, :1])

awkward is imported by the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas4hep.errors import ConfigError
from mlaas4hep.io import Jagged

if TYPE_CHECKING:
    import awkward as ak


def to_awkward(values: np.ndarray | Jagged) -> ak.Array:
    """Return a column as an awkward array: (events,), (events, size), or lists."""
    import awkward as ak

    if isinstance(values, Jagged):
        return ak.unflatten(ak.Array(values.content), values.counts)
    return ak.Array(values)


def from_awkward(array: Any) -> np.ndarray | Jagged:
    """Return an awkward array as a column: (events,) or (events, size) in its own type, or `Jagged`.

    A missing number becomes NaN (False where it is a condition), a missing list an empty one.

    Raises:
        ConfigError: it holds no numbers, or lists of lists.
    """
    import awkward as ak

    array = ak.Array(array)
    if array.ndim == 1:
        return _numbers(array)
    if array.ndim != 2:
        raise ConfigError(f"values of type {array.type} are neither a number nor a list of numbers an event")
    if isinstance(array.type.content, ak.types.RegularType):
        return _numbers(ak.flatten(array)).reshape(len(array), array.type.content.size)
    lists = ak.fill_none(array, [], axis=0)
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum(ak.to_numpy(ak.num(lists)), out=offsets[1:])
    return Jagged(offsets, _numbers(ak.flatten(lists)))


def _numbers(array: Any) -> np.ndarray:
    """Return (n,) numbers; those that are missing become NaN, or False."""
    import awkward as ak

    numbers = ak.to_numpy(array)
    if numbers.dtype.kind not in "biuf":
        raise ConfigError(f"values of type {array.type} are no numbers")
    if not isinstance(numbers, np.ma.MaskedArray):
        return np.asarray(numbers)
    if numbers.dtype.kind == "b":
        return numbers.filled(False)
    return np.ma.filled(numbers.astype(np.float64), np.nan)
