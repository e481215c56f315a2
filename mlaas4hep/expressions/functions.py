"""The functions and operators of expressions.

    FUNCTIONS["max"].call(jets)                  # the maximum of each list, NaN if the list is empty
    numeric(np.add)(jets, met)                   # jets + met

NaN means "no value": comparisons with it are False, including `!=`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlaas4hep.expressions.arithmetic import (
    ExpressionTypeError,
    Value,
    as_condition,
    as_number,
    dtype_of,
    elementwise,
    reduce_lists,
    require_lists,
)


@dataclass(frozen=True, slots=True)
class Function:
    """A function that expressions may call.

    Attributes:
        call: the implementation, which takes and returns columns.
        arity: the possible numbers of arguments.
    """

    call: Callable[..., Value]
    arity: tuple[int, ...]


def numeric(function: Callable[..., Any]) -> Callable[..., Value]:
    """Return a function of columns that applies a NumPy function to numbers."""
    return lambda *values: elementwise(function, *map(as_number, values))


def logical(function: Callable[..., Any]) -> Callable[..., Value]:
    """Return a function of columns that applies a NumPy function to conditions."""
    return lambda *values: elementwise(function, *map(as_condition, values))


def bitwise(function: Callable[..., Any]) -> Callable[..., Value]:
    """Return `&` or `|`: logical for two conditions, bitwise for two integers, and an error for one of each."""

    def call(left: Value, right: Value) -> Value:
        kinds = {"i" if dtype_of(value).kind in "iu" else dtype_of(value).kind for value in (left, right)}
        if kinds == {"b"}:
            return elementwise(function, left, right)
        if kinds == {"i"}:
            return elementwise(lambda a, b: function(a.astype(np.int64), b.astype(np.int64)), left, right)
        raise ExpressionTypeError(
            "both sides must be conditions, or both must be integers; compare the number with something"
        )

    return call


def exclusive_or(left: Value, right: Value) -> Value:
    """Return whether exactly one of two conditions is true.

    Raises:
        ExpressionTypeError: a value is a number, for which `^` could mean a power or a bitwise xor.
    """
    if {dtype_of(left).kind, dtype_of(right).kind} != {"b"}:
        raise ExpressionTypeError("'^' is the exclusive or of two conditions; write ** for a power")
    return elementwise(np.logical_xor, left, right)


def divide(function: Callable[..., Any]) -> Callable[..., Value]:
    """Return `//` or `%`; an integer divided by 0 gives infinity or NaN, like a float, instead of 0."""

    def divide_safely(left: Any, right: Any) -> Any:
        return function(left, right if np.all(right) else right * 1.0)

    return numeric(divide_safely)


def not_equal(left: Any, right: Any) -> Any:
    """Return left != right, False where either is NaN."""
    return (left < right) | (left > right)


power = numeric(np.float_power)
"""base ** exponent in float64, so that integers do not overflow and may have negative exponents."""


def _sum(value: Value) -> np.ndarray:
    return reduce_lists(np.add, require_lists(as_number(value), "sum"), 0)


def _mean(value: Value) -> np.ndarray:
    return np.asarray(_sum(value) / require_lists(value, "mean").counts)


def _extreme(name: str, function: np.ufunc) -> Callable[..., Value]:
    def call(*values: Value) -> Value:
        if len(values) == 2:
            return numeric(function)(*values)
        return reduce_lists(function, require_lists(elementwise(np.float64, values[0]), name), np.nan)

    return call


def any_of_list(value: Value) -> np.ndarray:
    """Return whether a condition is true for any element of each list, bool (events,); False for empty lists."""
    return reduce_lists(np.logical_or, require_lists(as_condition(value), "any"), False)


def all_of_list(value: Value) -> np.ndarray:
    """Return whether a condition is true for all elements of each list, bool (events,); True for empty lists."""
    return reduce_lists(np.logical_and, require_lists(as_condition(value), "all"), True)


def _count(value: Value) -> np.ndarray:
    if dtype_of(value).kind == "b":
        raise ExpressionTypeError("count includes conditions that are false; use sum to count those that are true")
    return require_lists(value, "count").counts


def _where(condition: Value, then: Value, otherwise: Value) -> Value:
    return elementwise(np.where, as_condition(condition), as_number(then), as_number(otherwise))


def _delta_phi(left: Any, right: Any) -> Any:
    """Return left - right, wrapped to [-pi, pi]."""
    return (left - right + np.pi) % (2 * np.pi) - np.pi


def _delta_r(eta: Any, phi: Any, other_eta: Any, other_phi: Any) -> Any:
    return np.hypot(eta - other_eta, _delta_phi(phi, other_phi))


_UNARY = (
    "absolute arccos arccosh arcsin arcsinh arctan arctanh cbrt ceil cos cosh exp exp2 expm1 fabs floor isfinite isinf "
    "isnan log log10 log1p log2 negative rint sign signbit sin sinh sqrt square tan tanh trunc"
)
_BINARY = "arctan2 copysign fmax fmin hypot maximum minimum"

_FUNCTIONS = (
    {name: Function(numeric(getattr(np, name)), (1,)) for name in _UNARY.split()}
    | {name: Function(numeric(getattr(np, name)), (2,)) for name in _BINARY.split()}
    | {
        "all": Function(all_of_list, (1,)),
        "any": Function(any_of_list, (1,)),
        "count": Function(_count, (1,)),
        "deltaphi": Function(numeric(_delta_phi), (2,)),
        "deltar": Function(numeric(_delta_r), (4,)),
        "erf": Function(numeric(np.vectorize(math.erf, otypes=[np.float64])), (1,)),
        "erfc": Function(numeric(np.vectorize(math.erfc, otypes=[np.float64])), (1,)),
        "logical_and": Function(logical(np.logical_and), (2,)),
        "logical_not": Function(logical(np.logical_not), (1,)),
        "logical_or": Function(logical(np.logical_or), (2,)),
        "max": Function(_extreme("max", np.maximum), (1, 2)),
        "mean": Function(_mean, (1,)),
        "min": Function(_extreme("min", np.minimum), (1, 2)),
        "power": Function(power, (2,)),
        "sum": Function(_sum, (1,)),
        "where": Function(_where, (3,)),
    }
)
_ALIASES = {
    "abs": "absolute", "acos": "arccos", "acosh": "arccosh", "asin": "arcsin", "asinh": "arcsinh", "atan": "arctan",
    "atan2": "arctan2", "atanh": "arctanh", "len": "count", "neg": "negative", "pow": "power", "round": "rint",
}  # fmt: skip

FUNCTIONS: Mapping[str, Function] = _FUNCTIONS | {alias: _FUNCTIONS[name] for alias, name in _ALIASES.items()}
"""The functions that expressions may call, by name.

With one argument, sum, count, min, max, mean, any and all reduce each list to one value; for an empty list this is 0,
0, NaN, NaN, NaN, False and True. With two arguments, min and max are elementwise. erf and erfc call Python for each
number; all others are NumPy functions.
"""
