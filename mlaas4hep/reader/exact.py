"""Sums without rounding, so that adding up parts gives the same whatever the parts are.

    exact_sum(np.array([1e16, 1.0, -1e16], np.float64)) == UNIT      # exactly 1

Every float64 is a whole multiple of 2^-1074, so a sum of them is a whole number of such units, which Python's integers
hold. The work is done by NumPy: from the values one takes the leading bits that a float64 sum of so many of them can
hold without rounding, adds these up, and goes on with what is left until nothing is (Rump, Ogita, Oishi, Accurate
floating-point summation, SIAM J. Sci. Comput. 31, 189, 2008).
"""

from __future__ import annotations

import math

import numpy as np

UNIT = 1 << 1074
"""How many units make 1."""

_SPLIT = float(2**27 + 1)


def exact_sum(values: np.ndarray) -> int:
    """Return the sum of finite numbers, as float64 knows them, in units of 2^-1074; none may be beyond float32."""
    return _sum(values.astype(np.float64))


def exact_sum_of_squares(values: np.ndarray) -> int:
    """Return the sum of the squares of finite numbers below 2^500, in units of 2^-1074.

    A square that is longer than a float64 is taken as the sum of two (Dekker, Numer. Math. 18, 224, 1971); what of it
    lies below 2^-1074 is rounded for each value by itself, and so the same in every part.
    """
    x = values.astype(np.float64)
    squares = x * x
    if values.dtype.itemsize <= 2 or values.dtype == np.float32:
        return _sum(squares)  # at most 48 bits: exact
    scaled = _SPLIT * x
    high = scaled - (scaled - x)
    low = x - high
    return _sum(squares) + _sum(((high * high - squares) + 2 * high * low) + low * low)


def _sum(rest: np.ndarray) -> int:
    total = 0
    largest = float(np.abs(rest).max(initial=0.0))
    while largest:
        _, exponent = math.frexp(largest)
        sigma = math.ldexp(1.0, exponent + (len(rest) + 2).bit_length())
        leading = (sigma + rest) - sigma
        total += _units(float(leading.sum()))
        rest = rest - leading
        largest = float(np.abs(rest).max())
    return total


def _units(value: float) -> int:
    numerator, denominator = value.as_integer_ratio()
    return numerator * (UNIT // denominator)
