"""The web page at `/`, and the routes that only it uses.

    curl $url/about/htautau                      # inputs, labels, training metrics, example events
    curl $url/report/htautau                     # the report in the model's bundle

The page consists of the files in `static`: plain HTML, CSS and JavaScript, read at import. The files of a model are
untrusted: the page shows them as text, and the report is sandboxed in an opaque origin without scripts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mlaas4hep.errors import FileUnreadable, MLaaS4HEPError
from mlaas4hep.protocol.limits import format_size
from mlaas4hep.serving.http.responses import json_response
from mlaas4hep.serving.models.predictor import Predictor
from mlaas4hep.serving.page.page_files import PARTS, parse_part
from mlaas4hep.serving.service import Service, service_of
from mlaas4hep.serving.store.store import UnknownModel

_STATIC = {path.name: path.read_bytes() for path in (Path(__file__).parent / "static").iterdir()}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_REPORT = "report.html"
_FILES = [f"{part}.json" for part in PARTS]
_UNKNOWN: Mapping[str, Any] = {"platform": "", "inputs": [], "shape": None, "labels": []}  # of broken models
_NO_FRAMES = "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        f"{_NO_FRAMES}; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_REPORT_HEADERS = {
    **_HEADERS,
    "Content-Security-Policy": f"sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; {_NO_FRAMES}",
}


def routes() -> list[BaseRoute]:
    """Return the routes of the page."""
    paths = {"/": page, "/static/{file}": static, "/about/{model}": about, "/report/{model}": report}
    return [Route(path, function) for path, function in paths.items()]


async def page(request: Request) -> Response:
    """GET /: return the page."""
    return _file("index.html")


async def static(request: Request) -> Response:
    """GET /static/{file}: return a file of the page."""
    if request.path_params["file"] not in _STATIC:
        raise HTTPException(404, "unknown file")
    return _file(request.path_params["file"])


async def about(request: Request) -> Response:
    """GET /about/{model}: return what the page shows about a model; null for files that its bundle lacks."""
    name, service = request.path_params["model"], service_of(request)
    about_model: dict[str, Any] = {"version": "", **_UNKNOWN, **dict.fromkeys(PARTS), "report": False}
    try:
        about_model = await run_in_threadpool(_bundle_content, service, name)
        model = await service.model(name)
    except UnknownModel as error:
        raise UnknownModel(error.what, nearest=error.nearest) from error  # no hint: the page lists all models
    except FileUnreadable:
        raise
    except MLaaS4HEPError as error:
        return json_response({**about_model, "problem": str(error)})
    one = model.predictor
    interface = {"platform": one.platform, "inputs": _inputs(one), "shape": one.input.shape, "labels": list(one.labels)}
    return json_response({**about_model, **interface, "version": model.version})


async def report(request: Request) -> Response:
    """GET /report/{model}: return the report in the model's bundle."""
    name = request.path_params["model"]
    service = service_of(request)
    (content,) = await run_in_threadpool(service.store.read, name, [_REPORT], service.limits.report)
    if content is None:
        raise HTTPException(404, f"model '{name}' has no report of at most {format_size(service.limits.report)}")
    return Response(content, media_type="text/html", headers=_REPORT_HEADERS)


def _file(name: str) -> Response:
    return Response(_STATIC[name], media_type=_TYPES[Path(name).suffix], headers=_HEADERS)


def _bundle_content(service: Service, name: str) -> dict[str, Any]:
    """Return the version of a model and the content of its bundle for the page; models uploaded as a form have none."""
    stored = service.store.get(name)
    limits = service.limits
    contents = service.store.read(name, _FILES, limits.page_file)
    parts = {part: parse_part(part, content, limits) for part, content in zip(PARTS, contents, strict=True)}
    report = (stored.folder / _REPORT).is_file()
    return {"version": str(stored.number), "problem": "", **_UNKNOWN, **parts, "report": report}


def _inputs(predictor: Predictor) -> Sequence[dict[str, Any]]:
    """Return the branches that a model takes, then the columns without a branch; empty if its columns have no names."""
    keys, inputs = predictor.keys or (), []
    for name, (first, width, kind) in predictor.branches.items():
        inputs.append({"name": name, "kind": kind, "columns": keys[first : first + width]})
    seen = {column for branch in inputs for column in branch["columns"]}
    return inputs + [{"name": key, "kind": "flat", "columns": [key]} for key in keys if key not in seen]
