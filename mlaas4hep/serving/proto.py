"""The routes of TFaaS's protobuf protocol; its messages are in `proto_messages`.

    curl $url/proto --data-binary @row.pb

A message is one event, so it may be no longer than 4 MB.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mlaas4hep.serving.bodies import LARGE, aside, read_body
from mlaas4hep.serving.proto_messages import read_row, write_predictions
from mlaas4hep.serving.service import Service

_LARGEST = 4_000_000  # bytes of a request


def routes() -> list[BaseRoute]:
    """Return the routes of this protocol."""
    return [Route(path, predict, methods=["POST"]) for path in ("/proto", "/predict/proto")]


async def predict(request: Request) -> Response:
    """POST /proto, POST /predict/proto: the scores of one row."""
    service: Service = request.app.state.service
    body = await read_body(request.headers.raw, request.receive, _LARGEST)
    if len(body) < LARGE:
        asked = await aside(len(body), read_row, body)
        model = await service.model(asked.model)
        rows = await aside(len(body), model.predictor.rows, asked)
    else:
        model, rows = await service.parsers.rows("proto", body, service.model)
    scores = await service.score(model, rows.matrix)
    predictions = await aside(scores.nbytes, write_predictions, scores[0], model.predictor.labels)
    return Response(predictions, media_type="application/octet-stream")
