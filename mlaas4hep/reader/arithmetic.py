"""Arithmetic on columns without a loop over events: on one number an event, and on lists of any length.

    elementwise(np.add, Jagged(np.array([0, 2, 3]), pt), met)    # an event's met is added to each of its values
    fold(np.add, jets, empty=0)                                  # the sum of each list

Values are what `load` makes of columns: bool, int64 or float64. NaN means "there is no such value". What the functions
are called in an expression, and which there are, is in `functions`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from mlaas4hep.io import Jagged

Value: TypeAlias = "np.ndarray | Jagged"
"""One number an event (events,), a constant (), or a list an event."""


class Unfit(ValueError):
    """A function cannot be applied to these values; the message says why, without saying where."""


def load(column: np.ndarray | Jagged) -> Value:
    """Return a column in the types that expressions calculate in: bool, int64 and float64, as C++ and Python do.

    So a float32 is compared with 0.1 and not with the float32 nearest to it, and unsigned counts can be subtracted.
    A fixed-size column (events, size) becomes lists of `size`. Only unsigned integers from 2^63 on stay uint64.

    Raises:
        Unfit: the column holds no numbers.
    """
    if isinstance(column, Jagged):
        return Jagged(column.offsets, _widen(column.content))
    if column.ndim > 1:
        size = math.prod(column.shape[1:])
        return Jagged(np.arange(len(column) + 1) * size, _widen(column.reshape(-1)))
    return _widen(column)


def elementwise(function: Callable[..., Any], *values: Value) -> Value:
    """Apply a NumPy function number by number; one number an event stands for each value of that event's list.

    Raises:
        Unfit: the lists of an event differ in length.
    """
    jagged = [value for value in values if isinstance(value, Jagged)]
    if not jagged:
        return np.asarray(function(*values))
    _check_same_lengths(*jagged)
    counts = jagged[0].counts
    return Jagged(jagged[0].offsets, np.asarray(function(*(_spread(value, counts) for value in values))))


def fold(function: np.ufunc, value: Jagged, empty: float) -> np.ndarray:
    """Combine the values of each list by a function of two; lists without any give `empty`.

    Returns:
        (events,), of the type of the values.
    """
    filled = value.counts > 0
    result = np.full(len(value), empty, value.content.dtype)
    if filled.any():
        result[filled] = function.reduceat(value.content, value.offsets[:-1][filled])
    return result


def pick(value: Value, index: int) -> np.ndarray:
    """Return one value of each list, counted from the end where `index` is negative.

    Returns:
        float64 (events,), NaN where a list is too short; of conditions bool (events,), False there.

    Raises:
        Unfit: there is one number an event, not a list.
    """
    jagged = lists(value, "an index")
    there = (jagged.counts > index) if index >= 0 else (jagged.counts >= -index)
    edge = jagged.offsets[:-1] if index >= 0 else jagged.offsets[1:]
    condition = jagged.content.dtype.kind == "b"
    result = np.zeros(len(jagged), bool) if condition else np.full(len(jagged), np.nan)
    result[there] = jagged.content[edge[there] + index]
    return result


def cut_out(value: Value, start: int | None, stop: int | None) -> Jagged:
    """Return start:stop of each list, with Python's meaning of both.

    Raises:
        Unfit: there is one number an event, not a list.
    """
    jagged = lists(value, "a slice")
    counts = jagged.counts
    begin = _edge(0 if start is None else start, counts)
    end = counts if stop is None else _edge(stop, counts)
    position = np.arange(len(jagged.content)) - np.repeat(jagged.offsets[:-1], counts)
    return _keep(jagged, (position >= np.repeat(begin, counts)) & (position < np.repeat(end, counts)))


def where_true(value: Value, condition: Value) -> Jagged:
    """Return the values of each list for which the condition, a list of the same length, holds.

    Raises:
        Unfit: either is no list, the lengths differ, or the condition is a number.
    """
    jagged, chosen = lists(value, "a condition in brackets"), lists(truth(condition), "a condition in brackets")
    _check_same_lengths(jagged, chosen)
    return _keep(jagged, chosen.content)


def truth(value: Value) -> Value:
    """Return a condition as bool; whole numbers are true where they are not 0.

    Raises:
        Unfit: these are numbers with a fraction, which nobody means as a condition.
    """
    kind = dtype_of(value).kind
    if kind == "f":
        raise Unfit("a number is no condition; compare it with something")
    return value if kind == "b" else elementwise(lambda numbers: numbers != 0, value)


def number(value: Value) -> Value:
    """Return conditions as 0 and 1, so that they can be added; numbers stay."""
    return elementwise(lambda numbers: numbers.astype(np.int64), value) if dtype_of(value).kind == "b" else value


def lists(value: Value, what: str) -> Jagged:
    """Return lists as they are.

    Args:
        what: wants them, for the message.

    Raises:
        Unfit: there is one number an event.
    """
    if not isinstance(value, Jagged):
        raise Unfit(f"{what} needs a list an event, and this is one number an event")
    return value


def dtype_of(value: Value) -> np.dtype[Any]:
    """Return the type of one number."""
    return value.content.dtype if isinstance(value, Jagged) else value.dtype


def _widen(numbers: np.ndarray) -> np.ndarray:
    kind = numbers.dtype.kind
    if kind == "f":
        return numbers.astype(np.float64, copy=False)
    if kind == "u" and numbers.size and numbers.max() > np.iinfo(np.int64).max:
        return numbers.astype(np.uint64, copy=False)
    if kind in "iu":
        return numbers.astype(np.int64, copy=False)
    if kind == "b":
        return numbers
    raise Unfit(f"a column of type {numbers.dtype} holds no numbers")


def _check_same_lengths(first: Jagged, *others: Jagged) -> None:
    for other in others:
        if other.offsets is not first.offsets and not np.array_equal(other.offsets, first.offsets):
            raise Unfit("the lists of an event differ in length")


def _spread(value: Value, counts: np.ndarray) -> np.ndarray:
    if isinstance(value, Jagged):
        return value.content
    return np.repeat(value, counts) if value.ndim else value


def _edge(index: int, counts: np.ndarray) -> np.ndarray:
    return np.asarray(np.minimum(index, counts) if index >= 0 else np.maximum(counts + index, 0))


def _keep(jagged: Jagged, kept: np.ndarray) -> Jagged:
    before = np.zeros(len(kept) + 1, np.int64)
    np.cumsum(kept, out=before[1:])
    return Jagged(before[jagged.offsets], jagged.content[kept])
