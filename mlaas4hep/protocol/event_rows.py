"""Values of columns as the numbers and lists that JSON has, and back.

    to_lists(Jagged(np.array([0, 2, 2]), pt))           # [[41.5, 12.0], []]
    from_lists([[41.5, 12], []], InputType("jagged", "f"), "Jet_pt")

NaN becomes None, which JSON writes as null. JSON has no infinity; the largest float32 replaces it, which models of
`workflow.py` treat in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np

from mlaas4hep.errors import ConfigError
from mlaas4hep.io import Jagged, Nested
from mlaas4hep.io.columns import Column, Kind, Values, offsets_of

_MAX_FLOAT32 = float(np.finfo(np.float32).max)
_SHOWN = 60  # characters of a value in an error message
_INTEGERS = 2**63  # beyond the largest int64


class InputType(NamedTuple):
    """The type of a branch that expressions use.

    Attributes:
        kind: "flat", or "jagged" for a list per event.
        number: "b" for bool, "i" for integers, "f" for real numbers.
    """

    kind: str
    number: str

    @classmethod
    def of(cls, column: Column) -> InputType:
        """Return the type of a column in expressions, where arrays and lists of lists are lists."""
        number = column.dtype.kind
        return cls("flat" if column.kind is Kind.FLAT else "jagged", "i" if number == "u" else number)


KINDS, NUMBERS = ("flat", "jagged"), ("b", "i", "f")
"""Possible values of the attributes of `InputType`."""


def to_lists(values: Values, indices: tuple[int, ...] = ()) -> list[Any]:
    """Return the value of each event: a number, None or a list.

    Args:
        indices: element of the lists to return instead, None if a list is shorter; two indices are an element of a list
            of lists, which are one list otherwise.
    """
    if isinstance(values, np.ndarray):
        if values.ndim == 1:
            return _numbers(values)
        if indices:
            return _numbers(values[:, indices[0]]) if indices[0] < values.shape[1] else [None] * len(values)
        return [_numbers(row) for row in values]
    if isinstance(values, Nested) and len(indices) < 2:
        values = values.flattened
    items = to_lists(values.lists, indices[1:]) if isinstance(values, Nested) else _numbers(values.content)
    edges = list(pairwise(values.offsets.tolist()))
    if not indices:
        return [items[begin:end] for begin, end in edges]
    return [items[begin + indices[0]] if begin + indices[0] < end else None for begin, end in edges]


def _numbers(values: np.ndarray) -> list[Any]:
    if values.dtype.kind == "b":
        return list(values.astype(np.int8).tolist())
    if values.dtype.kind != "f":
        return list(values.tolist())
    numbers = np.clip(values.astype(np.float64), -_MAX_FLOAT32, _MAX_FLOAT32).tolist()
    return [None if number != number else number for number in numbers]  # NaN differs from itself


def from_lists(values: Sequence[Any], of: InputType, name: str) -> np.ndarray | Jagged:
    """Return the values of a branch for some events; see `to_lists`.

    Args:
        values: numbers and None; or lists of these, where None is an empty list.
        name: name of the branch, for errors.

    Raises:
        ConfigError: a value has another type.
    """
    if of.kind == "flat":
        return _array(values, of.number, f"the value of '{name}' must be a number")
    lists = [[] if value is None else value for value in values]
    for value in lists:
        if not isinstance(value, list):
            raise _unexpected(f"the value of '{name}' must be a list of numbers", value)
    content = _array(list(chain.from_iterable(lists)), of.number, f"the values of '{name}' must be numbers")
    return Jagged(offsets_of(np.array([len(value) for value in lists], np.int64)), content)


def _array(values: Sequence[Any], number: str, expected: str) -> np.ndarray:
    """Return numbers in the type that expressions use; integers and bools with missing values become float64."""
    for value in values:
        if value is not None and type(value) not in (int, float, bool):
            raise _unexpected(expected, value)
    if number != "f" and all(_is_int64(value) for value in values):
        return np.array([int(value) for value in values], np.int64).astype(bool if number == "b" else np.int64)
    try:
        return np.array([np.nan if value is None else value for value in values], np.float64)
    except OverflowError as error:  # an integer of more than 308 digits
        raise ConfigError(f"{expected} in the range of float64") from error


def _is_int64(value: float | None) -> bool:
    return value is not None and -_INTEGERS <= value < _INTEGERS and value == int(value)


def _unexpected(expected: str, value: Any) -> ConfigError:
    shown = str(value) if isinstance(value, str) else type(value).__name__ + "s" * isinstance(value, list)
    return ConfigError(f"{expected}, or null for a missing value, not {shown[:_SHOWN]!r}")
