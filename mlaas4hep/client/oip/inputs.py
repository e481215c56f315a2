"""The inputs of models of the Open Inference Protocol, and the arrays that fill them.

    inputs = model_inputs(metadata, "htautau")
    input_arrays(["MET_pt", "Jet_pt"], [[31.2, [64.0]]], inputs, column_names, "htautau")

A model with one input takes the values of an event in the order of its columns. A model with several inputs takes the
values with the name of the input, or those in order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlaas4hep.client.failures import MAX_REASON_LENGTH
from mlaas4hep.errors import ConfigError, nearest
from mlaas4hep.protocol.oip_datatypes import DATATYPES, REAL_DATATYPES

DEFAULT_INPUT: dict[str, Any] = {"name": "inputs", "datatype": "FP32", "shape": [-1, -1]}
"""The input of models of `workflow.py`; assumed if a server does not describe the inputs of a model."""

_NUMBER_TYPES = {int, float, bool, type(None)}

Row = Sequence[Any]


class ModelInput(NamedTuple):
    """An input of a model.

    Attributes:
        width: values per event; -1: any number.
        is_flat: whether its shape is (events,), not (events, width).
    """

    name: str
    datatype: str
    width: int
    is_flat: bool


def model_inputs(metadata: Mapping[str, Any], model: str) -> list[ModelInput]:
    """Return the inputs in the metadata of a model.

    Raises:
        ConfigError: an input is not a table of numbers.
    """
    inputs = metadata.get("inputs") or [DEFAULT_INPUT]
    try:
        return [_model_input(one) for one in inputs]
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"model '{model}' has the inputs {json.dumps(inputs)[:MAX_REASON_LENGTH]}",
            hint="only inputs of numbers of shape (events, values) or (events,) are supported",
        ) from error


def _model_input(described: Mapping[str, Any]) -> ModelInput:
    datatype, (_, *widths) = described["datatype"], described["shape"]
    if datatype not in DATATYPES or len(widths) > 1:
        raise ValueError(datatype)
    return ModelInput(str(described["name"]), str(datatype), int(widths[0]) if widths else 1, not widths)


def input_arrays(
    keys: Sequence[str], rows: Sequence[Row], inputs: Sequence[ModelInput], columns: Sequence[str], model: str
) -> list[np.ndarray]:
    """Return the array of each input, (events, width) or (events,).

    Args:
        keys: names of the values of a row; may be empty.
        columns: names of the columns of a model with one input; may be empty.

    Raises:
        ConfigError: the rows do not match the inputs.
    """
    what = f"model '{model}'"
    if len(inputs) == 1:
        names, ordered = (columns, _in_order(keys, rows, columns)) if keys and columns else (keys, rows)
        return [_array(names, ordered, inputs[0], what)]
    parts = _by_name(keys, rows, inputs) if keys else _by_position(rows, inputs, model)
    named = zip(parts, inputs, strict=True)
    return [_array((), part, one, f"input '{one.name}' of {what}") for part, one in named]


def _in_order(keys: Sequence[str], rows: Sequence[Row], columns: Sequence[str]) -> list[Row]:
    """Return the values of each row in the order of the model's columns."""
    indices = {key: index for index, key in enumerate(keys)}
    positions = [_position(column, indices) for column in columns]
    _check_used(keys, {position for position, _ in positions}, columns)
    return [[_element(row[position], element) for position, element in positions] for row in rows]


def _check_used(keys: Sequence[str], used: set[int], names: Sequence[str]) -> None:
    for index, key in enumerate(keys):
        if index not in used:
            raise ConfigError(f"the model has no input '{key}'", nearest=nearest(key, names))


def _position(key: str, indices: Mapping[str, int]) -> tuple[int, int | None]:
    """Return where the value of a model's key is in a row, and its index in the list if that value is a list."""
    if key in indices:
        return indices[key], None
    branch, _, element = key.rpartition("_")
    if branch in indices and element.isdecimal():
        return indices[branch], int(element)
    similar = nearest(key, indices)
    raise ConfigError(f"the events lack the key '{key}'", nearest=similar, hint="use null for a missing value")


