"""The Open Inference Protocol v2, as Triton, KServe and our own server speak it.

    OpenInferenceDialect(connection).scores(["MET_pt"], [[32.1]], "htautau")     # [[0.123]]

Models that take one table of real numbers, (events, values), are asked; their first output of real numbers is the
answer. Tensors go as binary data where the server takes them so, else as JSON, in which null stands for NaN. Protocol:
github.com/kserve/open-inference-protocol; Triton's extensions binary_tensor_data and model_repository.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from mlaas4hep.client.connection import Connection
from mlaas4hep.client.dialect import Scores, keys_of, largest_scores, model_metadata
from mlaas4hep.client.failures import LONGEST_REASON, Refusal
from mlaas4hep.errors import ConfigError, nearest

_HEADER = "Inference-Header-Content-Length"
_REAL = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
_TYPES = {**_REAL, "BOOL": "?", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
          "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8"}  # fmt: skip

_NUMBERS = {int, float, bool, type(None)}


class _Table(NamedTuple):
    """The input of a model: (events, width), width -1 where any is taken; keys may be empty."""

    name: str
    datatype: str
    width: int
    keys: list[str]


class OpenInferenceDialect:
    """See `Dialect`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._binary: bool | None = None

    def models(self) -> list[dict[str, Any]]:
        """Return name, version, state and reason of all models."""
        path = "/v2/repository/index"
        models = self._connection.json("POST", path, {})
        if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
            raise self._connection.refusal("POST", path, "the answer is no list of models")
        return models

    def params(self, name: str) -> dict[str, Any]:
        """Return the metadata of one model."""
        return model_metadata(self._connection, name)

    def status(self) -> dict[str, Any]:
        """Return whether the server is ready, and its metadata."""
        metadata = self._server()
        try:
            self._connection.send("GET", "/v2/health/ready")
        except Refusal:
            return {"ready": False, **metadata}
        return {"ready": True, **metadata}

    def keys(self, model: str) -> list[str]:
        """See `Dialect`."""
        return keys_of(self.params(model))

    def takes_many(self) -> bool:
        """See `Dialect`."""
        return True

    def scores(self, keys: Sequence[str], rows: Sequence[Sequence[Any]], model: str) -> list[Scores]:
        """See `Dialect`.

        Raises:
            ConfigError: the model takes no such rows, or no tables.
        """
        if not model:
            raise ConfigError("the Open Inference Protocol has no default model", hint="name one: --model=NAME")
        metadata = self.params(model)  # each time: with another model of that name, columns may have another order
        table = _table_of(metadata, model)
        with np.errstate(over="ignore"):  # what is too large becomes infinite
            matrix = _matrix(keys, rows, table).astype(_REAL[table.datatype])
        if table.width not in (-1, matrix.shape[1]):
            raise ConfigError(f"model '{model}' takes {table.width} values, and there are {matrix.shape[1]}")
        path = f"/v2/models/{quote(model, safe='')}/infer"
        body, headers = _request(table, matrix, self._takes_binary())
        response = self._connection.send("POST", path, body, headers, largest=largest_scores(len(rows)))
        length = response.headers.get(_HEADER, "")
        size = int(length) if length.isdecimal() else len(response.content)
        answer = self._connection.parse("POST", path, response.content[:size])
        try:
            return _as_lists(_output(answer, response.content[size:], len(rows)))
        except (ValueError, LookupError, TypeError, OverflowError) as error:
            raise self._connection.refusal("POST", path, "the answer has no table with a row for each event") from error

    def _takes_binary(self) -> bool:
        if self._binary is None:
            extensions = self._server().get("extensions")
            self._binary = isinstance(extensions, list) and "binary_tensor_data" in extensions
        return self._binary

    def _server(self) -> dict[str, Any]:
        metadata = self._connection.json("GET", "/v2")
        if not isinstance(metadata, dict):
            raise self._connection.refusal("GET", "/v2", "the answer is no JSON object")
        return metadata


def _table_of(metadata: dict[str, Any], model: str) -> _Table:
    inputs = metadata.get("inputs")
    try:
        (only,) = inputs or []
        name, datatype, (_, width) = only["name"], only["datatype"], only["shape"]
        if datatype not in _REAL:
            raise ValueError(datatype)
        return _Table(str(name), str(datatype), int(width), keys_of(metadata))
    except (ValueError, LookupError, TypeError) as error:
        wanted = "only models with one input, a table of real numbers (events, values), can be asked"
        raise ConfigError(
            f"model '{model}' has the inputs {json.dumps(inputs)[:LONGEST_REASON]}", hint=wanted
        ) from error


