"""Frames: the messages between a server and its processes, a JSON header and an optional array.

    send(connection, {"shape": [1, 5]}, matrix)
    header, content = receive(connection)

A frame consists of the length of the JSON (4 bytes, big-endian), the length of the content (8 bytes, big-endian), the
JSON, and the content. Frames never contain code or pickles.
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

from mlaas4hep.serving.models.tensor import Array

_LENGTHS = struct.Struct("!IQ")
_LARGEST_HEADER = 1 << 26  # bytes; it may contain many names of columns
_LARGEST_CONTENT = 1 << 33


def send(connection: socket.socket, header: dict[str, Any], array: Array | None = None) -> None:
    """Send a header and an array, whose shape is added to the header."""
    content = b""
    if array is not None:
        header, content = {**header, "shape": array.shape}, np.ascontiguousarray(array, "<f4").tobytes()
    text = json.dumps(header).encode()
    connection.sendall(_LENGTHS.pack(len(text), len(content)) + text)
    connection.sendall(content)


def receive(connection: socket.socket, largest: int = _LARGEST_CONTENT) -> tuple[dict[str, Any], Array | None]:
    """Wait for a header, and for the array whose shape is in it.

    Args:
        largest: limit of the size of the array in bytes.

    Raises:
        EOFError: the other end is closed.
        ValueError: the data are not a valid frame.
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


def exit_when_closed(descriptor: int) -> None:
    """Start a thread that exits this process as soon as the other end of a socket is closed."""

    def wait() -> None:
        ends = select.poll()
        ends.register(descriptor, 0)  # POLLHUP is always reported
        ends.poll()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
