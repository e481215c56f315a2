"""The TFaaS protocol as an ASGI application.

    app = create_app("tfaas_models")             # for any ASGI server; `server.serve` runs it with uvicorn

Each route is one function here: read the request, call the store or a predictor in a thread, answer. Errors are
`{"error": "..."}`, 400 and 404 for what a client can mend, and never say where on the machine something lies.
"""

from __future__ import annotations

import html
import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from mlaas4hep.errors import ConfigError, FileUnreadable, MLaaS4HEPError
from mlaas4hep.serving.archive import GZIP_MAGIC, Limits
from mlaas4hep.serving.guard import BodyLimit, Counter
from mlaas4hep.serving.images import answer, read_image
from mlaas4hep.serving.predictor import Predictors
from mlaas4hep.serving.rows import Matrix, parse_request
from mlaas4hep.serving.store import ModelStore, UnknownModel, Upload

_LARGEST_JSON = 64_000_000  # bytes
_LONGEST_ERROR = 1000  # characters; some of them are the client's own
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """What the routes share."""

    store: ModelStore
    predictors: Predictors
    counter: Counter = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)


def create_app(
    models_dir: str | os.PathLike[str], *, base_path: str = "", max_upload: int = 1_000_000_000
) -> Starlette:
    """Return the server as an ASGI application.

    Args:
        models_dir: where the models are kept; made where it does not exist.
        base_path: stands in front of every route, as in "/tfaas".
        max_upload: the largest body that is taken, in bytes; an archive may unpack to four times that.

    Raises:
        FileUnreadable: the folder cannot be made, read or written.
    """
    store = ModelStore(models_dir, Limits(size=4 * max_upload))
    service = Service(store, Predictors(store))
    routes: Sequence[BaseRoute] = _routes()
    if base := base_path.strip("/"):
        routes = [Mount(f"/{base}", routes=routes)]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(BodyLimit, limit=max_upload, counter=service.counter)],
        exception_handlers={
            UnknownModel: _answer_error(404),
            ConfigError: _answer_error(400),
            MLaaS4HEPError: _answer_error(501),
            FileUnreadable: _answer_disk_error,
            OSError: _answer_disk_error,
            HTTPException: _answer_http_error,
            ClientDisconnect: _answer_nobody,
            Exception: _answer_defect,
        },
    )
    app.state.service = service
    return app


def _routes() -> list[BaseRoute]:
    return [
        Route("/", page),
        Route("/models", models),
        Route("/params", set_default, methods=["POST"]),
        Route("/params/{model}", params),
        Route("/status", status),
        Route("/upload", upload, methods=["POST"]),
        Route("/bundle", bundle, methods=["POST"]),
        Route("/delete", delete, methods=["DELETE"]),
        Route("/delete/{model}", delete, methods=["DELETE"]),
        Route("/json", predict, methods=["POST"]),
        Route("/predict/json", predict, methods=["POST"]),
        Route("/image", image, methods=["POST"]),
        Route("/predict/image", image, methods=["POST"]),
    ]


async def models(request: Request) -> Response:
    """GET /models: the params of all models."""
    return _json(await run_in_threadpool(_service(request).store.list))


async def params(request: Request) -> Response:
    """GET /params/{model}: the params of one model."""
    return _json(await run_in_threadpool(_service(request).store.params, request.path_params["model"]))


async def set_default(request: Request) -> Response:
    """POST /params: make the model of these params the default one."""
    try:
        name = json.loads(await _body(request))["name"]
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
    service = _service(request)
    await run_in_threadpool(service.store.delete, name)
    service.predictors.forget(name)
    return Response()


async def predict(request: Request) -> Response:
    """POST /json, POST /predict/json: the scores of one row, or of a list of rows."""
    return _json(await run_in_threadpool(_predict, _service(request), await _body(request)))


async def image(request: Request) -> Response:
    """POST /image, POST /predict/image: the best labels of an image, or the scores for it."""
    async with request.form(max_files=1, max_fields=16) as form:
        name = form.get("model")
        upload = _file(form, "image")
        return _json(await run_in_threadpool(_predict_image, _service(request), str(name or ""), upload))


async def status(request: Request) -> Response:
    """GET /status: the machine's memory, load and cores, and what the server did."""
    return _json(await run_in_threadpool(_status, _service(request)))


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


def _predict(service: Service, body: bytes) -> list[Any]:
    asked = parse_request(body)
    name = asked.model or service.store.default
    if not name:
        raise UnknownModel("there is no model yet", hint="upload one: tfaas_client.py --upload=upload.json")
    predictor = service.predictors.get(name)
    rows = predictor.rows(asked)
    scores = _as_lists(predictor.predict(rows.matrix))
    return scores if rows.many else scores[0]


def _predict_image(service: Service, name: str, upload: Upload) -> Any:
    name = name or service.store.default
    if not name:
        raise UnknownModel("there is no model yet", hint="upload one: tfaas_client.py --upload=upload.json")
    predictor = service.predictors.get(name)
    scores = predictor.predict(read_image(upload.content, predictor.input))
    return answer(upload.filename, predictor, scores)


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
        "getRequests": service.counter.gets,
        "postRequests": service.counter.posts,
    }


def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


async def _body(request: Request) -> bytes:
    pieces, size = [], 0
    async for piece in request.stream():
        pieces.append(piece)
        size += len(piece)
        if size > _LARGEST_JSON:
            raise HTTPException(413, f"the request is larger than {_LARGEST_JSON / 1e6:.0f} MB")
    return b"".join(pieces)


def _file(form: FormData, part: str) -> Upload:
    file = form.get(part)
    if not isinstance(file, UploadFile):
        raise ConfigError(f"the form does not provide '{part}' as a file", hint=f"as in curl -F '{part}=@path'")
    return Upload(file.filename or "", file.file)


def _json(content: Any, status_code: int = 200) -> Response:
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return Response(text, status_code, media_type="application/json")


def _error(text: str, status_code: int) -> Response:
    return _json({"error": text[:_LONGEST_ERROR]}, status_code)


def _answer_error(status_code: int) -> Callable[[Request, Exception], Response]:
    return lambda request, error: _error(str(error), status_code)


def _answer_disk_error(request: Request, error: Exception) -> Response:
    _log.error("%s %s: %s", request.method, request.url.path, error)
    reason = cast(OSError, error).strerror or "it cannot be read or written"
    return _error(f"the server cannot use its models directory: {reason}", 500)


def _answer_http_error(request: Request, error: Exception) -> Response:
    problem = cast(HTTPException, error)
    response = _error(f"{request.method} {request.url.path}: {problem.detail}", problem.status_code)
    response.headers.update(problem.headers or {})
    return response


def _answer_nobody(request: Request, error: Exception) -> Response:
    return _error("the client left in the middle of the request", 400)


def _answer_defect(request: Request, error: Exception) -> Response:
    return _error("the server failed; its log says why", 500)
