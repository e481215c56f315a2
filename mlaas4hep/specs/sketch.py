"""Approximate quantiles from a histogram whose bin edges are the same for all data.

    quantiles(fill(values), [0.16, 0.5, 0.84], values.min(), values.max())

The bin of a value is given by the first 12 bits of its float32 representation: the sign, the exponent and three bits of
the mantissa, which makes eight bins per factor of two. Histograms can be added exactly in any order. The error of a
quantile is at most 1/8 of its value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

_SHIFT = 20
_SIGN = 1 << (31 - _SHIFT)

BINS = 1 << (32 - _SHIFT)
"""Number of bins."""


def fill(values: np.ndarray) -> dict[int, int]:
    """Return the number of values in each non-empty bin, by bin index; `values` are finite, of any dtype and shape."""
    with np.errstate(over="ignore"):  # values beyond float32's range go to the bin of infinity
        patterns = values.astype(np.float32).reshape(-1).view(np.uint32)
    return non_empty(np.bincount(patterns >> _SHIFT))


def non_empty(counts: np.ndarray) -> dict[int, int]:
    """Return the counts that are not 0, by index."""
    keys = np.flatnonzero(counts)
    return dict(zip(keys.tolist(), counts[keys].tolist(), strict=True))


def edges(bins: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the lower edges, upper edges and counts (float64, float64, int64), sorted by rising edge."""
    keys = np.fromiter(bins, np.int64, len(bins))
    counts = np.fromiter(bins.values(), np.int64, len(bins))
    order = np.argsort(_LOW[keys], kind="stable")
    keys = keys[order]
    return _LOW[keys], _HIGH[keys], counts[order]


def quantiles(
    bins: Mapping[int, int], probabilities: Iterable[float], minimum: float | None, maximum: float | None
) -> np.ndarray:
    """Return the quantiles of a histogram with counts by bin index; none exceeds the extremes of the values.

    Returns:
        float64 (probabilities,), interpolated linearly within a bin; NaN if the histogram is empty.
    """
    probability = np.asarray(list(probabilities), np.float64)
    if not bins or minimum is None or maximum is None:
        return np.full(probability.shape, np.nan)
    low, high, counts = edges(bins)
    low, high = np.clip(low, minimum, maximum), np.clip(high, minimum, maximum)
    ends = np.cumsum(counts)
    rank = probability * ends[-1]
    index = np.minimum(np.searchsorted(ends, rank), len(ends) - 1)
    fraction = np.clip((rank - (ends[index] - counts[index])) / counts[index], 0.0, 1.0)
    return np.asarray(low[index] + fraction * (high[index] - low[index]))


def _all_edges() -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and the upper edge of every bin, float64 (BINS,) each."""
    patterns = np.arange(_SIGN + 1, dtype=np.uint32) << np.uint32(_SHIFT)
    with np.errstate(invalid="ignore"):
        magnitudes = patterns.view(np.float32).astype(np.float64)
    inner, outer = magnitudes[:-1], magnitudes[1:]
    outer = np.where(np.isnan(outer) | (np.arange(_SIGN) == _SIGN - 1), np.inf, outer)
    return np.concatenate([inner, -outer]), np.concatenate([outer, -inner])


_LOW, _HIGH = _all_edges()
