"""Sums without rounding errors, which are the same for every order and grouping of the values.

    exact_sum(np.array([1e16, 1.0, -1e16], np.float64)) == UNIT      # exactly 1

Every float64 is an integer multiple of 2^-1074, so a sum of float64 values is an integer number of these units, which a
Python integer can hold. NumPy does the work: each step extracts the leading bits of every value, few enough that
their float64 sum is exact, adds them up, and repeats this with the remainders until these are zero (Rump, Ogita, Oishi,
Accurate floating-point summation, SIAM J. Sci. Comput. 31, 189, 2008).
"""

from __future__ import annotations

import math

import numpy as np

UNIT = 1 << 1074
"""The number 1 in units of 2^-1074."""

_SPLITTER = float(2**27 + 1)
"""Dekker's constant, which splits a float64 into two halves of 26 bits."""


def exact_sum(values: np.ndarray) -> int:
    """Return the sum of the values, converted to float64, in units of 2^-1074; they must lie within float32's range."""
    return _sum(values.astype(np.float64))


def exact_sum_of_squares(values: np.ndarray) -> int:
    """Return the sum of the squares of finite values below 2^500, in units of 2^-1074.

    A square with more bits than a float64 is represented as the sum of two float64 (Dekker, Numer. Math. 18, 224,
    1971). Bits below 2^-1074 are rounded for each value separately, so the result does not depend on the grouping.
    """
    x = values.astype(np.float64)
    squares = x * x
    if values.dtype.itemsize <= 2 or values.dtype == np.float32:
        return _sum(squares)  # at most 48 bits: exact
    scaled = _SPLITTER * x
    high = scaled - (scaled - x)
    low = x - high
    return _sum(squares) + _sum(((high * high - squares) + 2 * high * low) + low * low)


def _sum(remainders: np.ndarray) -> int:
    total = 0
    largest = float(np.abs(remainders).max(initial=0.0))
    while largest:
        _, exponent = math.frexp(largest)
        sigma = math.ldexp(1.0, exponent + (len(remainders) + 2).bit_length())
        leading = (sigma + remainders) - sigma
        total += _to_units(float(leading.sum()))
        remainders = remainders - leading
        largest = float(np.abs(remainders).max())
    return total


def _to_units(value: float) -> int:
    numerator, denominator = value.as_integer_ratio()
    return numerator * (UNIT // denominator)
