"""The server as an ASGI application, and the routes of the TFaaS protocol.

    app = create_app(Settings("tfaas_models"))   # for any ASGI server; `server.serve` runs it

Each route is one function: it reads the request, calls the store in a thread or a model through `Service.score`, and
returns a response. `Middleware` turns the errors that they raise into responses.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, BinaryIO, cast
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from mlaas4hep.errors import ConfigError
from mlaas4hep.input_files import GZIP_MAGIC
from mlaas4hep.serving.http.bodies import SMALL_BODY, in_slices, read_body, run_aside
from mlaas4hep.serving.http.metrics import CONTENT_TYPE
from mlaas4hep.serving.http.middleware import Middleware
from mlaas4hep.serving.http.responses import LargeResponse, json_response
from mlaas4hep.serving.page import page
from mlaas4hep.serving.protocols import oip, proto
from mlaas4hep.serving.protocols.images import image_result, read_image
from mlaas4hep.serving.protocols.openapi import description
from mlaas4hep.serving.protocols.predictions import FastPath, predict
from mlaas4hep.serving.service import Service, service_of
from mlaas4hep.serving.settings import Settings
from mlaas4hep.serving.store.store import Upload
from mlaas4hep.unique_names import RepeatedKey, unique_keys

_PREDICT = ("/json", "/predict/json")
_CHUNK = 1 << 18  # bytes of a file that are sent at a time


def create_app(settings: Settings) -> ASGIApp:
    """Return the server as an ASGI application.

    Raises:
        FileUnreadable: the models directory cannot be created, read or written.
        ConfigError: settings contradict each other.
    """
    return create_app_and_fast_path(settings)[0]


def create_app_and_fast_path(settings: Settings) -> tuple[Middleware, FastPath, Service]:
    """Return the server as an ASGI application, the fast path of its connections, and what both share.

    Raises:
        FileUnreadable, ConfigError: see `create_app`.
    """
    service = Service(settings)
    all_routes: Sequence[BaseRoute] = [Mount(settings.base, routes=routes())] if settings.base else routes()
    router = Starlette(routes=all_routes, exception_handlers=dict.fromkeys((Exception, HTTPException), _raise))
    router.state.service = service
    app = Middleware(router, settings, service.metrics)
    return app, FastPath(app, service, [f"{settings.base}{path}" for path in _PREDICT]), service


def routes() -> list[BaseRoute]:
    """Return all routes, without the base path."""
    return [
        Route("/models", models),
        Route("/params", set_default, methods=["POST"]),
        Route("/params/{model}", params),
        Route("/data", data),
        Route("/status", status),
        Route("/metrics", metrics),
        Route("/openapi.json", openapi),
        Route("/upload", upload, methods=["POST"]),
        Route("/bundle", bundle, methods=["POST"]),
        Route("/delete", delete, methods=["DELETE"]),
        Route("/delete/{model}", delete, methods=["DELETE"]),
        *(Route(path, predict_json, methods=["POST"]) for path in _PREDICT),
        Route("/image", image, methods=["POST"]),
        Route("/predict/image", image, methods=["POST"]),
        *proto.routes(),
        *oip.routes(),
        *page.routes(),
    ]


async def models(request: Request) -> Response:
    """GET /models: return the params of all models."""
    return json_response(await run_in_threadpool(service_of(request).store.list))


async def params(request: Request) -> Response:
    """GET /params/{model}: return the params of one model."""
    return json_response(await run_in_threadpool(service_of(request).store.params, request.path_params["model"]))


async def set_default(request: Request) -> Response:
    """POST /params: make the model that these params name the default model."""
    largest = service_of(request).limits.command_body
    try:
        text = await read_body(request.headers.raw, request.receive, largest)
        name = json.loads(text, object_pairs_hook=unique_keys)["name"]
    except RepeatedKey as error:
        raise ConfigError(f"the request is not valid JSON: {error}") from error
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise ConfigError("the request is not a params.json with a 'name'") from error
    await run_in_threadpool(service_of(request).store.set_default, str(name))
    return Response()


async def data(request: Request) -> Response:
    """GET /data?model=name: return a model's file, as it was uploaded."""
    name = request.query_params.get("model")
    if not name:
        raise ConfigError("the request does not provide 'model'", hint="as in GET /data?model=htautau")
    file, content = await run_in_threadpool(service_of(request).store.open_model, name)
    size = os.fstat(content.fileno()).st_size
    headers = {"Content-Length": str(size), "Content-Disposition": f"attachment; filename*=utf-8''{quote(file)}"}
    return StreamingResponse(_chunks(content), media_type="application/octet-stream", headers=headers)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK):
            yield chunk


