"""Responses in JSON, and the responses to errors: `{"error": "..."}`, never with a path of the server's disk.

return json_response([0.123])
return error_response(request_line, error)
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlaas4hep.errors import ConfigError, FileUnreadable, MLaaS4HEPError, ServiceError
from mlaas4hep.serving.http.descriptors import is_shortage, note_shortage
from mlaas4hep.serving.store.store import UnknownModel, UnmanagedFolder
from mlaas4hep.write_errors import write_errno

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_NUMBERS = 50_000  # of an array that are serialised at a time, which takes a few milliseconds
_SLICE = 1 << 18  # bytes of a large response that are sent at a time
_LONGEST_ERROR = 1000  # characters; errors may quote what the client sent
_STATUS = {UnknownModel: 404, UnmanagedFolder: 409, ConfigError: 400, ServiceError: 503}  # subclasses come first
_log = logging.getLogger(__name__)


def json_response(content: Any, status_code: int = 200) -> Response:
    """Return a response with JSON content.

    Numbers of float32 arrays are written with the digits of their type (0.1, not 0.10000000149), NaN as null.
    """
    return Response(to_json(content), status_code, media_type="application/json")


def to_json(content: Any) -> bytes:
    """Return content as JSON text; see `json_response`."""
    return orjson.dumps(content, option=_OPTIONS)


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return headers as they are sent."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def array_to_json(array: NDArray[np.float32]) -> list[bytes]:
    """Return the JSON text of an array in pieces, so that other threads can run between two of them."""
    return _in_pieces(array, array.size)


def events_to_json(scores: NDArray[np.float32], kept: NDArray[np.bool_]) -> list[bytes]:
    """Return the JSON text of the scores of each event, null for events that were not kept; see `array_to_json`.

    Args:
        scores: (n, k), for the n events for which `kept`, (events,), is True.
    """
    rows: list[Any] = [None] * len(kept)
    for row, event in enumerate(np.flatnonzero(kept).tolist()):
        rows[event] = scores[row]
    return _in_pieces(rows, scores.size + len(kept))


def _in_pieces(values: Sequence[Any] | NDArray[np.float32], size: int) -> list[bytes]:
    rows = max(1, _NUMBERS * len(values) // max(size, 1))
    pieces = [to_json(values[start : start + rows])[1:-1] for start in range(0, len(values), rows)]
    separated = [piece for text in pieces for piece in (b",", text)]
    return [b"[", *separated[1:], b"]"]


class LargeResponse(Response):
    """A response that is sent in slices, as fast as the client reads.

    Args:
        pieces: the body, in order.
    """

    def __init__(self, pieces: Iterable[bytes | memoryview], media_type: str, **headers: str) -> None:
        self._pieces = [memoryview(piece).cast("B") for piece in pieces]
        size = sum(map(len, self._pieces))
        super().__init__(headers={"content-length": str(size), **headers}, media_type=media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in _in_slices(self._pieces):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})


def _in_slices(pieces: Sequence[memoryview]) -> Iterator[bytes]:
    """Yield the bytes of all pieces in slices of about `_SLICE` bytes."""
    slice_ = bytearray()
    for piece in pieces:
        for start in range(0, len(piece), _SLICE):
            slice_ += piece[start : start + _SLICE]
            if len(slice_) >= _SLICE:
                yield bytes(slice_)
                slice_.clear()
    yield bytes(slice_)


def error_response(what: str, error: BaseException) -> Response:
    """Return the response to a request that raised an error.

    Args:
        what: method and path of the request.
    """
    headers = None
    if isinstance(error, HTTPException):
        status, text, headers = error.status_code, f"{what}: {error.detail}", error.headers
    elif expected := next((status for kind, status in _STATUS.items() if isinstance(error, kind)), None):
        status, text = expected, str(error)
    elif isinstance(error, ClientDisconnect):
        status, text = 400, "the client closed the connection before the request was complete"
    elif is_shortage(error) or is_shortage(error.__cause__):
        note_shortage()
        status, text = 503, "the server cannot open any more files; try again later"
    elif write_errno(error):
        _log.error("%s: %s", what, error)
        status, text = 507, f"the server cannot write to its disk: {os.strerror(write_errno(error))}"
    elif isinstance(error, (FileUnreadable, OSError)):
        _log.error("%s: %s", what, error)
        reason = getattr(error, "strerror", None) or "it cannot be read or written"
        status, text = 500, f"the server cannot use its models directory: {reason}"
    elif isinstance(error, MLaaS4HEPError):
        status, text = 501, str(error)
    else:
        _log.error("%s failed", what, exc_info=error)
        status, text = 500, "internal server error; see the server's log"
    response = json_response({"error": text[:_LONGEST_ERROR]}, status)
    response.headers.update(headers or {})
    return response
