"""Frames: what a server and the process of a model say to each other, JSON and an array in one piece.

    send(connection, {"shape": [1, 5]}, matrix)
    header, content = receive(connection)

A frame is the length of the JSON (4 bytes), that of the content (8 bytes), both big-endian, then the two. Nothing of
it is ever executed.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import threading
from typing import Any

import numpy as np

from mlaas4hep.serving.tensor import Array

_LENGTHS = struct.Struct("!IQ")
LARGEST_ANSWER = 100_000_000
"""Bytes of scores that the process of a model may send at a time."""

_LARGEST_HEADER = 1 << 26  # bytes; the names of columns may be many
_LARGEST_CONTENT = 1 << 33


def send(connection: socket.socket, header: dict[str, Any], array: Array | None = None) -> None:
    """Send a header, and the numbers of an array, whose shape the header gets."""
    content = b""
    if array is not None:
        header, content = {**header, "shape": array.shape}, np.ascontiguousarray(array, "<f4").tobytes()
    text = json.dumps(header).encode()
    connection.sendall(_LENGTHS.pack(len(text), len(content)) + text)
    connection.sendall(content)


def receive(connection: socket.socket, largest: int = _LARGEST_CONTENT) -> tuple[dict[str, Any], Array | None]:
    """Wait for a header, and for the array whose shape is in it.

    Args:
        largest: bytes that the array may have.

    Raises:
        EOFError: nobody is at the other end any more.
        ValueError: what arrives is no frame.
    """
    length, size = _LENGTHS.unpack(_read(connection, _LENGTHS.size))
    if length > _LARGEST_HEADER or size > largest:
        raise ValueError("the frame is too large")
    header = json.loads(_read(connection, length))
    content = _read(connection, size)
    if not isinstance(header, dict):
        raise ValueError("the frame has no header")
    if "shape" not in header:
        return header, None
    return header, np.frombuffer(content, "<f4").reshape(header["shape"]).astype(np.float32, copy=False)


def _read(connection: socket.socket, size: int) -> bytearray:
    content = bytearray(size)
    view = memoryview(content)
    while view:
        count = connection.recv_into(view, min(len(view), 1 << 20))
        if not count:
            raise EOFError
        view = view[count:]
    return content


def end_process_with(descriptor: int) -> None:
    """Start a thread that ends this process, whatever it does, when the other end of a socket is closed."""

    def wait() -> None:
        ends = select.poll()
        ends.register(descriptor, 0)  # POLLHUP is always reported
        ends.poll()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
