"""Clients that are slow, silent, or go away in the middle: their connections end, and others are served meanwhile."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from serving_fixtures import KEYS, MET, MET_SCORE, Server, bundle_fixture, write_archive  # noqa: F401


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server.start(tmp_path_factory.mktemp("slow") / "models", "--timeout=1") as server:
        yield server


def connect(server: Server) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def until_closed(connection: socket.socket) -> bytes:
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /json HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"GET /models HTTP/1.1\r\nHost: x\r\n\r\nGET /mod",
    ],
    ids=["nothing", "half of the headers", "half of the body", "half of a second request"],
)
def test_a_client_that_does_not_go_on_loses_its_connection(running: Server, sent: bytes) -> None:
    with connect(running) as connection:
        connection.sendall(sent)
        assert requests.get(f"{running.url}/models", timeout=20).status_code == 200
        assert b"HTTP/1.1 408 Request Timeout" in until_closed(connection)


def test_a_client_that_sends_a_byte_now_and_then_loses_its_connection(running: Server) -> None:
    with connect(running) as connection:
        connection.sendall(b"POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        connection.settimeout(0.2)
        received = b""
        end = time.monotonic() + 20
        while b"408" not in received and time.monotonic() < end:
            try:
                connection.sendall(b" ")
                received += connection.recv(1000)
            except TimeoutError:
                pass
            except OSError:
                break
        assert b"HTTP/1.1 408 Request Timeout" in received


def test_a_body_that_never_ends_after_the_answer_is_cut(running: Server) -> None:
    with connect(running) as connection:
        connection.sendall(b"POST /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        received = connection.recv(1000)
        assert b"404" in received
        end = time.monotonic() + 20
        try:
            while time.monotonic() < end:
                connection.sendall(b"1\r\n \r\n")
                connection.settimeout(0.1)
                try:
                    if not connection.recv(1000):
                        break
                except TimeoutError:
                    continue
        except OSError:
            pass
        assert time.monotonic() < end


def test_a_client_that_does_not_read_its_answers_loses_its_connection(
    running: Server, bundle: Path, tmp_path: Path
) -> None:
    archive = write_archive(tmp_path / "m.tar", bundle).read_bytes()
    requests.post(f"{running.url}/upload", data=archive, timeout=20).raise_for_status()
    body = json.dumps({"model": "htautau", "keys": KEYS, "values": [[1.5] * 5] * 20_000}).encode()
    head = f"POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with connect(running) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            for _ in range(200):
                connection.sendall(head + body)
        except OSError:
            return  # cut
    raise AssertionError("the server went on")


def test_one_that_has_said_all_still_gets_its_answer(running: Server, bundle: Path, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "m.tar", bundle).read_bytes()
    requests.post(f"{running.url}/upload", data=archive, timeout=20).raise_for_status()
    body = json.dumps({**MET, "model": "htautau"}).encode()
    with connect(running) as connection:
        connection.sendall(f"POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        connection.shutdown(socket.SHUT_WR)
        assert until_closed(connection).endswith(f"[{MET_SCORE}]".encode())
