"""The body of a request, and work on it that must not hold up others.

body = await read_body(request.headers, request.receive)
asked = await aside(len(body), parse_request, body)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive

_LARGEST = 64_000_000  # bytes
QUICK = 50_000
"""Bytes; what is to be done with fewer is done at once."""

Result = TypeVar("Result")


async def read_body(headers: Iterable[tuple[bytes, bytes]], receive: Receive) -> bytes:
    """Return the body of a request.

    Raises:
        HTTPException: it is compressed (415), or larger than 64 MB (413).
        ClientDisconnect: it breaks off.
    """
    for name, encoding in headers:
        if name == b"content-encoding" and encoding.lower() != b"identity":
            shown = encoding[:60].decode("latin-1")
            raise HTTPException(415, f"the body is in the encoding '{shown}'; send it as it is")
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > _LARGEST:
            raise HTTPException(413, f"the request is larger than {_LARGEST / 1e6:.0f} MB")
        if not message.get("more_body", False):
            return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)


async def aside(size: int, function: Callable[..., Result], *args: object) -> Result:
    """Call a function that works through `size` bytes; in a thread, where that takes long."""
    return function(*args) if size < QUICK else await run_in_threadpool(function, *args)
