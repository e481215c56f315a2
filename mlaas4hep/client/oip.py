"""The Open Inference Protocol v2 of Triton, KServe and our own server.

    OpenInferenceProtocol(connection).scores(["MET_pt"], [[32.1]], "htautau")     # [[0.123]]

It supports models with one floating-point input of shape (events, values). The scores are the first floating-point
output in the metadata of the model. They are requested by name, because servers may return several outputs in any
order. Tensors are sent as binary data if the server supports it, else as JSON, where null stands for NaN. Protocol:
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
from mlaas4hep.client.failures import MAX_REASON_LENGTH, UnexpectedResponse
from mlaas4hep.client.protocols import (
    Scores,
    ScoresOrCut,
    get_object,
    keys_from_metadata,
    max_score_bytes,
    model_metadata,
)
from mlaas4hep.errors import ConfigError, nearest
from mlaas4hep.protocol.oip_datatypes import DATATYPES, REAL_DATATYPES

_HEADER = "Inference-Header-Content-Length"
_NUMBER_TYPES = {int, float, bool, type(None)}


class _InputTable(NamedTuple):
    """The input of a model, of shape (events, width); a width of -1 means any, and keys may be empty."""

    name: str
    datatype: str
    width: int
    keys: list[str]


class OpenInferenceProtocol:
    """The Open Inference Protocol; see `ServerProtocol` for its methods.

    Args:
        output: name of the output to return; "": chosen by the metadata of the model.
    """

    def __init__(self, connection: Connection, output: str = "") -> None:
        self._connection = connection
        self._output = output
        self._accepts_binary_data: bool | None = None

    def models(self) -> list[dict[str, Any]]:
        """Return name, version, state and reason of all models."""
        path = "/v2/repository/index"
        models = self._connection.json("POST", path, {})
        if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
            raise self._connection.unexpected("POST", path, "the response is not a list of models")
        return models

    def params(self, name: str) -> dict[str, Any]:
        """Return the metadata of one model."""
        return model_metadata(self._connection, name)

    def status(self) -> dict[str, Any]:
        """Return whether the server is ready, and its metadata."""
        metadata = self._server()
        try:
            self._connection.send("GET", "/v2/health/ready")
        except UnexpectedResponse:
            return {"ready": False, **metadata}
        return {"ready": True, **metadata}

    def metadata(self, model: str) -> dict[str, Any]:
        """Return the metadata of a model."""
        return self.params(model)

    def accepts_batches(self) -> bool:
        """Return True."""
        return True

    def scores(self, keys: Sequence[str], rows: Sequence[Sequence[Any]], model: str) -> list[ScoresOrCut]:
        """Return the outputs for each row.

        Raises:
            ConfigError: the model has other inputs or outputs, or the rows do not match its input.
        """
        if not model:
            raise ConfigError("the Open Inference Protocol has no default model", hint="name one: --model=NAME")
        metadata = self.params(model)  # each time: a new version of the model may have its columns in another order
        table = _input_table(metadata, model)
        with np.errstate(over="ignore"):  # values that are too large become infinite
            matrix = _matrix(keys, rows, table).astype(REAL_DATATYPES[table.datatype])
        if table.width not in (-1, matrix.shape[1]):
            raise ConfigError(f"model '{model}' takes {table.width} values per event, not {matrix.shape[1]}")
        path = f"/v2/models/{quote(model, safe='')}/infer"
        output = self._output or _output_name(metadata, model)
        body, headers = _request(table, matrix, output, self._accepts_binary())
        response = self._connection.send("POST", path, body, headers, max_bytes=max_score_bytes(len(rows)))
        length = response.headers.get(_HEADER, "")
        size = int(length) if length.isdecimal() else len(response.content)
        answer = self._connection.parse("POST", path, response.content[:size])
        try:
            return list(_as_lists(_scores(answer, response.content[size:], len(rows), output)))
        except (ValueError, LookupError, TypeError, OverflowError) as error:
            raise self._connection.unexpected(
                "POST", path, f"the response has no table '{output}' with a row per event"
            ) from error

    def _accepts_binary(self) -> bool:
        if self._accepts_binary_data is None:
            extensions = self._server().get("extensions")
            self._accepts_binary_data = isinstance(extensions, list) and "binary_tensor_data" in extensions
        return self._accepts_binary_data

    def _server(self) -> dict[str, Any]:
        return get_object(self._connection, "/v2")


def _input_table(metadata: dict[str, Any], model: str) -> _InputTable:
    inputs = metadata.get("inputs")
    try:
        (only,) = inputs or []
        name, datatype, (_, width) = only["name"], only["datatype"], only["shape"]
        if datatype not in REAL_DATATYPES:
            raise ValueError(datatype)
        return _InputTable(str(name), str(datatype), int(width), keys_from_metadata(metadata))
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"model '{model}' has the inputs {json.dumps(inputs)[:MAX_REASON_LENGTH]}",
            hint="only models with one floating-point input of shape (events, values) are supported",
        ) from error


def _output_name(metadata: dict[str, Any], model: str) -> str:
    """Return the name of the first floating-point output, or else of the first numeric one."""
    outputs = metadata.get("outputs")
    try:
        types = {str(one["name"]): one["datatype"] for one in outputs or []}
    except (LookupError, TypeError):
        types = {}
    for datatypes in (REAL_DATATYPES, DATATYPES):
        for name, datatype in types.items():
            if datatype in datatypes:
                return name
    raise ConfigError(
        f"the metadata of model '{model}' describe no numeric output: {json.dumps(outputs)[:MAX_REASON_LENGTH]}",
        hint="name an output: --output=NAME",
    )


def _matrix(keys: Sequence[str], rows: Sequence[Sequence[Any]], table: _InputTable) -> np.ndarray:
    """Return rows as float64 (n, width), in the order of the model's keys if both sides have keys."""
    names = keys
    if keys and table.keys:
        names = table.keys
        indices = {key: index for index, key in enumerate(keys)}
        positions = [_position(key, indices) for key in table.keys]
        used = {position for position, _ in positions}
        for index, key in enumerate(keys):
            if index not in used:
                raise ConfigError(f"the model has no input '{key}'", nearest=nearest(key, table.keys))
        rows = [[_element(row[position], element) for position, element in positions] for row in rows]
    if len({len(row) for row in rows}) > 1:
        raise ConfigError("the events have different numbers of values")
    for row in rows:
        if not {type(value) for value in row} <= _NUMBER_TYPES:
            raise _not_a_number(names, row)
    try:
        return np.array([[np.nan if value is None else value for value in row] for row in rows], np.float64)
    except OverflowError as error:  # an integer of more than 308 digits
        raise ConfigError("a value of an event is too large") from error


