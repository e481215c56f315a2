"""Connections that answer small requests for predictions themselves, without ASGI.

    uvicorn.Config(app, http=connection_class(fast_path, timeout=30))
    unsupported_uvicorn()                 # why the fast path cannot be used; "" if it can

For a single row, the task, scope and messages of ASGI cost more than the model. This module therefore replaces the
object with which uvicorn tracks a request and its response (`RequestResponseCycle`). That is not part of uvicorn's
public interface, so `unsupported_uvicorn` compares the installed version with what is used here. If it differs, the
server uses `Connection`, which gives the same responses through ASGI.
"""

from __future__ import annotations

import asyncio
import inspect
from functools import lru_cache, partial
from typing import Any, cast

import uvicorn
from httptools import HttpRequestParser
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from mlaas4hep.serving.http.connections import Connection, status_line
from mlaas4hep.serving.http.middleware import Headers
from mlaas4hep.serving.http.responses import header_lines
from mlaas4hep.serving.protocols.predictions import FastPath, RawResponse

_LONGEST_JOINED = 64_000  # bytes of a body that are copied to send headers and body in one system call

_PARAMETERS = {
    "on_message_begin": [], "on_header": ["name", "value"], "on_headers_complete": [], "on_body": ["body"],
    "on_message_complete": [], "on_response_complete": [], "shutdown": [], "connection_lost": ["exc"],
}  # fmt: skip
_PROTOCOL_ATTRIBUTES = {
    "cycle", "flow", "headers", "parser", "pipeline", "scope", "server_state", "transport",
}  # fmt: skip
_CYCLE_ATTRIBUTES = {
    "scope", "transport", "flow", "logger", "access_logger", "access_log", "default_headers", "message_event",
    "on_response", "disconnected", "keep_alive", "waiting_for_100_continue", "body", "more_body", "response_started",
    "response_complete", "chunked_encoding", "expected_content_length",
}  # fmt: skip
_PARSER_METHODS = ("get_http_version", "get_method", "should_keep_alive")


def unsupported_uvicorn() -> str:
    """Return how the internals of the installed uvicorn differ from what this module uses; "" if they do not."""
    try:
        problem = _difference()
    except Exception as error:  # whatever a changed constructor raises
        problem = f"its internals cannot be inspected ({type(error).__name__})"
    return f"uvicorn {uvicorn.__version__}: {problem}" if problem else ""


def _difference() -> str:
    for name, parameters in _PARAMETERS.items():
        method = getattr(HttpToolsProtocol, name, None)
        if method is None or list(inspect.signature(method).parameters)[1:] != parameters:
            return f"HttpToolsProtocol.{name} is missing or takes other parameters"
    if missing := _PROTOCOL_ATTRIBUTES.difference(HttpToolsProtocol.__init__.__code__.co_names):
        return f"HttpToolsProtocol has no attribute {min(missing)}"
    cycle = RequestResponseCycle(*[cast(Any, None)] * (len(inspect.signature(RequestResponseCycle).parameters)))
    if changed := _CYCLE_ATTRIBUTES.symmetric_difference(vars(cycle)):  # one more could be needed elsewhere
        return f"RequestResponseCycle has other attributes ({min(changed)})"
    owners: list[tuple[object, tuple[str, ...]]] = [
        (ServerState(), ("default_headers", "total_requests")),
        (FlowControl(cast(Any, None)), ("write_paused",)),
        (HttpRequestParser, _PARSER_METHODS),
    ]
    return next((f"no {name}" for owner, names in owners for name in names if not hasattr(owner, name)), "")


def connection_class(fast_path: FastPath, **attributes: object) -> type[Connection]:
    """Return a class of connections that use the fast path, if the installed uvicorn allows it.

    Args:
        attributes: see `Connection`.
    """
    if unsupported_uvicorn():
        return Connection.with_attributes(**attributes)
    return FastConnection.with_attributes(fast_path=fast_path, **attributes)


class FastConnection(Connection):
    """A connection with a fast path.

    Attributes:
        fast_path: answers the requests that it accepts.
    """

    fast_path: FastPath

    def start_request(self) -> None:
        """Take the fast path if possible; otherwise let the response's headers wait for its body."""
        headers = dict(self.headers)
        if (
            self._is_idle()
            and not self.flow.write_paused
            and self.fast_path.accepts(self.parser.get_method(), self.url, headers)
            and self.parser.get_http_version() == "1.1"
        ):
            self.cycle = cast(Any, _FastCycle(self.parser.should_keep_alive(), headers))
            return
        super().start_request()
        if self.scope["method"] != "HEAD":  # its response has no body
            self.cycle.transport = cast(Any, _JoiningTransport(self.transport))

    def finish_request(self) -> None:
        """Answer a request that took the fast path."""
        cycle = cast(object, self.cycle)
        if isinstance(cycle, _FastCycle):
            respond = partial(self._respond, cycle)
            self.fast_path.handle(cast(Any, self.scope), cycle.headers, self.url, bytes(cycle.body), respond)
        else:
            super().finish_request()

    def _respond(self, cycle: _FastCycle, response: RawResponse) -> None:
        """Send a response, unless the client has left."""
        cycle.response_started = cycle.response_complete = True
        if self.transport.is_closing():
            return
        head = _first_lines(response.status, tuple(self.server_state.default_headers)) + response.headers
        head += b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        if len(response.body) <= _LONGEST_JOINED:
            self.transport.write(head + response.body)
        else:
            self.transport.write(head)
            self.transport.write(response.body)
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()


@lru_cache(20)
def _first_lines(status: int, default_headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """Return the first lines of a response; they change once a second, since they have the date."""
    return status_line(status) + header_lines(default_headers)


class _FastCycle:
    """The part of `RequestResponseCycle` that `HttpToolsProtocol` uses, for a request that takes the fast path."""

    message_event = asyncio.Event()  # never waited for

    def __init__(self, keep_alive: bool, headers: Headers) -> None:
        self.keep_alive = keep_alive
        self.headers = headers
        self.body = bytearray()
        self.more_body = True
        self.response_started = self.response_complete = self.disconnected = False


class _JoiningTransport:
    """A transport for one response that sends its headers together with its body, in one system call."""

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
