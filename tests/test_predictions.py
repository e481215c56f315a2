"""Predictions are answered by the connection itself, or by ASGI's route: whatever is sent, both say the same.

A request whose body comes in chunks goes by the route, and one that says how long it is does not.
"""

from __future__ import annotations

import gzip
import json
import socket
import time
import zlib
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from serving_fixtures import KEYS, MET, MET_SCORE, Server, bundle_fixture, write_archive, write_bundle  # noqa: F401

TOKEN = "a-token-that-is-long-enough"
PATHS = ["/json", "/predict/json"]


def put(server: Server, bundle: Path) -> None:
    archive = write_archive(bundle.parent / "m.tar", bundle).read_bytes()
    known = {"Authorization": f"Bearer {TOKEN}"}
    requests.post(f"{server.url}/upload", data=archive, headers=known, timeout=20).raise_for_status()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("predictions")
    with Server.start(folder / "models") as server:
        put(server, write_bundle(folder / "bundle"))
        yield server


def connect(server: Server) -> socket.socket:
    url = urlsplit(server.url)
    return socket.create_connection((str(url.hostname), int(url.port or 0)), timeout=20)


Told = tuple[int, dict[str, str], bytes]


def ask(server: Server, path: str, body: bytes, headers: Mapping[str, str] = {}, chunked: bool = False) -> Told:
    """Return what is answered, but for what differs from time to time."""
    connection = HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    sent: Any = iter([body[:5], body[5:]]) if chunked else body
    connection.request("POST", path, sent, {"X-Request-ID": "7", **headers}, encode_chunked=chunked)
    answer = connection.getresponse()
    told = {name.lower(): value for name, value in answer.getheaders() if name.lower() != "date"}
    content = answer.read()
    connection.close()
    return answer.status, told, content


def ask_both(server: Server, path: str, body: bytes, headers: Mapping[str, str] = {}) -> Told:
    long = {"Transfer-Encoding": "chunked", **headers}
    short, by_route = ask(server, path, body, headers), ask(server, path, body, long, chunked=True)
    assert short == by_route == ask(server, path, body, headers)  # when the model is loaded, too
    assert short[1]["x-request-id"] == "7"
    return short


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("content", "status"),
    [
        ({**MET, "model": "htautau"}, 200),
        (MET, 200),  # the default model
        ({"model": "htautau", "values": [[1.5] * 5] * 3}, 200),
        ({"model": "htautau", "values": [[1.5] * 5] * 300}, 200),  # too many for the queue
        ({"model": "htautau", "values": [1.5] * 4}, 400),
        ({"model": "htautau", "keys": ["x"], "values": [1.5]}, 400),
        ({"model": "htautau", "keys": KEYS, "values": ["much", 1, 2, 3, [4]]}, 400),
        ({"model": "other", "values": [1.5] * 5}, 404),
        ({"model": "../htautau", "values": [1.5] * 5}, 400),
        ([], 400),
    ],
)
def test_the_fast_path_and_asgi_give_the_same_response(running: Server, path: str, content: Any, status: int) -> None:
    assert ask_both(running, path, json.dumps(content).encode())[0] == status


def test_invalid_json_is_refused_by_the_fast_path_and_asgi(running: Server) -> None:
    for body in (b"", b"{", b"\xff\xfe", b'{"values": [NaN]}'):
        assert ask_both(running, "/json", body)[0] == 400


def test_the_score_is_the_models_own(running: Server) -> None:
    assert json.loads(ask_both(running, "/json", json.dumps(MET).encode())[2]) == [MET_SCORE]


def test_a_compressed_body_is_unpacked_in_both_ways(running: Server) -> None:
    body = json.dumps(MET).encode()
    for packed, encoding in ((gzip.compress(body), "gzip"), (zlib.compress(body), "deflate")):
        status, _, content = ask_both(running, "/json", packed, {"Content-Encoding": encoding})
        assert (status, json.loads(content)) == (200, [MET_SCORE])
    assert ask_both(running, "/json", body, {"Content-Encoding": "gzip"})[0] == 400
    assert ask_both(running, "/json", body, {"Content-Encoding": "br"})[0] == 415


def test_both_ways_ask_for_a_token(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "tokens").write_text(f"{TOKEN}\n")
    with Server.start(tmp_path / "models", f"--token-file={tmp_path / 'tokens'}", "--private") as server:
        put(server, bundle)
        body = json.dumps(MET).encode()
        assert ask_both(server, "/json", body)[0] == 401
        assert ask_both(server, "/json", b"{", {"Authorization": "Bearer wrong"})[0] == 401
        assert ask_both(server, "/json", body, {"Authorization": f"Bearer {TOKEN}"})[0] == 200


