"""Clients that are slow, silent, or go away in the middle: their connections end, and others are served meanwhile."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from serving_fixtures import KEYS, MET, MET_SCORE, Server, bundle_fixture, connect, until_closed, write_archive  # noqa: F401


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server.start(tmp_path_factory.mktemp("slow") / "models", "--timeout=1") as server:
        yield server


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /json HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
        b"POST /json HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
        b"GET /models HTTP/1.1\r\nHost: localhost\r\n\r\nGET /mod",
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
        connection.sendall(b"POST /json HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
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


def test_the_connection_of_an_endless_body_is_closed_after_the_response(running: Server) -> None:
    with connect(running) as connection:
        connection.sendall(b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
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


def test_a_client_that_does_not_read_its_responses_is_disconnected(
    running: Server, bundle: Path, tmp_path: Path
) -> None:
    archive = write_archive(tmp_path / "m.tar", bundle).read_bytes()
    requests.post(f"{running.url}/upload", data=archive, timeout=20).raise_for_status()
    body = json.dumps({"model": "htautau", "keys": KEYS, "values": [[1.5] * 5] * 20_000}).encode()
    head = f"POST /json HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with connect(running) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            for _ in range(200):
                connection.sendall(head + body)
        except OSError:
            return  # cut
    raise AssertionError("the server went on")


def test_a_client_that_asks_for_the_head_alone_gets_it_at_once(running: Server) -> None:
    with requests.Session() as session:
        for path in ("/models", "/v2/health/live", "/"):
            head, whole = (session.request(method, f"{running.url}{path}", timeout=20) for method in ("HEAD", "GET"))
            assert head.status_code == whole.status_code
            assert head.content == b""
            assert head.headers["Content-Length"] == whole.headers["Content-Length"] == str(len(whole.content))
    with connect(running) as connection:
        connection.sendall(
            b"HEAD /models HTTP/1.1\r\nHost: localhost\r\n\r\n"
            b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        received = until_closed(connection)
    assert [part[:3] for part in received.split(b"HTTP/1.1 ")[1:3]] == [b"200", b"404"]


@pytest.mark.parametrize("header", [b"X-Long: ", b""], ids=["one header", "many headers"])
def test_headers_without_an_end_are_refused(running: Server, header: bytes) -> None:
    with connect(running) as connection:
        connection.sendall(b"GET /models HTTP/1.1\r\nHost: localhost\r\n" + header)
        piece, sent = (b"x" * 1000 if header else b"X-Many: 1\r\n" * 100), 0
        try:
            while sent < 20_000_000:
                connection.sendall(piece)
                sent += len(piece)
        except OSError:  # it is cut, or what it says could be read before
            pass
        assert sent < 20_000_000


def test_long_headers_are_refused_and_such_as_grid_tokens_have_are_not(running: Server) -> None:
    with connect(running) as connection:
        connection.sendall(b"GET /models HTTP/1.1\r\nHost: localhost\r\nX-Token: " + b"x" * 60_000)
        requests.get(f"{running.url}/models", timeout=20)  # the other has been read by now
        connection.sendall(b"\r\nConnection: close\r\n\r\n")
        assert until_closed(connection).startswith(b"HTTP/1.1 200")
    with connect(running) as connection:
        connection.sendall(b"GET /models HTTP/1.1\r\nHost: localhost\r\nX-Token: " + b"x" * 70_000 + b"\r\n\r\n")
        received = until_closed(connection)
    assert received.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert received.endswith(b'{"error":"the headers of a request may have 64 kB"}')


def test_invalid_http_is_refused_in_json(running: Server) -> None:
    with connect(running) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        received = until_closed(connection)
    assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert received.endswith(b'{"error":"this is not a valid HTTP/1.1 request"}')


def test_a_client_that_closes_its_sending_side_receives_the_response(
    running: Server, bundle: Path, tmp_path: Path
) -> None:
    archive = write_archive(tmp_path / "m.tar", bundle).read_bytes()
    requests.post(f"{running.url}/upload", data=archive, timeout=20).raise_for_status()
    body = json.dumps({**MET, "model": "htautau"}).encode()
    with connect(running) as connection:
        connection.sendall(
            f"POST /json HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        connection.shutdown(socket.SHUT_WR)
        assert until_closed(connection).endswith(f"[{MET_SCORE}]".encode())
