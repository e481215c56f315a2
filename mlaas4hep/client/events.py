"""The events that a client sends: {"keys": [...], "values": [...]}.

    events = read_events("input.json")
    events.keys, events.rows

"values" is one row or a list of rows. null (NaN in Python) stands for a missing value. "labels", the true class of each
row, is not sent to the server. `event_file` reads files of other formats.
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

_MAX_ROWS = 2_000
_MAX_VALUES = 400_000
"""About 8 MB of JSON, or 20 MB as Python lists."""


@dataclass(frozen=True)
class Events:
    """Rows of values.

    Attributes:
        keys: names of the values of a row; may be empty.
        rows: the values of each event: numbers, None for a missing value, or lists of these.
        is_batch: whether the input was a list of rows, possibly with a single row.
        model: name of the model to use; may be empty.
        labels: true class of each row; may be empty.
        first: index of the first event in the input.
        passing: with cuts: for each row, its index among the `count` events; the other events fail the cuts.
        count: with cuts: number of events in the input from `first` on that these rows belong to; 0 without cuts.
    """

    keys: list[str]
    rows: list[list[Any]]
    is_batch: bool
    model: str = ""
    labels: Sequence[Any] = ()
    first: int = 0
    passing: Sequence[int] = ()
    count: int = 0

    @property
    def num_events(self) -> int:
        """Number of events, including those that fail the cuts."""
        return self.count or len(self.rows)

    def index(self, row: int) -> int:
        """Return the index in the input of the event of a row."""
        return self.first + (self.passing[row] if self.count else row)


def rows_per_request(width: int) -> int:
    """Return the maximum number of rows per request, for rows of `width` values."""
    return max(1, min(_MAX_ROWS, _MAX_VALUES // max(1, width)))


def split_events(events: Events) -> Iterator[Events]:
    """Yield the events of each request, in order, without labels."""
    step = rows_per_request(len(events.rows[0]))
    for first in range(0, len(events.rows), step):
        yield replace(events, rows=events.rows[first : first + step], labels=(), first=first)


def read_events(path: str | os.PathLike[str]) -> Events:
    """Read events from a JSON file.

    Raises:
        FileUnreadable: the file does not exist or cannot be read.
        ConfigError: its content is invalid, see `parse_events`.
    """
    return parse_events(read_json(path), str(path))


def parse_events(content: Any, where: str = "the event") -> Events:
    """Check events in a dict and return them; lists may be arrays.

    Raises:
        ConfigError: a key is unknown or missing, a value is invalid, or rows, keys and labels have different lengths.
    """
    if not isinstance(content, Mapping):
        raise ConfigError(f'{where} is not a JSON object, as in {{"keys": ["MET_pt"], "values": [32.1]}}')
    for key in content:
        if key not in _KEYS:
            known = "known keys: " + ", ".join(_KEYS)
            raise ConfigError(f"{where} has an unknown key '{key}'", nearest=nearest(str(key), _KEYS), hint=known)
    keys, model = _to_json(content.get("keys") or [], where), content.get("model") or ""
    values, labels = _to_json(content.get("values"), where), _to_json(content.get("labels") or [], where)
    if not isinstance(values, list) or not values:
        raise ConfigError(f"'values' of {where} must be a list of numbers, or a list of lists of numbers")
    if not isinstance(model, str) or not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ConfigError(f"'keys' of {where} must be a list of names, and 'model' a name")
    if not isinstance(labels, list):
        raise ConfigError(f"'labels' of {where} must be a list, one label per event")
    is_batch = all(isinstance(value, list) for value in values)
    events = Events(keys, values if is_batch else [values], is_batch, model, labels)
    _check_lengths(events, where)
    return events


def _check_lengths(events: Events, where: str) -> None:
    for number, row in enumerate(events.rows):
        if events.keys and len(row) != len(events.keys):
            row_name = f"row {number} of {where}" if events.is_batch else where
            hint = "if it is one event whose values are lists, put it into a list of one row" if events.is_batch else ""
            raise ConfigError(f"{row_name} has {len(row)} values for {len(events.keys)} keys", hint=hint)
    if events.labels and len(events.labels) != len(events.rows):
        raise ConfigError(f"{where} has {len(events.labels)} labels for {len(events.rows)} events")


def _to_json(value: Any, where: str) -> Any:
    """Convert arrays to lists, and NaN to None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_to_json(part, where) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value):
            return None
        raise ConfigError(f"{where} has an infinite value, which JSON does not support")
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise ConfigError(f"{where} has the value {value!r}, which JSON does not support")
    return value
