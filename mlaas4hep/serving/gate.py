"""What every request passes: a number by which logs name it, rules of access, limits, and counters.

    Gate(app, Settings("tfaas_models"), Metrics())

It is ASGI middleware; what answers without ASGI (see `predictions`) calls `enter`, `check` and `leave`. An error that
the application raises ends here, as an answer. What is in a body is for the routes to judge.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable
from contextvars import ContextVar
from functools import lru_cache
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlaas4hep.serving.access import Access, Tokens
from mlaas4hep.serving.allowed_names import AllowedNames
from mlaas4hep.serving.answers import error_response
from mlaas4hep.serving.metrics import Metrics
from mlaas4hep.serving.origins import Origins
from mlaas4hep.serving.settings import Settings

CERTIFICATE = "mlaas4hep.certificate"
"""Where a scope has the client's certificate (`ClientCertificate`), or None."""

REQUEST: ContextVar[str] = ContextVar("request", default="-")
"""The number of the request that is being answered, for logs."""


class RequestNumber(logging.Filter):
    """Adds the number of the request to what is logged, as `request`."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        record.request = REQUEST.get()
        return True


_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "PUT", "OPTIONS", "PATCH"})
_ROUTES = frozenset(
    {
        *("models", "params", "status", "upload", "bundle", "delete", "json", "proto", "image", "predict"),
        *("data", "metrics", "v2", "about", "report", "static", "openapi.json"),
    }
)
_log = logging.getLogger("mlaas4hep.requests")


class Visit(NamedTuple):
    """A request on its way."""

    scope: Scope
    headers: dict[bytes, bytes]
    number: bytes
    began: float

    @property
    def what(self) -> str:
        """Method and path."""
        return f"{self.scope['method']} {self.scope['path']}"


class Gate:
    """ASGI middleware, the outermost."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._base = settings.base
        self._limit = settings.max_upload
        self._metrics = metrics
        tokens = Tokens(settings.token_file) if settings.token_file else None
        names = AllowedNames(settings.allow_dn, settings.gridmap) if settings.allow_dn or settings.gridmap else None
        self._access = Access(tokens, bool(settings.capath), settings.private, settings.read_only, names)
        self._origins = Origins(settings.host, settings.allowed_host)
        self._rate = _Rate(settings.rate) if settings.rate else None
        self._number = itertools.count(1)
        self._prefix = secrets.token_hex(4)
        self._route = lru_cache(1000)(self._route_of)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        visit = self.enter(scope)
        answer = _Answer(send, visit.number)
        try:
            self.check(visit)
            bounded = b"content-length" in visit.headers
            await self._app(scope, receive if bounded else self._bounded(receive), answer.send)
        except Exception as error:
            response = error_response(visit.what, error)
            if answer.status:  # half of another one is on its way
                raise
            await response(scope, receive, answer.send)
        finally:
            self.leave(visit, answer.status)

    def enter(self, scope: Scope) -> Visit:
        """Give a request its number; its answer has it as `x-request-id`."""
        headers = dict(scope["headers"])
        number = _number(headers) or f"{self._prefix}-{next(self._number):x}"
        REQUEST.set(number)
        return Visit(scope, headers, number.encode(), time.perf_counter())

    def check(self, visit: Visit) -> None:
        """Hold a request to the rules.

        Raises:
            HTTPException: it may not pass.
        """
        scope, headers = visit.scope, visit.headers
        if len(headers) != len(scope["headers"]) and _repeats_host(scope["headers"]):
            raise HTTPException(400, "the request has several headers Host")
        self._origins.check(scope["method"], scope["scheme"], scope["http_version"], headers)
        if self._rate and not self._rate.allows((scope.get("client") or ("",))[0]):
            raise HTTPException(429, "too many requests from this address", {"Retry-After": "1"})
        if int(headers.get(b"content-length", b"0")) > self._limit:  # no connection lets more through than it says
            raise self._too_large()
        if self._access.open:
            return
        kind, _, token = headers.get(b"authorization", b"").partition(b" ")
        bearer = token.strip() if kind.lower() == b"bearer" else None
        path = scope["path"].removeprefix(self._base)
        self._access.check(scope["method"], path, bearer, scope.get(CERTIFICATE))

    def _bounded(self, receive: Receive) -> Receive:
        """Return what raises a 413 as soon as too many bytes have arrived."""
        arrived = 0

        async def receive_within_limit() -> Message:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            if arrived > self._limit:
                raise self._too_large()
            return message

        return receive_within_limit

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the request is larger than {self._limit / 1e6:,g} MB")

    def leave(self, visit: Visit, status: int) -> None:
        """Note that a request was answered."""
        scope, seconds = visit.scope, time.perf_counter() - visit.began
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.request(self._route(scope["path"]), method, status, seconds)
        if _log.isEnabledFor(logging.INFO):
            client = (scope.get("client") or ("-",))[0]
            path = scope["path"].encode("unicode_escape").decode()
            _log.info("%s %s %s %d %.1f ms", client, scope["method"], path, status, 1e3 * seconds)

    def _route_of(self, path: str) -> str:
        """Return the first part of a path, if it is one that there is: what is counted must not grow with nonsense."""
        first = path.removeprefix(self._base).strip("/").partition("/")[0]
        return f"/{first}" if not first or first in _ROUTES else "other"


class _Answer:
    """Sends an answer with the request's number in it, and remembers its status."""

    def __init__(self, send: Send, number: bytes) -> None:
        self._send = send
        self._number = number
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], (b"x-request-id", self._number)]
        await self._send(message)


def _repeats_host(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return sum(name == b"host" for name, _ in headers) > 1


def _number(headers: dict[bytes, bytes]) -> str:
    """Return the number that a client, or a proxy before us, gave the request; "" for none or nonsense."""
    if b"x-request-id" not in headers:
        return ""
    number = headers[b"x-request-id"].decode("latin-1")
    return number if len(number) <= 64 and number.isascii() and number.replace("-", "").isalnum() else ""


class _Rate:
    """So many requests a second of each address; as many at once, after a second without any."""

    _ADDRESSES = 10_000

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # requests that may come, and since when

    def allows(self, address: str) -> bool:
        """Count a request; say whether it may pass."""
        now = time.monotonic()
        most = max(self._rate, 1.0)
        left, since = self._left.pop(address, (most, now))
        left = min(most, left + (now - since) * self._rate)
        allowed = left >= 1
        self._left[address] = (left - allowed, now)
        if len(self._left) > self._ADDRESSES:
            self._left.popitem(last=False)
        return allowed
