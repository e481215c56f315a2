"""The HTTP connection of the client: misbehaving servers, TLS, and retries."""

from __future__ import annotations

import gzip
import re
import select
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from stock_tfaas import StockTFaaS

from mlaas4hep.client import TFaaSClient
from mlaas4hep.client.multipart import FilePart, Multipart
from mlaas4hep.client.tfaas import UPLOAD_TIMEOUT
from mlaas4hep.errors import ConfigError, FileUnreadable, ServiceError
from mlaas4hep.serving.settings import Settings

Handler = Callable[[socket.socket], None]
Listener = Callable[..., str]


@pytest.fixture
def listener() -> Iterator[Listener]:
    """Listen on loopback; the given functions handle one connection each, in order."""
    listening = socket.create_server(("127.0.0.1", 0))
    threads = []

    def start(*handlers: Handler) -> str:
        def run() -> None:
            for handle in handlers:
                connection, _ = listening.accept()
                with connection:
                    handle(connection)

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return f"127.0.0.1:{listening.getsockname()[1]}"

    yield start
    for thread in threads:
        thread.join(timeout=10)
    listening.close()


def hang(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def answer(text: str, status: str = "200 OK", header: str = "") -> Handler:
    def handle(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(f"HTTP/1.1 {status}\r\n{header}Content-Length: {len(text)}\r\n\r\n{text}".encode())

    return handle


def incomplete_response(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[")


def dripping(head: str) -> Handler:
    """Send this, and then one byte every 50 ms."""

    def handle(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(head.encode())
        with suppress(OSError):
            while not select.select([connection], [], [], 0.05)[0]:  # until the client leaves
                connection.sendall(b"0")

    return handle


def endless(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n[")
    with suppress(OSError):
        while True:
            connection.sendall(b"0.1," * 100_000)


def gzip_bomb(connection: socket.socket) -> None:
    connection.recv(65536)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(BOMB)}\r\n\r\n"
    with suppress(OSError):
        connection.sendall(head.encode() + BOMB)


def interim(head: bytes, pause: float = 0) -> Handler:
    """Send interim responses until the client leaves."""

    def handle(connection: socket.socket) -> None:
        connection.recv(65536)
        with suppress(OSError):
            while not select.select([connection], [], [], pause)[0]:
                connection.sendall(head)

    return handle


BOMB = gzip.compress(b"[" + b" " * 64_000_000 + b"]", compresslevel=1)
LONGER = "the server is busy or hangs: try again later, or increase --timeout=SECONDS"
SLOW = f"the response arrives at less than 1 kB/s; {LONGER}"
SLOW_HEAD = f"the response headers were not complete within 0.5 s; {LONGER}"
NO_FINAL = "more than 10 interim responses (status 1xx) and no final one; this may be the wrong server"
WRONG_COMPRESSION = "the response does not have the compression that it declares"
LARGE = "the response is larger than 64 MB; this may be the wrong server"


@pytest.mark.parametrize(
    ("handle", "reason"),
    [
        (answer("<html>Grafana</html>"), "the response is HTML, not JSON; this may be the wrong server"),
        (answer("OK"), "the response is not JSON; this may be the wrong server"),
        (answer('{"a": 1}'), "the response is not a list of models"),
        (answer("<html>no</html>", "502 Bad Gateway"), "502: Bad Gateway"),
        (answer('{"error":"unable\\nto"}', "500 Internal Server Error"), "500: unable to"),
        (answer('{"error": {"code": null}}', "400 Bad Request"), '400: {"code": null}'),
        (answer('{"error":"\\u001b[31mred \\u202e"}', "400 Bad Request"), r"400: \x1b[31mred \u202e"),
        (
            answer("", "302 Found", "Location: https://sso/login\r\n"),
            "302: the server redirects to https://sso/login; use that URL",
        ),
        (
            answer("", "401 Unauthorized"),
            "401: Unauthorized; give a token (--token-file, BEARER_TOKEN) or a certificate",
        ),
        (answer("", "403 Forbidden"), "403: Forbidden; give a token"),
        (answer("", "413 Too Large"), "413: Too Large; the server accepts no larger bodies"),
        (answer("slowly", "429 Too Many Requests"), "429: slowly; send fewer requests, or try again later"),
        (
            answer("Client sent an HTTP request to an HTTPS server.", "400 Bad Request"),
            "use a URL that begins with https",
        ),
        (answer("[" * 100_000), "the response is not JSON"),
        (lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n"), "the response is not HTTP"),
        (incomplete_response, "the response is incomplete"),
        (answer("no gzip at all", header="Content-Encoding: gzip\r\n"), WRONG_COMPRESSION),
        (lambda connection: None, "the server closed the connection without a response; if the server uses TLS"),
        (hang, f"no response within 0.5 s; {LONGER}"),
        (dripping("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n["), SLOW),
        (dripping("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), SLOW),
        (dripping("HTTP/1.1 200 OK\r\nX-Header: "), SLOW_HEAD),
        (interim(b"HTTP/1.1 100 Continue\r\n\r\n"), NO_FINAL),
        (interim(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), NO_FINAL),
        (interim(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"), NO_FINAL),
        (interim(b"HTTP/1.1 100 Continue\r\nX: " + b"a" * 2000 + b"\r\n\r\n", 0.2), SLOW_HEAD),
        (dripping("HTTP/1.1 500 No\r\n\r\n"), SLOW),
        (endless, LARGE),
        (gzip_bomb, LARGE),
    ],
)
def test_a_misbehaving_server_is_an_error_of_one_line(listener: Listener, handle: Handler, reason: str) -> None:
    address = listener(handle)
    with TFaaSClient(f"http://{address}", timeout=(5, 0.5), retries=0) as client, pytest.raises(ServiceError) as caught:
        client.models()
    assert str(caught.value).startswith(f"GET http://{address}/models: ")
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_interim_responses_before_the_final_one_are_skipped(listener: Listener) -> None:
    heads = [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"] * 5

    def handle(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"".join(heads) + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")

    with TFaaSClient(f"http://{listener(handle)}") as client:
        assert client.models() == []


def test_a_response_that_arrives_steadily_may_take_longer_than_the_timeout(listener: Listener) -> None:
    def steady(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n")
        for piece in [b"[" + b" " * 1999, *[b" " * 2000] * 18, b" " * 1999 + b"]"]:
            select.select([connection], [], [], 0.05)
            connection.sendall(piece)

    with TFaaSClient(f"http://{listener(steady)}", timeout=(5, 0.5)) as client:
        assert client.models() == []


def test_the_response_to_an_upload_may_take_longer_than_other_responses(listener: Listener, tmp_path: Path) -> None:
    (tmp_path / "model.tar").write_bytes(b"content")

    def check_model(connection: socket.socket) -> None:
        if connection.recv(65536).startswith(b"GET /v2 "):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n" + b'{"extensions":[]}')
            connection.recv(65536)
        select.select([], [], [], 0.8)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with TFaaSClient(f"http://{listener(check_model)}", timeout=(5, 0.3), retries=0) as client:
        client.bundle(tmp_path / "model.tar")
    with (
        TFaaSClient(f"http://{listener(check_model)}", timeout=(5, 9), upload_timeout=0.3, retries=0) as client,
        pytest.raises(ServiceError, match=r"no response within 0\.3 s"),
    ):
        client.bundle(tmp_path / "model.tar")


def test_the_default_timeout_of_an_upload_is_longer_than_the_checks_of_our_server() -> None:
    """An upload waits up to load_time for other checks, and its own check may take load_time."""
    assert 2 * Settings.load_time < UPLOAD_TIMEOUT


def test_a_request_is_not_retried_if_the_response_is_too_slow(listener: Listener) -> None:
    address = listener(dripping("HTTP/1.1 200 OK\r\n\r\n"), answer("[]"))
    with TFaaSClient(f"http://{address}", timeout=(5, 0.5)) as client:
        with pytest.raises(ServiceError, match="the response arrives at less than 1 kB/s"):
            client.models()
        assert client.models() == []


def test_null_from_the_stock_server_is_an_empty_list(listener: Listener) -> None:
    with TFaaSClient(f"http://{listener(answer('null'))}") as client:
        assert client.models() == []


@pytest.mark.parametrize("text", ["[NaN, Infinity]", "[-Infinity]", "[1e999]", "[0.1", ""])
def test_numbers_that_json_does_not_support_are_an_error(listener: Listener, text: str) -> None:
    with TFaaSClient(f"http://{listener(answer(text))}") as client, pytest.raises(ServiceError) as caught:
        client.predict({"values": [1]}, "m")
    assert "/json: the response is not JSON; this may be the wrong server" in str(caught.value)


@pytest.mark.parametrize("text", ["null", '"str"', '{"a": 1}', "[[0.1], [0.2], [0.3]]", "[true]", '["0.1"]', "[]", "3"])
def test_the_response_for_one_event_must_be_a_list_of_numbers(listener: Listener, text: str) -> None:
    """Our server also returns null, for an event that fails the cuts; the second response is not from ours."""
    address = listener(answer(text), *([answer("{}")] if text == "null" else []))
    with TFaaSClient(f"http://{address}") as client, pytest.raises(ServiceError) as caught:
        client.predict({"values": [1]}, "m")
    assert "/json: the response is not a list of numbers; this may be the wrong server" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["null", "[0.1, 0.2]", "[[0.1]]", "[[0.1], [0.2], [0.3]]", "[[0.1], false]", "[[1], {}]"]
)
def test_the_response_for_several_events_must_have_a_list_for_each(listener: Listener, text: str) -> None:
    address = listener(answer('{"extensions": []}'), answer(text))
    with TFaaSClient(f"http://{address}") as client, pytest.raises(ServiceError) as caught:
        client.predict({"values": [[1], [2]]}, "m")
    assert "/json: the response is not a list of 2 lists of numbers; this may be the wrong server" in str(caught.value)


def test_null_instead_of_scores_is_an_event_that_fails_the_cuts(listener: Listener) -> None:
    address = listener(answer('{"extensions": []}'), answer("[[0.1], null]"))
    with TFaaSClient(f"http://{address}") as client:
        assert client.predict({"values": [[1], [2]]}, "m") == [[0.1], None]


def test_null_in_scores_becomes_none(listener: Listener) -> None:
    with TFaaSClient(f"http://{listener(answer('[null, 1, 0.5]'))}") as client:
        assert client.predict({"values": [1]}, "m") == [None, 1, 0.5]


@pytest.mark.parametrize(
    "text",
    ["null", '"str"', "{}", "[[1]]", '{"labels": {}}', '{"labels": [1]}', '{"labels": [{"label": "a"}]}',
     '{"labels": [{"label": "a", "probability": "0.1"}]}', '{"labels": [{"label": 1, "probability": 0.1}]}'],
)  # fmt: skip
def test_the_response_for_an_image_must_be_labels_or_numbers(listener: Listener, tmp_path: Path, text: str) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with TFaaSClient(f"http://{listener(answer(text))}") as client, pytest.raises(ServiceError) as caught:
        client.image(tmp_path / "a.png", "m")
    assert "/image: the response has neither labels with probabilities nor numbers; this" in str(caught.value)


def test_the_error_for_a_server_that_is_down_has_no_password() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with TFaaSClient(f"http://me:secret@127.0.0.1:{port}/", retries=0) as client, pytest.raises(ServiceError) as caught:
        client.models()
    line = f"GET http://127.0.0.1:{port}/models: connection refused; start a server: tfaas_server.py"
    assert str(caught.value) == line


MISLEADING = "/params/resolved/refused/timed/out/IncompleteRead/BadStatusLine/CERTIFICATE_VERIFY_FAILED"
"""A path with the words of other failures."""


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "connection refused"),
        ("127.255.255.255:1", "no route to the host"),  # the broadcast address of loopback
        ("nowhere.invalid:1", "unknown host|the host name cannot be resolved at present"),
    ],
)
def test_a_failed_connection_is_explained_by_its_error_number_for_any_path(address: str, reason: str) -> None:
    with TFaaSClient(f"http://{address}{MISLEADING}", retries=0) as client, pytest.raises(ServiceError) as caught:
        client.models()
    line = str(caught.value).replace(MISLEADING, "")
    assert re.match(rf"GET http://{re.escape(address)}/models: ({reason})", line), line


@pytest.mark.parametrize(
    ("handle", "reason"),
    [
        (lambda connection: connection.recv(65536), "the server closed the connection without a response"),
        (lambda connection: hang(connection), "no response within 0.3 s"),
        (answer("[plain text]", header="Content-Encoding: gzip\r\n"), WRONG_COMPRESSION),
        (lambda connection: reply(connection, b"SSH-2.0-OpenSSH_9.2\r\n"), "the response is not HTTP"),
        (lambda connection: reply(connection, b"HTTP/1.1 200 OK\r\n" + b"a" * 70_000), "the response is not HTTP"),
        (
            lambda connection: reply(connection, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n["),
            "the response is incomplete",
        ),
    ],
    ids=["closed", "hangs", "not compressed", "another protocol", "endless header", "incomplete"],
)
def test_an_invalid_response_is_explained_by_the_exception_whatever_the_path(
    listener: Listener, handle: Handler, reason: str
) -> None:
    url = f"http://{listener(handle)}{MISLEADING}"
    with TFaaSClient(url, retries=0, timeout=(5, 0.3)) as client, pytest.raises(ServiceError) as caught:
        client.models()
    assert f"/models: {reason}" in str(caught.value).replace(MISLEADING, "")


def reply(connection: socket.socket, content: bytes) -> None:
    connection.recv(65536)
    connection.sendall(content)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a network namespace")
def test_a_host_without_a_route_is_not_reported_as_unknown() -> None:
    script = (
        "ip link set lo up && ip route add unreachable 192.0.2.0/24 &&"
        f" exec {sys.executable} tfaas_client.py --url http://192.0.2.1:1/resolved_jets --models"
    )
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", script],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "error: GET" not in done.stderr:
        pytest.skip(f"no network namespace here: {done.stderr.strip()}")
    assert "/resolved_jets/models: no route to the host; check" in done.stderr


def test_the_error_for_an_invalid_host_has_no_password() -> None:
    with pytest.raises(ConfigError) as caught:
        TFaaSClient("http://me:secret@a%zz/")
    assert str(caught.value) == "invalid server URL 'a%zz/'; write it as in http://localhost:8083"


def test_https_to_a_server_without_tls_is_an_error(stock: StockTFaaS) -> None:
    with TFaaSClient(stock.url.replace("http:", "https:")) as client, pytest.raises(ServiceError) as caught:
        client.models()
    assert "the server does not use TLS; use a URL that begins with http, not https" in str(caught.value)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cert.pem, a self-signed certificate for 127.0.0.1, and its key.pem."""
    folder = tmp_path_factory.mktemp("tls")
    words = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=x -keyout key.pem -out cert.pem"
    )
    command = ["openssl", *words.split(), "-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run(command, capture_output=True, check=True, cwd=folder)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("openssl makes no certificate here")
    return folder


def over_tls(certificate: Path, handle: Handler) -> Handler:
    def run(connection: socket.socket) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        with suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
            handle(secured)  # the client may close the connection if it does not trust the certificate

    return run


def test_a_self_signed_certificate_is_an_error(listener: Listener, certificate: Path) -> None:
    address = listener(over_tls(certificate, answer("[]")))
    with (
        TFaaSClient(f"https://{address}") as client,
        pytest.raises(ServiceError, match="not signed by a trusted authority"),
    ):
        client.models()


def test_an_authority_in_capath_is_trusted(listener: Listener, certificate: Path) -> None:
    address = listener(over_tls(certificate, answer("[]")))
    with TFaaSClient(f"https://{address}", capath=str(certificate / "cert.pem")) as client:
        assert client.models() == []


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"capath": "garbage"}, "the file of --capath or X509_CERT_DIR has no certificates; it must be PEM"),
        ({"cert": "garbage"}, "the client certificate or its key cannot be read; both must be PEM"),
        ({"cert": "cert.pem"}, "the client certificate or its key cannot be read"),
        (
            {"cert": ("cert.pem", "other.pem")},
            "the private key does not belong to the client certificate; check --cert and --key",
        ),
    ],
)
def test_invalid_certificate_files_are_an_error(
    listener: Listener, certificate: Path, files: dict[str, Any], reason: str
) -> None:
    (certificate / "garbage").write_text("garbage")
    other = "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out other.pem"
    subprocess.run(["openssl", *other.split()], capture_output=True, check=True, cwd=certificate)
    paths = {
        option: str(certificate / names) if isinstance(names, str) else tuple(str(certificate / name) for name in names)
        for option, names in {"capath": "cert.pem", **files}.items()
    }
    with TFaaSClient(f"https://{listener(hang)}", **paths) as client, pytest.raises(ServiceError) as caught:
        client.models()
    assert reason in str(caught.value)


def test_a_certificate_for_another_host_is_an_error(listener: Listener, certificate: Path) -> None:
    address = listener(over_tls(certificate, answer("[]"))).replace("127.0.0.1", "localhost")
    with (
        TFaaSClient(f"https://{address}", capath=str(certificate / "cert.pem")) as client,
        pytest.raises(ServiceError, match="the server's certificate is for another host"),
    ):
        client.models()


def test_http_to_a_server_with_tls_is_an_error(listener: Listener, certificate: Path) -> None:
    address = listener(over_tls(certificate, answer("[]")))
    with (
        TFaaSClient(f"http://{address}", retries=0) as client,
        pytest.raises(ServiceError, match="closed the connection"),
    ):
        client.models()


@pytest.fixture
def stock() -> Iterator[StockTFaaS]:
    with StockTFaaS() as server:
        yield server


ROW = {"values": [1.0, 2.0]}


@pytest.mark.parametrize("status", [429, 502, 503])
def test_a_prediction_is_retried(stock: StockTFaaS, status: int) -> None:
    stock.failures = [(status, {}), (status, {"Retry-After": "0"})]
    with TFaaSClient(stock.url) as client:
        assert client.predict(ROW) == [3.0]
    assert stock.requests == ["POST /json"] * 3


def test_a_request_is_retried_after_a_lost_connection(listener: Listener) -> None:
    address = listener(lambda connection: None, incomplete_response, answer("[]"))
    with TFaaSClient(f"http://{address}") as client:
        assert client.models() == []


def test_half_a_batch_is_retried_after_a_lost_connection(listener: Listener) -> None:
    rejection = answer('{"error": "too many"}', "400 Bad Request")
    address = listener(answer('{"extensions": []}'), rejection, incomplete_response, answer("[1]"), answer("[2]"))
    with TFaaSClient(f"http://{address}") as client:
        assert client.predict({"values": [[1], [2]]}, "m") == [[1], [2]]


def test_the_number_of_retries_is_limited(stock: StockTFaaS) -> None:
    stock.failures = [(503, {})] * 5
    with TFaaSClient(stock.url, retries=1) as client, pytest.raises(ServiceError, match="503: Limit exceeded"):
        client.predict(ROW)
    assert len(stock.requests) == 2


@pytest.mark.parametrize("header", ["3600", formatdate(4_000_000_000, usegmt=True)])
def test_there_is_no_retry_if_the_server_asks_for_an_hour(stock: StockTFaaS, header: str) -> None:
    stock.failures = [(429, {"Retry-After": header})]
    with TFaaSClient(stock.url) as client, pytest.raises(ServiceError, match="429"):
        client.predict(ROW)
    assert len(stock.requests) == 1


@pytest.mark.parametrize("header", ["0", "Thu, 01 Jan 1970 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 -0000"])
def test_a_deletion_is_retried_only_after_retry_after(stock: StockTFaaS, header: str) -> None:
    stock.failures = [(503, {"Retry-After": header}), (503, {})]
    with TFaaSClient(stock.url) as client, pytest.raises(ServiceError, match=r"DELETE .*/delete: 503"):
        client.delete("m")
    assert len(stock.requests) == 2


def test_a_deletion_is_not_retried_if_the_server_may_have_processed_it(listener: Listener) -> None:
    address = listener(incomplete_response, answer(""))
    with TFaaSClient(f"http://{address}") as client:
        with pytest.raises(ServiceError, match="the response is incomplete"):
            client.delete("m")
        client.delete("m")


def test_a_rejected_prediction_is_not_retried(stock: StockTFaaS) -> None:
    with TFaaSClient(stock.url) as client, pytest.raises(ServiceError, match="500: json: cannot unmarshal string"):
        client.predict({"values": ["x"]})
    assert len(stock.requests) == 1


def test_the_error_names_a_file_that_shrinks_while_it_is_sent(stock: StockTFaaS, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(bytes(100))
    form = Multipart({}, {"model": FilePart("model", tmp_path / "model")})
    (tmp_path / "model").write_bytes(bytes(10))
    with TFaaSClient(stock.url) as client, pytest.raises(FileUnreadable, match="model changed while it was sent"):
        client._connection.send("POST", "/upload", form, {"Content-Type": form.content_type}, repeatable=False)


def test_the_token_takes_precedence_over_netrc_and_the_url(
    stock: StockTFaaS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with TFaaSClient(stock.url.replace("http://", "http://you:yours@"), token="abc.d-e_f") as client:
        client.models()
    assert stock.headers[0]["Authorization"] == "Bearer abc.d-e_f"


def test_no_proxy_is_used_for_a_server_on_this_machine(stock: StockTFaaS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with TFaaSClient(stock.url) as client:
        assert client.models() == []


@pytest.mark.parametrize(
    ("token", "reason"), [("abc", "is not sent over http"), ("a b", "invalid token in the argument 'token'")]
)
def test_a_token_is_not_sent_over_plain_http(token: str, reason: str) -> None:
    url = "http://192.0.2.1" if token == "abc" else "https://192.0.2.1"
    with pytest.raises(ConfigError, match=reason) as caught:
        TFaaSClient(url, token=token)
    assert token not in str(caught.value)


def test_the_token_is_removed_from_error_messages_of_the_server(listener: Listener) -> None:
    address = listener(answer('{"error": "bad token sec.ret"}', "401 Unauthorized"))
    with TFaaSClient(f"http://{address}", token="sec.ret") as client, pytest.raises(ServiceError) as caught:
        client.models()
    assert str(caught.value).endswith(
        "401: bad token ...; the server does not accept the token for this request: it may have expired"
    )
