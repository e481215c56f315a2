"""Reading and processing the bodies of requests without blocking the event loop.

    body = await read_body(request.headers.raw, request.receive, 64_000_000)
    parsed = await run_aside(len(body), parse_request, body)

Small bodies are processed in the event loop, larger ones in a thread, and those of at least `LARGE_BODY` bytes in a
process (`parsers`): parsing holds Python's global interpreter lock, so a thread would block all other requests.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterable, Iterator
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

_ENCODINGS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
"""Parameters of zlib; deflate has the header of zlib, as RFC 9110 says."""

_UNPACKED = 1 << 20  # bytes of a compressed body that are unpacked at a time, which takes a few milliseconds
_SLICE = 1 << 16  # bytes of a form that are parsed at a time
_threads = anyio.CapacityLimiter(2)  # more would compete for the interpreter lock with the event loop

Result = TypeVar("Result")


async def read_body(headers: Iterable[tuple[bytes, bytes]], receive: Receive, largest: int) -> bytearray:
    """Return the body of a request, unpacked if it is compressed with gzip or deflate.

    Args:
        largest: limit of its size in bytes, both before and after unpacking.

    Raises:
        HTTPException: the body has another encoding (415), is damaged (400), or is too large (413); the latter is
            raised before the body arrives if its Content-Length says so.
        ClientDisconnect: the client left before the body was complete.
    """
    encoding = b"identity"
    for name, value in headers:
        if name == b"content-encoding":
            encoding = value.lower()
        if name == b"content-length" and int(value) > largest:
            raise _too_large(largest)
    body = bytearray()  # grows in place; joining many chunks at the end would block
    unpacker = None if encoding == b"identity" else _Unpacker(encoding)
    received = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        received += len(chunk)
        for piece in (chunk,) if unpacker is None else unpacker.unpack(chunk):
            body += piece
            if max(len(body), received) > largest:
                raise _too_large(largest)
            if unpacker is not None:
                await asyncio.sleep(0)
        if not message.get("more_body", False):
            if unpacker is not None:
                unpacker.check_complete()
            return body


class _Unpacker:
    """Unpacks a body in pieces of limited size.

    Args:
        encoding: value of Content-Encoding.

    Raises:
        HTTPException: the encoding is not supported (415), or later, the body does not have it (400).
    """

    def __init__(self, encoding: bytes) -> None:
        self._name = encoding[:60].decode("latin-1")
        if encoding not in _ENCODINGS:
            raise HTTPException(415, f"the body has the encoding '{self._name}'; supported are gzip and deflate")
        self._decompressor = zlib.decompressobj(_ENCODINGS[encoding])

    def unpack(self, packed: bytes) -> Iterator[bytes]:
        """Yield the content of the next part of the body, at least one piece."""
        try:
            yield self._decompressor.decompress(packed, _UNPACKED)
            while self._decompressor.unconsumed_tail:
                yield self._decompressor.decompress(self._decompressor.unconsumed_tail, _UNPACKED)
        except zlib.error as error:
            raise HTTPException(400, f"the body is not valid {self._name}") from error
        if self._decompressor.unused_data:
            raise HTTPException(400, f"data follow the end of the {self._name} body")

    def check_complete(self) -> None:
        """Check that the end of the compressed data was reached."""
        if not self._decompressor.eof:
            raise HTTPException(400, f"the {self._name} body is truncated")


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
