"""Predictions in JSON: a coroutine for the route, and a fast path for connections that skip ASGI.

    scores = await predict(service, body)
    fast_path.handle(scope, headers, url, body, respond)  # calls respond(RawResponse(200, lines, b"[0.5]")) once

Most requests are predictions, and for a single row the task, scope and messages of ASGI cost more than the model. Both
ways give the same response; see `serving.http.fast_path`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from starlette.types import Scope

from mlaas4hep.serving.http.bodies import LARGE_BODY, SMALL_BODY, run_aside
from mlaas4hep.serving.http.middleware import Headers, Middleware, RequestContext
from mlaas4hep.serving.http.responses import array_to_json, error_response, events_to_json, header_lines, to_json
from mlaas4hep.serving.models.predictor import Model
from mlaas4hep.serving.models.rows import Matrix, Request, Rows, parse_request
from mlaas4hep.serving.service import Service

_OK = b"content-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n"
_NEED_ASGI = frozenset({b"content-encoding", b"transfer-encoding", b"expect", b"upgrade"})  # headers


class ScoredRows(NamedTuple):
    """The scores of a request.

    Attributes:
        scores: float32 (n, k), without the events that fail the cuts of the model.
        many, kept: see `Rows`.
    """

    scores: Matrix
    many: bool
    kept: NDArray[np.bool_] | None

    def to_json(self) -> list[bytes]:
        """Return the JSON text in pieces: a list per event, null for events that fail the cuts."""
        if self.kept is None:
            return array_to_json(self.scores if self.many else self.scores[0])
        if self.many:
            return events_to_json(self.scores, self.kept)
        return [to_json(self.scores[0] if len(self.scores) else None)]


async def predict(service: Service, body: bytes | bytearray) -> ScoredRows:
    """Return the scores for a JSON request.

    Raises:
        ConfigError: the request is invalid, or does not fit the model.
        UnknownModel: the model does not exist.
    """
    model, rows = await read_rows(service, "json", body, parse_request)
    return ScoredRows(await score_rows(service, model, rows), rows.many, rows.kept)


async def score_rows(service: Service, model: Model, rows: Rows) -> Matrix:
    """Return the scores, float32 (n, k), of the rows that pass the cuts of the model."""
    if rows.kept is not None:
        service.metrics.cut_rows(model.name, len(rows.kept) - len(rows.matrix))
    if not len(rows.matrix):
        return np.empty((0, 0), np.float32)
    return await service.score(model, rows.matrix)


async def read_rows(
    service: Service, kind: str, body: bytes | bytearray, parse: Callable[[bytes | bytearray], Request]
) -> tuple[Model, Rows]:
    """Return the model of a request and its rows; `kind` is its format, see `Parsers.rows`."""
    if len(body) >= LARGE_BODY:
        return await service.parsers.rows(kind, bytearray(body), service.model)
    request = await run_aside(len(body), parse, body)
    model = await service.model(request.model)
    size = LARGE_BODY if model.predictor.preprocesses(request) else len(body)  # in a thread
    return model, await run_aside(size, model.predictor.rows, request)


class RawResponse(NamedTuple):
    """A response whose body is complete; `headers` are lines, as they are sent."""

    status: int
    headers: bytes
    body: bytes


Respond = Callable[[RawResponse], None]


class FastPath:
    """Answers small requests for predictions without ASGI.

    Args:
        paths: of the prediction routes, including the base path.
    """

    def __init__(self, middleware: Middleware, service: Service, paths: Iterable[str]) -> None:
        self._middleware = middleware
        self._service = service
        self._paths = {path.encode(): path for path in paths}

    def accepts(self, method: bytes, url: bytes, headers: Headers) -> bool:
        """Return whether a request can take the fast path: a small prediction without special headers."""
        length = headers.get(b"content-length", b"")
        return (
            url in self._paths
            and method == b"POST"
            and _NEED_ASGI.isdisjoint(headers)
            and 0 < len(length) < 10
            and int(length) < SMALL_BODY
        )

    def handle(self, scope: Scope, headers: Headers, url: bytes, body: bytes, respond: Respond) -> None:
        """Start to answer a request.

        Args:
            scope: of ASGI; method and path may be missing.
            headers: those of the scope, by name.
            url: of a request that was accepted.
            respond: called once, with the response.
        """
        scope["method"], scope["path"] = "POST", self._paths[url]
        context = self._middleware.enter(scope, headers)
        try:
            self._middleware.check(context)
            request = parse_request(body)
            model = self._service.loaded(request.model)
            if model is not None and not model.predictor.preprocesses(request):
                rows = model.predictor.rows(request)
                done = partial(self._finish, context, respond, rows.many)
                if self._service.queue(model, rows.matrix, done):
                    return
            scored = asyncio.ensure_future(predict(self._service, body))
            scored.add_done_callback(partial(self._finish_scored, context, respond))
        except Exception as error:
            self._end(context, respond, error)

    def _finish_scored(self, context: RequestContext, respond: Respond, task: asyncio.Future[ScoredRows]) -> None:
        """Respond with the result of `predict`."""
        error = task.exception()
        scored = None if error else task.result()
        if scored is None or scored.kept is None:
            self._finish(context, respond, scored is None or scored.many, error or task.result().scores)
        else:
            self._end_with_pieces(context, respond, scored.scores.nbytes, scored.to_json)

    def _finish(self, context: RequestContext, respond: Respond, many: bool, scores: Matrix | BaseException) -> None:
        """Respond with all scores, or with those of a single row."""
        if isinstance(scores, BaseException):
            self._end(context, respond, scores)
        elif scores.nbytes < SMALL_BODY:
            self._end(context, respond, to_json(scores if many else scores[0]))
        else:
            self._end_with_pieces(context, respond, scores.nbytes, array_to_json, scores if many else scores[0])

    def _end_with_pieces(
        self, context: RequestContext, respond: Respond, size: int, function: Callable[..., list[bytes]], *args: object
    ) -> None:
        """Respond with the pieces that a function of `size` bytes returns, which may run in a thread."""
        end = partial(self._end, context, respond)
        pieces = asyncio.ensure_future(run_aside(size, function, *args))
        pieces.add_done_callback(lambda task: end(task.exception() or b"".join(task.result())))

    def _end(self, context: RequestContext, respond: Respond, result: bytes | BaseException) -> None:
        if isinstance(result, BaseException):
            response = error_response(context.what, result)
            status = response.status_code
            headers = header_lines((*response.raw_headers, (b"x-request-id", context.number)))
            respond(RawResponse(status, headers, bytes(response.body)))
        else:
            status = 200
            respond(RawResponse(status, _OK % (len(result), context.number), result))
        self._middleware.leave(context, status)
