"""Quantiles of any number of values from counts in bins that are the same for all data.

    quantiles(fill(values), [0.16, 0.5, 0.84], values.min(), values.max())

The bin of a value is the first 12 bits of its float32 pattern: sign, exponent and three bits of the mantissa, that is,
eight bins to an octave. Counts add up exactly whatever the order, and a quantile is known to an eighth of its value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

_SHIFT = 20
_SIGN = 1 << (31 - _SHIFT)

BINS = 1 << (32 - _SHIFT)
"""How many bins there are."""


def fill(values: np.ndarray) -> dict[int, int]:
    """Count finite numbers of any dtype and shape by bin."""
    with np.errstate(over="ignore"):  # beyond float32's range: the bin of infinity
        patterns = values.astype(np.float32).reshape(-1).view(np.uint32)
    counts = np.bincount(patterns >> _SHIFT)
    keys = np.flatnonzero(counts)
    return dict(zip(keys.tolist(), counts[keys].tolist(), strict=True))


def edges(bins: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return lower edge, upper edge and count of each bin, float64, float64 and int64, by rising value."""
    keys = np.fromiter(bins, np.int64, len(bins))
    counts = np.fromiter(bins.values(), np.int64, len(bins))
    order = np.argsort(_LOW[keys], kind="stable")
    keys = keys[order]
    return _LOW[keys], _HIGH[keys], counts[order]


def quantiles(
    bins: Mapping[int, int], probabilities: Iterable[float], minimum: float | None, maximum: float | None
) -> np.ndarray:
    """Return quantiles, float64, linear within a bin, never outside the extremes; NaN where nothing was counted."""
    wanted = np.asarray(list(probabilities), np.float64)
    if not bins or minimum is None or maximum is None:
        return np.full(wanted.shape, np.nan)
    low, high, counts = edges(bins)
    low, high = np.clip(low, minimum, maximum), np.clip(high, minimum, maximum)
    ends = np.cumsum(counts)
    rank = wanted * ends[-1]
    index = np.minimum(np.searchsorted(ends, rank), len(ends) - 1)
    share = np.clip((rank - (ends[index] - counts[index])) / counts[index], 0.0, 1.0)
    return np.asarray(low[index] + share * (high[index] - low[index]))


def _all_edges() -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper edge of every bin, float64."""
    magnitude = np.arange(_SIGN + 1, dtype=np.uint32) << np.uint32(_SHIFT)
    with np.errstate(invalid="ignore"):
        sizes = magnitude.view(np.float32).astype(np.float64)
    near, far = sizes[:-1], np.where(np.isnan(sizes[1:]) | (np.arange(_SIGN) == _SIGN - 1), np.inf, sizes[1:])
    return np.concatenate([near, -far]), np.concatenate([far, -near])


_LOW, _HIGH = _all_edges()
