"""Validation of the numbers in specs.json, which may come from an untrusted source.

    BranchSpecs(**branch_fields({"kind": "flat", "dim": 1, "count": 2, ...}))

Every function raises a ValueError or TypeError if a number is invalid. Numbers that contradict each other are invalid
too: they would cause overflows, or exhaust the memory, later.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from mlaas4hep.io import Kind
from mlaas4hep.specs.exact import UNIT
from mlaas4hep.specs.sketch import BINS

MAX_WIDTH = 1_000_000
"""Largest number of columns that specs read from a file may describe."""

_LARGEST_EXTREME = int(np.finfo(np.float32).max)
_LARGEST_COUNT = 2**62  # the sum of two such counts fits into int64
_SUM = re.compile(r"-?[0-9]{1,1000}(/[0-9]{1,1000})?")
_ROUNDING = Fraction(2**40 + 1, 2**40)  # sums are of values rounded to float64, extremes may be exact integers


def branch_fields(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `BranchSpecs` from the entry of a branch in specs.json."""
    kind, dim, count = Kind(content["kind"]), parse_count(content["dim"]), parse_count(content["count"])
    nan, inf = parse_count(content["nan"]), parse_count(content["inf"])
    low, high = parse_extreme(content["min"]), parse_extreme(content["max"])
    total, squares = _parse_sum(content["total"]), _parse_sum(content["squares"])
    bins = {parse_count(key): parse_count(number) for key, number in content["bins"]}
    inner = parse_count(content.get("inner", 1))
    _require(kind is not Kind.OTHER and (dim == 1 or kind is not Kind.FLAT) and (inner == 1 or kind is Kind.NESTED))
    _require((low is None) is (high is None) is (count == 0) and (low is None or high is None or low <= high))
    _require(len(bins) == len(content["bins"]) and max(bins, default=0) < BINS)
    _require(0 not in bins.values() and sum(bins.values()) == count)
    bound = _ROUNDING * Fraction(max(abs(low or 0), abs(high or 0)))
    _require(abs(total) <= count * (bound * UNIT + 1) and 0 <= squares <= count * (bound**2 * UNIT + 1))
    return {
        "kind": kind, "dim": dim, "count": count, "nan": nan, "inf": inf,
        "minimum": low, "maximum": high, "total": total, "squares": squares, "bins": bins, "inner": inner,
    }  # fmt: skip


def file_fields(content: Mapping[str, Any]) -> tuple[str, str, int, int]:
    """Return the arguments of `Provenance` from the entry of a file in specs.json."""
    name, identity = content["name"], content["identity"]
    _require(isinstance(name, str) and isinstance(identity, str))
    return name, identity, parse_count(content["entries"]), parse_count(content["passed"])


def check_width(dims: Iterable[int]) -> None:
    """Check the total number of columns of all branches."""
    _require(sum(dims) <= MAX_WIDTH)


def parse_names(content: Any) -> tuple[str, ...]:
    """Return a list of names as a sorted tuple."""
    _require(isinstance(content, list) and all(isinstance(name, str) for name in content))
    return tuple(sorted(set(content)))


def parse_count(value: Any) -> int:
    """Return a value that must be a non-negative integer."""
    _require(type(value) is int and 0 <= value <= _LARGEST_COUNT)
    return int(value)


def parse_extreme(value: Any) -> int | float | None:
    """Return a minimum or maximum, which may be None."""
    _require(value is None or (type(value) in (int, float) and abs(value) <= _LARGEST_EXTREME))  # False for NaN
    number: int | float | None = value
    return number


def _parse_sum(text: Any) -> int:
    """Return an exact sum in units of 2^-1074; exponents are rejected, since 1e999999999 would exhaust the memory."""
    _require(isinstance(text, str) and _SUM.fullmatch(text) is not None)
    units = Fraction(text) * UNIT
    _require(units.denominator == 1)
    return units.numerator


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError
