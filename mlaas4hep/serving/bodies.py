"""The body of a request, and work on it that must not hold up others.

    body = await read_body(request.headers.raw, request.receive)
    asked = await aside(len(body), parse_request, body)

Small bodies are worked on at once, larger ones in a thread, and those from `LARGE` on in a process of their own
(`parsers`): parsing holds Python's global lock, in a thread too, and nobody else would be answered meanwhile.
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

LARGEST = 64_000_000
"""Bytes of a body with events."""
LARGEST_COMMAND = 64_000
"""Bytes of a body that says no more than a name or an option."""
QUICK = 50_000
"""Bytes; what is to be done with fewer is done at once."""
LARGE = 500_000
"""Bytes; a body of so many is parsed in another process."""

_SLICE = 1 << 16  # bytes of a form that are parsed at a time
_threads = anyio.CapacityLimiter(2)  # more would wait for each other, and the event loop for all of them

Result = TypeVar("Result")


async def read_body(headers: Iterable[tuple[bytes, bytes]], receive: Receive, largest: int = LARGEST) -> bytearray:
    """Return the body of a request.

    Args:
        largest: bytes that it may have.

    Raises:
        HTTPException: it is compressed (415), or too large (413), which is said before it arrives where possible.
        ClientDisconnect: it breaks off.
    """
    for name, value in headers:
        if name == b"content-encoding" and value.lower() != b"identity":
            shown = value[:60].decode("latin-1")
            raise HTTPException(415, f"the body is in the encoding '{shown}'; send it as it is")
        if name == b"content-length" and int(value) > largest:
            raise _too_large(largest)
    body = bytearray()  # which grows in place: joining pieces would take long at the end
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
    shown = f"{largest / 1e6:g} MB" if largest >= 1e6 else f"{largest / 1e3:g} kB"
    return HTTPException(413, f"the body is larger than {shown}")


def in_slices(receive: Receive) -> Receive:
    """Return what gives a body in small slices, between which others have their turn: forms are parsed in Python."""
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


async def aside(size: int, function: Callable[..., Result], *args: object) -> Result:
    """Call a function that works through `size` bytes; in a thread, where that takes long."""
    return function(*args) if size < QUICK else await run_sync(partial(function, *args), limiter=_threads)
