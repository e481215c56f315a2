"""TFaaS's protobuf protocol: a `Row` comes, `Predictions` go.

    syntax = "proto3";
    package tfaaspb;
    message Row { repeated string key = 1; repeated float value = 2; string model = 3; }
    message Class { string label = 1; float probability = 2; }
    message Predictions { repeated Class prediction = 1; }

The classes are made of this description when the first such request comes; there is no generated code. A `DataFrame`
of rows is not taken, as little as TFaaS's own server takes one: `Predictions` could not say where a row's end.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mlaas4hep.errors import ConfigError, require
from mlaas4hep.serving import rows
from mlaas4hep.serving.bodies import read_body
from mlaas4hep.serving.service import Service

_REPEATED, _OPTIONAL = "LABEL_REPEATED", "LABEL_OPTIONAL"
_MESSAGES: dict[str, list[tuple[str, str, str]]] = {  # the fields in the order of their numbers
    "Row": [("key", _REPEATED, "string"), ("value", _REPEATED, "float"), ("model", _OPTIONAL, "string")],
    "Class": [("label", _OPTIONAL, "string"), ("probability", _OPTIONAL, "float")],
    "Predictions": [("prediction", _REPEATED, ".tfaaspb.Class")],
}


def routes() -> list[BaseRoute]:
    """Return the routes of this protocol."""
    return [Route(path, predict, methods=["POST"]) for path in ("/proto", "/predict/proto")]


async def predict(request: Request) -> Response:
    """POST /proto, POST /predict/proto: the scores of one row."""
    service: Service = request.app.state.service
    asked = _read_row(await read_body(request.headers.raw, request.receive))
    model = await service.model(asked.model)
    scores = await service.score(model, model.predictor.rows(asked).matrix)
    return Response(_predictions(scores[0], model.predictor.labels), media_type="application/octet-stream")


def class_names(labels: Sequence[str], outputs: int) -> Sequence[str]:
    """Return a name for each output.

    Of two classes and one output it is the second class, whose probability the output is; where a model has no
    labels, or another number of them, it is the output's index.
    """
    if len(labels) == 2 and outputs == 1:
        return labels[1:]
    return labels if len(labels) == outputs else [str(index) for index in range(outputs)]


def _read_row(body: bytes) -> rows.Request:
    tfaaspb = _load_classes()
    try:
        row = tfaaspb.Row.FromString(body)
    except tfaaspb.DecodeError as error:
        raise ConfigError("the request is no protobuf message tfaaspb.Row") from error
    if not row.value:
        raise ConfigError("the tfaaspb.Row has no values", hint="a tfaaspb.DataFrame is not taken: send each row alone")
    return rows.Request(list(row.key), list(row.value), row.model)


def _predictions(scores: rows.Matrix, labels: Sequence[str]) -> bytes:
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
    """Return the file at the top of this module, as protobuf describes one."""
    messages = [
        {"name": name, "field": [_field(number, *field) for number, field in enumerate(fields, 1)]}
        for name, fields in _MESSAGES.items()
    ]
    return {"name": "tfaas.proto", "package": "tfaaspb", "syntax": "proto3", "messageType": messages}


def _field(number: int, name: str, label: str, kind: str) -> dict[str, Any]:
    described = {"typeName": kind} if kind.startswith(".") else {"type": f"TYPE_{kind.upper()}"}
    return {"name": name, "number": number, "label": label, **described}
