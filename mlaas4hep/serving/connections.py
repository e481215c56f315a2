"""Connections: HTTP/1.1 as uvicorn speaks it, and an end to clients that keep one open and do not go on.

    uvicorn.Config(app, http=Connection.customised(30, shortcut))

A request's headers must be there within `timeout` seconds; its body, and the client's reading of the answer, must not
stand still for so long, and a body must come at 1 kB/s on the whole. Waiting for a model is not the client's time.

Requests that a `Shortcut` takes are answered here; all others are the ASGI application's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from mlaas4hep.serving.gate import CERTIFICATE
from mlaas4hep.serving.predictions import Answer, Shortcut

if TYPE_CHECKING:
    from mlaas4hep.serving.client_certificates import ClientCertificates

_SLOWEST = 1000.0  # bytes of a body a second
_LONGEST_HEAD = 64_000  # bytes of a request's URL and headers
_TOO_LONG = f"the headers of a request may have {_LONGEST_HEAD / 1000:.0f} kB"
_log = logging.getLogger(__name__)


class Connection(HttpToolsProtocol):
    """One connection.

    Attributes:
        timeout: seconds that a client has.
        shortcut: answers requests that it finds fit.
        client_certificates: tells who a client is; None if no client certificates are accepted.
    """

    timeout = 30.0
    shortcut: Shortcut | None = None
    client_certificates: ClientCertificates | None = None

    @classmethod
    def customised(
        cls, timeout: float, shortcut: Shortcut, client_certificates: ClientCertificates | None = None
    ) -> type[Connection]:
        """Return the class of connections that have these attributes."""
        attributes = {"timeout": timeout, "shortcut": shortcut, "client_certificates": client_certificates}
        return type("Connection", (cls,), attributes)

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        certificates = self.client_certificates
        self._certificate = certificates.of(transport.get_extra_info("ssl_object")) if certificates else None
        self._began = self._moved = self.loop.time()  # of the request, and of what last went in or out
        self._arrived = self._piece = 0  # bytes of this request's later pieces, and of the last piece
        self._in_headers, self._in_body = True, False

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._moved = self.loop.time()
        self._piece = len(data)
        self._arrived += self._piece
        if self._in_headers and self._arrived > _LONGEST_HEAD + self._piece:  # httptools would gather it without an end
            self._refuse(431, _TOO_LONG)
            return
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, or is not taken, as uvicorn asks for."""
        if self._head_is_too_long():
            self._refuse(431, _TOO_LONG)
        else:
            self._refuse(400, "this is no HTTP/1.1 request")

    def _head_is_too_long(self) -> bool:
        """Say so of the request whose headers are there, or on their way."""
        if self.headers is None or self._arrived + self._piece <= _LONGEST_HEAD:
            return False
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > _LONGEST_HEAD

    def _refuse(self, status: int, reason: str) -> None:
        """Say what is wrong, unless another answer is under way, and close the connection."""
        if self._is_idle() or not self.cycle.response_started:
            self.transport.write(_refusal(status, reason))
        self.transport.close()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's own gives nothing, and that is no
        """Say whether the connection stays open, for the answer to a client that has said all it will."""
        waits = not (self._in_headers or self._in_body or self._is_idle())
        if waits:
            self.cycle.keep_alive = False
        return waits and self.scheme == "http"  # over TLS there is no such thing

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._moved = self.loop.time()
        super().resume_writing()

    def on_message_begin(self) -> None:
        """Note when a request begins, and what is known of its sender."""
        super().on_message_begin()
        self._began, self._arrived, self._in_headers = self.loop.time(), 0, True
        cast(dict[str, object], self.scope)[CERTIFICATE] = self._certificate

    def on_headers_complete(self) -> None:
        """Note that a body follows; the answer's head shall wait for its body."""
        if self._head_is_too_long():
            raise ValueError(_TOO_LONG)  # which the parser hands on to `send_400_response`
        self._in_headers, self._in_body = False, True
        if self._takes_shortcut():
            self.cycle = cast(Any, _ShortCycle(self.parser.should_keep_alive()))
            return
        super().on_headers_complete()
        if self.scope["method"] != "HEAD":  # to which there is no body
            self.cycle.transport = cast(Any, _Joined(self.transport))

    def _takes_shortcut(self) -> bool:
        return (
            self._is_idle()
            and not self.flow.write_paused
            and self.shortcut is not None
            and self.shortcut.fits(self.parser.get_method(), self.url, self.headers)
            and self.parser.get_http_version() == "1.1"
        )

    def on_message_complete(self) -> None:
        """Note that the request is there; begin to answer it, where that is done here."""
        self._in_body = False
        cycle = cast(object, self.cycle)
        if isinstance(cycle, _ShortCycle) and self.shortcut:
            self.shortcut.answer(cast(Any, self.scope), self.url, bytes(cycle.body), lambda a: self._reply(cycle, a))
        else:
            super().on_message_complete()

    def _reply(self, cycle: _ShortCycle, answer: Answer) -> None:
        """Send an answer, unless the client has left."""
        cycle.response_started = cycle.response_complete = True
        if self.transport.is_closing():
            return
        headers = [*self.server_state.default_headers, *answer.headers]
        if not cycle.keep_alive:
            headers.append((b"connection", b"close"))
        head = b"".join([b"%b: %b\r\n" % header for header in headers])
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[answer.status], head, answer.body))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def end_if_overdue(self) -> None:
        """Close the connection of a client that has had its time."""
        if not self._is_overdue(self.loop.time()):
            return
        _log.warning("a client at %s does not go on: its connection is closed", self.client[0] if self.client else "?")
        if self.transport.is_closing() or self.flow.write_paused:
            self.transport.abort()
            return
        self._refuse(408, "the request did not arrive fast enough")

    def _is_overdue(self, now: float) -> bool:
        if self.transport.is_closing() or self.flow.write_paused:
            return bool(self.transport.get_write_buffer_size()) and now - self._moved > self.timeout
        if self._in_headers:
            return now - self._began > self.timeout
        if not self._in_body or self.flow.read_paused:  # it is our turn
            return False
        late = now - self._began - self.timeout
        slow = late > 0 and (self.cycle.response_complete or self._arrived < _SLOWEST * late)
        return slow or now - self._moved > self.timeout


def _refusal(status: int, reason: str) -> bytes:
    body = b'{"error":"%b"}' % reason.encode()
    head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    return STATUS_LINE[status] + head + body


class _ShortCycle:
    """What uvicorn knows of a request and its answer, for one that it does not answer."""

    message_event = asyncio.Event()  # which nobody waits for

    def __init__(self, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
        self.body = bytearray()
        self.response_started = self.response_complete = self.disconnected = False


class _Joined:
    """A transport for one answer, whose head goes out together with what follows: one system call, not two."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        if self._head:
            self._transport.write(self._head + data)
            self._head = b""
        elif self._head is None and not data.startswith(b"HTTP/1.1 100"):
            self._head = data
        else:
            self._transport.write(data)

    def close(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def end_overdue(connections: Iterable[object]) -> None:
    """Look after all connections; to be called every second or so."""
    for connection in list(connections):
        if isinstance(connection, Connection):
            connection.end_if_overdue()
