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
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from mlaas4hep.serving.gate import CERTIFICATE
from mlaas4hep.serving.predictions import Answer, Shortcut
from mlaas4hep.serving.repeated_warning import RepeatedWarning

if TYPE_CHECKING:
    from mlaas4hep.serving.client_certificates import ClientCertificates


class Refusal(NamedTuple):
    """What is said to a client whose request never reaches a route."""

    status: int
    reason: str

    def message(self) -> bytes:
        """Return the whole answer."""
        body = b'{"error":"%b"}' % self.reason.encode()
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        return STATUS_LINE[self.status] + head + body


_SLOWEST = 1000.0  # bytes of a body a second
_LONGEST_URL = 8_000  # bytes
_LONGEST_HEAD = 64_000  # bytes of a request's URL and headers; also of anything that is not part of a body, in a row
_MOST_HEADERS = 200
_MOST_REQUESTS = 100  # that may begin in one piece of what arrives; each costs a fraction of a millisecond
_MOST_WAITING = 1000  # requests on one connection, behind the one that is being answered
_LONGEST_JOINED = 64_000  # bytes that are copied to go out together with the head
_INVALID = Refusal(400, "this is no HTTP/1.1 request")
_LONG_URL = Refusal(414, f"the URL of a request may have {_LONGEST_URL / 1000:.0f} kB")
_LONG_HEAD = Refusal(431, f"the headers of a request may have {_LONGEST_HEAD / 1000:.0f} kB")
_MANY_HEADERS = Refusal(431, f"a request may have {_MOST_HEADERS} headers")
_MANY_REQUESTS = Refusal(429, "the client sends too many requests without waiting for answers")
_FRAMING = Refusal(400, "chunk sizes, chunk extensions and trailers are longer than what they frame")
_SLOW = Refusal(408, "the request did not arrive fast enough")
_stalled = RepeatedWarning(
    logging.getLogger(__name__),
    "a client at %s does not go on: its connection is closed",
    "%d further clients did not go on and lost their connections, the last of them at %s",
)


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
        self._arrived = self._payload = 0  # bytes of this request, and of its body
        self._framing = self._fruitless = 0  # bytes around the body's chunks; bytes since the parser last made progress
        self._progress = self._begun = 0  # steps of the parser; requests in this piece
        self._piece = 0  # its bytes
        self._in_headers, self._in_body = True, False
        self._wrong: Refusal | None = None
        self._last_words: Refusal | None = None  # sent after the answers that are due; nothing is read any more
        self._active: Any = None  # the cycle that the application is answering

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`; all requests hear of it, not only the newest one."""
        for cycle in (self._active, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._last_words:
            return
        self._moved = self.loop.time()
        self._piece = size = len(data)
        self._arrived += size
        self._begun = 0
        in_body, payload, progress = self._in_body, self._payload, self._progress
        super().data_received(data)
        self._fruitless = self._fruitless + size if progress == self._progress else 0
        if self._fruitless > _LONGEST_HEAD:  # httptools would gather it without an end
            self._refuse(_LONG_HEAD if self._in_headers else _FRAMING)
        elif in_body and self._in_body:
            self._framing += size - (self._payload - payload)
            if self._framing > _LONGEST_HEAD + self._payload:
                self._refuse(_FRAMING)

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser, or one of the methods that it calls, does not accept."""
        self._refuse(self._wrong or self._excess() or _INVALID)

    def _excess(self) -> Refusal | None:
        """Return what is too long about the request whose headers are there, or on their way."""
        if not self._progress:  # there is no request yet
            return None
        if len(self.url) > _LONGEST_URL:
            return _LONG_URL
        if len(self.headers) > _MOST_HEADERS:
            return _MANY_HEADERS
        if self._arrived <= _LONGEST_HEAD:
            return None
        return _LONG_HEAD if len(self.url) + sum(map(len, chain.from_iterable(self.headers))) > _LONGEST_HEAD else None

    def _reject(self, refusal: Refusal) -> None:
        """Make the parser stop and call `send_400_response`."""
        self._wrong = refusal
        raise ValueError(refusal.reason)

    def _refuse(self, refusal: Refusal) -> None:
        """Say what is wrong, after the answers to earlier requests, and close the connection."""
        if self._last_words:
            return
        self._last_words = refusal
        if self._is_idle() or self._in_body:
            self._close_with_last_words()

    def _close_with_last_words(self) -> None:
        """Close the connection, with a reason unless another answer has begun."""
        if self._last_words and (self._is_idle() or not (self.cycle.response_started or self.pipeline)):
            self.transport.write(self._last_words.message())
        self.transport.close()

    def on_response_complete(self) -> None:
        """See `HttpToolsProtocol`; a request that was refused meanwhile is told so now."""
        super().on_response_complete()
        if self._last_words and self._is_idle() and not self.transport.is_closing():
            self._close_with_last_words()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._active = cycle
        super()._start_asgi_task(cycle, app)

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's own gives nothing, and that is no
        """Say whether the connection stays open, for the answer to a client that has said all it will."""
        waits = not self._is_idle() and (self._last_words is not None or not (self._in_headers or self._in_body))
        if waits and not self._last_words:
            self.cycle.keep_alive = False
        return waits and self.scheme == "http"  # over TLS there is no such thing

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._moved = self.loop.time()
        super().resume_writing()

    def on_message_begin(self) -> None:
        """Note when a request begins, and what is known of its sender."""
        super().on_message_begin()
        self._began, self._arrived, self._in_headers = self.loop.time(), self._piece, True
        self._payload = self._framing = 0
        self._progress += 1
        self._begun += 1
        if self._begun > _MOST_REQUESTS or len(self.pipeline) > _MOST_WAITING:
            self._reject(_MANY_REQUESTS)
        cast(dict[str, object], self.scope)[CERTIFICATE] = self._certificate

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those behind the body, trailers, are ignored, since a proxy has not seen them as headers."""
        if self._in_headers:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Count what arrives."""
        self._payload += len(body)
        self._progress += 1
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """Note that a body follows; the answer's head shall wait for its body."""
        excess = self._excess()
        if excess:
            self._reject(excess)
        self._progress += 1
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
        self._progress += 1
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
        if len(answer.body) <= _LONGEST_JOINED:
            self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[answer.status], head, answer.body))
        else:
            self.transport.write(b"%b%b\r\n" % (STATUS_LINE[answer.status], head))
            self.transport.write(answer.body)
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def end_if_overdue(self) -> None:
        """Close the connection of a client that has had its time."""
        if not self._is_overdue(self.loop.time()):
            return
        _stalled.note(self.client[0] if self.client else "?")
        if self.transport.is_closing() or self.flow.write_paused:
            self.transport.abort()
            return
        self._refuse(_SLOW)

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
        if self._head and len(data) <= _LONGEST_JOINED:
            self._transport.write(self._head + data)
            self._head = b""
        elif self._head:
            self._transport.write(self._head)
            self._transport.write(data)
            self._head = b""
        elif self._head is None and not data.startswith(b"HTTP/1.1 100"):
            self._head = data
        else:
            self._transport.write(data)

    def close(self) -> None:
        if self._head and not self._transport.is_closing():
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
    _stalled.flush()
