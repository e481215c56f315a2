"""Every part of a request has a limit, tokens or not; and clients cannot fill the log with warnings."""

from __future__ import annotations

import json
import re
import resource
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from grid import Grid
from serving_fixtures import MET, ROOT, Server, bundle_fixture, connect, environment, until_closed, write_archive  # noqa: F401

TOKEN = "a-token-that-is-long-enough"
CHUNKED = b"POST /json HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
GET = b"GET /models HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("limits")
    (folder / "tokens").write_text(f"{TOKEN}\n")
    with Server.start(folder / "models", f"--token-file={folder / 'tokens'}", "--private", "--max-upload=1") as server:
        yield server


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server.start(tmp_path_factory.mktemp("public") / "models") as server:
        yield server


def codes_of(received: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def resident(server: Server) -> float:
    """The server's memory, in MB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1000


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (CHUNKED + b"\r\n1\r\na\r\n0\r\n", b"a:b\r\n" * 20_000),
        (CHUNKED + b"\r\n1\r\na\r\n0\r\nX: ", b"b" * 100_000),
        (CHUNKED + b"\r\n1;", b"b" * 100_000),
        (CHUNKED + b"\r\n", b"1;" + b"x" * 50 + b"\r\na\r\n"),
        (CHUNKED + b"\r\n", b"1\r\na\r\n" * 1000),
        (CHUNKED + b"\r\n", b"0" * 100_000),
        (b"", b"\r\n" * 50_000),
        (GET + b"\r\n", b"\r\n" * 50_000),
        (GET, b"X: y\r\n" * 20_000),
        (b"GET /", b"x" * 100_000),
        (b"POST /json HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", b"b" * 100_000),
    ],
    ids=[
        "trailers", "one trailer", "a chunk extension", "chunk extensions", "tiny chunks", "digits of a chunk size",
        "line ends in front", "line ends between requests", "headers", "a URL", "bytes behind an upgrade",
    ],
)  # fmt: skip
def test_no_part_of_a_request_is_without_an_end(private: Server, head: bytes, piece: bytes) -> None:
    before, sent = resident(private), 0
    with connect(private) as connection:
        try:
            connection.sendall(head)
            while sent < 30_000_000:
                connection.sendall(piece)
                sent += len(piece)
        except OSError:  # it was cut
            pass
        assert sent < 10_000_000
        assert resident(private) - before < 10


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        ("GET /" + "x" * 7_900, [], 404),
        ("GET /" + "x" * 8_100, [], 414),
        ("GET /models", ["X-Y: z"] * 190, 200),
        ("GET /models", ["X-Y: z"] * 210, 431),
        ("GET /models", [f"X-Y: {'z' * 31_000}"] * 2, 200),
        ("GET /models", [f"X-Y: {'z' * 33_000}"] * 2, 431),
    ],
)
def test_request_line_and_headers_have_limits(
    public: Server, request_line: str, headers: list[str], status: int
) -> None:
    lines = [f"{request_line} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
    with connect(public) as connection:
        connection.sendall("\r\n".join(lines).encode())
        received = until_closed(connection)
    assert received.startswith(f"HTTP/1.1 {status} ".encode())


def test_trailers_are_no_headers(private: Server, bundle: Path) -> None:
    body = f"{CHUNKED.decode()}Trailer: Authorization\r\nConnection: close\r\n\r\n1\r\n1\r\n0\r\n"
    trailers = f"Authorization: Bearer {TOKEN}\r\nHost: other.example\r\nX-Y: z\r\n\r\n"
    for given, status in (("", b"401"), (f"Authorization: Bearer {TOKEN}\r\n", b"400")):
        with connect(private) as connection:
            head, _, rest = body.partition("\r\n")
            connection.sendall(f"{head}\r\n{given}{rest}{trailers}".encode())
            assert until_closed(connection).startswith(b"HTTP/1.1 " + status)


def test_a_chunked_body_with_extensions_and_trailers_is_read(public: Server, bundle: Path, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "m.tar", bundle).read_bytes()
    requests.post(f"{public.url}/upload", data=archive, timeout=20).raise_for_status()
    body = json.dumps({**MET, "model": "htautau"}).encode()
    chunks = b"".join(b"%x;name=value\r\n%b\r\n" % (len(part), part) for part in (body[:10], body[10:]))
    with connect(public) as connection:
        connection.sendall(CHUNKED + b"Connection: close\r\n\r\n" + chunks + b"0;last\r\nX-Checksum: 1\r\n\r\n")
        assert until_closed(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("request_", [GET + b"\r\n", CHUNKED.replace(b"Transfer-Encoding: chunked", b"A: b") + b"\r\n"])
def test_pipelined_requests_are_limited_and_answered_in_order(public: Server, request_: bytes) -> None:
    with connect(public) as connection:
        connection.sendall(request_ * 1000)  # in one piece, as far as the server is concerned
        connection.shutdown(socket.SHUT_WR)
        codes = codes_of(until_closed(connection))
    assert len(codes) < 200
    assert set(codes[:-1]) <= {200, 400}
    assert codes[-1] == 429


def test_invalid_bytes_after_requests_are_refused_after_their_responses(public: Server) -> None:
    with connect(public) as connection:
        connection.sendall((GET + b"\r\n") * 3 + b"nonsense\r\n\r\n")
        codes = codes_of(until_closed(connection))
    assert codes == [200, 200, 200, 400]


def stderr_of(server: Server) -> str:
    """Stop a server; return what it said since it was ready."""
    assert server.process.stderr is not None
    server.process.terminate()
    said = server.process.stderr.read()
    assert server.stop() == 0
    return said


def test_a_client_that_leaves_while_it_pipelines_leaves_no_trace_in_the_log(tmp_path: Path) -> None:
    with Server.start(tmp_path / "models") as server:
        for number in range(20):
            with connect(server) as connection:
                if number % 2:  # it is reset
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                connection.sendall((GET + b"\r\n") * 50 + b"POST /upload HTTP/1.1\r\nHost: localhost\r\n")
        assert requests.get(f"{server.url}/models", timeout=20).status_code == 200
        assert stderr_of(server) == ""


def test_two_thousand_clients_that_stall_are_one_warning(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 5000:
        pytest.skip("so many connections are not allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 5000), hard))
    try:
        with Server.start(tmp_path / "models", "--timeout=1") as server:
            connections = [connect(server) for _ in range(2000)]
            for connection in connections:
                assert b"408" in until_closed(connection)
                connection.close()
            said = stderr_of(server).splitlines()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [line[line.index("a client") :] for line in said] == [
        "a client at 127.0.0.1 stalled: its connection is closed"
    ]


def test_connections_beyond_the_limit_of_file_descriptors_are_one_warning(tmp_path: Path) -> None:
    limited = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)); "
    limited += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    command = [sys.executable, "-c", limited, str(ROOT / "tfaas_server.py"), "--port=0", f"--models-dir={tmp_path}/m"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment())
    assert process.stderr is not None
    found = re.search(r"ready: (https?://\S+)", process.stderr.readline())
    assert found is not None
    with Server(process, tmp_path / "m", found[1]) as server:
        connections = [connect(server) for _ in range(300)]
        answered = 0
        for connection in connections[:30]:
            connection.sendall(GET + b"Connection: close\r\n\r\n")
            answered += until_closed(connection).startswith(b"HTTP/1.1 200 ")
        for connection in connections:
            connection.close()
        end = time.monotonic() + 20
        while time.monotonic() < end:  # it recovers
            try:
                assert requests.get(f"{server.url}/models", timeout=5).status_code == 200
                break
            except requests.RequestException:
                continue
        said = stderr_of(server)
    assert answered > 0
    assert said.count("\n") == 1
    assert "clients are turned away: the limit is 100 (ulimit -n)" in said


def test_a_tls_handshake_that_does_not_end_falls_under_the_timeout(tmp_path: Path) -> None:
    grid = Grid(tmp_path / "grid")
    options = (f"--cert={grid.certificate}", f"--key={grid.key}")
    with Server.start(tmp_path / "models", "--timeout=1", *options) as server:
        began = time.monotonic()
        with connect(server) as silent, connect(server) as begun:
            hello = ssl.MemoryBIO()
            client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            begun.sendall(hello.read()[:50])
            assert until_closed(silent) == until_closed(begun) == b""
        assert time.monotonic() - began < 10
        assert stderr_of(server) == ""
