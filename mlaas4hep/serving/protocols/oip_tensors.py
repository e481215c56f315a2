"""Tensors of the Open Inference Protocol: in JSON, or as binary data that follows the JSON.

    content, binary = split(body, header_length)
    matrix = read_input(content, binary, predictor.input)      # float32 (n, ...), NaN for missing values

All datatypes are converted to float32, which all models take. Numbers beyond its range become infinite in binary data,
as in training, and are refused in JSON, where `Infinity` is accepted. Routes and responses are in `oip`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import chain
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from mlaas4hep.errors import ConfigError
from mlaas4hep.protocol.oip_datatypes import DATATYPES
from mlaas4hep.serving.models.rows import LARGEST, Matrix, read_object, shown
from mlaas4hep.serving.models.tensor import Tensor

_INTEGERS: set[type] = {int, NoneType}
_IN_JSON: dict[str, set[type]] = {"b": {bool, NoneType}, "i": _INTEGERS, "u": _INTEGERS, "f": {*_INTEGERS, float}}
_LARGEST_SIZE = 2**63 - 1
_LONGEST_ID = 1000  # characters
_UNSUPPORTED = {
    "classification": "the server returns scores, not classes",
    "shared_memory_": "the server cannot read the memory of clients",
    "sequence_": "requests are independent of each other",
}
"""Beginnings of the names of parameters, and reasons."""

_EXAMPLE = (
    'as in {"inputs": [{"name": "inputs", "shape": [1, 2], "datatype": "FP32", "data": [1.5, null]}]}; '
    "GET /v2/models/NAME returns names and shapes"
)


class Inference(NamedTuple):
    """An inference request.

    Attributes:
        matrix: the input, float32 (n, ...).
        binary: whether the client requests the output as binary data.
        id: the ID that the client gave the request.
    """

    matrix: Matrix
    binary: bool
    id: str | None


def read_inference(
    body: bytes | bytearray, header_length: str | None, input_tensor: Tensor, output_tensor: Tensor
) -> Inference:
    """Read a whole request; see `split`, `read_input` and `wants_binary`.

    Raises:
        ConfigError: the request is invalid, or does not fit the model.
    """
    content, binary = split(body, header_length)
    request_id = content.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise ConfigError(f"'id' must be a string, not {shown(request_id)}")
    check_id(request_id or "")
    return Inference(read_input(content, binary, input_tensor), wants_binary(content, output_tensor), request_id)


def check_id(request_id: str) -> None:
    """Raise ConfigError if the ID of a request is too long."""
    if len(request_id) > _LONGEST_ID:
        raise ConfigError(f"'id' has {len(request_id)} characters; the limit is {_LONGEST_ID}")


def split(body: bytes | bytearray, header_length: str | None) -> tuple[dict[str, Any], memoryview]:
    """Split a body into its JSON object and a view of the binary data that follows.

    Args:
        body: the whole body.
        header_length: value of the header Inference-Header-Content-Length; None: the whole body is JSON.

    Raises:
        ConfigError: the JSON or the header is invalid.
    """
    try:
        length = len(body) if header_length is None else int(header_length)
    except ValueError:
        length = -1
    if not 0 <= length <= len(body):
        raise ConfigError(f"Inference-Header-Content-Length must be a number from 0 to the body's {len(body)} bytes")
    return read_object(memoryview(body)[:length], _EXAMPLE, _parse_json), memoryview(body)[length:]


def _parse_json(text: memoryview) -> Any:
    """Parse JSON in which NaN and Infinity may stand for numbers, as tritonclient and Triton write them."""
    try:
        return orjson.loads(text)
    except ValueError:
        content = bytes(text)
        if b"NaN" in content or b"Infinity" in content:
            return json.loads(content)
        raise


def read_input(content: Mapping[str, Any], binary: memoryview, tensor: Tensor) -> Matrix:
    """Return the one input of a request, float32, contiguous.

    Args:
        content: JSON object of the request.
        binary: the binary data that follow it.
        tensor: the input of the model.

    Raises:
        ConfigError: the request has other inputs, or the datatype, shape or data do not fit the model.
    """
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise ConfigError(f"'inputs' must be a list of one tensor, '{tensor.name}'", hint=_EXAMPLE)
    given = inputs[0]
    datatype, shape = check_input(given.get("name"), given.get("datatype"), given.get("shape"), tensor)
    size = read_parameters(given).get("binary_data_size")
    if size is not None:
        values = read_binary(binary, size, datatype, shape)
    elif len(binary):
        raise ConfigError(f"{len(binary)} bytes follow the JSON, but no input has a 'binary_data_size'")
    else:
        values = _read_numbers(given.get("data"), datatype, shape)
    return to_matrix(values, shape)


def check_input(name: Any, datatype: Any, shape: Any, tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    """Return datatype and shape of an input.

    Raises:
        ConfigError: they, or the name, do not fit the input of the model, `tensor`.
    """
    if name != tensor.name:
        raise ConfigError(f"unknown input {shown(name)}; the model's input is '{tensor.name}'")
    read_shape = _read_shape(shape, tensor)
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise ConfigError(f"unknown datatype {shown(datatype)}", hint=f"supported: {', '.join(DATATYPES)}")
    return datatype, read_shape


def to_matrix(values: NDArray[Any], shape: tuple[int, ...]) -> Matrix:
    """Return values as float32 of this shape, contiguous; numbers beyond its range become infinite."""
    with np.errstate(over="ignore"):
        return np.require(values.astype(np.float32, copy=False).reshape(shape), requirements="A")


def unknown_output(name: Any, tensor: Tensor) -> ConfigError:
    """Return the error about an output that the model does not have."""
    return ConfigError(f"unknown output {shown(name)}; the model's output is '{tensor.name}'")


def wants_binary(content: Mapping[str, Any], tensor: Tensor) -> bool:
    """Return whether the client requests the output as binary data.

    Raises:
        ConfigError: the request names another output, or an unsupported parameter.
    """
    outputs = content.get("outputs") or [{"name": tensor.name}]
    if not isinstance(outputs, list) or len(outputs) != 1 or not isinstance(outputs[0], dict):
        raise ConfigError(f"'outputs' must be absent or a list of one tensor, '{tensor.name}'")
    if outputs[0].get("name") != tensor.name:
        raise unknown_output(outputs[0].get("name"), tensor)
    default = read_parameters(content).get("binary_data_output", False)
    wanted = read_parameters(outputs[0]).get("binary_data", default)
    if not isinstance(wanted, bool):
        raise ConfigError("'binary_data' and 'binary_data_output' must be true or false")
    return wanted


def read_parameters(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters of a request, or of a tensor in it; those without effect here may have any name.

    Args:
        content: the JSON object that may have `parameters`.

    Raises:
        ConfigError: a parameter asks for something that the server does not support.
    """
    parameters = content.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise ConfigError("'parameters' must be a JSON object")
    for name, value in parameters.items():
        check_parameter(name, value)
    return parameters


