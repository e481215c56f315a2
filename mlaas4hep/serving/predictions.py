"""Predictions of JSON: as a coroutine for the route, and as a shortcut for connections that answer them themselves.

    scores = await predict(service, body)
    shortcut.answer(scope, url, body, reply)     # calls reply(Answer(200, headers, b"[0.5]")), now or later

They are most of what a server is asked, and of a single row ASGI's task, scope and messages cost more than the scores.
What is asked and answered is the same in both ways.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from starlette.types import Scope

from mlaas4hep.serving.answers import array_to_json, error_response, to_json
from mlaas4hep.serving.bodies import LARGE, QUICK, aside
from mlaas4hep.serving.gate import Gate, Visit
from mlaas4hep.serving.rows import Matrix, parse_request
from mlaas4hep.serving.service import Service

Header = tuple[bytes, bytes]

_JSON = (b"content-type", b"application/json")
_NOT_HERE = frozenset({b"content-encoding", b"transfer-encoding", b"expect", b"upgrade"})  # headers


async def predict(service: Service, body: bytes | bytearray) -> Matrix:
    """Return the scores (n, k) of the rows that are asked for in JSON, or (k,) of one that is not in a list.

    Raises:
        ConfigError: they do not fit the model.
        UnknownModel: there is none.
    """
    if len(body) < LARGE:
        asked = await aside(len(body), parse_request, body)
        model = await service.model(asked.model)
        rows = await aside(len(body), model.predictor.rows, asked)
    else:
        model, rows = await service.parsers.rows("json", bytearray(body), service.model)
    scores = await service.score(model, rows.matrix)
    return scores if rows.many else scores[0]


class Answer(NamedTuple):
    """What goes to the client."""

    status: int
    headers: Sequence[Header]
    body: bytes


Reply = Callable[[Answer], None]


class Shortcut:
    """From the bytes of a request to those of its answer.

    Args:
        paths: where predictions are asked for, base path and all.
    """

    def __init__(self, gate: Gate, service: Service, paths: Iterable[str]) -> None:
        self._gate = gate
        self._service = service
        self._paths = {path.encode(): path for path in paths}

    def fits(self, method: bytes, url: bytes, headers: Iterable[Header]) -> bool:
        """Say whether a request is answered here: it must be short, and plain."""
        if url not in self._paths or method != b"POST":
            return False
        length = b""
        for name, value in headers:
            if name in _NOT_HERE:
                return False
            if name == b"content-length":
                length = value
        return 0 < len(length) < 10 and int(length) < QUICK

    def answer(self, scope: Scope, url: bytes, body: bytes, reply: Reply) -> None:
        """Begin to answer a request.

        Args:
            scope: ASGI's, of which method and path may lack.
            url: one that fits.
            reply: is called once, with the answer.
        """
        scope["method"], scope["path"] = "POST", self._paths[url]
        visit = self._gate.enter(scope)
        try:
            self._gate.check(visit)
            asked = parse_request(body)
            model = self._service.loaded(asked.model)
            if model is not None:
                rows = model.predictor.rows(asked)
                if self._service.queue(model, rows.matrix, partial(self._finish, visit, reply, rows.many)):
                    return
            scores = asyncio.ensure_future(predict(self._service, body))
            scores.add_done_callback(lambda done: self._finish(visit, reply, True, done.exception() or done.result()))
        except Exception as error:
            self._end(visit, reply, error)

    def _finish(self, visit: Visit, reply: Reply, many: bool, scores: Matrix | BaseException) -> None:
        """Answer with all scores, or with those of the one row."""
        if isinstance(scores, BaseException):
            self._end(visit, reply, scores)
        elif scores.nbytes < QUICK:
            self._end(visit, reply, to_json(scores if many else scores[0]))
        else:
            pieces = asyncio.ensure_future(aside(scores.nbytes, array_to_json, scores if many else scores[0]))
            pieces.add_done_callback(lambda done: self._end(visit, reply, done.exception() or b"".join(done.result())))

    def flush(self) -> None:
        """See `Metrics.flush`."""
        self._service.metrics.flush()

    def _end(self, visit: Visit, reply: Reply, answer: bytes | BaseException) -> None:
        number = (b"x-request-id", visit.number)
        if isinstance(answer, BaseException):
            response = error_response(visit.what, answer)
            status = response.status_code
            reply(Answer(status, [*response.raw_headers, number], bytes(response.body)))
        else:
            status = 200
            reply(Answer(status, [_JSON, (b"content-length", b"%d" % len(answer)), number], answer))
        self._gate.leave(visit, status)