def test_both_ways_count_against_the_rate_once(tmp_path: Path) -> None:
    with Server.start(tmp_path / "models", "--rate=0.001") as server:  # one, and the next in a quarter of an hour
        assert [ask(server, "/json", b"{}")[0] for _ in range(2)] == [400, 429]
    with Server.start(tmp_path / "models", "--rate=0.001") as server:
        chunked = {"Transfer-Encoding": "chunked"}
        assert [ask(server, "/json", b"{}", chunked, chunked=True)[0] for _ in range(2)] == [400, 429]


def test_a_body_over_the_limit_is_refused_in_both_ways(tmp_path: Path) -> None:
    with Server.start(tmp_path / "models", "--max-upload=0.00001") as server:
        assert ask_both(server, "/json", b" " * 1000)[0] == 413


def request(body: bytes, *headers: str, version: str = "1.1", path: str = "/json") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: localhost", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def until_closed(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_requests_in_a_pipeline_are_answered_in_their_order(running: Server) -> None:
    rows = [[float(number), 0.0, 0.0, 0.0, 0.0] for number in range(40)]
    truth = [requests.post(f"{running.url}/json", json={"values": row}, timeout=20).json() for row in rows]
    sent = [request(json.dumps({"values": row}).encode(), f"X-Request-ID: {n}") for n, row in enumerate(rows)]
    sent[7:7] = [b"GET /models HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: models\r\n\r\n"]
    sent.append(request(b"{", "X-Request-ID: last", "Connection: close"))
    with connect(running) as connection:
        connection.sendall(b"".join(sent))
        parts = until_closed(connection).split(b"HTTP/1.1 ")[1:]
    numbers = [part.partition(b"x-request-id: ")[2].split()[0].decode() for part in parts]
    assert numbers == [*map(str, range(7)), "models", *map(str, range(7, 40)), "last"]
    scores = [json.loads(part.rpartition(b"\r\n")[2]) for part in parts]
    assert scores[:7] + scores[8:-1] == truth
    assert parts[-1].startswith(b"400 ")
    assert b"connection: close" in parts[-1]


def test_a_request_that_comes_byte_by_byte_is_answered(running: Server) -> None:
    with connect(running) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request(json.dumps(MET).encode(), "Connection: close"):
            connection.sendall(bytes([byte]))
        assert until_closed(connection).endswith(f"[{MET_SCORE}]".encode())


def test_a_client_of_http_1_0_is_answered_and_its_connection_closed(running: Server) -> None:
    with connect(running) as connection:
        connection.sendall(request(json.dumps(MET).encode(), version="1.0"))
        assert until_closed(connection).endswith(f"[{MET_SCORE}]".encode())


def test_a_client_that_expects_100_continue_receives_it(running: Server) -> None:
    whole = request(json.dumps(MET).encode(), "Expect: 100-continue", "Connection: close")
    head, end, body = whole.partition(b"\r\n\r\n")
    with connect(running) as connection:
        connection.sendall(head + end)
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(body)
        assert until_closed(connection).endswith(f"[{MET_SCORE}]".encode())


def test_a_path_with_base_path_or_query_gets_the_same_response(tmp_path: Path, bundle: Path) -> None:
    with Server.start(tmp_path / "models", "--base-path=/tfaas") as server:
        put(server, bundle)
        body = json.dumps(MET).encode()
        for path in ("/tfaas/json", "/tfaas/json?x=1", "/tfaas/js%6Fn", f"{server.url}/json"):
            assert json.loads(ask_both(server, path, body)[2]) == [MET_SCORE]
        assert ask_both(server, "/json", body)[0] == 404


def until_refused(server: Server) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            connect(server).close()
        except OSError:
            return
    raise AssertionError("the server still takes connections")


def test_a_stopping_server_completes_the_request_in_progress(tmp_path: Path, bundle: Path) -> None:
    whole = request(json.dumps(MET).encode())
    with Server.start(tmp_path / "models") as server:
        put(server, bundle)
        with connect(server) as connection:
            connection.sendall(whole[:-5])
            answered = requests.get(f"{server.url}/models", timeout=20)  # by now the other's request is being read
            assert answered.status_code == 200
            server.process.terminate()
            until_refused(server)
            connection.sendall(whole[-5:])
            assert b"connection: close" in until_closed(connection)
        assert server.stop() == 0
