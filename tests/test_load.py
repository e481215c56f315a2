"""A server that many ask at once, while its models change, while it is told to stop, and while some mean it no good."""

from __future__ import annotations

import gzip
import io
import random
import signal
import socket
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests
from serving_fixtures import MET, MET_SCORE, WEIGHTS, Server, names_in, trained_model, write_archive, write_bundle

CLIENTS = 64


def put(url: str, archive: bytes) -> None:
    requests.post(f"{url}/upload", data=archive, timeout=60).raise_for_status()


@pytest.mark.parametrize(
    ("workers", "seconds"),
    [(2, 3), pytest.param(1, 60, marks=pytest.mark.slow), pytest.param(2, 60, marks=pytest.mark.slow)],
)
def test_every_request_gets_the_scores_of_its_model_while_models_are_replaced(
    tmp_path: Path, workers: int, seconds: int
) -> None:
    """And when the server is told to stop, an answer or a connection that ends, and nobody waits for ever."""
    archives = [
        write_archive(
            tmp_path / f"b{factor}.tar",
            write_bundle(tmp_path / f"b{factor}", graph=trained_model(weights=[factor * one for one in WEIGHTS])),
        ).read_bytes()
        for factor in (1, 2)
    ]
    other = write_archive(
        tmp_path / "o.tar", write_bundle(tmp_path / "o", "other", graph=trained_model(outputs=2)), "other"
    )
    answers, problems = {"htautau": set(), "other": set()}, []
    stopping, ended = threading.Event(), threading.Event()

    def ask(number: int) -> int:
        asked = 0
        name = "other" if number % 4 == 0 else "htautau"
        with requests.Session() as session:
            while not ended.is_set():
                try:
                    answer = session.post(f"{server.url}/json", json={**MET, "model": name}, timeout=30)
                except requests.Timeout as error:
                    problems.append(f"hangs: {error}")
                    return asked
                except requests.RequestException as error:
                    if not stopping.is_set():
                        problems.append(str(error))
                    return asked
                answers[name].add((answer.status_code, answer.text))
                asked += 1
        return asked

    with Server.start(tmp_path / "models", f"--workers={workers}") as server, ThreadPoolExecutor(CLIENTS) as pool:
        put(server.url, archives[0])
        put(server.url, other.read_bytes())
        clients = [pool.submit(ask, number) for number in range(CLIENTS)]
        end, round_ = time.monotonic() + seconds, 0
        while time.monotonic() < end or round_ < 4:
            round_ += 1
            put(server.url, archives[round_ % 2])
            if round_ % 3 == 0:
                requests.delete(f"{server.url}/delete/other", timeout=60).raise_for_status()
                put(server.url, other.read_bytes())
        stopping.set()
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(timeout=60)
        ended.set()
        asked = sum(client.result(timeout=60) for client in clients)
    assert problems == []
    assert code == 0
    assert answers["htautau"] == {(200, f"[{MET_SCORE}]"), (200, f"[{2 * MET_SCORE}]")}
    right = (200, f"[{MET_SCORE},{2 * MET_SCORE}]")
    assert right in answers["other"]
    assert {status for status, _ in answers["other"] - {right}} <= {404}
    assert asked > CLIENTS


