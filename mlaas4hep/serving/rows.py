"""Rows: what a client asks, as the matrix that a model takes.

    request = parse_request(b'{"keys": ["MET_pt", "Muon_pt"], "values": [32.1, [25.0, 11.2]], "model": "htautau"}')
    matrix = columns.place(request)              # float32 (1, features), NaN where nothing was measured

A model that was trained here knows the names of its columns (`Columns`): keys may come in any order, as columns
(`Muon_pt_0`) or as branches with a list (`Muon_pt`). For any other model, values go in as they are, as TFaaS does it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from mlaas4hep.errors import ConfigError, nearest

Matrix = NDArray[np.float32]
LARGEST = float(np.nextafter(float(np.finfo(np.float32).max) + 2.0**103, 0))
"""What is no larger is a finite number in 32 bits, to which it is rounded."""

_LONGEST_SHOWN = 60  # characters of what a client sent that are said back
_EXAMPLE = 'as in {"keys": ["MET_pt"], "values": [32.1], "model": "name"}'


_TEXTS = frozenset({str})
_MISSING = type(None)
_NUMBERS = frozenset({int, float, _MISSING})
_MOST_PLANS = 64  # orders of keys that a model remembers


class Span(NamedTuple):
    """The columns of one key; `is_list` where its value is a list."""

    first: int
    width: int
    is_list: bool


class _Plan(NamedTuple):
    """Where the values of a row go: those that are numbers, and those that are lists; `in_order`: as they come."""

    spans: Sequence[Span]
    numbers: Sequence[int]
    columns: NDArray[np.intp]
    lists: Sequence[tuple[int, str, Span]]
    in_order: bool


class Request(NamedTuple):
    """What a prediction is asked for: keys may be empty; values are one row, or a list of rows."""

    keys: list[str]
    values: list[Any]
    model: str


class Rows(NamedTuple):
    """The matrix of a request, float32 (n, features); `many` where the request had a list of rows."""

    matrix: Matrix
    many: bool


def read_object(text: bytes | bytearray | memoryview, example: str) -> dict[str, Any]:
    """Read the JSON object of a request; `example` is told to who sends something else.

    Raises:
        ConfigError: it is none.
    """
    try:
        content = orjson.loads(text)
    except ValueError as error:
        raise ConfigError(f"the request is not JSON (NaN is none either: write null): {error}", hint=example) from error
    if not isinstance(content, dict):
        raise ConfigError("the request is no JSON object", hint=example)
    return content


def parse_request(body: bytes | bytearray) -> Request:
    """Read the JSON of a prediction.

    Raises:
        ConfigError: it is none, or has keys, values or a model of another type.
    """
    content = read_object(body, _EXAMPLE)
    keys, values, model = content.get("keys") or [], content.get("values"), content.get("model") or ""
    if not isinstance(keys, list) or not _TEXTS.issuperset(map(type, keys)):
        raise ConfigError("'keys' must be a list of names", hint=_EXAMPLE)
    if not isinstance(values, list) or not values:
        raise ConfigError("'values' must be a list of numbers, or a list of such lists", hint=_EXAMPLE)
    if not isinstance(model, str):
        raise ConfigError("'model' must be a name", hint=_EXAMPLE)
    return Request(keys, values, model)


def plain_rows(request: Request, features: int | None) -> Rows:
    """Make the matrix of values that are columns already, in the model's order.

    Args:
        request: its keys are not looked at.
        features: how many columns the model takes; None where it does not say.

    Raises:
        ConfigError: values are no numbers, or too many or too few.
    """
    many = all(isinstance(value, list) for value in request.values)
    rows = request.values if many else [request.values]
    width = len(rows[0]) if features is None else features
    for number, row in enumerate(rows):
        if len(row) != width:
            where = f"row {number} has" if many else "there are"
            raise ConfigError(f"the model takes {width} values, and {where} {len(row)}")
    numbers = [_numbers(row, "values") for row in rows]
    return Rows(np.stack(numbers) if many else numbers[0][None], many)


class Columns:
    """The columns of a model's matrix and the branches that they come from.

    Args:
        names: the names of the columns, in order.
        branches: branch -> (first column, width, "flat", "fixed" or "jagged").

    Attributes:
        names, branches: the same.
    """

    def __init__(self, names: Sequence[str], branches: Mapping[str, Sequence[Any]]) -> None:
        self.names = list(names)
        self._spans = {name: Span(index, 1, False) for index, name in enumerate(names)}
        for branch, (first, width, kind) in branches.items():
            if kind != "flat":
                self._spans[branch] = Span(int(first), int(width), True)
        self.branches = {
            branch: (int(first), int(width), str(kind)) for branch, (first, width, kind) in branches.items()
        }
        self._plans: dict[tuple[str, ...], _Plan] = {}

    def place(self, request: Request) -> Rows:
        """Put the values of a request where its keys say.

        Raises:
            ConfigError: keys are unknown, missing or there twice, or values do not fit them.
        """
        if not request.keys:
            return plain_rows(request, len(self.names))
        plan = self._plan(tuple(request.keys))
        if plan.in_order and type(request.values[0]) is not list and len(request.values) == len(plan.spans):
            return Rows(_numbers(request.values, "values", request.keys)[None], many=False)
        many = all(isinstance(value, list) for value in request.values) and not _is_one_row(plan.spans, request.values)
        rows = request.values if many else [request.values]
        matrix = np.full((len(rows), len(self.names)), np.nan, np.float32)
        for number, row in enumerate(rows):
            if len(row) != len(plan.spans):
                where = f"in row {number}" if many else "for them"
                raise ConfigError(f"there are {len(plan.spans)} keys, and {len(row)} values {where}")
            _fill(matrix[number], request.keys, plan, row)
        return Rows(matrix, many)

    def _plan(self, keys: tuple[str, ...]) -> _Plan:
        plan = self._plans.get(keys)
        if plan is None:
            spans = self._spans_of(keys)
            numbers = [place for place, span in enumerate(spans) if not span.is_list]
            columns = np.array([spans[place].first for place in numbers], np.intp)
            lists = [(place, keys[place], span) for place, span in enumerate(spans) if span.is_list]
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            in_order = columns.tolist() == list(range(len(self.names)))
            plan = self._plans[keys] = _Plan(spans, numbers, columns, lists, in_order)
        return plan

    def _spans_of(self, keys: Sequence[str]) -> list[Span]:
        unknown = [key for key in keys if key not in self._spans]
        if unknown:
            close = [name for key in unknown[:3] for name in nearest(key[:_LONGEST_SHOWN], self._spans, count=2)]
            raise ConfigError(f"the model does not know {_some(unknown, 'key')}", nearest=dict.fromkeys(close))
        spans = [self._spans[key] for key in keys]
        seen: set[int] = set()
        for key, span in zip(keys, spans, strict=True):
            own = range(span.first, span.first + span.width)
            if not seen.isdisjoint(own):
                raise ConfigError(f"the key '{key}' gives a column that another key gives already")
            seen.update(own)
        if len(seen) < len(self.names):
            raise ConfigError(f"the request lacks {_some(self._missing(seen), 'key')}", hint="null: not measured")
        return spans

    def _missing(self, seen: set[int]) -> list[str]:
        """Return the names of the columns that are not in `seen`, or of their branch where all of it is not."""
        columns = set(range(len(self.names))) - seen
        missing = []
        for branch, (first, width, _) in self.branches.items():
            own = set(range(first, first + width))
            if width > 0 and own <= columns:
                missing.append(branch)
                columns -= own
        return missing + [self.names[column] for column in sorted(columns)]


def _is_one_row(spans: Sequence[Span], values: Sequence[list[Any]]) -> bool:
    """Say whether a list of lists is one event whose every branch is a list, rather than many events."""
    return all(span.is_list for span in spans) and not any(isinstance(part, list) for value in values for part in value)


def _fill(target: Matrix, keys: Sequence[str], plan: _Plan, row: Sequence[Any]) -> None:
    if plan.lists:
        numbers = _numbers([row[place] for place in plan.numbers], "values", [keys[place] for place in plan.numbers])
    else:
        numbers = _numbers(row, "values", keys)
    target[plan.columns] = numbers
    for place, key, (first, width, _) in plan.lists:
        value = row[place]
        if value is not None:
            if not isinstance(value, list):
                raise ConfigError(f"the value of '{key}' must be a list of numbers, and is {shown(value)}")
            numbers = _numbers(value, f"'{key}'")[:width]
            target[first : first + len(numbers)] = numbers


def _numbers(values: Sequence[Any], where: str, keys: Sequence[str] = ()) -> Matrix:
    """Return numbers as float32, None as NaN.

    Raises:
        ConfigError: one is something else, or not finite in 32 bits.
    """
    kinds = set(map(type, values))
    if not kinds <= _NUMBERS:
        raise _refusal(values, where, keys)
    known = [value for value in values if value is not None] if _MISSING in kinds else values
    if known and (max(known) > LARGEST or min(known) < -LARGEST):
        raise _refusal(values, where, keys)
    return np.array(values, dtype=np.float32)


def _refusal(values: Sequence[Any], where: str, keys: Sequence[str]) -> ConfigError:
    for index, value in enumerate(values):
        place = f"the value of '{keys[index]}'" if keys else f"number {index} of {where}"
        if value is not None and type(value) not in (int, float):
            return ConfigError(f"{place} must be a number, or null where nothing was measured, and is {shown(value)}")
        if value is not None and not abs(value) <= LARGEST:
            return ConfigError(f"{place} is too large for 32 bits: {shown(value)}")
    return ConfigError(f"{where} must be numbers")


def shown(value: Any) -> str:
    """Return the beginning of what a client sent; what is behind it is not looked at, be it long or deep."""
    text = ""
    for part in json.JSONEncoder().iterencode(value):
        text += part
        if len(text) > _LONGEST_SHOWN:
            return f"{text[:_LONGEST_SHOWN]}..."
    return text


def _some(names: Sequence[str], noun: str) -> str:
    """Return up to five names, and how many there are: "the key 'a'", "7 keys: 'a', 'b', 'c', 'd', 'e', ..."."""
    quoted = ", ".join(f"'{name[:_LONGEST_SHOWN]}'" for name in names[:5])
    return (
        f"the {noun} {quoted}" if len(names) == 1 else f"{len(names)} {noun}s: {quoted}{', ...' if names[5:] else ''}"
    )
