"""The messages of the protobuf protocol of TFaaS: a request is a `Row`, the response is `Predictions`.

    syntax = "proto3";
    package tfaaspb;
    message Row { repeated string key = 1; repeated float value = 2; string model = 3; }
    message Class { string label = 1; float probability = 2; }
    message Predictions { repeated Class prediction = 1; }

The classes are created from this description when the first protobuf request arrives; there is no generated code. A
`DataFrame` of several rows is refused, as by TFaaS itself: `Predictions` does not say which row a class belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from mlaas4hep.errors import ConfigError, require
from mlaas4hep.protocol.class_names import class_names
from mlaas4hep.serving.models import rows

_REPEATED, _OPTIONAL = "LABEL_REPEATED", "LABEL_OPTIONAL"
_MESSAGES: dict[str, list[tuple[str, str, str]]] = {  # fields in the order of their numbers
    "Row": [("key", _REPEATED, "string"), ("value", _REPEATED, "float"), ("model", _OPTIONAL, "string")],
    "Class": [("label", _OPTIONAL, "string"), ("probability", _OPTIONAL, "float")],
    "Predictions": [("prediction", _REPEATED, ".tfaaspb.Class")],
}


def read_row(body: bytes | bytearray) -> rows.Request:
    """Read a `Row`.

    Raises:
        ConfigError: the body is not a `Row`, or has no values.
    """
    tfaaspb = _load_classes()
    try:
        row = tfaaspb.Row.FromString(bytes(body))
    except tfaaspb.DecodeError as error:
        raise ConfigError("the request is not a protobuf message tfaaspb.Row") from error
    if not row.value:
        raise ConfigError("the tfaaspb.Row has no values", hint="send the rows of a tfaaspb.DataFrame one by one")
    return rows.Request(list(row.key), list(row.value), row.model)


def write_predictions(scores: rows.Matrix, labels: Sequence[str]) -> bytes:
    """Return scores, float32 (k,), as serialized `Predictions`."""
    tfaaspb = _load_classes()
    named = zip(class_names(labels, len(scores)), scores.tolist(), strict=True)
    message = tfaaspb.Predictions(prediction=[{"label": label, "probability": number} for label, number in named])
    return bytes(message.SerializeToString())


class _Classes(NamedTuple):
    Row: Any
    Predictions: Any
    DecodeError: type[Exception]


@cache
def _load_classes() -> _Classes:
    pool, factory, message, json_format, descriptor = (
        require(f"google.protobuf.{module}", "server", "a protobuf request")
        for module in ("descriptor_pool", "message_factory", "message", "json_format", "descriptor_pb2")
    )
    own = pool.DescriptorPool()
    own.Add(json_format.ParseDict(_description(), descriptor.FileDescriptorProto()))
    row, predictions = (own.FindMessageTypeByName(f"tfaaspb.{name}") for name in ("Row", "Predictions"))
    return _Classes(factory.GetMessageClass(row), factory.GetMessageClass(predictions), message.DecodeError)


def _description() -> dict[str, Any]:
    """Return the .proto file at the top of this module as a FileDescriptorProto in JSON."""
    messages = [
        {"name": name, "field": [_field(number, *field) for number, field in enumerate(fields, 1)]}
        for name, fields in _MESSAGES.items()
    ]
    return {"name": "tfaas.proto", "package": "tfaaspb", "syntax": "proto3", "messageType": messages}


def _field(number: int, name: str, label: str, kind: str) -> dict[str, Any]:
    described = {"typeName": kind} if kind.startswith(".") else {"type": f"TYPE_{kind.upper()}"}
    return {"name": name, "number": number, "label": label, **described}
