"""Requests to the server: each input goes through a real socket to the protocol class and the application.

The server runs in the event loop of this process, so that its code can be observed. Three small models are loaded:
`htautau` with named columns, `plain` without, and `pixels` for images.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import uvicorn
from serving_fixtures import onnx, onnx_model, trained_model, write_bundle
from uvicorn.server import ServerState

from fuzz.checks import ErrorLog, Fault, Parse, Target
from fuzz.json_mutations import mutate_json
from mlaas4hep.serving.app import create_app_and_fast_path
from mlaas4hep.serving.http.fast_path import connection_class
from mlaas4hep.serving.settings import Settings

BOUNDARY = b"fuzz-7d1c0a"
_MODELS = ("htautau", "pixels", "plain")
_HANG = 60  # seconds


class InProcessServer:
    """A server in this process; `ask` sends raw bytes over a new connection and returns all that comes back."""

    def __init__(self, folder: Path) -> None:
        self._outside = folder
        self.models = folder / "in" / "models"
        self.models.mkdir(parents=True)
        self._loop = asyncio.new_event_loop()
        self._errors = ErrorLog()
        for name in ("mlaas4hep", "uvicorn", "asyncio", "python_multipart"):
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = [self._errors], False
        self._loop.run_until_complete(self._start())

    def close(self) -> None:
        """Stop the event loop."""
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _start(self) -> None:
        for name in _MODELS:
            shutil.rmtree(self.models / name, ignore_errors=True)
        write_bundle(self.models / "htautau")
        write_bundle(self.models / "plain", "plain", onnx_model())
        write_bundle(self.models / "pixels", "pixels", image_model())
        settings = Settings(str(self.models), max_upload=1_000_000, timeout=5)
        app, fast_path, _ = create_app_and_fast_path(settings)
        config = uvicorn.Config(
            app,
            http=connection_class(fast_path, timeout=settings.timeout),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
        )
        config.load()
        self._config, self._state = config, ServerState()

    def ask(self, request: bytes) -> bytes:
        """Send bytes and close the sending side; return what comes back until the server closes.

        Raises:
            Fault: the server logged an error, did not close the connection, or changed files that are not its own.
        """
        answer = self._loop.run_until_complete(asyncio.wait_for(self._exchange(request), _HANG))
        self._errors.raise_first()
        if os.listdir(self._outside) != ["in"] or os.listdir(self._outside / "in") != ["models"]:
            raise Fault("the server wrote outside of its folder")
        return answer

    def post(self, path: str, body: bytes, headers: str = "", method: str = "POST") -> int:
        """Send one request with a correct head; return the status of the answer, which is not a 500."""
        return self.status(self.ask(self.request(path, body, headers, method)))

    def get(self, path: str) -> int:
        """Send a GET request; see `post`."""
        return self.post(path, b"", method="GET")

    @staticmethod
    def request(path: str, body: bytes, headers: str = "", method: str = "POST") -> bytes:
        """Return a request with a correct head."""
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        return head.encode() + body

    @staticmethod
    def status(answer: bytes) -> int:
        """Return the status of an answer.

        Raises:
            Fault: it is a 500, or no answer.
        """
        status = int(answer[9:12] or 0)
        if not 200 <= status < 500 and status not in (501, 503):
            raise Fault(f"status {status}: {answer[-300:]!r}")
        return status

    async def _exchange(self, request: bytes) -> bytes:
        ours, its = socket.socketpair()
        with ours:
            ours.setblocking(False)
            await self._loop.connect_accepted_socket(
                lambda: self._config.http_protocol_class(  # type: ignore[call-arg, operator]
                    config=self._config, server_state=self._state, app_state={}, _loop=self._loop
                ),
                its,
            )
            sending = asyncio.ensure_future(self._send(ours, request))
            pieces = []
            with suppress(ConnectionError):
                while piece := await self._loop.sock_recv(ours, 1 << 16):
                    pieces.append(piece)
            sending.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await sending
        return b"".join(pieces)

    async def _send(self, ours: socket.socket, request: bytes) -> None:
        with suppress(ConnectionError, OSError):
            await self._loop.sock_sendall(ours, request)
            ours.shutdown(socket.SHUT_WR)

    def remove_uploads(self) -> None:
        """Delete the models that inputs uploaded, and repair those that they replaced or deleted."""
        names = set(os.listdir(self.models)) - {".tfaas"}
        for name in names - set(_MODELS):
            self.status(self.ask(self.request(f"/delete/{name}", b"", method="DELETE")))
        if any((self.models / name / ".tfaas-version").exists() for name in _MODELS) or not names.issuperset(_MODELS):
            self._loop.run_until_complete(self._start())


def image_model() -> bytes:
    """Return a graph that takes images of 8 x 8 x 3 and gives the mean of each channel."""
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["inputs"], ["scores"], axes=[1, 2], keepdims=0)],
        "mean",
        [helper.make_tensor_value_info("inputs", real, ["n", 8, 8, 3])],
        [helper.make_tensor_value_info("scores", real, ["n", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def _served(feed: Callable[[InProcessServer, bytes], None]) -> Callable[[Path, ExitStack], Parse]:
    """Return how to open a target that sends each input to a server."""

    def open_target(folder: Path, stack: ExitStack) -> Parse:
        server = InProcessServer(folder)
        stack.callback(server.close)
        return lambda data: feed(server, data)

    return open_target


def _http(server: InProcessServer, data: bytes) -> None:
    """The input is all that a client sends."""
    server.ask(data)
    server.remove_uploads()


def _json_rows(server: InProcessServer, data: bytes) -> None:
    """The input is the body, for the short cut and for the application."""
    quick = server.post("/json", data)
    slow = server.post("/predict/json?", data)
    if quick != slow:
        raise Fault(f"two answers to one request: {quick} and {slow}")


def _json_bodies(server: InProcessServer, data: bytes) -> None:
    server.post("/v2/repository/index", data)
    server.post("/params", data)


def _protobuf(server: InProcessServer, data: bytes) -> None:
    server.post("/proto", data)


def _oip(server: InProcessServer, data: bytes) -> None:
    """The input is the JSON header, a zero byte, and the binary tensors; without the zero byte it is JSON only."""
    head, separator, binary = data.partition(b"\0")
    headers = f"Inference-Header-Content-Length: {len(head)}\r\n" if separator else ""
    for model in ("htautau", "pixels"):
        server.post(f"/v2/models/{model}/infer", head + binary, headers)


def _multipart(server: InProcessServer, data: bytes) -> None:
    headers = f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n"
    for method, path in (("POST", "/upload"), ("POST", "/image"), ("DELETE", "/delete")):
        server.post(path, data, headers, method)
    server.post("/upload", data, f"{headers}Content-Encoding: base64\r\n")
    server.remove_uploads()


def form(files: dict[str, tuple[str, bytes]], **fields: str) -> bytes:
    """Return a multipart body: files by part name, each with its own name and content; and plain fields."""
    parts = [(f'name="{name}"', value.encode()) for name, value in fields.items()]
    parts += [(f'name="{part}"; filename="{name}"', content) for part, (name, content) in files.items()]
    pieces = [
        b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (BOUNDARY, head.encode(), content)
        for head, content in parts
    ]
    return b"".join([*pieces, b"--%b--\r\n" % BOUNDARY])


def upload(server: InProcessServer, params: bytes, model: bytes, labels: bytes, file: str = "model.onnx") -> bool:
    """Upload a model `m`; return whether it was accepted.

    If it was, use it in every way that does not need to know it.

    Raises:
        Fault: a list of models fails because of it.
    """
    body = form({"params": ("params.json", params), "model": (file, model), "labels": ("labels.txt", labels)}, name="m")
    headers = f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n"
    if server.post("/upload", body, headers) != 200:
        return False
    lists = [
        server.get("/models"),
        server.get("/params/m"),
        server.post("/v2/repository/index", b"{}"),
        server.get("/"),
    ]
    if lists != [200] * 4:
        raise Fault(f"an uploaded model breaks the lists of models: {lists}")
    for path in ("/v2/models/m", "/data?model=m", "/about/m", "/report/m"):
        server.get(path)
    return True


def _params(server: InProcessServer, data: bytes) -> None:
    """The input is params.json; behind a zero byte, if there is one, are the labels."""
    params, _, labels = data.partition(b"\0")
    upload(server, params, trained_model(), labels)
    server.remove_uploads()


def _onnx_model(server: InProcessServer, data: bytes) -> None:
    """The input is the model file."""
    _try_model(server, data)


def _try_model(server: InProcessServer, model: bytes) -> None:
    params = b'{"name": "m", "model": "model.onnx", "labels": "labels.txt"}'
    if upload(server, params, model, b"ggH\nVBF\n"):
        server.post("/json", b'{"keys": ["MET_pt", "MET_phi", "Muon_pt"], "values": [2, 1, [3, 4]], "model": "m"}')
        server.post("/json", b'{"values": [1, 2, 3, 4, 5], "model": "m"}')
        server.post("/proto", b"\x12\x14" + np.ones(5, "<f4").tobytes() + b"\x1a\x01m")
    server.remove_uploads()


TARGETS = [
    Target("http", _served(_http)),
    Target("json_rows", _served(_json_rows), mutate=mutate_json),
    Target("json_bodies", _served(_json_bodies), mutate=mutate_json),
    Target("protobuf", _served(_protobuf)),
    Target("oip", _served(_oip), mutate=mutate_json),
    Target("multipart", _served(_multipart), variants=20),
    Target("params", _served(_params), 4096, variants=60, mutate=mutate_json),
    Target("onnx_model", _served(_onnx_model), 4096, variants=4),
]
