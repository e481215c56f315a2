"""Tensors as the Open Inference Protocol sends them: in JSON, or as bytes behind it.

    content, binary = split(body, header_length)
    matrix = read_input(content, binary, predictor.input)      # float32 (n, ...), NaN where nothing was measured

All datatypes become float32, as the models take it; numbers beyond become infinite where they come as bytes, as they
did in training, and are refused in JSON. Routes and answers are in `oip`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import ConfigError
from mlaas4hep.serving.rows import LARGEST, Matrix, read_object, shown
from mlaas4hep.serving.tensor import Tensor

_DATATYPES = {
    "BOOL": np.dtype(np.bool_),
    "INT8": np.dtype("<i1"), "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4"), "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("<u1"), "UINT16": np.dtype("<u2"), "UINT32": np.dtype("<u4"), "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"),
}  # fmt: skip
_IN_JSON: dict[str, set[type]] = {
    "b": {bool, NoneType},
    "i": {int, NoneType},
    "u": {int, NoneType},
    "f": {int, float, NoneType},
}
_LARGEST_SIZE = 2**63 - 1
_LONGEST_ID = 1000  # characters
_EXAMPLE = (
    'as in {"inputs": [{"name": "inputs", "shape": [1, 2], "datatype": "FP32", "data": [1.5, null]}]}; '
    "GET /v2/models/NAME says names and shapes"
)


class Inference(NamedTuple):
    """What an inference request asks: the scores of a matrix, float32 (n, ...), as bytes or not."""

    matrix: Matrix
    binary: bool
    id: str | None


def read_inference(body: bytes | bytearray, header_length: str | None, takes: Tensor, gives: Tensor) -> Inference:
    """Read a whole request; see `split`, `read_input` and `wants_binary`.

    Raises:
        ConfigError: it is not one, or does not fit the model.
    """
    content, binary = split(body, header_length)
    request_id = content.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise ConfigError(f"'id' must be a text, and is {shown(request_id)}")
    if request_id is not None and len(request_id) > _LONGEST_ID:
        raise ConfigError(f"'id' may have {_LONGEST_ID} characters, and has {len(request_id)}")
    return Inference(read_input(content, binary, takes), wants_binary(content, gives), request_id)


def split(body: bytes | bytearray, header_length: str | None) -> tuple[dict[str, Any], memoryview]:
    """Return the JSON object of a request, and the bytes behind it, which are not copied.

    Args:
        body: the whole body.
        header_length: what Inference-Header-Content-Length says; without it all of the body is JSON.

    Raises:
        ConfigError: the JSON is none, or shorter than the header says.
    """
    try:
        length = len(body) if header_length is None else int(header_length)
    except ValueError:
        length = -1
    if not 0 <= length <= len(body):
        raise ConfigError(f"Inference-Header-Content-Length must be a number from 0 to the body's {len(body)} bytes")
    return read_object(memoryview(body)[:length], _EXAMPLE), memoryview(body)[length:]


def read_input(content: Mapping[str, Any], binary: memoryview, tensor: Tensor) -> Matrix:
    """Return the one input of a request, float32, contiguous.

    Args:
        content: the request's JSON object.
        binary: the bytes behind it.
        tensor: what the model takes.

    Raises:
        ConfigError: there is another input, its shape is none that the model takes, or its data do not fit it.
    """
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise ConfigError(f"'inputs' must be a list of one tensor, '{tensor.name}'", hint=_EXAMPLE)
    given = inputs[0]
    if given.get("name") != tensor.name:
        raise ConfigError(f"the model has no input {shown(given.get('name'))}, it takes '{tensor.name}'")
    datatype, shape = given.get("datatype"), _read_shape(given.get("shape"), tensor)
    if not isinstance(datatype, str) or datatype not in _DATATYPES:
        raise ConfigError(f"the datatype {shown(datatype)} is not known", hint=f"known: {', '.join(_DATATYPES)}")
    size = read_parameters(given, "binary_data_size").get("binary_data_size")
    if size is not None:
        values = _read_binary(binary, size, datatype, shape)
    elif len(binary):
        raise ConfigError(f"{len(binary)} bytes follow the JSON, and no input has a 'binary_data_size'")
    else:
        values = _read_numbers(given.get("data"), datatype, shape)
    with np.errstate(over="ignore"):
        return np.require(values.astype(np.float32, copy=False).reshape(shape), requirements="A")


def wants_binary(content: Mapping[str, Any], tensor: Tensor) -> bool:
    """Say whether the output shall go as bytes.

    Raises:
        ConfigError: another output is asked for, or something of it that is not done here.
    """
    outputs = content.get("outputs") or [{"name": tensor.name}]
    if not isinstance(outputs, list) or len(outputs) != 1 or not isinstance(outputs[0], dict):
        raise ConfigError(f"'outputs' must be a list of one tensor, '{tensor.name}', or not be there")
    if outputs[0].get("name") != tensor.name:
        raise ConfigError(f"the model has no output {shown(outputs[0].get('name'))}, it gives '{tensor.name}'")
    wanted = read_parameters(outputs[0], "binary_data").get(
        "binary_data", read_parameters(content).get("binary_data_output", False)
    )
    if not isinstance(wanted, bool):
        raise ConfigError("'binary_data' and 'binary_data_output' must be true or false")
    return wanted


def read_parameters(content: Mapping[str, Any], *known: str) -> Mapping[str, Any]:
    """Return the parameters of a request, or of a tensor in it.

    Args:
        content: what has them.
        known: their names; without these, all are taken.

    Raises:
        ConfigError: there are others.
    """
    parameters = content.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise ConfigError("'parameters' must be a JSON object")
    unknown = sorted(set(parameters) - set(known)) if known else []
    if unknown:
        raise ConfigError(f"the parameter {shown(unknown[0])} of a tensor is not known", hint=f"known: {known[0]}")
    return parameters


def _read_shape(shape: Any, tensor: Tensor) -> tuple[int, ...]:
    taken = ["n", *("any" if size is None else str(size) for size in tensor.shape)]
    fits = (
        isinstance(shape, list)
        and len(shape) == len(taken)
        and all(type(size) is int and 0 < size <= _LARGEST_SIZE for size in shape)
        and all(size in (None, given) for size, given in zip(tensor.shape, shape[1:], strict=True))
    )
    if not fits:
        raise ConfigError(f"the shape of '{tensor.name}' is {shown(shape)}, and the model takes [{', '.join(taken)}]")
    return tuple(shape)


def _read_binary(binary: memoryview, size: Any, datatype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    needed = math.prod(shape) * _DATATYPES[datatype].itemsize
    if not size == needed == len(binary):
        raise ConfigError(
            f"{datatype} of the shape {list(shape)} is {needed} bytes, "
            f"'binary_data_size' is {shown(size)}, and {len(binary)} bytes follow the JSON"
        )
    return np.frombuffer(binary, _DATATYPES[datatype])


def _read_numbers(data: Any, datatype: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    dtype, values = _DATATYPES[datatype], _flat(data, shape)
    allowed = _IN_JSON[dtype.kind]
    if not set(map(type, values)) <= allowed:
        wrong = next(value for value in values if type(value) not in allowed)
        raise ConfigError(f"the data have {shown(wrong)}, which is no {datatype}", hint="null: not measured")
    known = [value for value in values if value is not None]
    if known and dtype.kind != "b":
        _check_range(min(known), max(known), dtype, datatype)
    return np.array(values, np.float64)


def _check_range(least: float, most: float, dtype: np.dtype[Any], datatype: str) -> None:
    low: float
    high: float
    if dtype.kind in "iu":
        low, high, kind = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max), datatype
    elif dtype.itemsize < 4:
        low, high, kind = -float(np.finfo(dtype).max), float(np.finfo(dtype).max), datatype
    else:
        low, high, kind = -LARGEST, LARGEST, "32 bits, in which models get their numbers"
    if least < low or most > high:
        raise ConfigError(f"the data have {shown(least if least < low else most)}, which does not fit into {kind}")


def _flat(data: Any, shape: tuple[int, ...]) -> list[Any]:
    """Return the values of lists that are nested as the shape says, or flat, row by row."""
    nested = isinstance(data, list) and bool(data) and isinstance(data[0], list)
    parts = [data]
    for size in shape if nested else [math.prod(shape)]:
        if not all(isinstance(part, list) and len(part) == size for part in parts):
            raise ConfigError(f"'data' must be a list of the {math.prod(shape)} numbers of the shape {list(shape)}")
        parts = list(chain.from_iterable(parts))
    return parts
