"""The Open Inference Protocol, version 2, as used by KServe and Triton over HTTP.

    curl $url/v2/models/htautau
    curl $url/v2/models/htautau/infer -d @request.json

The extension for binary tensors, which `tritonclient` uses, is supported. Every model has one input and one output.
Missing values are NaN in binary data and null in JSON. `oip_tensors` reads the tensors of requests.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mlaas4hep.errors import ConfigError
from mlaas4hep.serving.http.bodies import LARGE_BODY, SMALL_BODY, read_body, run_aside
from mlaas4hep.serving.http.responses import LargeResponse, array_to_json, json_response, to_json
from mlaas4hep.serving.models.predictor import Model, Predictor
from mlaas4hep.serving.models.rows import Matrix, shown
from mlaas4hep.serving.models.tensor import flattened
from mlaas4hep.serving.protocols.oip_tensors import Inference, read_inference, split
from mlaas4hep.serving.protocols.triton import EXTENSIONS, model_config, model_statistics
from mlaas4hep.serving.service import service_of
from mlaas4hep.serving.store.store import ModelStore, UnknownModel
from mlaas4hep.version import __version__

_HEADER_LENGTH = "Inference-Header-Content-Length"
_NO_DATA = b"[]}]}"  # the end of a JSON response without data, which come last


def routes() -> list[BaseRoute]:
    """Return the routes of this protocol."""
    result: list[BaseRoute] = [
        Route("/v2", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route("/v2/repository/index", index, methods=["POST"]),
        Route("/v2/models", names),
    ]
    for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        result += [Route(model, metadata), Route(f"{model}/ready", model_ready)]
        result += [Route(f"{model}/config", config), Route(f"{model}/stats", statistics)]
        result.append(Route(f"{model}/infer", infer, methods=["POST"]))
    return result


async def server(request: Request) -> Response:
    """GET /v2: return the metadata of the server."""
    return json_response({"name": "mlaas4hep", "version": __version__, "extensions": EXTENSIONS})


async def live(request: Request) -> Response:
    """GET /v2/health/live: return whether the server is running."""
    return json_response({"live": True})


async def ready(request: Request) -> Response:
    """GET /v2/health/ready: check that the server can read its models."""
    await run_in_threadpool(service_of(request).store.names)
    return json_response({"ready": True})


async def index(request: Request) -> Response:
    """POST /v2/repository/index: return all models, or those that are ready."""
    body = await read_body(request.headers.raw, request.receive, service_of(request).limits.command_body)
    content, _ = split(body or b"{}", None)
    only_ready = content.get("ready", False)
    if not isinstance(only_ready, bool):
        raise ConfigError("'ready' must be true or false")
    entries = await run_in_threadpool(model_index, service_of(request).store)
    return json_response([entry for entry in entries if entry["state"] == "READY" or not only_ready])


async def names(request: Request) -> Response:
    """GET /v2/models: return the names of all models, as KServe does."""
    return json_response({"models": sorted(await run_in_threadpool(service_of(request).store.names))})


async def config(request: Request) -> Response:
    """GET /v2/models/{name}/config: return the configuration of a model in the form of Triton."""
    return json_response(model_config(await _model(request), service_of(request).limits))


async def statistics(request: Request) -> Response:
    """GET /v2/models/{name}/stats: return the counters of a model in the form of Triton."""
    model = await _model(request)
    counters = await run_in_threadpool(service_of(request).metrics.of_model, model.name)
    return json_response({"model_stats": [model_statistics(model, counters)]})


async def metadata(request: Request) -> Response:
    """GET /v2/models/{name}: return the tensors of a model; its parameters hold the names of columns and labels."""
    model = await _model(request)
    predictor = model.predictor
    inputs, outputs = tensor_metadata(predictor)
    named = {"keys": predictor.keys, "labels": predictor.labels}
    described = {
        "name": model.name,
        "versions": [model.version],
        "platform": predictor.platform,
        "inputs": inputs,
        "outputs": outputs,
        "parameters": {key: list(names) for key, names in named.items() if names} | _preproc(predictor),
    }
    return json_response(described)


async def model_ready(request: Request) -> Response:
    """GET /v2/models/{name}/ready: load the model and return that it is ready."""
    model = await _model(request)
    return json_response({"name": model.name, "ready": True})


async def infer(request: Request) -> Response:
    """POST /v2/models/{name}/infer: return the scores of a batch."""
    body = await read_body(request.headers.raw, request.receive, service_of(request).limits.json_body)
    header_length = request.headers.get(_HEADER_LENGTH)
    model = await _model(request)
    inference = await _inference(request, model, body, header_length)
    scores = await service_of(request).score(model, inference.matrix)
    return await run_aside(scores.nbytes, _as_bytes if inference.binary else _as_json, model, inference, scores)


async def _inference(request: Request, model: Model, body: bytearray, header_length: str | None) -> Inference:
    input_tensor, output_tensor = model.predictor.input, model.predictor.output
    binary = header_length is not None and header_length.isdecimal() and len(header_length) < 10
    text = int(header_length or 0) if binary else len(body)
    if text < LARGE_BODY:
        return await run_aside(len(body), read_inference, body, header_length, input_tensor, output_tensor)
    parsed, matrix = await service_of(request).parsers.tensor(model, body, header_length)
    assert matrix is not None
    return Inference(matrix, parsed["binary"], parsed["id"])


async def _model(request: Request) -> Model:
    name, version = request.path_params["name"], request.path_params.get("version")
    model = await service_of(request).model(name)
    if version not in (None, model.version):
        raise UnknownModel(f"model '{name}' has no version {shown(version)}", hint=f"it has: {model.version}")
    return model


def _preproc(predictor: Predictor) -> dict[str, Any]:
    """Return the preprocessing of a model, and the branches that a request needs for it to be applied."""
    preprocessing = predictor.preprocessing
    return {} if preprocessing is None else {"preproc": preprocessing.content, "raw_keys": preprocessing.needed}


def tensor_metadata(predictor: Predictor) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the inputs and the outputs of a model, with the batch dimension."""
    given, output = predictor.input, predictor.output
    return [_tensor(given.name, given.shape)], [_tensor(output.name, flattened(output.shape))]


