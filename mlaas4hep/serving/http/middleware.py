"""ASGI middleware for all requests: request IDs, access rules, limits, metrics, and responses to errors.

    Middleware(app, Settings("tfaas_models"), Metrics())

Requests that are answered without ASGI (see `predictions`) call `enter`, `check` and `leave`.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import time
from collections import OrderedDict
from contextvars import ContextVar
from functools import lru_cache
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlaas4hep.serving.certificates.allowed_names import AllowedNames
from mlaas4hep.serving.http.access import Access, Tokens
from mlaas4hep.serving.http.metrics import Metrics
from mlaas4hep.serving.http.origins import Origins
from mlaas4hep.serving.http.responses import error_response
from mlaas4hep.serving.settings import Settings

CERTIFICATE = "mlaas4hep.certificate"
"""Key of an ASGI scope for the client's certificate (`ClientCertificate`) or None."""

REQUEST: ContextVar[str] = ContextVar("request", default="-")
"""The ID of the current request, for logs."""


class RequestNumber(logging.Filter):
    """Adds the ID of the current request to log records, as `request`."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        record.request = REQUEST.get()
        return True


_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "PUT", "OPTIONS", "PATCH"})
_ROUTES = {
    "models", "params", "status", "upload", "bundle", "delete", "json", "proto", "image", "predict", "data", "metrics",
    "v2", "inference.GRPCInferenceService", "about", "report", "static", "openapi.json",
}  # fmt: skip
_log = logging.getLogger("mlaas4hep.requests")

Headers = dict[bytes, bytes]
"""The headers of a request by lower-case name; the last one of several with the same name."""


class RequestContext(NamedTuple):
    """A request that is being answered.

    Attributes:
        number: the request ID.
        began: when it arrived, by `time.perf_counter`.
    """

    scope: Scope
    headers: Headers
    number: bytes
    began: float

    @property
    def what(self) -> str:
        """Method and path of the request."""
        return f"{self.scope['method']} {self.scope['path']}"


class Middleware:
    """The outermost ASGI middleware of the server."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._base = settings.base
        self._limit = settings.max_upload
        self._metrics = metrics
        tokens = Tokens(settings.token_file) if settings.token_file else None
        names = AllowedNames(settings.allow_dn, settings.gridmap) if settings.allow_dn or settings.gridmap else None
        self._access = Access(tokens, bool(settings.capath), settings.private, settings.read_only, names)
        self._origins = Origins(settings.host, settings.allowed_host)
        self._rate = _RateLimit(settings.rate) if settings.rate else None
        self._number = itertools.count(1)
        self._prefix = secrets.token_hex(4)
        self._route = lru_cache(1000)(self._route_of)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        context = self.enter(scope, dict(scope["headers"]))
        sender = _ResponseSender(send, context.number)
        try:
            self.check(context)
            bounded = b"content-length" in context.headers
            await self._app(scope, receive if bounded else self._bounded(receive), sender.send)
        except Exception as error:
            response = error_response(context.what, error)
            if sender.status:  # a response has already begun
                raise
            await response(scope, receive, sender.send)
        finally:
            self.leave(context, sender.status)

    def enter(self, scope: Scope, headers: Headers) -> RequestContext:
        """Give a request its ID; the response has it as `x-request-id`.

        Args:
            headers: those of the scope, by name.
        """
        given = headers.get(b"x-request-id")
        number = (given and _valid_id(given)) or f"{self._prefix}-{next(self._number):x}"
        REQUEST.set(number)
        return RequestContext(scope, headers, number.encode(), time.perf_counter())

    def check(self, context: RequestContext) -> None:
        """Check a request against the access rules and limits.

        Raises:
            HTTPException: the request is refused.
        """
        scope, headers = context.scope, context.headers
        if len(headers) != len(scope["headers"]) and sum(name == b"host" for name, _ in scope["headers"]) > 1:
            raise HTTPException(400, "the request has several Host headers")
        self._origins.check(scope["method"], scope["scheme"], scope["http_version"], headers)
        self.check_access(context)

    def check_access(self, context: RequestContext, is_open: bool = False) -> None:
        """Check a request against the access rules, the rate and the size of its body.

        Args:
            is_open: whether the request needs no authentication, whatever its path.

        Raises:
            HTTPException: the request is refused.
        """
        scope, headers = context.scope, context.headers
        if self._rate and not self._rate.allows((scope.get("client") or ("",))[0]):
            raise HTTPException(429, "too many requests from this address", {"Retry-After": "1"})
        if int(headers.get(b"content-length", b"0")) > self._limit:  # the parser lets no more bytes through than this
            raise self._too_large()
        if self._access.open or is_open:
            return
        kind, _, token = headers.get(b"authorization", b"").partition(b" ")
        bearer = token.strip() if kind.lower() == b"bearer" else None
        path = scope["path"].removeprefix(self._base)
        self._access.check(scope["method"], path, bearer, scope.get(CERTIFICATE))

    def _bounded(self, receive: Receive) -> Receive:
        """Return a `receive` that raises a 413 as soon as too many bytes have arrived."""
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

    def flush(self) -> None:
        """Count the requests that were noted; see `Metrics.flush`."""
        self._metrics.flush()

    def leave(self, context: RequestContext, status: int) -> None:
        """Record a request that was answered in the metrics and the log."""
        scope, seconds = context.scope, time.perf_counter() - context.began
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.request(self._route(scope["path"]), method, status, seconds)
        if _log.isEnabledFor(logging.INFO):
            client = (scope.get("client") or ("-",))[0]
            path = scope["path"].encode("unicode_escape").decode()
            _log.info("%s %s %s %d %.1f ms", client, scope["method"], path, status, 1e3 * seconds)

    def _route_of(self, path: str) -> str:
        """Return the first part of a path, or "other": unknown paths must not add labels to the metrics."""
        first = path.removeprefix(self._base).strip("/").partition("/")[0]
        return f"/{first}" if not first or first in _ROUTES else "other"


class _ResponseSender:
    """Sends a response with the request ID among its headers, and remembers its status."""

    def __init__(self, send: Send, number: bytes) -> None:
        self._send = send
        self._number = number
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], (b"x-request-id", self._number)]
        await self._send(message)


def _valid_id(given: bytes) -> str:
    """Return the request ID that a client or proxy sent; "" if it is not valid."""
    number = given.decode("latin-1")
    return number if len(number) <= 64 and number.isascii() and number.replace("-", "").isalnum() else ""


class _RateLimit:
    """A limit of requests per second for each address, with a burst of as many requests."""

    _ADDRESSES = 10_000

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # requests permitted at a time, and that time

    def allows(self, address: str) -> bool:
        """Count a request; return whether it is permitted."""
        now = time.monotonic()
        most = max(self._rate, 1.0)
        left, since = self._left.pop(address, (most, now))
        left = min(most, left + (now - since) * self._rate)
        allowed = left >= 1
        self._left[address] = (left - allowed, now)
        if len(self._left) > self._ADDRESSES:
            self._left.popitem(last=False)
        return allowed