def _element(value: Any, element: int | None) -> Any:
    if element is None or value is None:
        return value
    if not isinstance(value, list):
        raise ConfigError(f"expected a list, not {json.dumps(value)[:60]}")
    return value[element] if element < len(value) else None


def _by_name(keys: Sequence[str], rows: Sequence[Row], inputs: Sequence[ModelInput]) -> list[list[Row]]:
    """Return the values of each input: those of the key with its name, or of the keys NAME_0, NAME_1, ..."""
    indices = {key: index for index, key in enumerate(keys)}
    used: set[int] = set()
    parts: list[list[Row]] = []
    for one in inputs:
        if one.name in indices:
            index = indices[one.name]
            used.add(index)
            parts.append([row[index] if isinstance(row[index], list) else [row[index]] for row in rows])
            continue
        count = 0
        while f"{one.name}_{count}" in indices:
            count += 1
        if not count:
            raise ConfigError(f"the events lack the key '{one.name}'", nearest=nearest(one.name, keys))
        positions = [indices[f"{one.name}_{number}"] for number in range(count)]
        used.update(positions)
        parts.append([[row[position] for position in positions] for row in rows])
    _check_used(keys, used, [one.name for one in inputs])
    return parts


def _by_position(rows: Sequence[Row], inputs: Sequence[ModelInput], model: str) -> list[list[Row]]:
    """Return the values of each input, in the order of the inputs."""
    if any(one.width < 0 for one in inputs):
        names = ", ".join(f"'{one.name}'" for one in inputs)
        raise ConfigError(f"model '{model}' has several inputs of any width: {names}", hint="give them by 'keys'")
    total = sum(one.width for one in inputs)
    for row in rows:
        if len(row) != total:
            raise ConfigError(f"model '{model}' takes {total} values per event, not {len(row)}")
    ends = np.cumsum([one.width for one in inputs]).tolist()
    return [[row[end - one.width : end] for row in rows] for end, one in zip(ends, inputs, strict=True)]


def _array(names: Sequence[str], rows: Sequence[Row], one: ModelInput, what: str) -> np.ndarray:
    """Return the values of an input; `names` are those of its columns, and `what` names it in errors."""
    if len({len(row) for row in rows}) > 1:
        raise ConfigError("the events have different numbers of values")
    for row in rows:
        if not {type(value) for value in row} <= _NUMBER_TYPES:
            raise _not_a_number(names, row)
    width = len(rows[0])
    if one.width not in (-1, width):
        raise ConfigError(f"{what} takes {one.width} values per event, not {width}")
    values = [value for row in rows for value in row]
    numbers = _real(values, one) if one.datatype in REAL_DATATYPES else _integers(values, one)
    return numbers if one.is_flat else numbers.reshape(len(rows), width)


def _real(values: Row, one: ModelInput) -> np.ndarray:
    try:
        numbers = np.array([math.nan if value is None else value for value in values], np.float64)
    except OverflowError as error:  # an integer of more than 308 digits
        raise ConfigError("a value of an event is too large") from error
    with np.errstate(over="ignore"):  # values that are too large become infinite
        return numbers.astype(DATATYPES[one.datatype])


def _integers(values: Row, one: ModelInput) -> np.ndarray:
    dtype = np.dtype(DATATYPES[one.datatype])
    low, high = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    for value in values:
        if value is None or not low <= value <= high or value != int(value):
            raise ConfigError(
                f"input '{one.name}' takes {one.datatype} from {low} to {high}, not {json.dumps(value)[:60]}",
                hint="integers have no missing values" if value is None else "",
            )
    return np.array([int(value) for value in values], dtype)


def _not_a_number(names: Sequence[str], row: Row) -> ConfigError:
    index, value = next((index, value) for index, value in enumerate(row) if type(value) not in _NUMBER_TYPES)
    where = f"the value of '{names[index]}'" if names else f"value {index}"
    hint = "name elements of lists, as in Muon_pt_0" if isinstance(value, list) else ""
    return ConfigError(f"{where} must be a number, not {json.dumps(value)[:60]}", hint=hint)
