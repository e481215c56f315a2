"""The Open Inference Protocol, version 2, as KServe and Triton speak it over HTTP.

    curl $url/v2/models/htautau
    curl $url/v2/models/htautau/infer -d @request.json

With the extension for binary tensors, which `tritonclient` uses. A model has one input and one output here; NaN in
binary data, null in JSON stands for what was not measured. How tensors are read is in `oip_tensors`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mlaas4hep import __version__
from mlaas4hep.errors import ConfigError
from mlaas4hep.serving.answers import json_response
from mlaas4hep.serving.bodies import aside, read_body
from mlaas4hep.serving.oip_tensors import read_input, split, wants_binary
from mlaas4hep.serving.predictor import Model
from mlaas4hep.serving.rows import Matrix, shown
from mlaas4hep.serving.service import Service
from mlaas4hep.serving.store import ModelStore, UnknownModel

_HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Question:
    """What an inference request asks: the scores of a matrix, float32 (n, ...), as bytes or not."""

    model: Model
    matrix: Matrix
    binary: bool
    id: str | None


def routes() -> list[BaseRoute]:
    """Return the routes of this protocol."""
    found: list[BaseRoute] = [
        Route("/v2", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route("/v2/repository/index", index, methods=["POST"]),
    ]
    for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        found += [
            Route(model, metadata),
            Route(f"{model}/ready", model_ready),
            Route(f"{model}/infer", infer, methods=["POST"]),
        ]
    return found


async def server(request: Request) -> Response:
    """GET /v2: what this server is."""
    return json_response({"name": "mlaas4hep", "version": __version__, "extensions": ["binary_tensor_data"]})


async def live(request: Request) -> Response:
    """GET /v2/health/live: the server answers."""
    return json_response({"live": True})


async def ready(request: Request) -> Response:
    """GET /v2/health/ready: the server can read its models."""
    await run_in_threadpool(_service(request).store.names)
    return json_response({"ready": True})


async def index(request: Request) -> Response:
    """POST /v2/repository/index: all models, or those that are ready."""
    content, _ = split(await _body(request) or b"{}", None)
    only_ready = content.get("ready", False)
    if not isinstance(only_ready, bool):
        raise ConfigError("'ready' must be true or false")
    entries = await run_in_threadpool(_index, _service(request).store)
    return json_response([entry for entry in entries if entry["state"] == "READY" or not only_ready])


async def metadata(request: Request) -> Response:
    """GET /v2/models/{name}: the tensors of a model; its columns and labels are among the parameters."""
    model = await _model(request)
    predictor = model.predictor
    named = {"keys": predictor.keys, "labels": predictor.labels}
    return json_response(
        {
            "name": model.name,
            "versions": [model.version],
            "platform": predictor.platform,
            "inputs": [_tensor(predictor.input.name, predictor.input.shape)],
            "outputs": [_tensor(predictor.output.name, _flattened(predictor.output.shape))],
            "parameters": {key: list(names) for key, names in named.items() if names},
        }
    )


async def model_ready(request: Request) -> Response:
    """GET /v2/models/{name}/ready: the model is loaded now, and can be run."""
    model = await _model(request)
    return json_response({"name": model.name, "ready": True})


async def infer(request: Request) -> Response:
    """POST /v2/models/{name}/infer: the scores of a batch."""
    body, header_length = await _body(request), request.headers.get(_HEADER_LENGTH)
    model = await _model(request)
    effort = len(body) if header_length is None else len(header_length)  # bytes are not looked at one by one
    question = await aside(effort, _question, model, body, header_length)
    scores = await _service(request).score(model, question.matrix)
    return _as_bytes(question, scores) if question.binary else await aside(scores.nbytes, _as_json, question, scores)


async def _model(request: Request) -> Model:
    name, version = request.path_params["name"], request.path_params.get("version")
    model = await _service(request).model(name)
    if version not in (None, model.version):
        raise UnknownModel(f"model '{name}' has no version {shown(version)}", hint=f"it has: {model.version}")
    return model


def _tensor(name: str, shape: Sequence[int | None]) -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": [-1, *(-1 if size is None else size for size in shape)]}


def _flattened(shape: Sequence[int | None]) -> list[int | None]:
    """Return the shape in which the scores of one event go: they are a list, whatever the model makes of them."""
    sizes = [size for size in shape if size is not None]
    return [math.prod(sizes) if len(sizes) == len(shape) else None]


def _index(store: ModelStore) -> list[dict[str, str]]:
    """Return all models; READY are those whose description can be read, which are loaded when they are asked for."""
    entries = []
    for name in store.names():
        try:
            version, state, reason = str(store.get(name).number), "READY", ""
        except ConfigError as error:
            version, state, reason = "1", "UNAVAILABLE", str(error)
        entries.append({"name": name, "version": version, "state": state, "reason": reason})
    return entries


def _question(model: Model, body: bytes, header_length: str | None) -> Question:
    content, binary = split(body, header_length)
    request_id = content.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise ConfigError(f"'id' must be a text, and is {shown(request_id)}")
    as_bytes = wants_binary(content, model.predictor.output)
    return Question(model, read_input(content, binary, model.predictor.input), as_bytes, request_id)


def _as_json(question: Question, scores: Matrix) -> Response:
    return json_response(_answer(question, scores, data=scores.ravel()))


def _as_bytes(question: Question, scores: Matrix) -> Response:
    raw = np.ascontiguousarray(scores, "<f4")
    head = json.dumps(_answer(question, scores, parameters={"binary_data_size": raw.nbytes})).encode()
    return Response(
        b"".join((head, raw.data)),
        headers={_HEADER_LENGTH: str(len(head))},
        media_type="application/octet-stream",
    )


def _answer(question: Question, scores: Matrix, **content: Any) -> dict[str, Any]:
    """Return the JSON object of an answer; `content` is what its output has besides name, datatype and shape."""
    model = question.model
    output = {"name": model.predictor.output.name, "datatype": "FP32", "shape": list(scores.shape), **content}
    own = {} if question.id is None else {"id": question.id}
    return {"model_name": model.name, "model_version": model.version, **own, "outputs": [output]}


def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


async def _body(request: Request) -> bytes:
    return await read_body(request.headers.raw, request.receive)
