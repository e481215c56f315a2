"""Reading and processing the bodies of requests without blocking the event loop.

    body = await read_body(request.headers.raw, request.receive, 64_000_000)
    parsed = await run_aside(len(body), parse_request, body)

Small bodies are processed in the event loop, larger ones in a thread, and those of at least `LARGE_BODY` bytes in a
process (`parsers`): parsing holds Python's global interpreter lock, so a thread would block all other requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

import anyio
from anyio.to_thread import run_sync
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from mlaas4hep.protocol.limits import format_size

SMALL_BODY = 50_000
"""Bytes; smaller bodies and results are processed in the event loop."""
LARGE_BODY = 500_000
"""Bytes; bodies of at least this size are parsed in a process."""

_SLICE = 1 << 16  # bytes of a form that are parsed at a time
_threads = anyio.CapacityLimiter(2)  # more would compete for the interpreter lock with the event loop

Result = TypeVar("Result")


async def read_body(headers: Iterable[tuple[bytes, bytes]], receive: Receive, largest: int) -> bytearray:
    """Return the body of a request.

    Args:
        largest: limit of its size in bytes.

    Raises:
        HTTPException: the body is compressed (415), or too large (413); the latter is raised before the body arrives
            if its Content-Length says so.
        ClientDisconnect: the client left before the body was complete.
    """
    for name, value in headers:
        if name == b"content-encoding" and value.lower() != b"identity":
            shown = value[:60].decode("latin-1")
            raise HTTPException(415, f"the body has the encoding '{shown}'; send it without Content-Encoding")
        if name == b"content-length" and int(value) > largest:
            raise _too_large(largest)
    body = bytearray()  # grows in place; joining many chunks at the end would block
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > largest:
            raise _too_large(largest)
        if not message.get("more_body", False):
            return body


def _too_large(largest: int) -> HTTPException:
    return HTTPException(413, f"the body is larger than {format_size(largest)}")


def in_slices(receive: Receive) -> Receive:
    """Return a `receive` that splits the body into small slices and lets other tasks run between two of them.

    Forms are parsed in Python, so a large chunk would block the event loop.
    """
    left: Message = {}

    async def receive_slice() -> Message:
        nonlocal left
        message, left = left or await receive(), {}
        body = message.get("body", b"")
        if len(body) <= _SLICE:
            return message
        left = {**message, "body": body[_SLICE:]}
        await asyncio.sleep(0)
        return {**message, "body": body[:_SLICE], "more_body": True}

    return receive_slice


async def run_aside(size: int, function: Callable[..., Result], *args: object) -> Result:
    """Call a function that processes `size` bytes: directly if they are few, else in a thread."""
    return function(*args) if size < SMALL_BODY else await run_sync(partial(function, *args), limiter=_threads)
