"""Prediction requests in JSON, and their conversion to the input matrix of a model.

    request = parse_request(b'{"keys": ["MET_pt", "Muon_pt"], "values": [32.1, [25.0, 11.2]], "model": "htautau"}')
    matrix = columns.rows(request).matrix        # float32 (1, features), NaN for missing values

Models written by `mlaas4hep.training` name their columns (`Columns`): keys may then come in any order, as columns
(`Muon_pt_0`) or as branches with a list (`Muon_pt`). For other models, values are passed on in the given order, as in
TFaaS.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from mlaas4hep.errors import ConfigError, nearest

Matrix = NDArray[np.float32]
LARGEST = float(np.nextafter(float(np.finfo(np.float32).max) + 2.0**103, 0))
"""The largest float64 that is rounded to a finite float32."""

_LONGEST_SHOWN = 60  # characters of a value in an error message
_EXAMPLE = 'as in {"keys": ["MET_pt"], "values": [32.1], "model": "name"}'
_TEXTS = frozenset({str})
_MISSING = type(None)
_NUMBERS = frozenset({int, float, _MISSING})
_CACHED_MAPPINGS = 64  # orders of keys, per model


class Span(NamedTuple):
    """The columns of one key; `is_list` if its value is a list."""

    first: int
    width: int
    is_list: bool


class _KeyMapping(NamedTuple):
    """The columns of the values in a row, for one order of keys.

    Attributes:
        spans: the span of each key.
        numbers: indices of the values that are numbers.
        columns: column of each of these numbers.
        lists: index, key and span of each value that is a list.
        in_order: whether the numbers are all columns of the model, in order.
    """

    spans: Sequence[Span]
    numbers: Sequence[int]
    columns: NDArray[np.intp]
    lists: Sequence[tuple[int, str, Span]]
    in_order: bool


class Request(NamedTuple):
    """A prediction request. `keys` may be empty; `values` is one row, or a list of rows."""

    keys: list[str]
    values: list[Any]
    model: str


class Rows(NamedTuple):
    """The rows of a request.

    Attributes:
        matrix: float32 (n, features), without the events that fail the cuts of the model.
        many: whether the request had a list of rows.
        kept: bool (events,), False for the events that fail the cuts; None if no cuts were applied.
    """

    matrix: Matrix
    many: bool
    kept: NDArray[np.bool_] | None = None


def read_object(
    text: bytes | bytearray | memoryview, example: str, parse: Callable[[Any], Any] = orjson.loads
) -> dict[str, Any]:
    """Parse the JSON object of a request.

    Args:
        example: the hint in errors.
        parse: returns the content of a text; raises ValueError or RecursionError.

    Raises:
        ConfigError: the text is not a JSON object.
    """
    try:
        content = parse(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the request is not valid JSON (use null instead of NaN): {error}", hint=example) from error
    if not isinstance(content, dict):
        raise ConfigError("the request is not a JSON object", hint=example)
    return content


def parse_request(body: bytes | bytearray) -> Request:
    """Parse the JSON of a prediction request.

    Raises:
        ConfigError: the JSON is invalid, or keys, values or model have the wrong type.
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
    """Return the matrix of values that are given in the order of the model's columns.

    Args:
        request: its keys are ignored.
        features: number of columns that the model takes; None if it does not define it.

    Raises:
        ConfigError: a value is not a number, or a row has the wrong length.
    """
    many = all(isinstance(value, list) for value in request.values)
    rows = request.values if many else [request.values]
    width = len(rows[0]) if features is None else features
    for number, row in enumerate(rows):
        if len(row) != width:
            where = f"row {number}" if many else "the request"
            raise ConfigError(f"the model takes {width} values, but {where} has {len(row)}")
    numbers = [_numbers(row, "values") for row in rows]
    return Rows(np.stack(numbers) if many else numbers[0][None], many)


