"""Vectorised arithmetic on columns with one number or one list per event.

    elementwise(np.add, Jagged(np.array([0, 2, 3]), pt), met)    # adds the met of an event to each of its pt
    reduce_lists(np.add, jets, empty=0)                          # the sum of each list

Values are bool, int64 or float64, see `promote`. NaN means "no value". `functions` lists the functions that
expressions may call.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from mlaas4hep.io import Jagged, Nested
from mlaas4hep.io.columns import Values, equal_offsets, offsets_of, positions_in

Value: TypeAlias = "np.ndarray | Jagged"
"""One number per event (events,), a constant (), or one list per event."""


class ExpressionTypeError(ValueError):
    """A function cannot be applied to the given values; the message gives the reason, but not the position."""


def promote(column: Values) -> Value:
    """Convert a column to the type that expressions compute in: bool, int64 or float64, as in C++ and Python.

    So float32 values are compared with 0.1, not with the float32 nearest to 0.1, and differences of unsigned integers
    can be negative. A fixed-size column (events, size) becomes lists of length `size`. Columns with integers
    of 2^63 or more stay uint64.

    Raises:
        ExpressionTypeError: the column is not numeric, or has lists of lists.
    """
    if isinstance(column, Nested):
        raise ExpressionTypeError(
            "this branch has lists of lists (expressions support them only with nested=flatten, as one list per event)"
        )
    if isinstance(column, Jagged):
        return Jagged(column.offsets, _promote_numbers(column.content))
    if column.ndim > 1:
        size = math.prod(column.shape[1:])
        return Jagged(equal_offsets(len(column), size), _promote_numbers(column.reshape(-1)))
    return _promote_numbers(column)


def elementwise(function: Callable[..., Any], *values: Value) -> Value:
    """Apply a NumPy function element by element; if any value is a list, single numbers are broadcast to its length.

    Raise ExpressionTypeError if the lists of an event differ in length.
    """
    jagged = [value for value in values if isinstance(value, Jagged)]
    if not jagged:
        return np.asarray(function(*values))
    _check_same_lengths(*jagged)
    counts = jagged[0].counts
    return Jagged(jagged[0].offsets, np.asarray(function(*(_broadcast(value, counts) for value in values))))


def reduce_lists(function: np.ufunc, value: Jagged, empty: float) -> np.ndarray:
    """Reduce each list to one number by a binary function; `empty` is the result for empty lists.

    Returns:
        (events,), with the dtype of the values.
    """
    filled = value.counts > 0
    result = np.full(len(value), empty, value.content.dtype)
    if filled.any():
        result[filled] = function.reduceat(value.content, value.offsets[:-1][filled])
    return result


def take(value: Value, index: int) -> np.ndarray:
    """Return the element at `index` of each list; a negative index counts from the end.

    Returns:
        float64 (events,), NaN where the list is too short; for conditions bool (events,), False there.

    Raises:
        ExpressionTypeError: the value is not a list.
    """
    jagged = require_lists(value, "an index")
    exists = (jagged.counts > index) if index >= 0 else (jagged.counts >= -index)
    edge = jagged.offsets[:-1] if index >= 0 else jagged.offsets[1:]
    is_condition = jagged.content.dtype.kind == "b"
    result = np.zeros(len(jagged), bool) if is_condition else np.full(len(jagged), np.nan)
    result[exists] = jagged.content[edge[exists] + index]
    return result


def slice_lists(value: Value, start: int | None, stop: int | None) -> Jagged:
    """Return the slice start:stop of each list, with the same meaning as in Python; see `require_lists`."""
    jagged = require_lists(value, "a slice")
    counts = jagged.counts
    begin = _clip_index(0 if start is None else start, counts)
    end = counts if stop is None else _clip_index(stop, counts)
    position = positions_in(jagged.offsets)
    return _select(jagged, (position >= np.repeat(begin, counts)) & (position < np.repeat(end, counts)))


def filter_lists(value: Value, condition: Value) -> Jagged:
    """Return the elements of each list for which the condition, a list of the same length, is true.

    Raises:
        ExpressionTypeError: an argument is not a list, the lengths differ, or the condition is a number.
    """
    jagged = require_lists(value, "a condition in brackets")
    selected = require_lists(as_condition(condition), "a condition in brackets")
    _check_same_lengths(jagged, selected)
    return _select(jagged, selected.content)


def as_condition(value: Value) -> Value:
    """Return a condition as bool; integers are true if they are not 0.

    Raises:
        ExpressionTypeError: the value has a floating-point type, which is likely to be a mistake.
    """
    kind = dtype_of(value).kind
    if kind == "f":
        raise ExpressionTypeError("a number is not a condition; compare it with something")
    return value if kind == "b" else elementwise(lambda numbers: numbers != 0, value)


def as_number(value: Value) -> Value:
    """Return conditions as 0 and 1, so that they can be added, and numbers unchanged."""
    return elementwise(lambda numbers: numbers.astype(np.int64), value) if dtype_of(value).kind == "b" else value


def require_lists(value: Value, operation: str) -> Jagged:
    """Return the value; raise ExpressionTypeError if it does not have one list per event, as `operation` needs."""
    if not isinstance(value, Jagged):
        raise ExpressionTypeError(f"{operation} needs a list per event, but this is one number per event")
    return value


def dtype_of(value: Value) -> np.dtype[Any]:
    """Return the dtype of the numbers."""
    return value.content.dtype if isinstance(value, Jagged) else value.dtype


def _promote_numbers(numbers: np.ndarray) -> np.ndarray:
    kind = numbers.dtype.kind
    if kind == "f":
        return numbers.astype(np.float64, copy=False)
    if kind == "u" and numbers.size and numbers.max() > np.iinfo(np.int64).max:
        return numbers.astype(np.uint64, copy=False)
    if kind in "iu":
        return numbers.astype(np.int64, copy=False)
    if kind == "b":
        return numbers
    raise ExpressionTypeError(f"a column of type {numbers.dtype} is not numeric")


def _check_same_lengths(first: Jagged, *others: Jagged) -> None:
    for other in others:
        if other.offsets is not first.offsets and not np.array_equal(other.offsets, first.offsets):
            raise ExpressionTypeError("the lists of an event differ in length")


def _broadcast(value: Value, counts: np.ndarray) -> np.ndarray:
    if isinstance(value, Jagged):
        return value.content
    return np.repeat(value, counts) if value.ndim else value


def _clip_index(index: int, counts: np.ndarray) -> np.ndarray:
    return np.asarray(np.minimum(index, counts) if index >= 0 else np.maximum(counts + index, 0))


def _select(jagged: Jagged, selected: np.ndarray) -> Jagged:
    return Jagged(offsets_of(selected)[jagged.offsets], jagged.content[selected])
