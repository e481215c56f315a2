"""The Open Inference Protocol, version 2, as KServe and Triton speak it over HTTP.

    curl $url/v2/models/htautau
    curl $url/v2/models/htautau/infer -d @request.json

With the extension for binary tensors, which `tritonclient` uses. A model has one input and one output here; NaN in
binary data, null in JSON stands for what was not measured. How tensors are read is in `tensors`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mlaas4hep import __version__
from mlaas4hep.errors import ConfigError
from mlaas4hep.serving.predictor import Predictor
from mlaas4hep.serving.rows import Matrix
from mlaas4hep.serving.scoring import find, plain_numbers, read_body, score
from mlaas4hep.serving.store import UnknownModel
from mlaas4hep.serving.tensors import read_input, shown, split, wants_binary

if TYPE_CHECKING:
    from mlaas4hep.serving.app import Service

_HEADER_LENGTH = "Inference-Header-Content-Length"
_PLATFORM = "onnx_onnxv1"


@dataclass(frozen=True)
class Model:
    """What a URL names."""

    name: str
    version: str
    predictor: Predictor


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
    return _json({"name": "mlaas4hep", "version": __version__, "extensions": ["binary_tensor_data"]})


async def live(request: Request) -> Response:
    """GET /v2/health/live: the server answers."""
    return _json({"live": True})


async def ready(request: Request) -> Response:
    """GET /v2/health/ready: the server can read its models."""
    await run_in_threadpool(request.app.state.service.store.names)
    return _json({"ready": True})


async def index(request: Request) -> Response:
    """POST /v2/repository/index: all models, or those that are ready."""
    content, _ = split(await read_body(request) or b"{}", None)
    only_ready = content.get("ready", False)
    if not isinstance(only_ready, bool):
        raise ConfigError("'ready' must be true or false")
    entries = await run_in_threadpool(_index, request.app.state.service)
    return _json([entry for entry in entries if entry["state"] == "READY" or not only_ready])


async def metadata(request: Request) -> Response:
    """GET /v2/models/{name}: the tensors of a model; its columns and labels are among the parameters."""
    return _json(await run_in_threadpool(_metadata, request))


async def model_ready(request: Request) -> Response:
    """GET /v2/models/{name}/ready: the model is loaded now, and can be run."""
    model = await run_in_threadpool(_model, request)
    return _json({"name": model.name, "ready": True})


async def infer(request: Request) -> Response:
    """POST /v2/models/{name}/infer: the scores of a batch."""
    question = await run_in_threadpool(_question, request, await read_body(request))
    scores = await score(request.app.state.service, question.model.predictor, question.matrix)
    return _as_bytes(question, scores) if question.binary else await run_in_threadpool(_as_json, question, scores)


def _versions(service: Service, name: str) -> list[str]:
    """Return the versions of a model that can be asked for, the newest one last."""
    return ["1"]


def _model(request: Request) -> Model:
    service, name, version = request.app.state.service, request.path_params["name"], request.path_params.get("version")
    predictor = find(service, name)
    known = _versions(service, name)
    if version is not None and version not in known:
        raise UnknownModel(f"model '{name}' has no version {shown(version)}", hint=f"it has: {', '.join(known)}")
    return Model(name, version or known[-1], predictor)


def _metadata(request: Request) -> dict[str, Any]:
    model = _model(request)
    predictor = model.predictor
    named = {"keys": predictor.keys, "labels": predictor.labels}
    return {
        "name": model.name,
        "versions": _versions(request.app.state.service, model.name),
        "platform": _PLATFORM,
        "inputs": [_tensor(predictor.input.name, predictor.input.shape)],
        "outputs": [_tensor(predictor.output.name, _flattened(predictor.output.shape))],
        "parameters": {key: list(names) for key, names in named.items() if names},
    }


def _tensor(name: str, shape: Sequence[int | None]) -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": [-1, *(-1 if size is None else size for size in shape)]}


def _flattened(shape: Sequence[int | None]) -> list[int | None]:
    """Return the shape in which the scores of one event go: they are a list, whatever the model makes of them."""
    sizes = [size for size in shape if size is not None]
    return [math.prod(sizes) if len(sizes) == len(shape) else None]


def _index(service: Service) -> list[dict[str, str]]:
    """Return all models; READY are those whose description can be read, which are loaded when they are asked for."""
    entries = []
    for name in service.store.names():
        try:
            service.store.get(name)
            state, reason = "READY", ""
        except ConfigError as error:
            state, reason = "UNAVAILABLE", str(error)
        entries.append({"name": name, "version": _versions(service, name)[-1], "state": state, "reason": reason})
    return entries


def _question(request: Request, body: bytes) -> Question:
    model = _model(request)
    content, binary = split(body, request.headers.get(_HEADER_LENGTH))
    request_id = content.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise ConfigError(f"'id' must be a text, and is {shown(request_id)}")
    as_bytes = wants_binary(content, model.predictor.output)
    return Question(model, read_input(content, binary, model.predictor.input), as_bytes, request_id)


def _as_json(question: Question, scores: Matrix) -> Response:
    return _json(_answer(question, scores, data=plain_numbers(scores)))


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


def _json(content: Any) -> Response:
    return Response(json.dumps(content, separators=(",", ":")), media_type="application/json")