def _matrix(keys: Sequence[str], rows: Sequence[Sequence[Any]], table: _Table) -> np.ndarray:
    """Return rows as float64 (n, width), in the order of the model's keys where both sides name theirs."""
    names = keys
    if keys and table.keys:
        names = table.keys
        indices = {key: index for index, key in enumerate(keys)}
        places = [_place(key, indices) for key in table.keys]
        used = {place for place, _ in places}
        for index, key in enumerate(keys):
            if index not in used:
                raise ConfigError(f"the model does not know the key '{key}'", nearest=nearest(key, table.keys))
        rows = [[_element(row[place], element) for place, element in places] for row in rows]
    if len({len(row) for row in rows}) > 1:
        raise ConfigError("the events have different numbers of values")
    for row in rows:
        if not {type(value) for value in row} <= _NUMBERS:
            raise _no_number(names, row)
    try:
        return np.array([[np.nan if value is None else value for value in row] for row in rows], np.float64)
    except OverflowError as error:  # an integer of more than 308 digits
        raise ConfigError("the events have a number that is too large") from error


def _no_number(names: Sequence[str], row: Sequence[Any]) -> ConfigError:
    index, value = next((index, value) for index, value in enumerate(row) if type(value) not in _NUMBERS)
    where = f"the value of '{names[index]}'" if names else f"value {index}"
    hint = "name elements of lists, as in Muon_pt_0" if isinstance(value, list) else ""
    return ConfigError(f"{where} must be a number, and is {json.dumps(value)[:60]}", hint=hint)


def _place(key: str, indices: Mapping[str, int]) -> tuple[int, int | None]:
    """Return where the value of a model's key is: which value of a row, and which element of it if that is a list."""
    if key in indices:
        return indices[key], None
    branch, _, element = key.rpartition("_")
    if branch in indices and element.isdecimal():
        return indices[branch], int(element)
    raise ConfigError(f"the events lack the key '{key}'", nearest=nearest(key, indices), hint="null: not measured")


def _element(value: Any, element: int | None) -> Any:
    if element is None or value is None:
        return value
    if not isinstance(value, list):
        raise ConfigError(f"the value {json.dumps(value)[:60]} stands where a list must be")
    return value[element] if element < len(value) else None


def _request(table: _Table, matrix: np.ndarray, binary: bool) -> tuple[bytes, dict[str, str]]:
    tensor: dict[str, Any] = {"name": table.name, "shape": list(matrix.shape), "datatype": table.datatype}
    if binary:
        tensor["parameters"] = {"binary_data_size": matrix.nbytes}
        header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        return header + matrix.tobytes(), {"Content-Type": "application/octet-stream", _HEADER: str(len(header))}
    tensor["data"] = [None if value != value else value for value in matrix.ravel().tolist()]
    return json.dumps({"inputs": [tensor]}).encode(), {"Content-Type": "application/json"}


def _output(answer: Any, binary: bytes, rows: int) -> np.ndarray:
    """Return the first output of real numbers, else the first of numbers, as (rows, k).

    Raises:
        ValueError, LookupError, TypeError, OverflowError: there is none, or it is not as the protocol says.
    """
    real: list[np.ndarray] = []
    others: list[np.ndarray] = []
    place = 0
    for output in answer["outputs"]:
        datatype, data = output["datatype"], output.get("data")
        if data is None:
            size = output["parameters"]["binary_data_size"]
            data, place = binary[place : place + size], place + size
        if datatype in _TYPES:
            if output["shape"][0] != rows:
                raise ValueError(output["shape"])
            tensor = _tensor(data, _TYPES[datatype], output["shape"]).reshape(rows, -1)
            (real if datatype in _REAL else others).append(tensor)
    return (real + others)[0]


def _tensor(data: Any, dtype: str, shape: Sequence[int]) -> np.ndarray:
    if isinstance(data, bytes):
        return np.frombuffer(data, dtype).reshape(shape)
    return np.array([np.nan if value is None else value for value in np.ravel(data)], dtype).reshape(shape)


def _as_lists(scores: np.ndarray) -> list[Scores]:
    """Return numbers with as many digits as their type has (0.1, not 0.10000000149), None for what is not finite."""
    if scores.dtype.kind != "f":
        return list(scores.tolist())
    return [[float(str(value)) if math.isfinite(value) else None for value in row] for row in scores]