def malformed(rng: random.Random) -> bytes:
    """Return a request that makes no sense, or nearly none."""
    path = rng.choice(
        ["/json", "/upload", "/proto", "/image", "/v2/models/htautau/infer", "/params", "/delete", "/%00", "/../x"]
    )
    method = rng.choice(["POST", "GET", "DELETE", "PUT", "BREW"])
    body = rng.choice([
        rng.randbytes(rng.randrange(200)),
        b'{"keys": ["MET_pt"], "values": [' + rng.randbytes(5).hex().encode() + b"]}",
        b'{"values": ' + b"[" * rng.randrange(3000) + b"1",
        b'{"model": "../../etc/passwd", "values": [1]}',
            b'{"model": "' + rng.randbytes(20).hex().encode() + b'", "values": [1]}',
        b'{"model": "htautau", "values": [1e400, null, -0, 1e-400, "x"]}',
        b"--x\r\nContent-Disposition: form-data; name=\"model\"; filename=\"../../a\"\r\n\r\n\x80\x04\x95\r\n--x--\r\n",
    ])  # fmt: skip
    length = rng.choice([len(body), len(body), len(body), len(body) + 10, -1, 10**12])
    kind = rng.choice(
        ["application/json", "multipart/form-data; boundary=x", "multipart/form-data", "text/plain", "\x01"]
    )
    odd = rng.choice(
        [
            *("", "Content-Encoding: gzip\r\n", "Content-Encoding: base64\r\n", "Transfer-Encoding: chunked\r\n"),
            *("Inference-Header-Content-Length: 9999999999\r\n", "X-Request-ID: \r\n", "Expect: 100-continue\r\n"),
        ]
    )
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{odd}Content-Length: {length}\r\n"
    head += "Connection: close\r\n\r\n"
    request = head.encode("latin-1") + body
    return request if rng.random() < 0.9 else request[: rng.randrange(len(request))]


def hostile(rng: random.Random) -> bytes:
    """Return an archive that would write where it must not, or more than there is room for."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for _ in range(rng.randrange(1, 4)):
            name = rng.choice(
                ["../../escaped", "/tmp/escaped", "m/../../escaped", "m/escaped", "m", ".tfaas/lock", "m\\..\\x"]
            )
            info = tarfile.TarInfo(name)
            info.type = rng.choice(
                [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
            )
            info.linkname = rng.choice(["/etc/passwd", "..", "../../escaped"])
            info.size = 10 if info.type == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(bytes(10)))
    plain = content.getvalue()
    bomb = gzip.compress(bytes(30_000_000))
    return rng.choice([plain, gzip.compress(plain), plain[: len(plain) // 3], bomb, gzip.compress(plain)[:-5]])


def answer_to(server: Server, request: bytes) -> bytes:
    """Send bytes, and say no more; return what comes back."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        received = b""
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                received += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
    return received


@pytest.mark.parametrize(("requests_", "uploads"), [(600, 30), pytest.param(10_000, 200, marks=pytest.mark.slow)])
def test_no_invalid_request_causes_a_500_or_leaves_files(tmp_path: Path, requests_: int, uploads: int) -> None:
    rng = random.Random(1)
    bundle = write_archive(tmp_path / "b.tar", write_bundle(tmp_path / "b")).read_bytes()
    before = set(tmp_path.iterdir()) | {tmp_path / "models"}
    with Server.start(tmp_path / "models", "--max-upload=5", "--timeout=2") as server:
        put(server.url, bundle)
        process = psutil.Process(server.process.pid)
        sizes = []
        for _ in range(2):
            with ThreadPoolExecutor(8) as pool:
                sent = [malformed(rng) for _ in range(requests_ // 2)]
                statuses = {
                    answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")[9:12]
                    for answer in pool.map(lambda one: answer_to(server, one), sent)
                }
            assert statuses <= {b"", b"200", b"400", b"404", b"405", b"408", b"413", b"415"}, statuses
            sizes.append(process.memory_info().rss)
        for _ in range(uploads):
            answer = requests.post(f"{server.url}/upload", data=hostile(rng), timeout=60)
            assert answer.status_code == 400, answer.text
            assert str(tmp_path) not in answer.text
        assert requests.post(f"{server.url}/json", json={**MET, "model": "htautau"}, timeout=20).json() == [MET_SCORE]
        assert process.num_fds() < 60
        assert sizes[1] < 1.2 * sizes[0]
        names = names_in(tmp_path / "models")
    assert names == {"htautau"}
    assert set(tmp_path.iterdir()) == before
    assert not Path("/tmp/escaped").exists()
