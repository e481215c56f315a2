"""What a hostile server answers to the client, and to a reader of a remote file."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from serving_fixtures import write_bundle

from fuzz.checks import Fault, Parse, Target
from fuzz.http_mutations import mutate_response
from fuzz.json_mutations import mutate_json
from mlaas4hep.client import TFaaSClient
from mlaas4hep.errors import MLaaS4HEPError
from mlaas4hep.io.storage.replicas import RetryPolicy, open_ranges

_EVENT = {"keys": ["MET_pt", "MET_phi"], "values": [[2.0, 1.0], [3.0, None]]}


class HostileServer:
    """Reads each request, sends what `answer` returns for its method and path, and closes the connection."""

    def __init__(self) -> None:
        self.answer: Callable[[bytes], bytes] = lambda path: b""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(10)
                connection.sendall(self.answer(self._read_request(connection)))

    @staticmethod
    def _read_request(connection: socket.socket) -> bytes:
        """Read a whole request; return its method and path."""
        received = b""
        while b"\r\n\r\n" not in received and (piece := connection.recv(1 << 16)):
            received += piece
        head, _, body = received.partition(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                missing = int(line.split(b":")[1]) - len(body)
                while missing > 0 and (piece := connection.recv(1 << 16)):
                    missing -= len(piece)
        return b" ".join(head.split(b" ")[:2])


def _asked(make: Callable[[bytes, bytes], bytes]) -> Callable[[Path, ExitStack], Parse]:
    """Return how to open a target whose inputs become the server's answers to every request."""

    def open_target(folder: Path, stack: ExitStack) -> Parse:
        server = HostileServer()
        stack.callback(server.close)
        image = folder / "image.png"
        bundle = write_bundle(folder / "bundle")
        image.write_bytes((Path(__file__).parents[1] / "corpus" / "image" / "seed-png").read_bytes())
        clients = [
            stack.enter_context(TFaaSClient(server.url, protocol=protocol, retries=0, timeout=(5, 5)))
            for protocol in ("tfaas", "v2")
        ]

        def parse(data: bytes) -> None:
            server.answer = lambda path: make(data, path)
            for client in clients:
                for call in (
                    client.models,
                    client.status,
                    lambda client=client: client.params("m"),
                    lambda client=client: client.keys("m"),
                    lambda client=client: client.predict(_EVENT, "m"),
                    lambda client=client: client.image(image, "m"),
                    lambda client=client: client.upload(bundle / "upload.json"),
                    lambda client=client: client.bundle(bundle),
                    lambda client=client: client.delete("m"),
                ):
                    try:
                        json.dumps(call(), allow_nan=False)
                    except MLaaS4HEPError as error:
                        if "\n" in str(error):
                            raise AssertionError(f"an error of several lines: {error}") from error

        return parse

    return open_target


def _with_head(data: bytes, path: bytes) -> bytes:
    """Return a correct answer whose body is the input up to a zero byte; binary tensors of v2 follow that byte."""
    body, separator, binary = data.partition(b"\0")
    length = ""
    if separator and path.endswith(b"/infer"):
        length = f"Inference-Header-Content-Length: {len(body)}\r\n"
        body += binary
    return f"HTTP/1.1 200 OK\r\n{length}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


_PLACES = [(0, 10), (20, 30), (45, 5)]


def _remote_file(folder: Path, stack: ExitStack) -> Parse:
    """The input is the answer to HEAD and, behind two zero bytes, that to GET; three parts of the file are read."""
    server = HostileServer()
    stack.callback(server.close)

    def parse(data: bytes) -> None:
        head, _, content = data.partition(b"\0\0")
        server.answer = lambda path: head if path.startswith(b"HEAD") else content
        with closing(open_ranges([f"{server.url}/file.root"], RetryPolicy(5, 0))) as ranges:
            places = [place for place in _PLACES if sum(place) <= ranges.size]  # nobody reads beyond the end
            found = ranges.read(places)
        if any(len(found[place]) != place[1] for place in places):
            raise Fault("a part of a remote file has another length than was asked for")

    return parse


def _part_of_exchange(data: bytes, rng: random.Random) -> bytes | None:
    parts = data.split(b"\0\0")
    index = rng.randrange(len(parts))
    parts[index] = mutate_response(parts[index], rng) or parts[index][:-1]
    return b"\0\0".join(parts)


TARGETS = [
    Target("remote_file", _remote_file, 4096, variants=100, mutate=_part_of_exchange),
    Target("client_http", _asked(lambda data, path: data), variants=20, mutate=mutate_response),
    Target("client_answers", _asked(_with_head), variants=20, mutate=mutate_json),
]
