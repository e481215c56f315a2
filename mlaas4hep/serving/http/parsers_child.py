"""A process that parses large request bodies for a server; see `parsers`.

    python -m mlaas4hep.serving.http.parsers_child 5 4000000000    # descriptor of a socket, bytes of address space

A task is a frame followed by `size` bytes of a body. A prediction takes two tasks: the first one returns the name of
the model, the second one makes its rows once the server has found the model.
"""

from __future__ import annotations

import gc
import os
import resource
import socket
import sys
from typing import Any

import numpy as np

from mlaas4hep.errors import ConfigError
from mlaas4hep.serving.models import frames
from mlaas4hep.serving.models.named_input import NamedInput
from mlaas4hep.serving.models.request_preprocessing import RequestPreprocessing
from mlaas4hep.serving.models.rows import Columns, Matrix, Request, parse_request
from mlaas4hep.serving.models.tensor import Tensor
from mlaas4hep.serving.protocols.oip_tensors import read_inference
from mlaas4hep.serving.protocols.proto_messages import read_row

_LONGEST_NAME = 1000  # characters; model names are shorter


def main(descriptor: int, memory: int) -> None:
    """Process tasks until the server closes the socket; `memory` limits the address space in bytes."""
    frames.exit_when_closed(descriptor)
    os.nice(5)  # small requests, which the server parses itself, come first
    gc.disable()  # it would scan millions of lists repeatedly; `gc.collect` runs after each task
    resource.setrlimit(resource.RLIMIT_AS, (memory, resource.getrlimit(resource.RLIMIT_AS)[1]))
    with socket.socket(fileno=descriptor) as connection:
        parser = Parser()
        while True:
            task, _ = frames.receive(connection)
            body = bytearray(task["size"])
            view = memoryview(body)
            while view:
                view = view[connection.recv_into(view) :]
            try:
                result, matrix = parser.run(task, body)
            except ConfigError as error:
                result = {"error": error.what, "nearest": error.nearest, "hint": error.hint}
                matrix = None
            except MemoryError:
                result = {"error": "the request needs too much memory", "nearest": [], "hint": "send fewer events"}
                matrix = None
            del body, view
            frames.send(connection, result, matrix)
            del matrix
            gc.collect()


class Parser:
    """Runs tasks; keeps the parsed prediction between its two tasks."""

    def __init__(self) -> None:
        self._request: Request | None = None

    def run(self, task: dict[str, Any], body: bytearray) -> tuple[dict[str, Any], Matrix | None]:
        """Run a task; return its result and its array.

        Raises:
            ConfigError: the body is invalid.
        """
        request, self._request = self._request, None
        if task["task"] in ("json", "proto"):
            del request
            self._request = parse_request(body) if task["task"] == "json" else read_row(body)
            return {"model": self._request.model[:_LONGEST_NAME]}, None
        input_tensor = Tensor(task["input"][0], tuple(task["input"][1]))
        if task["task"] == "tensor":
            output_tensor = Tensor(task["output"][0], tuple(task["output"][1]))
            matrix, binary, request_id = read_inference(body, task["header_length"], input_tensor, output_tensor)
            return {"binary": binary, "id": request_id}, matrix
        assert request is not None
        columns = None if task["keys"] is None else Columns(task["keys"], task["branches"])
        preproc, preprocessing = task.get("preproc"), None
        if preproc is not None and columns is not None:
            preprocessing = RequestPreprocessing(preproc["content"], preproc["inputs"], columns)
        rows = NamedInput(input_tensor, columns, preprocessing).rows(request)
        kept = None if rows.kept is None else np.packbits(rows.kept).tobytes().hex()
        return {"many": rows.many, "kept": kept, "events": 0 if rows.kept is None else len(rows.kept)}, rows.matrix


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
