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
from typing import Any, cast

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mlaas4hep import __version__
from mlaas4hep.errors import ConfigError
from mlaas4hep.serving.answers import LargeResponse, array_to_json, json_response, to_json
from mlaas4hep.serving.bodies import LARGE, LARGEST_COMMAND, QUICK, aside, read_body
from mlaas4hep.serving.oip_tensors import Inference, read_inference, split
from mlaas4hep.serving.predictor import Model
from mlaas4hep.serving.rows import Matrix, shown
from mlaas4hep.serving.service import Service
from mlaas4hep.serving.store import ModelStore, UnknownModel

_HEADER_LENGTH = "Inference-Header-Content-Length"
_NO_DATA = b"[]}]}"  # the end of an answer in JSON, whose last part is the data


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
    body = await read_body(request.headers.raw, request.receive, LARGEST_COMMAND)
    content, _ = split(body or b"{}", None)
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
    body, header_length = await read_body(request.headers.raw, request.receive), request.headers.get(_HEADER_LENGTH)
    model = await _model(request)
    asked = await _inference(request, model, body, header_length)
    scores = await _service(request).score(model, asked.matrix)
    if scores.nbytes < QUICK:
        return _as_bytes(model, asked, scores) if asked.binary else _as_json(model, asked, scores)
    return await aside(scores.nbytes, _as_bytes if asked.binary else _as_json, model, asked, scores)


async def _inference(request: Request, model: Model, body: bytearray, header_length: str | None) -> Inference:
    takes, gives = model.predictor.input, model.predictor.output
    binary = header_length is not None and header_length.isdecimal() and len(header_length) < 10
    text = int(header_length or 0) if binary else len(body)
    if text < LARGE:
        return await aside(len(body), read_inference, body, header_length, takes, gives)
    told, matrix = await _service(request).parsers.tensor(model, body, header_length)
    assert matrix is not None
    return Inference(matrix, told["binary"], told["id"])


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


def _as_json(model: Model, asked: Inference, scores: Matrix) -> Response:
    if scores.nbytes < QUICK:
        return json_response(_answer(model, asked, scores, data=scores.ravel()))
    head = to_json(_answer(model, asked, scores, data=[]))
    return LargeResponse(
        [head.removesuffix(_NO_DATA), *array_to_json(scores.ravel()), _NO_DATA[2:]], "application/json"
    )


def _as_bytes(model: Model, asked: Inference, scores: Matrix) -> Response:
    raw = np.ascontiguousarray(scores, "<f4")
    head = json.dumps(_answer(model, asked, scores, parameters={"binary_data_size": raw.nbytes})).encode()
    return LargeResponse([head, raw.data], "application/octet-stream", **{_HEADER_LENGTH: str(len(head))})


def _answer(model: Model, asked: Inference, scores: Matrix, **content: Any) -> dict[str, Any]:
    """Return the JSON object of an answer; `content` is what its output has besides name, datatype and shape."""
    output = {"name": model.predictor.output.name, "datatype": "FP32", "shape": list(scores.shape), **content}
    own = {} if asked.id is None else {"id": asked.id}
    return {"model_name": model.name, "model_version": model.version, **own, "outputs": [output]}


def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)