def _not_a_number(names: Sequence[str], row: Sequence[Any]) -> ConfigError:
    index, value = next((index, value) for index, value in enumerate(row) if type(value) not in _NUMBER_TYPES)
    where = f"the value of '{names[index]}'" if names else f"value {index}"
    hint = "name elements of lists, as in Muon_pt_0" if isinstance(value, list) else ""
    return ConfigError(f"{where} must be a number, not {json.dumps(value)[:60]}", hint=hint)


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


def _request(table: _InputTable, matrix: np.ndarray, output: str, binary: bool) -> tuple[bytes, dict[str, str]]:
    outputs: list[dict[str, Any]] = [{"name": output}]
    tensor: dict[str, Any] = {"name": table.name, "shape": list(matrix.shape), "datatype": table.datatype}
    if binary:
        tensor["parameters"] = {"binary_data_size": matrix.nbytes}
        outputs[0]["parameters"] = {"binary_data": True}
        header = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
        return header + matrix.tobytes(), {"Content-Type": "application/octet-stream", _HEADER: str(len(header))}
    tensor["data"] = [None if value != value else value for value in matrix.ravel().tolist()]
    return json.dumps({"inputs": [tensor], "outputs": outputs}).encode(), {"Content-Type": "application/json"}


def _scores(answer: Any, binary: bytes, rows: int, wanted: str) -> np.ndarray:
    """Return the output of this name, with the shape (rows, k)."""
    offset = 0
    for output in answer["outputs"]:
        data = output.get("data")
        if data is None:
            size = output["parameters"]["binary_data_size"]
            data, offset = binary[offset : offset + size], offset + size
        if output["name"] == wanted:
            if output["shape"][0] != rows:
                raise ValueError(output["shape"])
            return _tensor(data, DATATYPES[output["datatype"]], output["shape"]).reshape(rows, -1)
    raise LookupError(wanted)


def _tensor(data: Any, dtype: str, shape: Sequence[int]) -> np.ndarray:
    if isinstance(data, bytes):
        return np.frombuffer(data, dtype).reshape(shape)
    return np.array([np.nan if value is None else value for value in np.ravel(data)], dtype).reshape(shape)


def _as_lists(scores: np.ndarray) -> list[Scores]:
    """Return numbers with the digits that their dtype has (0.1, not 0.10000000149), None for NaN and infinity."""
    if scores.dtype.kind != "f":
        return list(scores.tolist())
    return [[float(str(value)) if math.isfinite(value) else None for value in row] for row in scores]
