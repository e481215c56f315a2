"""The routes of the protobuf protocol of TFaaS; its messages are in `proto_messages`.

    curl $url/proto --data-binary @row.pb

A message holds one event, so its size limit is below that of JSON bodies.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mlaas4hep.serving.http.bodies import read_body, run_aside
from mlaas4hep.serving.protocols.predictions import read_rows, score_rows
from mlaas4hep.serving.protocols.proto_messages import read_row, write_predictions
from mlaas4hep.serving.service import service_of


def routes() -> list[BaseRoute]:
    """Return the routes of this protocol."""
    return [Route(path, predict, methods=["POST"]) for path in ("/proto", "/predict/proto")]


async def predict(request: Request) -> Response:
    """POST /proto, POST /predict/proto: return the scores of one row; none if it fails the cuts."""
    service = service_of(request)
    body = await read_body(request.headers.raw, request.receive, service.limits.protobuf_body)
    model, rows = await read_rows(service, "proto", body, read_row)
    scores = await score_rows(service, model, rows)
    if not len(scores):
        return Response(b"", media_type="application/octet-stream")  # no predictions
    predictions = await run_aside(scores.nbytes, write_predictions, scores[0], model.predictor.labels)
    return Response(predictions, media_type="application/octet-stream")
