"""The Open Inference Protocol v2 of Triton, KServe and our own server.

    OpenInferenceProtocol(connection).scores(["MET_pt"], [[32.1]], "htautau")     # [[0.123]]

It supports models whose inputs are numbers, see `inputs`. The scores are the first floating-point output in the
metadata of the model. They are requested by name, because servers may return several outputs in any order. If a server
has no metadata of a model, they are given (`local_metadata`) or assumed, and the first floating-point output is
returned. Tensors are sent as binary data if the server supports it, else as JSON, where null stands for NaN. Protocol:
github.com/kserve/open-inference-protocol; Triton's extensions binary_tensor_data and model_repository.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from mlaas4hep.client.connection import Connection
from mlaas4hep.client.failures import MAX_REASON_LENGTH, UnexpectedResponse
from mlaas4hep.client.oip.inputs import ModelInput, input_arrays, model_inputs
from mlaas4hep.client.protocols import (
    Scores,
    ScoresOrCut,
    get_object,
    keys_from_metadata,
    max_score_bytes,
    model_metadata,
)
from mlaas4hep.errors import ConfigError
from mlaas4hep.protocol.oip_datatypes import DATATYPES, REAL_DATATYPES

_HEADER = "Inference-Header-Content-Length"
_NO_METADATA = (404, 405, 501)
"""HTTP statuses of servers without metadata of models, or without the list of Triton's extension."""


class OpenInferenceProtocol:
    """The Open Inference Protocol; see `ServerProtocol` for its methods.

    Args:
        output: name of the output to return; "": chosen by the metadata of the model.
        metadata: metadata to use instead of those of the server, see `local_metadata`; {}: none.
    """

    def __init__(self, connection: Connection, output: str = "", metadata: dict[str, Any] | None = None) -> None:
        self._connection = connection
        self._output = output
        self._metadata = metadata or {}
        self._accepts_binary_data: bool | None = None

    def models(self) -> list[dict[str, Any]]:
        """Return name, version, state and reason of all models; only the names if the server has no such list."""
        path = "/v2/repository/index"
        try:
            models = self._connection.json("POST", path, {})
        except UnexpectedResponse as error:
            if error.status not in _NO_METADATA:
                raise
            return [{"name": name} for name in self._names()]
        if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
            raise self._connection.unexpected("POST", path, "the response is not a list of models")
        return models

    def _names(self) -> list[str]:
        """Return the names of all models, as KServe lists them."""
        names = get_object(self._connection, "/v2/models").get("models")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self._connection.unexpected("GET", "/v2/models", "the response is not a list of models")
        return names

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
        """Return the metadata of a model; {} if the server has none."""
        if self._metadata:
            return self._metadata
        try:
            return self.params(model)
        except UnexpectedResponse as error:
            if error.status not in _NO_METADATA:
                raise
            return {}

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
        metadata = self.metadata(model)  # each time: a new version may have its columns in another order
        inputs = model_inputs(metadata, model)
        arrays = input_arrays(keys, rows, inputs, keys_from_metadata(metadata), model)
        path = f"/v2/models/{quote(model, safe='')}/infer"
        output = self._output or _output_name(metadata, model)
        body, headers = _request(inputs, arrays, output, self._accepts_binary())
        response = self._connection.send("POST", path, body, headers, max_bytes=max_score_bytes(len(rows)))
        length = response.headers.get(_HEADER, "")
        size = int(length) if length.isdecimal() else len(response.content)
        answer = self._connection.parse("POST", path, response.content[:size])
        try:
            return list(_as_lists(_scores(answer, response.content[size:], len(rows), output)))
        except (ValueError, LookupError, TypeError, OverflowError) as error:
            which = f"'{output}'" if output else "of numbers"
            reason = f"the response has no output {which} with one row per event"
            raise self._connection.unexpected("POST", path, reason) from error

    def _accepts_binary(self) -> bool:
        if self._accepts_binary_data is None:
            extensions = self._server().get("extensions")
            self._accepts_binary_data = isinstance(extensions, list) and "binary_tensor_data" in extensions
        return self._accepts_binary_data

    def _server(self) -> dict[str, Any]:
        return get_object(self._connection, "/v2")


def _output_name(metadata: dict[str, Any], model: str) -> str:
    """Return the name of the first floating-point output, or else of the first numeric one; "" without metadata."""
    outputs = metadata.get("outputs")
    if not outputs:
        return ""
    try:
        types = {str(one["name"]): one["datatype"] for one in outputs}
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


def _request(
    inputs: Sequence[ModelInput], arrays: Sequence[np.ndarray], output: str, binary: bool
) -> tuple[bytes, dict[str, str]]:
    tensors: list[dict[str, Any]] = [
        {"name": one.name, "shape": list(array.shape), "datatype": one.datatype}
        for one, array in zip(inputs, arrays, strict=True)
    ]
    request: dict[str, Any] = {"inputs": tensors}
    if output:
        request["outputs"] = [{"name": output, **({"parameters": {"binary_data": True}} if binary else {})}]
    if binary:
        for tensor, array in zip(tensors, arrays, strict=True):
            tensor["parameters"] = {"binary_data_size": array.nbytes}
        header = json.dumps(request).encode()
        content = b"".join([header, *(array.tobytes() for array in arrays)])
        return content, {"Content-Type": "application/octet-stream", _HEADER: str(len(header))}
    for tensor, array in zip(tensors, arrays, strict=True):
        tensor["data"] = [None if value != value else value for value in array.ravel().tolist()]
    return json.dumps(request).encode(), {"Content-Type": "application/json"}


def _scores(answer: Any, binary: bytes, rows: int, wanted: str) -> np.ndarray:
    """Return the output of this name, or the first of real numbers, with the shape (rows, k)."""
    offset = 0
    for output in answer["outputs"]:
        data = output.get("data")
        if data is None:
            size = output["parameters"]["binary_data_size"]
            data, offset = binary[offset : offset + size], offset + size
        if output["name"] == wanted or (not wanted and output["datatype"] in REAL_DATATYPES):
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
