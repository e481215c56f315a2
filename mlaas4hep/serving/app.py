"""The TFaaS protocol as an ASGI application.

    app = create_app(Settings("tfaas_models"))   # for any ASGI server; `server.serve` runs it

Each route is one function here: read the request, call the store in a thread or a model by `Service.score`, answer.
What they raise becomes an answer in `gate`.
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
from mlaas4hep.serving import oip, page, proto
from mlaas4hep.serving.answers import LargeResponse, array_to_json, json_response
from mlaas4hep.serving.archive import GZIP_MAGIC
from mlaas4hep.serving.bodies import LARGEST_COMMAND, QUICK, aside, in_slices, read_body
from mlaas4hep.serving.gate import Gate
from mlaas4hep.serving.images import answer, read_image
from mlaas4hep.serving.metrics import CONTENT_TYPE
from mlaas4hep.serving.openapi import description
from mlaas4hep.serving.predictions import Shortcut, predict
from mlaas4hep.serving.service import Service
from mlaas4hep.serving.settings import Settings
from mlaas4hep.serving.store import Upload

_PREDICT = ("/json", "/predict/json")
_PIECE = 1 << 18  # bytes of a file


def create_app(settings: Settings) -> ASGIApp:
    """Return the server as an ASGI application.

    Raises:
        FileUnreadable: the models directory cannot be made, read or written.
        ConfigError: settings do not go together.
    """
    return create_app_and_shortcut(settings)[0]


def create_app_and_shortcut(settings: Settings) -> tuple[ASGIApp, Shortcut]:
    """Return the server as an ASGI application, and its shortcut for our own `Connection`.

    Raises:
        FileUnreadable, ConfigError: see `create_app`.
    """
    service = Service(settings)
    whole: Sequence[BaseRoute] = [Mount(settings.base, routes=routes())] if settings.base else routes()
    router = Starlette(routes=whole, exception_handlers=dict.fromkeys((Exception, HTTPException), _raise))
    router.state.service = service
    gate = Gate(router, settings, service.metrics)
    return gate, Shortcut(gate, service, [f"{settings.base}{path}" for path in _PREDICT])


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
    """GET /models: the params of all models."""
    return json_response(await run_in_threadpool(_service(request).store.list))


async def params(request: Request) -> Response:
    """GET /params/{model}: the params of one model."""
    return json_response(await run_in_threadpool(_service(request).store.params, request.path_params["model"]))


async def set_default(request: Request) -> Response:
    """POST /params: make the model of these params the default one."""
    try:
        name = json.loads(await read_body(request.headers.raw, request.receive, LARGEST_COMMAND))["name"]
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise ConfigError("the request is no params.json with a 'name'") from error
    await run_in_threadpool(_service(request).store.set_default, str(name))
    return Response()


async def data(request: Request) -> Response:
    """GET /data?model=name: a model's file, as it was uploaded."""
    name = request.query_params.get("model")
    if not name:
        raise ConfigError("the request does not provide 'model'", hint="as in GET /data?model=htautau")
    file, content = await run_in_threadpool(_service(request).store.open_model, name)
    size = os.fstat(content.fileno()).st_size
    headers = {"Content-Length": str(size), "Content-Disposition": f"attachment; filename*=utf-8''{quote(file)}"}
    return StreamingResponse(_pieces(content), media_type="application/octet-stream", headers=headers)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(_PIECE):
            yield piece


async def upload(request: Request) -> Response:
    """POST /upload: a model as a form, or as an archive."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await bundle(request)
    async with _in_slices(request).form(max_files=16, max_fields=16) as form:
        name = form.get("name")
        if not isinstance(name, str) or not name:
            raise ConfigError("the form does not provide 'name'", hint="as in curl -F 'name=htautau'")
        add = partial(
            _service(request).add_form, in_base64=request.headers.get("content-encoding", "").lower() == "base64"
        )
        files = _file(form, "params").content, _file(form, "model"), _file(form, "labels")
        await _service(request).in_upload_thread(add, name, *files)
    return Response()


async def bundle(request: Request) -> Response:
    """POST /upload, POST /bundle: a model as an archive, spooled to disk first."""
    says_gzip = request.headers.get("content-encoding", "").lower() == "gzip"
    with tempfile.TemporaryFile() as spool:
        async for piece in request.stream():
            if says_gzip and spool.tell() == 0 and piece and not GZIP_MAGIC.startswith(piece[:2]):
                raise ConfigError("the request says Content-Encoding: gzip, and its body is not gzip-compressed")
            await run_in_threadpool(spool.write, piece)
        await _service(request).in_upload_thread(_service(request).add_bundle, cast(BinaryIO, spool))
    return Response()


async def delete(request: Request) -> Response:
    """DELETE /delete/{model}, DELETE /delete with a form: 200 also when there is no such model."""
    name = request.path_params.get("model")
    if name is None:
        async with _in_slices(request).form(max_files=0, max_fields=16) as form:
            name = form.get("model")
    if not isinstance(name, str) or not name:
        raise ConfigError("the request does not provide 'model'", hint="as in DELETE /delete/htautau")
    await run_in_threadpool(_service(request).delete, name)
    return Response()


async def predict_json(request: Request) -> Response:
    """POST /json, POST /predict/json: the scores of one row, or of a list of rows."""
    scores = await predict(_service(request), await read_body(request.headers.raw, request.receive))
    if scores.nbytes < QUICK:
        return json_response(scores)
    return LargeResponse(await aside(scores.nbytes, array_to_json, scores), "application/json")


async def metrics(request: Request) -> Response:
    """GET /metrics: counters, for Prometheus."""
    counted = _service(request).metrics
    counted.flush()
    return Response(await run_in_threadpool(counted.text), media_type=CONTENT_TYPE)


async def openapi(request: Request) -> Response:
    """GET /openapi.json: what is understood here, for tools."""
    return json_response(description(_service(request).settings.base))


async def image(request: Request) -> Response:
    """POST /image, POST /predict/image: the best labels of an image, or the scores for it."""
    async with _in_slices(request).form(max_files=1, max_fields=16) as form:
        name = form.get("model")
        upload = _file(form, "image")
        service = _service(request)
        model = await service.model(str(name or ""))
        pixels = await run_in_threadpool(read_image, upload.content, model.predictor.input)
        scores = await service.score(model, pixels)
        return json_response(answer(upload.filename, model.predictor, scores))


async def status(request: Request) -> Response:
    """GET /status: the machine's memory, load and cores, and what the server did."""
    _service(request).metrics.flush()
    return json_response(await run_in_threadpool(_status, _service(request)))


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


def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


def _file(form: FormData, part: str) -> Upload:
    file = form.get(part)
    if not isinstance(file, UploadFile):
        raise ConfigError(f"the form does not provide '{part}' as a file", hint=f"as in curl -F '{part}=@path'")
    return Upload(file.filename or "", file.file)


def _in_slices(request: Request) -> Request:
    """Return the request as one whose form does not hold up others."""
    return Request(request.scope, in_slices(request.receive))


async def _raise(request: Request, error: Exception) -> Response:
    raise error
