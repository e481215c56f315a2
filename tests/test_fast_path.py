"""Predictions that skip ASGI, and servers whose uvicorn has other internals than the fast path needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from serving_fixtures import MET, MET_SCORE, Server, connect, until_closed, write_archive, write_bundle
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from mlaas4hep.serving.http.fast_path import unsupported_uvicorn

OTHER_UVICORN = """
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle as Cycle

def initialise(self, *args, before=Cycle.__init__, **kwargs):
    before(self, *args, **kwargs)
    self.trailers = []

initialise.__signature__ = __import__("inspect").signature(Cycle.__init__)
Cycle.__init__ = initialise
"""


def post(body: bytes, *headers: str, path: str = "/json", version: str = "1.1") -> bytes:
    """Return a request, after whose response the server closes the connection."""
    head = [f"POST {path} HTTP/{version}", "Host: localhost", f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join([*head, *headers, "", ""]).encode() + body


ROW = json.dumps({**MET, "model": "htautau"}).encode()
ROWS = json.dumps({"model": "htautau", "values": [[1.0, 2.0, 3.0, 4.0, None]] * 3}).encode()
REQUESTS = {
    "row": post(ROW),
    "rows": post(ROWS),
    "default model": post(json.dumps(MET).encode()),
    "second path": post(ROW, path="/predict/json"),
    "http 1.0": post(ROW, version="1.0"),
    "number": post(ROW, "X-Request-ID: my-request-17"),
    "invalid json": post(b"{"),
    "unknown key": post(b'{"model": "htautau", "keys": ["MET_p"], "values": [1]}'),
    "unknown model": post(b'{"model": "none", "values": [1]}'),
    "compressed": post(ROW, "Content-Encoding: gzip"),
    "other origin": post(ROW, "Origin: https://other.example"),
    "pipelined": post(ROW).replace(b"Connection: close\r\n", b"") + post(ROWS),
    "not http": b"nonsense\r\n\r\n",
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """Two servers with the same model; uvicorn has other internals in the second one and its workers."""
    folder = tmp_path_factory.mktemp("fast")
    (folder / "changed").mkdir()
    (folder / "changed" / "sitecustomize.py").write_text(OTHER_UVICORN)
    archive = write_archive(folder / "m.tar", write_bundle(folder / "bundle")).read_bytes()
    with (
        Server.start(folder / "a", "--workers=2") as fast,
        Server.start(folder / "b", "--workers=2", sitecustomize=folder / "changed") as plain,
    ):
        for server in (fast, plain):
            requests.post(f"{server.url}/upload", data=archive, timeout=20).raise_for_status()
        yield {"fast": fast, "plain": plain}


def answer(server: Server, request: bytes) -> list[tuple[bytes, list[bytes], bytes]]:
    """Return status line, headers and body of each response, without its date and a number that the server chose."""
    with connect(server) as connection:
        connection.sendall(request)
        received = until_closed(connection)
    responses = []
    for part in received.split(b"HTTP/1.1 ")[1:]:
        head, _, body = part.partition(b"\r\n\r\n")
        status, *headers = head.split(b"\r\n")
        own = (b"date:", *((b"x-request-id:",) if b"X-Request-ID" not in request else ()))
        responses.append((status, sorted(line for line in headers if not line.startswith(own)), body))
    return responses


@pytest.mark.parametrize("name", REQUESTS)
def test_responses_are_the_same_with_and_without_asgi(servers: dict[str, Server], name: str) -> None:
    assert answer(servers["fast"], REQUESTS[name]) == answer(servers["plain"], REQUESTS[name]) != []


def test_another_uvicorn_is_served_through_asgi_with_one_notice(servers: dict[str, Server]) -> None:
    ((status, _, body),) = answer(servers["plain"], REQUESTS["row"])
    assert (status, json.loads(body)) == (b"200 OK", [MET_SCORE])
    notices = [line for line in servers["plain"].startup if line.startswith("note: ")]
    assert len(notices) == 1
    assert "predictions take the slower path through ASGI: uvicorn " in notices[0]
    assert notices[0].endswith(": RequestResponseCycle has other attributes (trailers)\n")
    assert [line for line in servers["fast"].startup if line.startswith("note: ")] == []


def test_the_tested_uvicorn_has_the_internals() -> None:
    assert unsupported_uvicorn() == ""


def one_more_parameter(self: Any, body: bytes, last: bool) -> None:
    """A method as another uvicorn may have it."""


@pytest.mark.parametrize(
    ("owner", "name", "value", "problem"),
    [
        (HttpToolsProtocol, "on_message_complete", None, "HttpToolsProtocol.on_message_complete is missing"),
        (HttpToolsProtocol, "on_body", one_more_parameter, "HttpToolsProtocol.on_body is missing or takes other"),
        (HttpToolsProtocol, "__init__", one_more_parameter, "HttpToolsProtocol has no attribute cycle"),
        (RequestResponseCycle, "__init__", lambda self: None, "RequestResponseCycle has other attributes"),
        (RequestResponseCycle, "__init__", None, "its internals cannot be inspected (ValueError)"),
    ],
)
def test_changed_internals_are_found(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, value: Any, problem: str
) -> None:
    if value is None and name != "__init__":
        monkeypatch.delattr(owner, name)
    else:
        monkeypatch.setattr(owner, name, value)
    assert problem in unsupported_uvicorn()
