"""The HTTP part: against sockets that behave as badly as servers do, over TLS, and with requests that are repeated."""

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
from mlaas4hep.errors import ConfigError, FileUnreadable, ServiceError

Handler = Callable[[socket.socket], None]
Listener = Callable[..., str]


@pytest.fixture
def listener() -> Iterator[Listener]:
    """Listen on loopback; each of the functions that are given handles one connection, in turn."""
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


def broken_answer(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[")


def dripping(head: str) -> Handler:
    """Send this, and then a byte now and then."""

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


BOMB = gzip.compress(b"[" + b" " * 64_000_000 + b"]", compresslevel=1)
SLOW = "the answer comes at less than 1 kB/s; the server is busy or hangs; --timeout"
LARGE = "the answer is larger than 64 MB; is it the right server?"


@pytest.mark.parametrize(
    ("handle", "reason"),
    [
        (answer("<html>Grafana</html>"), "the answer is HTML; is it the right server?"),
        (answer("OK"), "the answer is no JSON; is it the right server?"),
        (answer('{"a": 1}'), "the answer is no list of models"),
        (answer("<html>no</html>", "502 Bad Gateway"), "502: Bad Gateway"),
        (answer('{"error":"unable\\nto"}', "500 Internal Server Error"), "500: unable to"),
        (answer('{"error": {"code": null}}', "400 Bad Request"), '400: {"code": null}'),
        (answer('{"error":"\\u001b[31mred \\u202e"}', "400 Bad Request"), r"400: \x1b[31mred \u202e"),
        (
            answer("", "302 Found", "Location: https://sso/login\r\n"),
            "302: it moved to https://sso/login; give that URL",
        ),
        (
            answer("", "401 Unauthorized"),
            "401: Unauthorized; give a token (--token-file, BEARER_TOKEN) or a certificate",
        ),
        (answer("", "403 Forbidden"), "403: Forbidden; give a token"),
        (answer("", "413 Too Large"), "413: Too Large; it is more than the server takes"),
        (answer("slowly", "429 Too Many Requests"), "429: slowly; ask less often, or later"),
        (answer("Client sent an HTTP request to an HTTPS server.", "400 Bad Request"), "the URL begins with https"),
        (answer("[" * 100_000), "the answer is no JSON"),
        (lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n"), "the answer is no HTTP"),
        (broken_answer, "the answer broke off"),
        (answer("no gzip at all", header="Content-Encoding: gzip\r\n"), "the answer is not packed as it says"),
        (lambda connection: None, "the server closed the connection without an answer; if it speaks TLS"),
        (hang, "no answer within 0.5 s; the server is busy or hangs"),
        (dripping("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n["), SLOW),
        (dripping("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), SLOW),
        (dripping("HTTP/1.1 200 OK\r\nX-Header: "), SLOW),
        (dripping("HTTP/1.1 500 No\r\n\r\n"), SLOW),
        (endless, LARGE),
        (gzip_bomb, LARGE),
    ],
)
def test_a_server_that_misbehaves_is_one_line(listener: Listener, handle: Handler, reason: str) -> None:
    address = listener(handle)
    with TFaaSClient(f"http://{address}", timeout=(5, 0.5), retries=0) as client, pytest.raises(ServiceError) as caught:
        client.models()
    assert str(caught.value).startswith(f"GET http://{address}/models: ")
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_an_answer_that_comes_steadily_may_take_longer_than_the_timeout(listener: Listener) -> None:
    def steady(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n")
        for piece in [b"[" + b" " * 1999, *[b" " * 2000] * 18, b" " * 1999 + b"]"]:
            select.select([connection], [], [], 0.05)
            connection.sendall(piece)

    with TFaaSClient(f"http://{listener(steady)}", timeout=(5, 0.5)) as client:
        assert client.models() == []


def test_an_answer_that_comes_too_slowly_is_not_asked_for_again(listener: Listener) -> None:
    address = listener(dripping("HTTP/1.1 200 OK\r\n\r\n"), answer("[]"))
    with TFaaSClient(f"http://{address}", timeout=(5, 0.5)) as client:
        with pytest.raises(ServiceError, match="the answer comes at less than 1 kB/s"):
            client.models()
        assert client.models() == []


def test_the_stock_servers_null_is_an_empty_list(listener: Listener) -> None:
    with TFaaSClient(f"http://{listener(answer('null'))}") as client:
        assert client.models() == []


@pytest.mark.parametrize("text", ["[NaN, Infinity]", "[-Infinity]", "[1e999]", "[0.1", ""])
def test_numbers_that_json_cannot_say_are_no_answer(listener: Listener, text: str) -> None:
    with TFaaSClient(f"http://{listener(answer(text))}") as client, pytest.raises(ServiceError) as caught:
        client.predict({"values": [1]}, "m")
    assert "/json: the answer is no JSON; is it the right server?" in str(caught.value)


@pytest.mark.parametrize("text", ["null", '"str"', '{"a": 1}', "[[0.1], [0.2], [0.3]]", "[true]", '["0.1"]', "[]", "3"])
def test_one_event_is_answered_by_one_list_of_numbers(listener: Listener, text: str) -> None:
    with TFaaSClient(f"http://{listener(answer(text))}") as client, pytest.raises(ServiceError) as caught:
        client.predict({"values": [1]}, "m")
    assert "/json: the answer is no list of numbers; is it the right server?" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["null", "[0.1, 0.2]", "[[0.1]]", "[[0.1], [0.2], [0.3]]", "[[0.1], null]", "[[1], {}]"]
)
def test_many_events_are_answered_by_as_many_lists(listener: Listener, text: str) -> None:
    address = listener(answer('{"extensions": []}'), answer(text))
    with TFaaSClient(f"http://{address}") as client, pytest.raises(ServiceError) as caught:
        client.predict({"values": [[1], [2]]}, "m")
    assert "/json: the answer is no list of 2 lists of numbers; is it the right server?" in str(caught.value)


def test_null_is_where_the_server_found_no_number(listener: Listener) -> None:
    with TFaaSClient(f"http://{listener(answer('[null, 1, 0.5]'))}") as client:
        assert client.predict({"values": [1]}, "m") == [None, 1, 0.5]


@pytest.mark.parametrize(
    "text",
    ["null", '"str"', "{}", "[[1]]", '{"labels": {}}', '{"labels": [1]}', '{"labels": [{"label": "a"}]}',
     '{"labels": [{"label": "a", "probability": "0.1"}]}', '{"labels": [{"label": 1, "probability": 0.1}]}'],
)  # fmt: skip
def test_an_image_is_answered_by_labels_or_numbers(listener: Listener, tmp_path: Path, text: str) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with TFaaSClient(f"http://{listener(answer(text))}") as client, pytest.raises(ServiceError) as caught:
        client.image(tmp_path / "a.png", "m")
    assert "/image: the answer has neither labels with their probabilities nor numbers; is it" in str(caught.value)


def test_a_server_that_is_down_is_one_line_without_the_password() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with TFaaSClient(f"http://me:secret@127.0.0.1:{port}/") as client, pytest.raises(ServiceError) as caught:
        client.models()
    line = f"GET http://127.0.0.1:{port}/models: nobody listens there; start a server: tfaas_server.py"
    assert str(caught.value) == line


MISLEADING = "/params/resolved/refused/IncompleteRead/BadStatusLine/CERTIFICATE_VERIFY_FAILED"
"""A path whose words are those of other failures."""


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "nobody listens there"),
        ("127.255.255.255:1", "there is no route to that host"),  # the broadcast address of loopback
        ("nowhere.invalid:1", "there is no host of that name|no name server says at present"),
    ],
)
def test_no_connection_is_explained_by_its_error_number_whatever_the_path_says(address: str, reason: str) -> None:
    with TFaaSClient(f"http://{address}{MISLEADING}", retries=0) as client, pytest.raises(ServiceError) as caught:
        client.models()
    line = str(caught.value).replace(MISLEADING, "")
    assert re.match(rf"GET http://{re.escape(address)}/models: ({reason})", line), line


@pytest.mark.parametrize(
    ("handle", "reason"),
    [
        (lambda connection: connection.recv(65536), "the server closed the connection without an answer"),
        (lambda connection: hang(connection), "no answer within 0.3 s"),
        (answer("[plain text]", header="Content-Encoding: gzip\r\n"), "the answer is not packed as it says"),
        (lambda connection: reply(connection, b"SSH-2.0-OpenSSH_9.2\r\n"), "the answer is no HTTP"),
        (lambda connection: reply(connection, b"HTTP/1.1 200 OK\r\n" + b"a" * 70_000), "the answer is no HTTP"),
        (
            lambda connection: reply(connection, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n["),
            "the answer broke off",
        ),
    ],
    ids=["closed", "hangs", "not packed", "another protocol", "endless header", "broken off"],
)
def test_a_bad_answer_is_explained_by_its_type_whatever_the_path_says(
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
def test_a_host_without_a_route_is_not_called_unknown() -> None:
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
    assert "/resolved_jets/models: there is no route to that host; check" in done.stderr


def test_a_host_that_cannot_be_is_one_line_without_the_password() -> None:
    with pytest.raises(ConfigError) as caught:
        TFaaSClient("http://me:secret@a%zz/")
    assert str(caught.value) == "'a%zz/' is no URL of a server; one is http://localhost:8083"


def test_https_to_a_server_without_tls_is_one_line(stock: StockTFaaS) -> None:
    with TFaaSClient(stock.url.replace("http:", "https:")) as client, pytest.raises(ServiceError) as caught:
        client.models()
    assert "the server does not speak TLS; the URL begins with http, not https" in str(caught.value)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cert.pem, a certificate for 127.0.0.1 that signs itself, and its key.pem."""
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
            handle(secured)  # the client may hang up, where it does not trust us

    return run


def test_a_certificate_of_nobody_is_one_line(listener: Listener, certificate: Path) -> None:
    address = listener(over_tls(certificate, answer("[]")))
    with TFaaSClient(f"https://{address}") as client, pytest.raises(ServiceError, match="of no authority that is"):
        client.models()


def test_an_authority_that_is_named_is_trusted(listener: Listener, certificate: Path) -> None:
    address = listener(over_tls(certificate, answer("[]")))
    with TFaaSClient(f"https://{address}", capath=str(certificate / "cert.pem")) as client:
        assert client.models() == []


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"capath": "garbage"}, "there is no authority in the file of --capath or X509_CERT_DIR; it must be PEM"),
        ({"cert": "garbage"}, "the client certificate or its key cannot be read; both must be PEM"),
        ({"cert": "cert.pem"}, "the client certificate or its key cannot be read"),
        ({"cert": ("cert.pem", "other.pem")}, "the private key is another certificate's; check --cert and --key"),
    ],
)
def test_files_that_do_not_fit_are_one_line(
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


def test_a_certificate_of_another_host_is_one_line(listener: Listener, certificate: Path) -> None:
    address = listener(over_tls(certificate, answer("[]"))).replace("127.0.0.1", "localhost")
    with (
        TFaaSClient(f"https://{address}", capath=str(certificate / "cert.pem")) as client,
        pytest.raises(ServiceError, match="its certificate is for another host"),
    ):
        client.models()


def test_http_to_a_server_with_tls_is_one_line(listener: Listener, certificate: Path) -> None:
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
def test_a_prediction_is_asked_for_again(stock: StockTFaaS, status: int) -> None:
    stock.failures = [(status, {}), (status, {"Retry-After": "0"})]
    with TFaaSClient(stock.url) as client:
        assert client.predict(ROW) == [3.0]
    assert stock.requests == ["POST /json"] * 3


def test_a_connection_that_ends_too_soon_is_made_again(listener: Listener) -> None:
    address = listener(lambda connection: None, broken_answer, answer("[]"))
    with TFaaSClient(f"http://{address}") as client:
        assert client.models() == []


def test_a_connection_that_ends_too_soon_is_made_again_for_a_half_of_what_was_refused(listener: Listener) -> None:
    refused = answer('{"error": "too many"}', "400 Bad Request")
    address = listener(answer('{"extensions": []}'), refused, broken_answer, answer("[1]"), answer("[2]"))
    with TFaaSClient(f"http://{address}") as client:
        assert client.predict({"values": [[1], [2]]}, "m") == [[1], [2]]


def test_there_is_an_end_to_asking_again(stock: StockTFaaS) -> None:
    stock.failures = [(503, {})] * 5
    with TFaaSClient(stock.url, retries=1) as client, pytest.raises(ServiceError, match="503: Limit exceeded"):
        client.predict(ROW)
    assert len(stock.requests) == 2


@pytest.mark.parametrize("header", ["3600", formatdate(4_000_000_000, usegmt=True)])
def test_a_server_that_asks_for_an_hour_is_not_waited_for(stock: StockTFaaS, header: str) -> None:
    stock.failures = [(429, {"Retry-After": header})]
    with TFaaSClient(stock.url) as client, pytest.raises(ServiceError, match="429"):
        client.predict(ROW)
    assert len(stock.requests) == 1


@pytest.mark.parametrize("header", ["0", "Thu, 01 Jan 1970 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 -0000"])
def test_what_is_deleted_is_asked_for_again_only_where_the_server_says_when(stock: StockTFaaS, header: str) -> None:
    stock.failures = [(503, {"Retry-After": header}), (503, {})]
    with TFaaSClient(stock.url) as client, pytest.raises(ServiceError, match=r"DELETE .*/delete: 503"):
        client.delete("m")
    assert len(stock.requests) == 2


def test_what_is_deleted_is_not_asked_for_again_where_the_server_may_have_done_it(listener: Listener) -> None:
    address = listener(broken_answer, answer(""))
    with TFaaSClient(f"http://{address}") as client:
        with pytest.raises(ServiceError, match="the answer broke off"):
            client.delete("m")
        client.delete("m")


def test_a_refused_prediction_is_not_repeated(stock: StockTFaaS) -> None:
    with TFaaSClient(stock.url) as client, pytest.raises(ServiceError, match="500: json: cannot unmarshal string"):
        client.predict({"values": ["x"]})
    assert len(stock.requests) == 1


def test_a_file_that_shrinks_while_it_is_sent_is_what_the_error_says(stock: StockTFaaS, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(bytes(100))
    form = Multipart({}, {"model": FilePart("model", tmp_path / "model")})
    (tmp_path / "model").write_bytes(bytes(10))
    with TFaaSClient(stock.url) as client, pytest.raises(FileUnreadable, match="model changed while it was sent"):
        client._connection.send("POST", "/upload", form, {"Content-Type": form.content_type}, once=True)


def test_the_token_goes_along_whatever_netrc_and_the_url_say(
    stock: StockTFaaS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with TFaaSClient(stock.url.replace("http://", "http://you:yours@"), token="abc.d-e_f") as client:
        client.models()
    assert stock.headers[0]["Authorization"] == "Bearer abc.d-e_f"


def test_a_server_on_this_machine_is_not_asked_through_a_proxy(
    stock: StockTFaaS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with TFaaSClient(stock.url) as client:
        assert client.models() == []


@pytest.mark.parametrize(("token", "reason"), [("abc", "is not sent over http"), ("a b", "what is in the token is no")])
def test_a_token_goes_to_no_stranger_in_the_clear(token: str, reason: str) -> None:
    url = "http://192.0.2.1" if token == "abc" else "https://192.0.2.1"
    with pytest.raises(ConfigError, match=reason) as caught:
        TFaaSClient(url, token=token)
    assert token not in str(caught.value).replace("what", "").split()


def test_the_token_is_in_no_error_that_says_it_back(listener: Listener) -> None:
    address = listener(answer('{"error": "bad token sec.ret"}', "401 Unauthorized"))
    with TFaaSClient(f"http://{address}", token="sec.ret") as client, pytest.raises(ServiceError) as caught:
        client.models()
    assert str(caught.value).endswith(
        "401: bad token ...; it does not take the token, or not for this: is it a new one?"
    )
