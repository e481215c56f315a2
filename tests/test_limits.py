"""Every limit of the server has a name, a default and a unit, and `--limit` changes it."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import socket
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from scripts import ROOT, only_error_line, run_script
from serving_fixtures import Server, onnx_model, trained_model, write_archive, write_bundle

from mlaas4hep.errors import ConfigError
from mlaas4hep.protocol.limits import Limits, limit_table
from mlaas4hep.serving.settings import Settings

CHANGED = {
    "url": "300", "head": "1.5kB", "headers": "12", "framing": "2 kB", "requests_at_once": "3",
    "command_body": "1kB", "json_body": "1MB", "protobuf_body": "1kB", "image_pixels": "100", "parser_time": "0.001s",
    "params_file": "1kB", "params_depth": "3", "labels": "2", "label_length": "20", "columns": "4",
    "archive_members": "5", "archive_path": "100", "archive_depth": "3", "archive_ratio": "1", "report": "1kB",
    "keras_config": "1kB", "input_values": "50", "bounded_nodes": "2", "scores": "1kB",
}  # fmt: skip
WEIGHTS = [1.0, 2.0, 3.0, 4.0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with small limits, which its workers and their child processes must apply."""
    folder = tmp_path_factory.mktemp("limits")
    options = [f"--limit={name}={value}" for name, value in CHANGED.items()]
    with Server.start(folder / "models", "--workers=2", "--max-upload=2", *options) as server:
        good = archive(folder / "good", "good")
        assert requests.post(f"{server.url}/upload", data=good, timeout=60).status_code == 200
        yield server


def archive(folder: Path, name: str, graph: bytes | None = None, files: dict[str, Any] | None = None) -> bytes:
    bundle = write_bundle(folder / name, name, onnx_model(WEIGHTS) if graph is None else graph)
    (bundle / "upload.json").unlink()
    for path, content in (files or {}).items():
        (bundle / path).parent.mkdir(parents=True, exist_ok=True)
        (bundle / path).write_bytes(content)
    return write_archive(folder / f"{name}.tar", bundle, name).read_bytes()


def described(**changes: Any) -> bytes:
    return json.dumps({"name": "m", "model": "model.onnx", "labels": "labels.txt", **changes}).encode()


