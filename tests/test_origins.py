"""Web pages of other origins: their requests change nothing, and a server on loopback answers only to its own names."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from serving_fixtures import MET, Server, bundle_fixture, run_client, write_archive, write_bundle  # noqa: F401
from starlette.exceptions import HTTPException

from mlaas4hep.errors import ConfigError
from mlaas4hep.serving.http.origins import Origins


def status(origins: Origins, method: str = "POST", scheme: str = "http", version: str = "1.1", **headers: str) -> int:
    given = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    try:
        origins.check(method, scheme, version, given)
    except HTTPException as error:
        return error.status_code
    return 200


@pytest.mark.parametrize("name", ["localhost", "LocalHost", "127.0.0.1", "127.8.9.10", "[::1]", "[0:0:0:0:0:0:0:1]"])
def test_a_server_on_loopback_accepts_every_name_of_loopback(name: str) -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        assert status(Origins(host), "GET", host=name) == 200
        assert status(Origins(host), "GET", host=f"{name}:8083") == 200


@pytest.mark.parametrize(
    "name",
    ["other.example", "localhost.other.example", "127.0.0.1.other.example", "127.0.0.1@other.example", "0.0.0.0",
     "128.0.0.1", "[::2]", "::1", "", "localhost:8083:1", "localhost/", "localhost:x", "localhost,other.example"],
)  # fmt: skip
def test_a_server_on_loopback_refuses_other_host_names(name: str) -> None:
    for method in ("GET", "HEAD", "OPTIONS", "POST", "DELETE"):
        assert status(Origins("127.0.0.1"), method, host=name) == 403


def test_allowed_names_are_answered_to_at_any_port_and_without_regard_to_case() -> None:
    for host in ("127.0.0.1", "0.0.0.0", "192.0.2.1"):
        origins = Origins(host, ["Tfaas.example", "2001:db8::1"])
        for name in ("tfaas.example", "TFAAS.example:443", "[2001:db8::1]:1", "localhost", host):
            assert status(origins, "GET", host=name) == 200
        assert status(origins, "GET", host="other.example") == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])
def test_a_server_on_another_address_accepts_any_host_name_unless_names_are_given(host: str) -> None:
    assert status(Origins(host), "GET", host="tfaas.example:8083") == 200


@pytest.mark.parametrize("name", ["https://tfaas.example", "tfaas.example:8083", "tfaas.example/x", "", "*", "é"])
def test_an_allowed_name_that_is_not_a_host_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is not a host name"):
        Origins("127.0.0.1", [name])


def test_a_request_without_a_host_is_accepted_of_http_1_0_alone() -> None:
    assert status(Origins("127.0.0.1"), "GET") == 400
    assert status(Origins("127.0.0.1"), "GET", version="1.0") == 200
    assert status(Origins("127.0.0.1"), version="1.0", origin="null") == 403


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 200),
        ({"origin": "http://localhost:8083"}, 200),
        ({"origin": "http://LOCALHOST:8083", "sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "none"}, 200),
        ({"origin": "https://localhost:8083", "sec_fetch_site": "same-origin"}, 200),  # behind a proxy that ends TLS
        ({"origin": "https://localhost:8083"}, 403),
        ({"origin": "http://localhost:8084"}, 403),
        ({"origin": "http://localhost"}, 403),
        ({"origin": "http://127.0.0.1:8083"}, 403),
        ({"origin": "https://other.example"}, 403),
        ({"origin": "https://other.example", "sec_fetch_site": "same-origin"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "null", "sec_fetch_site": "same-origin"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://localhost:8083/"}, 403),
        ({"origin": "http://localhost:8083", "sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "something new"}, 403),
    ],
)
def test_pages_of_the_same_origin_alone_may_send_more_than_a_get(headers: dict[str, str], expected: int) -> None:
    origins = Origins("127.0.0.1")
    for method in ("POST", "DELETE", "PUT", "PATCH", "ANYTHING"):
        assert status(origins, method, host="localhost:8083", **headers) == expected
    for method in ("GET", "HEAD", "OPTIONS"):
        assert status(origins, method, host="localhost:8083", **headers) == 200


def test_the_default_port_may_be_left_out() -> None:
    origins = Origins("0.0.0.0")
    assert status(origins, host="a.example:80", origin="http://a.example") == 200
    assert status(origins, scheme="https", host="a.example", origin="https://a.example") == 200
    assert status(origins, scheme="https", host="a.example", origin="http://a.example") == 403


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ("--allowed-host=a.example,b.example", "--allowed-host", "c.example")
    with Server.start(tmp_path_factory.mktemp("origins") / "models", *options) as server:
        yield server


def send(server: Server, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=20)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


FOREIGN = {"Origin": "https://other.example", "Sec_Fetch_Site": "cross-site"}


@pytest.mark.parametrize("headers", [FOREIGN, {"Origin": "null"}, {"Sec_Fetch_Site": "same-site"}])
def test_no_request_of_a_foreign_page_changes_a_model(
    running: Server, bundle: Path, tmp_path: Path, headers: dict[str, str]
) -> None:
    archive = write_archive(tmp_path / "m.tar", bundle).read_bytes()
    other = write_archive(tmp_path / "o.tar", write_bundle(tmp_path / "other", "other"), "other").read_bytes()
    assert [send(running, "POST", "/upload", content)[0] for content in (archive, other)] == [200, 200]
    before = send(running, "GET", "/models")
    form = requests.Request("POST", running.url, data={"name": "x", "model": "htautau"}, files={"params": b"{}"})
    prepared = form.prepare()
    assert isinstance(prepared.body, bytes)
    as_form = {**headers, "Content_Type": prepared.headers["Content-Type"]}
    for path in ("/upload", "/bundle"):
        assert send(running, "POST", path, archive, Content_Type="text/plain", **headers)[0] == 403
        assert send(running, "POST", path, prepared.body, **as_form)[0] == 403
    assert send(running, "POST", "/params", b'{"name": "other"}', Content_Type="text/plain", **headers)[0] == 403
    assert send(running, "DELETE", "/delete/htautau", **headers)[0] == 403
    assert send(running, "DELETE", "/delete", prepared.body, **as_form)[0] == 403
    assert send(running, "POST", "/delete/htautau", X_HTTP_Method_Override="DELETE")[0] == 405
    assert send(running, "GET", "/delete/htautau", X_HTTP_Method_Override="DELETE")[0] == 405
    assert send(running, "GET", "/models") == before


def test_both_ways_of_answering_keep_foreign_pages_out(running: Server, bundle: Path, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "m.tar", bundle).read_bytes()
    assert send(running, "POST", "/upload", archive)[0] == 200
    body = json.dumps({**MET, "model": "htautau"}).encode()
    for path in ("/json", "/json?by=route", "/predict/json", "/v2/models/htautau/infer", "/proto", "/image"):
        found = send(running, "POST", path, body, **FOREIGN)
        assert (found[0], b"a page of another origin" in found[1]) == (403, True)
    for path in ("/json", "/json?by=route"):
        assert send(running, "POST", path, body, Origin=running.url)[0] == 200
        assert send(running, "POST", path, body, Host="other.example", Origin="http://other.example")[0] == 403


def test_a_name_that_was_made_to_resolve_to_loopback_is_not_answered(running: Server) -> None:
    for path in ("/models", "/", "/v2/health/live", "/static/page.js", "/nothing"):
        code, content = send(running, "GET", path, Host="other.example:8083")
        assert (code, b"does not accept the host 'other.example:8083'" in content) == (403, True)
    for name in ("a.example", "b.example:1", "c.example", "127.0.0.9"):
        assert send(running, "GET", "/v2/health/live", Host=name)[0] == 200


@pytest.mark.parametrize("hosts", [b"", b"Host: localhost\r\nHost: other.example\r\n"], ids=["none", "two"])
def test_a_request_needs_exactly_one_host(running: Server, hosts: bytes) -> None:
    name, _, port = running.url.removeprefix("http://").partition(":")
    for head in (b"GET /models HTTP/1.1\r\n", b"POST /json HTTP/1.1\r\nContent-Length: 0\r\n"):
        with socket.create_connection((name, int(port)), timeout=20) as connection:
            connection.sendall(head + hosts + b"Connection: close\r\n\r\n")
            assert b"".join(iter(lambda: connection.recv(1000), b"")).startswith(b"HTTP/1.1 400 ")


def test_programs_are_not_concerned(running: Server, bundle: Path) -> None:
    done = run_client("--upload=upload.json", cwd=bundle, TFAAS_URL=running.url)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_wrong_name_is_refused_when_the_server_starts(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"error: 'https://a.example' is not a host name"):
        Server.start(tmp_path / "models", "--allowed-host=https://a.example")