class Columns:
    """The columns of a model's matrix and the branches that they come from.

    Args:
        names: the names of the columns, in order.
        branches: branch -> (first column, number of columns, "flat", "fixed" or "jagged").

    Attributes:
        names, branches: the same.
    """

    def __init__(self, names: Sequence[str], branches: Mapping[str, Sequence[Any]]) -> None:
        self.names = list(names)
        self._spans = {name: Span(index, 1, False) for index, name in enumerate(names)}
        self.branches: dict[str, tuple[int, int, str]] = {}
        for branch, (first, width, kind) in branches.items():
            self.branches[branch] = int(first), int(width), str(kind)
            if kind != "flat":
                self._spans[branch] = Span(int(first), int(width), True)
        self._mappings: dict[tuple[str, ...], _KeyMapping] = {}

    def span(self, key: str) -> Span | None:
        """Return the columns of a key; None if it is unknown."""
        return self._spans.get(key)

    def rows(self, request: Request) -> Rows:
        """Return the matrix of a request, with the values in the columns of their keys.

        Raises:
            ConfigError: keys are unknown, missing or repeated, or values do not fit them.
        """
        if not request.keys:
            return plain_rows(request, len(self.names))
        mapping = self._mapping_of(tuple(request.keys))
        if mapping.in_order and type(request.values[0]) is not list and len(request.values) == len(mapping.spans):
            return Rows(_numbers(request.values, "values", request.keys)[None], many=False)
        rows, many = split_rows(request, all(span.is_list for span in mapping.spans))
        return Rows(self.matrix(request.keys, rows), many)

    def matrix(self, keys: Sequence[str], rows: Sequence[Sequence[Any]]) -> Matrix:
        """Return the matrix of rows, which have one value per key; see `rows`."""
        mapping = self._mapping_of(tuple(keys))
        matrix = np.full((len(rows), len(self.names)), np.nan, np.float32)
        for number, row in enumerate(rows):
            _fill(matrix[number], keys, mapping, row)
        return matrix

    def _mapping_of(self, keys: tuple[str, ...]) -> _KeyMapping:
        mapping = self._mappings.get(keys)
        if mapping is None:
            spans = self._spans_of(keys)
            numbers = [index for index, span in enumerate(spans) if not span.is_list]
            columns = np.array([spans[index].first for index in numbers], np.intp)
            lists = [(index, keys[index], span) for index, span in enumerate(spans) if span.is_list]
            if len(self._mappings) >= _CACHED_MAPPINGS:
                self._mappings.clear()
            in_order = not lists and columns.tolist() == list(range(len(self.names)))
            mapping = self._mappings[keys] = _KeyMapping(spans, numbers, columns, lists, in_order)
        return mapping

    def _spans_of(self, keys: Sequence[str]) -> list[Span]:
        unknown = [key for key in keys if key not in self._spans]
        if unknown:
            similar = [name for key in unknown[:3] for name in nearest(key[:_LONGEST_SHOWN], self._spans, count=2)]
            raise ConfigError(_some(unknown, "unknown key"), nearest=dict.fromkeys(similar))
        spans = [self._spans[key] for key in keys]
        seen: set[int] = set()
        for key, span in zip(keys, spans, strict=True):
            own = range(span.first, span.first + span.width)
            if not seen.isdisjoint(own):
                raise ConfigError(f"the key '{key}' repeats a column of another key")
            seen.update(own)
        if len(seen) < len(self.names):
            raise ConfigError(_some(self._missing(seen), "missing key"), hint="use null for a missing value")
        return spans

    def _missing(self, seen: set[int]) -> list[str]:
        """Return the names of the columns that are not in `seen`; of a branch without any, its own name."""
        columns = set(range(len(self.names))) - seen
        missing = []
        for branch, (first, width, _) in self.branches.items():
            own = set(range(first, first + width))
            if width > 0 and own <= columns:
                missing.append(branch)
                columns -= own
        return missing + [self.names[column] for column in sorted(columns)]


def split_rows(request: Request, only_lists: bool) -> tuple[list[list[Any]], bool]:
    """Return the rows of a request, and whether it has a list of rows.

    Args:
        only_lists: whether all keys are branches with lists, so that a list of lists may be a single event.

    Raises:
        ConfigError: a row has another number of values than there are keys.
    """
    many = all(isinstance(value, list) for value in request.values)
    if many and only_lists and not any(isinstance(part, list) for value in request.values for part in value):
        many = False
    rows = request.values if many else [request.values]
    for number, row in enumerate(rows):
        if len(row) != len(request.keys):
            where = f"row {number}" if many else "the request"
            raise ConfigError(f"{where} has {len(row)} values for {len(request.keys)} keys")
    return rows, many


def _fill(target: Matrix, keys: Sequence[str], mapping: _KeyMapping, row: Sequence[Any]) -> None:
    if mapping.lists:
        indices = mapping.numbers
        numbers = _numbers([row[index] for index in indices], "values", [keys[index] for index in indices])
    else:
        numbers = _numbers(row, "values", keys)
    target[mapping.columns] = numbers
    for index, key, (first, width, _) in mapping.lists:
        value = row[index]
        if value is not None:
            if not isinstance(value, list):
                raise ConfigError(f"the value of '{key}' must be a list of numbers, not {shown(value)}")
            numbers = _numbers(value, f"'{key}'")[:width]
            target[first : first + len(numbers)] = numbers


def _numbers(values: Sequence[Any], where: str, keys: Sequence[str] = ()) -> Matrix:
    """Return numbers as float32, None as NaN."""
    kinds = set(map(type, values))
    if not kinds <= _NUMBERS:
        raise _refusal(values, where, keys)
    present = [value for value in values if value is not None] if _MISSING in kinds else values
    if present and (max(present) > LARGEST or min(present) < -LARGEST):
        raise _refusal(values, where, keys)
    return np.array(values, dtype=np.float32)


def _refusal(values: Sequence[Any], where: str, keys: Sequence[str]) -> ConfigError:
    for index, value in enumerate(values):
        item = f"the value of '{keys[index]}'" if keys else f"number {index} of {where}"
        if value is not None and type(value) not in (int, float):
            return ConfigError(f"{item} must be a number, or null for a missing value, not {shown(value)}")
        if value is not None and not abs(value) <= LARGEST:
            return ConfigError(f"{item} is out of range for float32: {shown(value)}")
    return ConfigError(f"{where} must be numbers")


def shown(value: Any) -> str:
    """Return the beginning of a value as JSON; the rest is not serialised, so long or deep values take no time."""
    text = ""
    for part in json.JSONEncoder().iterencode(value):
        text += part
        if len(text) > _LONGEST_SHOWN:
            return f"{text[:_LONGEST_SHOWN]}..."
    return text


def _some(names: Sequence[str], noun: str) -> str:
    """Return up to five names and their number: "unknown key 'a'", "7 unknown keys: 'a', 'b', 'c', 'd', 'e', ..."."""
    quoted = ", ".join(f"'{name[:_LONGEST_SHOWN]}'" for name in names[:5])
    return f"{noun} {quoted}" if len(names) == 1 else f"{len(names)} {noun}s: {quoted}{', ...' if names[5:] else ''}"