def test_values_are_numbers_with_units() -> None:
    assignments = ["headers=100", "json_body=128MB", "url=9 kb", "head=20000", "parser_memory=1.5GB", "stop_time=2.5 s"]
    changed = {
        "headers": 100, "json_body": 128_000_000, "url": 9_000, "head": 20_000, "parser_memory": 1_500_000_000,
        "stop_time": 2.5,
    }  # fmt: skip
    assert Limits.parse(assignments) == dataclasses.replace(Limits(), **changed)
    assert Limits.parse([]) == Limits()


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        ("hedders=100", "unknown limit 'hedders'; closest: 'headers'; list all: tfaas_server.py --limit=help"),
        ("headers", "the limit 'headers' has no value; write it as in --limit headers=100"),
        ("headers=many", "the limit 'headers' must be a number, not 'many'"),
        ("headers=100kB", "the limit 'headers' must be a number, not '100kB'"),
        ("headers=10.5", "the limit 'headers' must be an integer, not '10.5'"),
        ("headers=-1", "the limit 'headers' must be a number, not '-1'"),
        ("headers=9", "the limit 'headers' must be 10 to 10,000, not 9"),
        ("headers=10001", "the limit 'headers' must be 10 to 10,000, not 10,001"),
        ("url=8TB", "the limit 'url' must be a number, optionally with a unit (B, kB, MB, GB), not '8TB'"),
        ("url=0.001kB", "the limit 'url' must be 100 bytes to 1 MB, not 1 bytes"),
        ("stop_time=nan", "the limit 'stop_time' must be a number, optionally with a unit (s), not 'nan'"),
        ("stop_time=0", "the limit 'stop_time' must be 1 s to 86,400 s, not 0 s"),
    ],
)
def test_a_wrong_limit_is_an_error_of_one_line(assignment: str, reason: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Limits.parse([assignment])
    assert str(raised.value) == reason


def test_the_script_refuses_unknown_limits_and_lists_all_limits(tmp_path: Path) -> None:
    line = only_error_line(run_script("tfaas_server.py", "--limit", "bounded_row=5", cwd=tmp_path))
    assert line.startswith("error: unknown limit 'bounded_row'; closest: 'bounded_rows'")
    assert not list(tmp_path.iterdir())
    listed = run_script("tfaas_server.py", "--limit=help", cwd=tmp_path)
    assert listed.returncode == 0
    assert re.search(r"^json_body +64 MB +body in JSON or with binary tensors$", listed.stdout, re.M)
    assert len(listed.stdout.splitlines()) == len(dataclasses.fields(Limits))


def test_the_documentation_lists_every_limit() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z_]+)` \| ([^|]+) \| ([^|]+) \|$", text, re.M)
    assert rows == list(limit_table())


def test_worker_processes_get_the_same_limits() -> None:
    settings = Settings("models", port=0, allow_dn=("/CN=a",), limits=Limits(headers=50, stop_time=3.5))
    assert Settings.from_json(settings.to_json()).limits == settings.limits


def send(server: Server, content: bytes) -> bytes:
    """Send bytes; return all that comes back before the server closes the connection."""
    host, _, port = server.url.rpartition("//")[2].partition(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(content)
        while piece := connection.recv(65536):
            received += piece
    return received


@pytest.mark.parametrize(
    ("line", "headers", "status"),
    [
        ("GET /" + "x" * 280, [], b"404"),
        ("GET /" + "x" * 310, [], b"414"),
        ("GET /models", ["X-Y: z"] * 9, b"200"),
        ("GET /models", ["X-Y: z"] * 12, b"431"),
        ("GET /models", [f"X-Y: {'z' * 1200}"], b"200"),
        ("GET /models", [f"X-Y: {'z' * 1600}"], b"431"),
    ],
)
def test_limits_of_the_head_of_a_request(server: Server, line: str, headers: list[str], status: bytes) -> None:
    lines = [f"{line} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
    assert send(server, "\r\n".join(lines).encode()).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize(
    ("count", "end", "status"), [(60, b"0\r\n\r\n", b"HTTP/1.1 200 "), (200, b"", b"HTTP/1.1 400 ")]
)
def test_the_limit_of_chunk_extensions(server: Server, count: int, end: bytes, status: bytes) -> None:
    head = b"POST /json HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = json.dumps({"model": "good", "values": WEIGHTS}).encode().ljust(count)
    host, _, port = server.url.rpartition("//")[2].partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head)
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"".join(b"1;%b\r\n%c\r\n" % (b"n" * 20, byte) for byte in body) + end)
        assert connection.recv(65536).startswith(status)


def test_the_limit_of_requests_in_one_piece(server: Server) -> None:
    get = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    received = send(server, get * 2 + get.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert received.count(b"HTTP/1.1 200 ") == 3
    assert b"HTTP/1.1 429 " in send(server, get * 5)


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/params", b"x" * 1500, "the body is larger than 1 kB"),
        ("/v2/repository/index", b"x" * 1500, "the body is larger than 1 kB"),
        ("/proto", b"x" * 1500, "the body is larger than 1 kB"),
        ("/json", b"x" * 1_100_000, "the body is larger than 1 MB"),
        ("/v2/models/good/infer", b"x" * 1_100_000, "the body is larger than 1 MB"),
    ],
)
def test_limits_of_bodies(server: Server, path: str, body: bytes, reason: str) -> None:
    answer = requests.post(f"{server.url}{path}", data=body, timeout=20)
    assert (answer.status_code, answer.json()["error"]) == (413, f"POST {path}: {reason}")


def test_the_time_of_a_parser(server: Server) -> None:
    """A process cannot even start in a millisecond."""
    body = json.dumps({"model": "good", "values": [WEIGHTS] * 30_000})
    answer = requests.post(f"{server.url}/json", data=body, timeout=20)
    assert (answer.status_code, answer.json()["error"][:37]) == (503, "parsing the request took too long; se")


@pytest.mark.parametrize(
    ("graph", "files", "reason"),
    [
        (None, {"params.json": described(description="x" * 1000)}, "'params.json' is larger than 1,000 bytes"),
        (None, {"params.json": described(x=[[[]]])}, "is nested more than 3 levels deep"),
        (None, {"labels.txt": b"a\nb\nc\n"}, "'labels.txt' has 3 labels; the limit is 2"),
        (None, {"labels.txt": b"a" * 30}, "'labels.txt' has a label of 30 characters; the limit is 20"),
        (trained_model(), {}, "names 5 columns; the limit is 4"),
        (onnx_model([1.0] * 60), {}, "takes 60 values per event; the limit is 50"),
        (None, {f"file-{number}": b"" for number in range(5)}, "the archive has more than 5 members"),
        (None, {"x" * 120: b""}, "a path of more than 100 bytes or 3 levels"),
        (None, {"a/b/c": b""}, "a path of more than 100 bytes or 3 levels"),
    ],
)
def test_limits_of_uploads(
    server: Server, tmp_path: Path, graph: bytes | None, files: dict[str, Any], reason: str
) -> None:
    answer = requests.post(f"{server.url}/upload", data=archive(tmp_path, "m", graph, files), timeout=60)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


def test_the_size_of_the_configuration_of_a_keras_model(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, size in (("config.json", 1100), ("metadata.json", 2), ("model.weights.h5", 10)):
            file.writestr(name, b" " * size)
    bundle = write_bundle(tmp_path / "m", "m", content.getvalue(), model="model.keras")
    packed = write_archive(tmp_path / "m.tar", bundle, "m").read_bytes()
    answer = requests.post(f"{server.url}/upload", data=packed, timeout=60)
    assert (answer.status_code, answer.json()["error"]) == (400, "the config.json of model.keras is larger than 1 kB")


def test_the_size_of_an_unpacked_archive(server: Server, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "m", "m")
    (bundle / "zeros").write_bytes(bytes(3_000_000))
    packed = write_archive(tmp_path / "m.tar.gz", bundle, "m").read_bytes()
    answer = requests.post(f"{server.url}/upload", data=packed, timeout=20)
    assert (answer.status_code, answer.json()["error"]) == (400, "the archive unpacks to more than 2 MB")


def test_a_graph_beyond_the_bounds_runs_in_a_process_whose_scores_are_limited(server: Server) -> None:
    def score(rows: int) -> requests.Response:
        body = {"model": "good", "values": np.eye(rows, 4).tolist()}
        return requests.post(f"{server.url}/json", json=body, timeout=60)

    assert score(4).json() == [[weight] for weight in WEIGHTS]
    commands = [child.cmdline() for child in psutil.Process(server.process.pid).children(recursive=True)]
    assert any("mlaas4hep.serving.models.child" in command for command in commands)
    answer = score(251)  # 1,004 bytes
    assert (answer.status_code, answer.json()["error"]) == (400, "the scores for these rows take more than 1 kB")


def test_the_size_of_a_report(server: Server, tmp_path: Path) -> None:
    files = {"report.html": b"x" * 1100}
    assert requests.post(f"{server.url}/upload", data=archive(tmp_path, "m", None, files), timeout=60).ok
    answer = requests.get(f"{server.url}/report/m", timeout=20)
    assert (answer.status_code, answer.json()["error"]) == (
        404,
        "GET /report/m: model 'm' has no report of at most 1 kB",
    )


def test_the_time_to_stop(tmp_path: Path) -> None:
    with Server.start(tmp_path / "models", "--limit=stop_time=1") as server:
        host, _, port = server.url.rpartition("//")[2].partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(b"POST /json HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n")
            connection.sendall(b"Content-Length: 9\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 100 ")  # the server waits for the body
            began = time.monotonic()
            server.stop()
            assert time.monotonic() - began < 5
