"""The page for people, at `/`, and what it asks beyond the protocols.

    curl $url/about/htautau                      # inputs, labels, figures of the training, events to try
    curl $url/report/htautau                     # the report that came with the model

The page is the files in `static`: plain HTML, CSS and JavaScript, read once. Whatever came with a model is hostile: the
page shows it as text, and the report is shown in an origin of its own, where no script runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mlaas4hep.errors import FileUnreadable, MLaaS4HEPError
from mlaas4hep.serving.answers import json_response
from mlaas4hep.serving.page_files import LARGEST, PARTS, parse_part
from mlaas4hep.serving.predictor import Predictor
from mlaas4hep.serving.service import Service
from mlaas4hep.serving.store import UnknownModel

_STATIC = {path.name: path.read_bytes() for path in (Path(__file__).parent / "static").iterdir()}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_REPORT = "report.html"
_LARGEST_REPORT = 20_000_000  # bytes
_FILES = [f"{part}.json" for part in PARTS]
_NOT_KNOWN: Mapping[str, Any] = {"platform": "", "inputs": [], "shape": None, "labels": []}  # of what cannot be run
_CLOSED = "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        f"{_CLOSED}; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_REPORT_HEADERS = {
    **_HEADERS,
    "Content-Security-Policy": f"sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; {_CLOSED}",
}


def routes() -> list[BaseRoute]:
    """Return the routes of the page."""
    return [
        Route("/", page),
        Route("/static/{file}", static),
        Route("/about/{model}", about),
        Route("/report/{model}", report),
    ]


async def page(request: Request) -> Response:
    """GET /: the models, for people."""
    return _file("index.html")


async def static(request: Request) -> Response:
    """GET /static/{file}: what the page consists of."""
    if request.path_params["file"] not in _STATIC:
        raise HTTPException(404, "there is no such file")
    return _file(request.path_params["file"])


async def about(request: Request) -> Response:
    """GET /about/{model}: what the page shows of a model; null where the model came without it."""
    name, service = request.path_params["model"], _service(request)
    came_with: dict[str, Any] = {"version": "", **_NOT_KNOWN, **dict.fromkeys(PARTS), "report": False}
    try:
        came_with = await run_in_threadpool(_came_with, service, name)
        model = await service.model(name)
    except UnknownModel as error:
        raise UnknownModel(error.what, nearest=error.nearest) from error  # the list stands beside it
    except FileUnreadable:
        raise
    except MLaaS4HEPError as error:
        return json_response({**came_with, "problem": str(error)})
    return json_response({**came_with, **_interface(model.predictor), "version": model.version})


async def report(request: Request) -> Response:
    """GET /report/{model}: the report that came with the model."""
    name = request.path_params["model"]
    (found,) = await run_in_threadpool(_service(request).store.read, name, [_REPORT], _LARGEST_REPORT)
    if found is None:
        raise HTTPException(404, f"no report of at most {_LARGEST_REPORT / 1e6:.0f} MB came with model '{name}'")
    return Response(found, media_type="text/html", headers=_REPORT_HEADERS)


def _file(name: str) -> Response:
    return Response(_STATIC[name], media_type=_TYPES[Path(name).suffix], headers=_HEADERS)


def _came_with(service: Service, name: str) -> dict[str, Any]:
    """Return what a bundle holds beside the model; a server may have got the model alone."""
    stored = service.store.get(name)
    contents = service.store.read(name, _FILES, LARGEST)
    found = {part: parse_part(part, content) for part, content in zip(PARTS, contents, strict=True)}
    report = (stored.folder / _REPORT).is_file()
    return {"version": str(stored.number), "problem": "", **_NOT_KNOWN, **found, "report": report}


def _interface(predictor: Predictor) -> dict[str, Any]:
    named = {"platform": predictor.platform, "labels": list(predictor.labels)}
    return {**named, "inputs": _inputs(predictor), "shape": predictor.input.shape}


def _inputs(predictor: Predictor) -> Sequence[dict[str, Any]]:
    """Return the branches that a model takes, then the columns that are of no branch; nothing where it has no names."""
    keys, inputs = predictor.keys or (), []
    for name, (first, width, kind) in predictor.branches.items():
        inputs.append({"name": name, "kind": kind, "columns": keys[first : first + width]})
    seen = {column for branch in inputs for column in branch["columns"]}
    return inputs + [{"name": key, "kind": "flat", "columns": [key]} for key in keys if key not in seen]


def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)
