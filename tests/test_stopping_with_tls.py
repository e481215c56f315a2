"""An https server stops soon, whatever connections its clients keep open."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
from grid import Grid
from serving_fixtures import Server, onnx_model, write_bundle

LONGEST = 5.0
"""Seconds that a server without work may take to stop; it takes a fraction of one if nobody else uses the machine."""

Client = Callable[[Server, Grid, ExitStack], None]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    return Grid(tmp_path_factory.mktemp("grid"), key="ec")


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=20)


def encrypted(server: Server, grid: Grid, newest: ssl.TLSVersion) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(grid.folder / "authority.pem"))
    context.maximum_version = newest
    return context.wrap_socket(connect(server), server_hostname="localhost")


def ask(connection: ssl.SSLSocket, end: bytes = b"\r\n") -> bytes:
    connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n" + end)
    return connection.recv(65536) if end else b""


def idle_pool(server: Server, grid: Grid, stack: ExitStack) -> None:
    """A session that keeps its connection, and does not read from it."""
    session = stack.enter_context(requests.Session())
    answer = session.get(f"{server.url}/v2/health/live", verify=str(grid.folder / "authority.pem"), timeout=20)
    assert answer.ok


def idle(newest: ssl.TLSVersion) -> Client:
    def client(server: Server, grid: Grid, stack: ExitStack) -> None:
        assert ask(stack.enter_context(encrypted(server, grid, newest))).startswith(b"HTTP/1.1 200 ")

    return client


def without_request(server: Server, grid: Grid, stack: ExitStack) -> None:
    stack.enter_context(encrypted(server, grid, ssl.TLSVersion.TLSv1_3))


def half_a_head(server: Server, grid: Grid, stack: ExitStack) -> None:
    ask(stack.enter_context(encrypted(server, grid, ssl.TLSVersion.TLSv1_3)), end=b"")


def in_its_handshake(server: Server, grid: Grid, stack: ExitStack) -> None:
    connection = stack.enter_context(connect(server))
    connection.sendall(b"\x16\x03\x01\x02\x00\x01")  # the begin of a ClientHello


CLIENTS: dict[str, Client] = {
    "idle pool": idle_pool,
    "idle, TLS 1.2": idle(ssl.TLSVersion.TLSv1_2),
    "idle, TLS 1.3": idle(ssl.TLSVersion.TLSv1_3),
    "no request": without_request,
    "half a head": half_a_head,
    "handshake": in_its_handshake,
}


@pytest.mark.parametrize(("workers", "each"), [(1, 1), (2, 4)])
def test_a_server_does_not_wait_for_clients_that_do_not_close_their_connections(
    grid: Grid, tmp_path: Path, workers: int, each: int
) -> None:
    options = (f"--cert={grid.certificate}", f"--key={grid.key}", f"--workers={workers}")
    with Server.start(tmp_path / "models", *options) as server, ExitStack() as stack:
        for client in CLIENTS.values():
            for _ in range(each):
                client(server, grid, stack)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < LONGEST


def test_a_response_in_progress_arrives_while_the_server_stops(grid: Grid, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "models" / "wide", "wide", onnx_model([1.0], outputs=50))
    assert bundle.is_dir()
    body = json.dumps({"model": "wide", "values": [[1.0]] * 20_000}).encode()
    head = b"POST /json HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    with (
        Server.start(tmp_path / "models", f"--cert={grid.certificate}", f"--key={grid.key}") as server,
        encrypted(server, grid, ssl.TLSVersion.TLSv1_3) as connection,
    ):
        connection.sendall(head + body)
        received = connection.recv(1000)
        server.process.terminate()
        while not received.endswith(b"]]") and (piece := connection.recv(65536)):
            received += piece
        scores = json.loads(received.partition(b"\r\n\r\n")[2])
        assert len(scores) == 20_000
        assert scores[-1] == [float(number) for number in range(1, 51)]
        assert server.stop() == 0
