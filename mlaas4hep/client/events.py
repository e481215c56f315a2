"""The events that a client sends: {"keys": [...], "values": [...]}, one event or many.

    events = read_events("input.json")
    events.keys, events.rows

`values` is one row, or a list of rows. `null` (and NaN in Python) stands for a value that is missing. "labels", the
true class of each row, stays with the client. Files of other formats are read by `event_file`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlaas4hep.errors import ConfigError, nearest
from mlaas4hep.input_files import read_json

_KEYS = ("keys", "values", "model", "labels")

_ROWS = 2_000
_VALUES = 400_000
"""Some 8 MB of JSON, and 20 MB as lists of Python."""


@dataclass(frozen=True)
class Events:
    """Rows of values.

    Attributes:
        keys: the names of the values of a row; may be empty.
        rows: a list of values an event: numbers, None where nothing was measured, or lists of these.
        many: whether they came as a list of rows, be it of one.
        model: the model that they are for; may be empty.
        labels: the true class of each row; may be empty.
        first: the number of the first row in what it was read from.
    """

    keys: list[str]
    rows: list[list[Any]]
    many: bool
    model: str = ""
    labels: Sequence[Any] = ()
    first: int = 0


def rows_at_once(width: int) -> int:
    """Return how many rows of `width` values are made, and sent, at a time."""
    return max(1, min(_ROWS, _VALUES // max(1, width)))


def cut(events: Events) -> Iterator[Events]:
    """Yield many events in order, as many at a time as are sent; labels stay behind."""
    step = rows_at_once(len(events.rows[0]))
    for first in range(0, len(events.rows), step):
        yield replace(events, rows=events.rows[first : first + step], labels=(), first=first)


def read_events(path: str | os.PathLike[str]) -> Events:
    """Read events from a JSON file.

    Raises:
        FileUnreadable: there is no such file.
        ConfigError: it holds no events.
    """
    return parse_events(read_json(path), str(path))


def parse_events(content: Any, where: str = "the event") -> Events:
    """Check events that are a dict already; lists may be arrays.

    Raises:
        ConfigError: a key is unknown or missing, or rows, keys and labels do not fit each other.
    """
    if not isinstance(content, Mapping):
        raise ConfigError(f'{where} is no JSON object, as in {{"keys": ["MET_pt"], "values": [32.1]}}')
    for key in content:
        if key not in _KEYS:
            known = "known keys: " + ", ".join(_KEYS)
            raise ConfigError(f"{where} has an unknown key '{key}'", nearest=nearest(str(key), _KEYS), hint=known)
    keys, model = _plain(content.get("keys") or [], where), content.get("model") or ""
    values, labels = _plain(content.get("values"), where), _plain(content.get("labels") or [], where)
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{where} has no 'values', which is a list of numbers or a list of such lists")
    if not isinstance(model, str) or not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ConfigError(f"'keys' of {where} must be a list of names, and 'model' a name")
    many = all(isinstance(value, list) for value in values)
    events = Events(keys, values if many else [values], many, model, labels)
    _check_lengths(events, where)
    return events


def _check_lengths(events: Events, where: str) -> None:
    for number, row in enumerate(events.rows):
        if events.keys and len(row) != len(events.keys):
            row_name = f"row {number} of {where}" if events.many else where
            hint = "one event whose every value is a list is written as a list of one row" if events.many else ""
            raise ConfigError(f"{row_name} has {len(row)} values for {len(events.keys)} keys", hint=hint)
    if events.labels and len(events.labels) != len(events.rows):
        raise ConfigError(f"{where} has {len(events.labels)} labels for {len(events.rows)} events")


def _plain(value: Any, where: str) -> Any:
    """Turn arrays into lists, and NaN into None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(part, where) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value):
            return None
        raise ConfigError(f"{where} has an infinite value, which JSON cannot say")
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise ConfigError(f"{where} has {value!r}, which JSON cannot say")
    return value
