"""What an expression may call: its functions by name, and what its operators are made of.

    FUNCTIONS["max"].call(jets)                  # the largest of each list, NaN where a list is empty
    numeric(np.add)(jets, met)                   # what `jets + met` means

NaN means "there is no such value": comparisons with it are False, `!=` included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlaas4hep.reader.arithmetic import Unfit, Value, dtype_of, elementwise, fold, lists, number, truth


@dataclass(frozen=True, slots=True)
class Function:
    """One function that expressions may call.

    Attributes:
        call: takes and returns columns.
        arity: the numbers of arguments that it takes.
    """

    call: Callable[..., Value]
    arity: tuple[int, ...]


def numeric(function: Callable[..., Any]) -> Callable[..., Value]:
    """Make a function of columns of a NumPy function of numbers."""
    return lambda *values: elementwise(function, *map(number, values))


def logical(function: Callable[..., Any]) -> Callable[..., Value]:
    """Make a function of columns of a NumPy function of truths."""
    return lambda *values: elementwise(function, *map(truth, values))


def bitwise(function: Callable[..., Any]) -> Callable[..., Value]:
    """Make `&` or `|`: logical on two conditions, bit by bit on two whole numbers, and refused on a mixture."""

    def call(left: Value, right: Value) -> Value:
        kinds = {"i" if dtype_of(value).kind in "iu" else dtype_of(value).kind for value in (left, right)}
        if kinds == {"b"}:
            return elementwise(function, left, right)
        if kinds == {"i"}:
            return elementwise(lambda a, b: function(a.astype(np.int64), b.astype(np.int64)), left, right)
        raise Unfit("both sides must be conditions, or both whole numbers; compare the number with something")

    return call


def exclusive(left: Value, right: Value) -> Value:
    """Return where one of two conditions holds alone.

    Raises:
        Unfit: either is a number: `^` means a power to some and bits to others.
    """
    if {dtype_of(left).kind, dtype_of(right).kind} != {"b"}:
        raise Unfit("'^' is 'either, not both' of two conditions; a power is written **")
    return elementwise(np.logical_xor, left, right)


def divide(function: Callable[..., Any]) -> Callable[..., Value]:
    """Make `//` or `%`, in which a whole number divided by 0 is infinite or NaN as any other, and not 0."""

    def divided(left: Any, right: Any) -> Any:
        return function(left, right if np.all(right) else right * 1.0)

    return numeric(divided)


def differs(left: Any, right: Any) -> Any:
    """Return left != right, False where either is NaN."""
    return (left < right) | (left > right)


power = numeric(np.float_power)
"""base ** exponent in float64, where whole numbers neither wrap around nor refuse negative exponents."""


def _sum(value: Value) -> np.ndarray:
    return fold(np.add, lists(number(value), "sum"), 0)


def _mean(value: Value) -> np.ndarray:
    return np.asarray(_sum(value) / lists(value, "mean").counts)


def _extreme(name: str, function: np.ufunc) -> Callable[..., Value]:
    def call(*values: Value) -> Value:
        if len(values) == 2:
            return numeric(function)(*values)
        return fold(function, lists(elementwise(np.float64, values[0]), name), np.nan)

    return call


def holds_for_any(value: Value) -> np.ndarray:
    """Return whether a condition holds for a value of each list, bool (events,); False for an empty one."""
    return fold(np.logical_or, lists(truth(value), "any"), False)


def holds_for_all(value: Value) -> np.ndarray:
    """Return whether a condition holds for all values of each list, bool (events,); True for an empty one."""
    return fold(np.logical_and, lists(truth(value), "all"), True)


def _count(value: Value) -> np.ndarray:
    if dtype_of(value).kind == "b":
        raise Unfit("count counts values, whether or not they hold; sum counts conditions that hold")
    return lists(value, "count").counts


def _where(condition: Value, then: Value, otherwise: Value) -> Value:
    return elementwise(np.where, truth(condition), number(then), number(otherwise))


def _delta_phi(left: Any, right: Any) -> Any:
    """Return left - right, brought into [-pi, pi]."""
    return (left - right + np.pi) % (2 * np.pi) - np.pi


def _delta_r(eta: Any, phi: Any, other_eta: Any, other_phi: Any) -> Any:
    return np.hypot(eta - other_eta, _delta_phi(phi, other_phi))


_OF_ONE = (
    "absolute arccos arccosh arcsin arcsinh arctan arctanh cbrt ceil cos cosh exp exp2 expm1 fabs floor isfinite isinf "
    "isnan log log10 log1p log2 negative rint sign signbit sin sinh sqrt square tan tanh trunc"
)
_OF_TWO = "arctan2 copysign fmax fmin hypot maximum minimum"

_NAMED = (
    {name: Function(numeric(getattr(np, name)), (1,)) for name in _OF_ONE.split()}
    | {name: Function(numeric(getattr(np, name)), (2,)) for name in _OF_TWO.split()}
    | {
        "all": Function(holds_for_all, (1,)),
        "any": Function(holds_for_any, (1,)),
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
_OTHER_NAMES = {
    "abs": "absolute", "acos": "arccos", "acosh": "arccosh", "asin": "arcsin", "asinh": "arcsinh", "atan": "arctan",
    "atan2": "arctan2", "atanh": "arctanh", "len": "count", "neg": "negative", "pow": "power", "round": "rint",
}  # fmt: skip

FUNCTIONS: Mapping[str, Function] = _NAMED | {alias: _NAMED[name] for alias, name in _OTHER_NAMES.items()}
"""Every function that an expression may call, by name.

sum, count, min, max, mean, any and all of one argument make one number of a list: of an empty one 0, 0, NaN, NaN, NaN,
False and True. min and max of two arguments take the smaller or larger, number by number. erf and erfc call Python for
each number; all others are NumPy's.
"""
