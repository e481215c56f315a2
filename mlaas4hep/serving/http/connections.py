"""HTTP/1.1 connections as uvicorn handles them, with timeouts and limits for slow and misbehaving clients.

    uvicorn.Config(app, http=Connection.with_attributes(timeout=30))

A client must send the headers of a request within `timeout` seconds. While it sends a body or reads a response, it may
pause for as long, and after that time a body must have arrived at 1 kB/s on average. The time that a model needs does
not count. `fast_path` has a subclass that answers some requests without ASGI.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from functools import cache
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from typing_extensions import Self
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mlaas4hep.protocol.limits import DEFAULTS, Limits, format_size
from mlaas4hep.serving.http.middleware import CERTIFICATE
from mlaas4hep.serving.http.repeated_warning import RepeatedWarning

if TYPE_CHECKING:
    from mlaas4hep.serving.certificates.client_certificates import ClientCertificates


class Refusal(NamedTuple):
    """The response to a request that never reaches a route."""

    status: int
    reason: str

    def message(self) -> bytes:
        """Return the whole response: status line, headers and body."""
        body = b'{"error":"%b"}' % self.reason.encode()
        headers = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        return status_line(self.status) + headers + body


_CLOSE_WAIT = 1.0  # seconds that a client has to close its end of a connection when the server stops
_INVALID = Refusal(400, "this is not a valid HTTP/1.1 request")
_MANY_REQUESTS = Refusal(429, "the client sends too many requests without waiting for responses")
_FRAMING = Refusal(400, "chunk sizes, chunk extensions and trailers are longer than the body itself")
_SLOW = Refusal(408, "the request did not arrive fast enough")
_DISCARDED: deque[object] = deque(maxlen=0)  # stays empty; uvicorn appends trailers to it
_stalled = RepeatedWarning(
    logging.getLogger(__name__),
    "a client at %s stalled: its connection is closed",
    "%d more clients stalled and lost their connections, the last of them at %s",
)


class Connection(HttpToolsProtocol):
    """One connection.

    Methods that are called for each request call those of `HttpToolsProtocol` by name: `super()` takes longer.

    Attributes:
        timeout: seconds that a client may take, see the module.
        client_certificates: finds the certificate of a client; None if client certificates are not accepted.
        limits: of the parts of a request. `head` also limits the bytes that arrive without progress of the parser.
    """

    timeout = 30.0
    limits = DEFAULTS
    client_certificates: ClientCertificates | None = None

    @classmethod
    def with_attributes(cls, **attributes: object) -> type[Self]:
        """Return a subclass that has these class attributes."""
        return type(cls.__name__, (cls,), attributes)

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        certificates = self.client_certificates
        self._certificate = certificates.of(transport.get_extra_info("ssl_object")) if certificates else None
        self._request_started = self._last_activity = self.loop.time()
        self._request_bytes = self._body_bytes = 0  # of the current request: all, and those of its body
        self._framing_bytes = 0  # bytes around the chunks of the body
        self._parser_steps = self._bytes_without_step = 0
        self._data_size = self._requests_in_data = 0  # of the data that arrived last
        self._in_headers, self._in_body = True, False
        self._rejection: Refusal | None = None  # the reason for which the parser was stopped
        self._final_response: Refusal | None = None  # sent after pending responses; nothing more is read
        self._closing_since: float | None = None
        self._active: Any = None  # the cycle that the application is answering

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`. Notify all requests; uvicorn notifies only the newest one."""
        for cycle in (self._active, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._final_response:
            return
        self._last_activity = self.loop.time()
        self._data_size = size = len(data)
        self._request_bytes += size
        self._requests_in_data = 0
        in_body, body_bytes, steps = self._in_body, self._body_bytes, self._parser_steps
        HttpToolsProtocol.data_received(self, data)
        self._bytes_without_step = self._bytes_without_step + size if steps == self._parser_steps else 0
        limits = self.limits
        if self._bytes_without_step > (limits.head if self._in_headers else limits.framing):  # httptools buffers them
            self._refuse(_long_head(limits) if self._in_headers else _FRAMING)
        elif in_body and self._in_body:
            self._framing_bytes += size - (self._body_bytes - body_bytes)
            if self._framing_bytes > limits.framing + self._body_bytes:
                self._refuse(_FRAMING)

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser, or a method that it calls, does not accept."""
        self._refuse(self._rejection or self._exceeded_limit() or _INVALID)

    def _exceeded_limit(self) -> Refusal | None:
        """Return which limit the URL and headers received so far exceed."""
        if self.headers is None or not self._in_headers:  # no request has begun, or its headers were checked
            return None
        limits = self.limits
        if len(self.url) > limits.url:
            return Refusal(414, f"the URL of a request may have {format_size(limits.url)}")
        if len(self.headers) > limits.headers:
            return Refusal(431, f"a request may have {limits.headers} headers")
        if self._request_bytes <= limits.head:
            return None
        size = len(self.url) + sum(map(len, chain.from_iterable(self.headers)))
        return _long_head(limits) if size > limits.head else None

    def _reject(self, refusal: Refusal) -> None:
        """Make the parser stop and call `send_400_response`."""
        self._rejection = refusal
        raise ValueError(refusal.reason)

    def _refuse(self, refusal: Refusal) -> None:
        """Send the refusal after the responses to earlier requests, then close the connection."""
        if self._final_response:
            return
        self._final_response = refusal
        if self._is_idle() or self._in_body:
            self._close_with_final_response()

    def _close_with_final_response(self) -> None:
        """Close the connection; send the final response unless another response has begun."""
        if self._final_response and (self._is_idle() or not (self.cycle.response_started or self.pipeline)):
            self.transport.write(self._final_response.message())
        self.transport.close()

    def on_response_complete(self) -> None:
        """See `HttpToolsProtocol`. Send the final response if a request was refused meanwhile."""
        HttpToolsProtocol.on_response_complete(self)
        if self._final_response and self._is_idle() and not self.transport.is_closing():
            self._close_with_final_response()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._active = cycle
        super()._start_asgi_task(cycle, app)

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's own returns None, which counts as False
        """Return whether the connection stays open, to answer a client that has closed its sending side."""
        waits = not self._is_idle() and (self._final_response is not None or not (self._in_headers or self._in_body))
        if waits and not self._final_response:
            self.cycle.keep_alive = False
        return waits and self.scheme == "http"  # TLS connections cannot be half-closed

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._last_activity = self.loop.time()
        super().resume_writing()

    def on_message_begin(self) -> None:
        """Reset what is counted per request; add the client's certificate to the ASGI scope."""
        HttpToolsProtocol.on_message_begin(self)
        self._request_started, self._request_bytes, self._in_headers = self._last_activity, self._data_size, True
        self._body_bytes = self._framing_bytes = 0
        self._parser_steps += 1
        self._requests_in_data += 1
        limits = self.limits
        if self._requests_in_data > limits.requests_at_once or len(self.pipeline) > limits.waiting_requests:
            self._reject(_MANY_REQUESTS)
        cast(dict[str, object], self.scope)[CERTIFICATE] = self._certificate

    def on_body(self, body: bytes) -> None:
        """Count the bytes of the body."""
        self._body_bytes += len(body)
        self._parser_steps += 1
        HttpToolsProtocol.on_body(self, body)

    def on_headers_complete(self) -> None:
        """Check the limits of the URL and the headers.

        Trailers are ignored: a proxy in front has not checked them as headers. uvicorn's `on_header`, which also
        receives them, is not overridden, because that would cost a call for each header.
        """
        exceeded = self._exceeded_limit()
        if exceeded:
            self._reject(exceeded)
        self._parser_steps += 1
        self._in_headers, self._in_body = False, True
        self.start_request()
        self.headers = cast(Any, _DISCARDED)

    def start_request(self) -> None:
        """Hand a request whose headers are complete to the ASGI application."""
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that the whole request has arrived."""
        self._in_body = False
        self._parser_steps += 1
        self.finish_request()

    def finish_request(self) -> None:
        """Tell the ASGI application that the body is complete."""
        super().on_message_complete()

    def end_if_overdue(self) -> None:
        """Close the connection of a client that exceeds the timeout."""
        if not self._is_overdue(self.loop.time()):
            return
        _stalled.note(self.client[0] if self.client else "?")
        if self.transport.is_closing() or self.flow.write_paused:
            self.transport.abort()
            return
        self._refuse(_SLOW)

    def end_if_closed(self) -> None:
        """Abort a closed connection whose client has not closed its end for a second, as happens with TLS."""
        if not self.transport.is_closing():
            self._closing_since = None
        elif self._closing_since is None:
            self._closing_since = self.loop.time()
        elif self.loop.time() - self._closing_since > _CLOSE_WAIT and not self.transport.get_write_buffer_size():
            self.transport.abort()

    def _is_overdue(self, now: float) -> bool:
        if self.transport.is_closing() or self.flow.write_paused:
            return bool(self.transport.get_write_buffer_size()) and now - self._last_activity > self.timeout
        if self._in_headers:
            return now - self._request_started > self.timeout
        if not self._in_body or self.flow.read_paused:  # the client waits for the server
            return False
        late = now - self._request_started - self.timeout
        slow = late > 0 and (self.cycle.response_complete or self._request_bytes < self.limits.body_rate * late)
        return slow or now - self._last_activity > self.timeout


@cache
def status_line(status: int) -> bytes:
    """Return the first line of a response."""
    return b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())


def _long_head(limits: Limits) -> Refusal:
    return Refusal(431, f"the headers of a request may have {format_size(limits.head)}")


def end_overdue(connections: Iterable[object]) -> None:
    """Close all connections that exceed the timeout; to be called about every second."""
    for connection in list(connections):
        if isinstance(connection, Connection):
            connection.end_if_overdue()
    _stalled.flush()


def end_closed(connections: Iterable[object]) -> None:
    """Abort connections that only wait for the client to close its end; to be called while the server stops."""
    for connection in list(connections):
        if isinstance(connection, Connection):
            connection.end_if_closed()