async def upload(request: Request) -> Response:
    """POST /upload: store a model that is sent as a form or as an archive."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await bundle(request)
    async with _sliced(request).form(max_files=16, max_fields=16) as form:
        name = form.get("name")
        if not isinstance(name, str) or not name:
            raise ConfigError("the form does not provide 'name'", hint="as in curl -F 'name=htautau'")
        in_base64 = request.headers.get("content-encoding", "").lower() == "base64"
        files = _file(form, "params").content, _file(form, "model"), _file(form, "labels")
        service = service_of(request)
        await service.in_upload_thread(partial(service.add_form, in_base64=in_base64), name, *files)
    return Response()


async def bundle(request: Request) -> Response:
    """POST /upload, POST /bundle: store a model that is sent as an archive, which is spooled to disk first."""
    declared_gzip = request.headers.get("content-encoding", "").lower() == "gzip"
    with tempfile.TemporaryFile() as spool:
        async for chunk in request.stream():
            if declared_gzip and spool.tell() == 0 and chunk and not GZIP_MAGIC.startswith(chunk[:2]):
                raise ConfigError("the request says Content-Encoding: gzip, but its body is not gzip-compressed")
            await run_in_threadpool(spool.write, chunk)
        await service_of(request).in_upload_thread(service_of(request).add_bundle, cast(BinaryIO, spool))
    return Response()


async def delete(request: Request) -> Response:
    """DELETE /delete/{model}, DELETE /delete with a form: delete a model; 200 also if it does not exist."""
    name = request.path_params.get("model")
    if name is None:
        async with _sliced(request).form(max_files=0, max_fields=16) as form:
            name = form.get("model")
    if not isinstance(name, str) or not name:
        raise ConfigError("the request does not provide 'model'", hint="as in DELETE /delete/htautau")
    await run_in_threadpool(service_of(request).delete, name)
    return Response()


async def predict_json(request: Request) -> Response:
    """POST /json, POST /predict/json: return the scores of one row, or of a list of rows."""
    service = service_of(request)
    scored = await predict(service, await read_body(request.headers.raw, request.receive, service.limits.json_body))
    if scored.scores.nbytes < SMALL_BODY:
        return Response(b"".join(scored.to_json()), media_type="application/json")
    return LargeResponse(await run_aside(scored.scores.nbytes, scored.to_json), "application/json")


async def metrics(request: Request) -> Response:
    """GET /metrics: return the counters in Prometheus's text format."""
    counters = service_of(request).metrics
    counters.flush()
    return Response(await run_in_threadpool(counters.text), media_type=CONTENT_TYPE)


async def openapi(request: Request) -> Response:
    """GET /openapi.json: return the description of all routes."""
    return json_response(description(service_of(request).settings.base))


async def image(request: Request) -> Response:
    """POST /image, POST /predict/image: return the most probable labels of an image, or its scores."""
    async with _sliced(request).form(max_files=1, max_fields=16) as form:
        upload, service = _file(form, "image"), service_of(request)
        model = await service.model(str(form.get("model") or ""))
        largest = service.limits.image_pixels
        pixels = await run_in_threadpool(read_image, upload.content, model.predictor.input, largest)
        scores = await service.score(model, pixels)
        return json_response(image_result(upload.filename, model.predictor, scores))


async def status(request: Request) -> Response:
    """GET /status: return memory, load and CPU usage of the machine, and the server's uptime and request counts."""
    service_of(request).metrics.flush()
    return json_response(await run_in_threadpool(_status, service_of(request)))


def _status(service: Service) -> dict[str, Any]:
    import psutil

    return {
        "memory": {"virtual": psutil.virtual_memory()._asdict(), "swap": psutil.swap_memory()._asdict()},
        "load": dict(zip(("load1", "load5", "load15"), psutil.getloadavg(), strict=True)),
        "cpu": psutil.cpu_percent(percpu=True),
        "uptime": time.monotonic() - service.started,
        "getRequests": service.metrics.answered("GET"),
        "postRequests": service.metrics.answered("POST"),
    }


def _file(form: FormData, part: str) -> Upload:
    file = form.get(part)
    if not isinstance(file, UploadFile):
        raise ConfigError(f"the form does not provide '{part}' as a file", hint=f"as in curl -F '{part}=@path'")
    return Upload(file.filename or "", file.file)


def _sliced(request: Request) -> Request:
    """Return the request with a body that is parsed in small slices, so that a form does not block other requests."""
    return Request(request.scope, in_slices(request.receive))


async def _raise(request: Request, error: Exception) -> Response:
    raise error
