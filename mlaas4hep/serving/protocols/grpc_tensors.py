"""Tensors in the messages of the gRPC service; see `grpc_messages` and, for the same in JSON, `oip_tensors`.

inference = read_grpc_inference(request, predictor.input, predictor.output)
inference.matrix                                     # float32 (n, ...), NaN for missing values
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import ConfigError
from mlaas4hep.protocol.oip_datatypes import DATATYPES
from mlaas4hep.serving.models.rows import Matrix, shown
from mlaas4hep.serving.models.tensor import Tensor
from mlaas4hep.serving.protocols.grpc_messages import load_messages
from mlaas4hep.serving.protocols.oip_tensors import (
    Inference,
    check_id,
    check_input,
    check_parameter,
    read_binary,
    to_matrix,
    unknown_output,
)

_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
}  # fmt: skip
"""Field of the values of each datatype; FP16 has none, and is sent as raw contents."""

_SLICE = 50_000  # values that are copied at a time, so that other threads can run in between


def read_grpc_inference(request: Any, input_tensor: Tensor, output_tensor: Tensor) -> Inference:
    """Read a ModelInferRequest. `binary` of the result is whether the values were raw contents.

    Raises:
        ConfigError: the request is invalid, or does not fit the model.
    """
    check_id(request.id)
    _check_parameters(request.parameters)
    names = [one.name for one in request.outputs]
    if names not in ([], [output_tensor.name]):
        raise unknown_output(names[0] if len(names) == 1 else names, output_tensor)
    for output in request.outputs:
        _check_parameters(output.parameters)
    if len(request.inputs) != 1:
        raise ConfigError(f"the request must have one input, '{input_tensor.name}', not {len(request.inputs)}")
    given = request.inputs[0]
    _check_parameters(given.parameters)
    datatype, shape = check_input(given.name, given.datatype, list(given.shape), input_tensor)
    raw = request.raw_input_contents
    if len(raw) > 1 or (raw and given.HasField("contents")):
        raise ConfigError(
            "the request has more contents than inputs", hint="send raw or typed contents, once per input"
        )
    if raw:
        values = read_binary(memoryview(raw[0]), len(raw[0]), datatype, shape)
    else:
        values = _read_contents(given.contents, datatype, shape)
    return Inference(to_matrix(values, shape), bool(raw), request.id or None)


def _check_parameters(parameters: Mapping[str, Any]) -> None:
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        check_parameter(name, kind and getattr(parameter, kind))


def _read_contents(contents: Any, datatype: str, shape: Sequence[int]) -> NDArray[Any]:
    field = _CONTENTS.get(datatype)
    if field is None:
        raise ConfigError(f"{datatype} has no typed contents", hint="send raw contents")
    values, dtype = getattr(contents, field), np.dtype(DATATYPES[datatype])
    if len(values) != math.prod(shape):
        raise ConfigError(f"'{field}' has {len(values)} values, but the shape {list(shape)} has {math.prod(shape)}")
    numbers = np.empty(len(values), np.float64)
    for start in range(0, len(values), _SLICE):
        numbers[start : start + _SLICE] = values[start : start + _SLICE]
    if dtype.kind in "iu" and len(numbers):
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        wrong = numbers[(numbers < low) | (numbers > high)]
        if len(wrong):
            raise ConfigError(f"the value {shown(float(wrong[0]))} in '{field}' is out of range for {datatype}")
    return numbers


def write_grpc_response(name: str, version: str, output_tensor: Tensor, inference: Inference, scores: Matrix) -> bytes:
    """Return a serialized ModelInferResponse, with raw contents if the request had them."""
    output = {"name": output_tensor.name, "datatype": "FP32", "shape": scores.shape}
    message = load_messages()["ModelInferResponse"](
        model_name=name, model_version=version, id=inference.id or "", outputs=[output]
    )
    if inference.binary:
        message.raw_output_contents.append(np.ascontiguousarray(scores, "<f4").tobytes())
    else:
        message.outputs[0].contents.fp32_contents.extend(scores.ravel().tolist())
    return bytes(message.SerializeToString())
