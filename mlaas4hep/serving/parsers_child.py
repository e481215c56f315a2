"""A process that parses large bodies for a server; see `parsers`.

    python -m mlaas4hep.serving.parsers_child 5       # the number of its end of a socket

Each task is a frame, and as many bytes of a body as its `size` says. The rows of a prediction are two tasks, since they
cannot be made before the server has found the model that the first one names.
"""

from __future__ import annotations

import gc
import os
import resource
import socket
import sys
from typing import Any

from mlaas4hep.errors import ConfigError
from mlaas4hep.serving import frames
from mlaas4hep.serving.oip_tensors import read_inference
from mlaas4hep.serving.proto_messages import read_row
from mlaas4hep.serving.rows import Matrix, Request, parse_request
from mlaas4hep.serving.tensor import Tensor, place_rows

_MEMORY = 4_000_000_000  # bytes of address space; 64 MB of JSON can become 2 GB
_LONGEST_NAME = 1000  # characters; no model has a longer one


def main(descriptor: int) -> None:
    """Do tasks until the other end of the socket is closed."""
    frames.end_process_with(descriptor)
    os.nice(5)  # clients with small requests come first
    gc.disable()  # it would look through millions of lists again and again; `gc.collect` comes after each task
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    with socket.socket(fileno=descriptor) as connection:
        parser = Parser()
        while True:
            task, _ = frames.receive(connection)
            body = bytearray(task["size"])
            view = memoryview(body)
            while view:
                view = view[connection.recv_into(view) :]
            try:
                told, matrix = parser.do(task, body)
            except ConfigError as error:
                told = {"error": error.what, "nearest": error.nearest, "hint": error.hint}
                matrix = None
            except MemoryError:
                told = {"error": "the request needs too much memory", "nearest": [], "hint": "send fewer events"}
                matrix = None
            del body, view
            frames.send(connection, told, matrix)
            del matrix
            gc.collect()


class Parser:
    """Tasks by their names; the rows of a prediction wait here for their model to be found."""

    def __init__(self) -> None:
        self._asked: Request | None = None

    def do(self, task: dict[str, Any], body: bytearray) -> tuple[dict[str, Any], Matrix | None]:
        """Return what a task gives, and its array.

        Raises:
            ConfigError: the body is not what it should be.
        """
        asked, self._asked = self._asked, None
        if task["task"] in ("json", "proto"):
            del asked
            self._asked = parse_request(body) if task["task"] == "json" else read_row(body)
            return {"model": self._asked.model[:_LONGEST_NAME]}, None
        takes = Tensor(task["input"][0], tuple(task["input"][1]))
        if task["task"] == "tensor":
            gives = Tensor(task["output"][0], tuple(task["output"][1]))
            matrix, binary, request_id = read_inference(body, task["header_length"], takes, gives)
            return {"binary": binary, "id": request_id}, matrix
        assert asked is not None
        rows = place_rows(asked, task["keys"], task["branches"], takes)
        return {"many": rows.many}, rows.matrix


if __name__ == "__main__":
    main(int(sys.argv[1]))