def _tensor(name: str, shape: Sequence[int | None]) -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": [-1, *(-1 if size is None else size for size in shape)]}


def model_index(store: ModelStore) -> list[dict[str, str]]:
    """Return all models. READY means that the params.json is valid; models are loaded by the first request."""
    entries = []
    for name in store.names():
        try:
            version, state, reason = str(store.get(name).number), "READY", ""
        except ConfigError as error:
            version, state, reason = "1", "UNAVAILABLE", str(error)
        entries.append({"name": name, "version": version, "state": state, "reason": reason})
    return entries


def _as_json(model: Model, inference: Inference, scores: Matrix) -> Response:
    if scores.nbytes < SMALL_BODY:
        return json_response(_result(model, inference, scores, data=scores.ravel()))
    head = to_json(_result(model, inference, scores, data=[]))
    pieces = [head.removesuffix(_NO_DATA), *array_to_json(scores.ravel()), _NO_DATA[2:]]
    return LargeResponse(pieces, "application/json")


def _as_bytes(model: Model, inference: Inference, scores: Matrix) -> Response:
    raw = np.ascontiguousarray(scores, "<f4")
    head = json.dumps(_result(model, inference, scores, parameters={"binary_data_size": raw.nbytes})).encode()
    return LargeResponse([head, raw.data], "application/octet-stream", **{_HEADER_LENGTH: str(len(head))})


def _result(model: Model, inference: Inference, scores: Matrix, **content: Any) -> dict[str, Any]:
    """Return the JSON object of a response; `content` is added to name, datatype and shape of the output."""
    output = {"name": model.predictor.output.name, "datatype": "FP32", "shape": list(scores.shape), **content}
    request_id = {} if inference.id is None else {"id": inference.id}
    return {"model_name": model.name, "model_version": model.version, **request_id, "outputs": [output]}
