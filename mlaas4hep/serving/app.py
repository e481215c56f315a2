"""The TFaaS protocol as an ASGI application.

    app = create_app(Settings("tfaas_models"))   # for any ASGI server; `server.serve` runs it

Each route is one function here: read the request, call the store in a thread or a model by `Service.score`, answer.
What they raise becomes an answer in `gate`. Predictions of JSON, which are most of what is asked, pass by the router.
"""

from __future__ import annotations

import html
import json
import math
import tempfile
import time
from collections.abc import Sequence
from typing import Any, BinaryIO, cast

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mlaas4hep.errors import ConfigError
from mlaas4hep.serving.answers import json_response
from mlaas4hep.serving.archive import GZIP_MAGIC
from mlaas4hep.serving.gate import Gate
from mlaas4hep.serving.metrics import CONTENT_TYPE
from mlaas4hep.serving.rows import Matrix, parse_request
from mlaas4hep.serving.service import Service
from mlaas4hep.serving.settings import Settings
from mlaas4hep.serving.store import Upload

_LARGEST_JSON = 64_000_000  # bytes
_QUICK = 50_000  # bytes of JSON that are parsed while other requests wait
_PREDICT = frozenset({"/json", "/predict/json"})


def create_app(settings: Settings) -> ASGIApp:
    """Return the server as an ASGI application.

    Raises:
        FileUnreadable: the models directory cannot be made, read or written.
        ConfigError: settings do not go together.
    """
    service = Service(settings)
    routes: Sequence[BaseRoute] = _routes()
    if settings.base:
        routes = [Mount(settings.base, routes=routes)]
    router = Starlette(routes=routes, exception_handlers=dict.fromkeys((Exception, HTTPException), _raise))
    router.state.service = service
    quick = {f"{settings.base}{path}" for path in _PREDICT}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in quick:
            response = await _predict(service, receive)
            await response(scope, receive, send)
        else:
            await router(scope, receive, send)

    return Gate(app, settings, service.metrics)


def _routes() -> list[BaseRoute]:
    return [
        Route("/", page),
        Route("/models", models),
        Route("/params", set_default, methods=["POST"]),
        Route("/params/{model}", params),
        Route("/status", status),
        Route("/metrics", metrics),
        Route("/upload", upload, methods=["POST"]),
        Route("/bundle", bundle, methods=["POST"]),
        Route("/delete", delete, methods=["DELETE"]),
        Route("/delete/{model}", delete, methods=["DELETE"]),
        Route("/json", predict, methods=["POST"]),
        Route("/predict/json", predict, methods=["POST"]),
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
        name = json.loads(await _body(request.receive))["name"]
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise ConfigError("the request is no params.json with a 'name'") from error
    await run_in_threadpool(_service(request).store.set_default, str(name))
    return Response()


async def upload(request: Request) -> Response:
    """POST /upload: a model as a form, or as an archive."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await bundle(request)
    async with request.form(max_files=16, max_fields=16) as form:
        name = form.get("name")
        if not isinstance(name, str) or not name:
            raise ConfigError("the form does not provide 'name'", hint="as in curl -F 'name=htautau'")
        await run_in_threadpool(
            _service(request).store.add_form,
            name,
            _file(form, "params").content,
            _file(form, "model"),
            _file(form, "labels"),
            in_base64=request.headers.get("content-encoding", "").lower() == "base64",
        )
    return Response()


async def bundle(request: Request) -> Response:
    """POST /upload, POST /bundle: a model as an archive, spooled to disk first."""
    says_gzip = request.headers.get("content-encoding", "").lower() == "gzip"
    with tempfile.TemporaryFile() as spool:
        async for piece in request.stream():
            if says_gzip and spool.tell() == 0 and piece and not GZIP_MAGIC.startswith(piece[:2]):
                raise ConfigError("the request says Content-Encoding: gzip, and its body is not gzip-compressed")
            await run_in_threadpool(spool.write, piece)
        await run_in_threadpool(_service(request).store.add_bundle, cast(BinaryIO, spool))
    return Response()


async def delete(request: Request) -> Response:
    """DELETE /delete/{model}, DELETE /delete with a form: 200 also when there is no such model."""
    name = request.path_params.get("model")
    if name is None:
        async with request.form(max_files=0, max_fields=16) as form:
            name = form.get("model")
    if not isinstance(name, str) or not name:
        raise ConfigError("the request does not provide 'model'", hint="as in DELETE /delete/htautau")
    await run_in_threadpool(_service(request).delete, name)
    return Response()


async def predict(request: Request) -> Response:
    """POST /json, POST /predict/json: the scores of one row, or of a list of rows."""
    return await _predict(_service(request), request.receive)


async def _predict(service: Service, receive: Receive) -> Response:
    body = await _body(receive)
    asked = parse_request(body) if len(body) < _QUICK else await run_in_threadpool(parse_request, body)
    name, predictor = await service.predictor(asked.model)
    rows = predictor.rows(asked) if len(body) < _QUICK else await run_in_threadpool(predictor.rows, asked)
    scores = _as_lists(await service.score(name, predictor, rows.matrix))
    return json_response(scores if rows.many else scores[0])


async def metrics(request: Request) -> Response:
    """GET /metrics: counters, for Prometheus."""
    return Response(await run_in_threadpool(_service(request).metrics.text), media_type=CONTENT_TYPE)


async def status(request: Request) -> Response:
    """GET /status: the machine's memory, load and cores, and what the server did."""
    return json_response(await run_in_threadpool(_status, _service(request)))


async def page(request: Request) -> Response:
    """GET /: the models, for people."""
    service = _service(request)
    rows = "".join(
        f"<tr><td>{html.escape(str(model['name']))}</td><td>{html.escape(str(model['model']))}</td>"
        f"<td>{html.escape(str(model['description']))}</td><td>{html.escape(str(model['timestamp']))}</td></tr>"
        for model in await run_in_threadpool(service.store.list)
    )
    return HTMLResponse(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>TFaaS models</title><h1>Models</h1>'
        f"<table><tr><th>name<th>file<th>description<th>since</tr>{rows}</table></html>".encode(errors="replace")
    )


def _as_lists(scores: Matrix) -> list[list[float | None]]:
    """Return numbers with as many digits as 32 bits have (0.1, not 0.10000000149), NaN as None."""
    return [[float(str(score)) if math.isfinite(score) else None for score in row] for row in scores]


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


async def _body(receive: Receive) -> bytes:
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > _LARGEST_JSON:
            raise HTTPException(413, f"the request is larger than {_LARGEST_JSON / 1e6:.0f} MB")
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _file(form: FormData, part: str) -> Upload:
    file = form.get(part)
    if not isinstance(file, UploadFile):
        raise ConfigError(f"the form does not provide '{part}' as a file", hint=f"as in curl -F '{part}=@path'")
    return Upload(file.filename or "", file.file)


async def _raise(request: Request, error: Exception) -> Response:
    raise error
