"""Compressed request bodies are unpacked in pieces, within the limit of the unpacked size."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Sequence

import pytest
from peak_memory import peak_memory, reset_peak_memory

pytest.importorskip("starlette")

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message

from mlaas4hep.serving.http.bodies import read_body

TEXT = bytes(range(256)) * 1000


def read(parts: Sequence[bytes], encoding: bytes, largest: int = 1_000_000) -> bytes:
    """Read a body that arrives in parts."""
    messages = iter(parts)
    left = len(parts)

    async def receive() -> Message:
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": next(messages), "more_body": left > 0}

    return bytes(asyncio.run(read_body([(b"content-encoding", encoding)], receive, largest)))


def in_parts(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


@pytest.mark.parametrize("size", [1_000, 65_536, 10**9])
@pytest.mark.parametrize(
    ("encoding", "packed"),
    [(b"gzip", gzip.compress(TEXT)), (b"GZIP", gzip.compress(TEXT, 0)), (b"deflate", zlib.compress(TEXT)),
     (b"identity", TEXT)],
)  # fmt: skip
def test_bodies_are_unpacked(encoding: bytes, packed: bytes, size: int) -> None:
    assert read(in_parts(packed, size), encoding) == TEXT
    assert read(in_parts(packed, size), encoding, largest=len(TEXT) + 64) == TEXT


@pytest.mark.parametrize(
    ("packed", "encoding", "status", "reason"),
    [
        (TEXT, b"gzip", 400, "the body is not valid gzip"),
        (TEXT, b"deflate", 400, "the body is not valid deflate"),
        (gzip.compress(TEXT)[:-1], b"gzip", 400, "the gzip body is truncated"),
        (b"", b"gzip", 400, "the gzip body is truncated"),
        (gzip.compress(TEXT) * 2, b"gzip", 400, "data follow the end of the gzip body"),
        (gzip.compress(TEXT), b"gzip, gzip", 415, "the body has the encoding 'gzip, gzip'; supported are"),
        (TEXT, b"br", 415, "the body has the encoding 'br'"),
        (gzip.compress(bytes(1_000_001)), b"gzip", 413, "the body is larger than 1 MB"),
    ],
)
@pytest.mark.parametrize("size", [1_000, 10**9])
def test_damaged_and_large_bodies_are_refused(
    packed: bytes, encoding: bytes, status: int, reason: str, size: int
) -> None:
    with pytest.raises(HTTPException) as info:
        read(in_parts(packed, size) or [b""], encoding)
    assert (info.value.status_code, info.value.detail.startswith(reason)) == (status, True), info.value.detail


def test_a_bomb_takes_no_more_memory_than_the_limit() -> None:
    bomb = zlib.compress(bytes(300_000_000), 9)
    assert len(bomb) < 300_000
    before = reset_peak_memory()
    with pytest.raises(HTTPException) as info:
        read([bomb], b"deflate", largest=5_000_000)
    assert info.value.status_code == 413
    assert peak_memory() - before < 30_000_000


def test_a_client_that_leaves_while_it_sends() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    with pytest.raises(ClientDisconnect):
        asyncio.run(read_body([(b"content-encoding", b"gzip")], receive, 1_000))