def check_parameter(name: str, value: Any) -> None:
    """Raise ConfigError for a parameter that would change the meaning of a request, but is not supported."""
    kind = next((kind for start, kind in _UNSUPPORTED.items() if name.startswith(start)), None)
    if kind and value not in (0, "", False, None):
        raise ConfigError(f"the parameter '{name[:60]}' is not supported: {kind}", hint="leave it out")


def _read_shape(shape: Any, tensor: Tensor) -> tuple[int, ...]:
    taken = ["n", *("any" if size is None else str(size) for size in tensor.shape)]
    fits = (
        isinstance(shape, list)
        and len(shape) == len(taken)
        and all(type(size) is int and 0 < size <= _LARGEST_SIZE for size in shape)
        and all(size in (None, given) for size, given in zip(tensor.shape, shape[1:], strict=True))
    )
    if not fits:
        raise ConfigError(f"'{tensor.name}' has the shape {shown(shape)}, but the model takes [{', '.join(taken)}]")
    return tuple(shape)


def read_binary(binary: memoryview, size: Any, datatype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the values of a tensor from its bytes; `size` is their number according to the request.

    Raises:
        ConfigError: the tensor has another size.
    """
    needed = math.prod(shape) * np.dtype(DATATYPES[datatype]).itemsize
    if not size == needed == len(binary):
        raise ConfigError(
            f"a {datatype} tensor of shape {list(shape)} takes {needed} bytes, but "
            f"'binary_data_size' is {shown(size)} and {len(binary)} bytes follow the JSON"
        )
    return np.frombuffer(binary, DATATYPES[datatype])


def _read_numbers(data: Any, datatype: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    dtype, values = np.dtype(DATATYPES[datatype]), _flat(data, shape)
    allowed = _IN_JSON[dtype.kind]
    if not set(map(type, values)) <= allowed:
        wrong = next(value for value in values if type(value) not in allowed)
        raise ConfigError(f"invalid {datatype} value {shown(wrong)} in 'data'", hint="use null for a missing value")
    present = [value for value in values if value is not None and -math.inf < value < math.inf]
    if present and dtype.kind != "b":
        _check_range(min(present), max(present), dtype, datatype)
    return np.array(values, np.float64)


def _check_range(least: float, most: float, dtype: np.dtype[Any], datatype: str) -> None:
    low: float
    high: float
    if dtype.kind in "iu":
        low, high, kind = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max), datatype
    elif dtype.itemsize < 4:
        low, high, kind = -float(np.finfo(dtype).max), float(np.finfo(dtype).max), datatype
    else:
        low, high, kind = -LARGEST, LARGEST, "float32, the input type of all models"
    if least < low or most > high:
        raise ConfigError(f"the value {shown(least if least < low else most)} in 'data' is out of range for {kind}")


def _flat(data: Any, shape: tuple[int, ...]) -> list[Any]:
    """Return the values of lists that are flat in row-major order, or nested according to the shape."""
    nested = isinstance(data, list) and bool(data) and isinstance(data[0], list)
    parts = [data]
    for size in shape if nested else [math.prod(shape)]:
        if not all(isinstance(part, list) and len(part) == size for part in parts):
            raise ConfigError(f"'data' must be a list of {math.prod(shape)} numbers, for the shape {list(shape)}")
        parts = list(chain.from_iterable(parts))
    return parts
