"""One client's large requests do not keep another client waiting."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from serving_fixtures import MET, MET_SCORE, Server, onnx_model, trained_model, write_archive, write_bundle

SIZE = 30_000_000
LONGEST = 0.3
"""Seconds that another client may wait here; 0.1 on a machine that has nothing else to do."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("stalls")
    with Server.start(folder / "models") as server:
        for name, graph in (("htautau", trained_model()), ("wide", onnx_model([1.0], outputs=50))):
            bundle = write_bundle(folder / name, name, graph)
            archive = write_archive(folder / f"{name}.tar", bundle, name).read_bytes()
            requests.post(f"{server.url}/upload", data=archive, timeout=20).raise_for_status()
            requests.get(f"{server.url}/v2/models/{name}/ready", timeout=20).raise_for_status()  # it is loaded
        yield server


def longest_wait(server: Server, work: Callable[[], None]) -> float:
    """Do some work; return how long another client had to wait for an answer meanwhile, at most, in seconds."""
    waits, over = [], threading.Event()
    body = json.dumps({**MET, "model": "htautau"})

    def ask() -> None:
        with requests.Session() as session:
            while not over.is_set():
                began = time.perf_counter()
                live = session.get(f"{server.url}/v2/health/live", timeout=20)
                score = session.post(f"{server.url}/json", data=body, timeout=20)
                waits.append((time.perf_counter() - began) / 2)
                assert (live.status_code, score.json()) == (200, [MET_SCORE])
                over.wait(0.005)

    other = threading.Thread(target=ask)
    other.start()
    try:
        work()
    finally:
        over.set()
        other.join()
    print(f"{len(waits)} requests: median {1e3 * np.median(waits):.1f} ms, longest {1e3 * max(waits):.1f} ms")
    return max(waits)


def rows_in_json() -> bytes:
    row = b"[1.25,32.5,25.1,11.2,7.75],"
    return b'{"model":"htautau","values":[' + row * (SIZE // len(row)) + row[:-1] + b"]}"


def tensor_in_json() -> bytes:
    rows = SIZE // 25
    data = b"1.25,32.5,25.1,11.2,7.75," * rows
    head = {"name": "inputs", "datatype": "FP32", "shape": [rows, 5]}
    return json.dumps({"inputs": [head]}).encode()[:-3] + b',"data":[' + data[:-1] + b"]}]}"


BODIES = {
    "numbers": lambda: b'{"values":[' + b"1.5," * (SIZE // 4) + b"1.5]}",
    "empty lists": lambda: b'{"values":[' + b"[]," * (SIZE // 3) + b"[]]}",
    "rows": rows_in_json,
    "a tensor": tensor_in_json,
    "protobuf": lambda: b"\x12\x80\x8e\xce\x1c" + bytes(60_000_000) + b"\x1a\x07htautau",
    "nonsense": lambda: b"[" * SIZE,
}


@pytest.mark.parametrize(
    ("path", "kind", "statuses"),
    [
        ("/json", "empty lists", {400}),
        ("/json", "rows", {200}),
        ("/v2/models/htautau/infer", "a tensor", {200}),
        ("/v2/models/htautau/infer", "nonsense", {400}),
        ("/proto", "protobuf", {413}),
        ("/params", "numbers", {413}),
        ("/v2/repository/index", "numbers", {413}),
    ],
)
def test_a_large_body_does_not_delay_other_clients(running: Server, path: str, kind: str, statuses: set[int]) -> None:
    body, found = BODIES[kind](), []

    def post() -> None:
        answer = requests.post(f"{running.url}{path}", data=iter([body]), timeout=120)  # chunked: it comes as a whole
        found.append(answer.status_code)

    assert longest_wait(running, post) < LONGEST
    assert set(found) == statuses


def test_large_responses_do_not_delay_other_clients(running: Server) -> None:
    rows = b"[1.5]," * 99_999 + b"[1.5]"  # of 50 scores each
    tensor = {"name": "inputs", "datatype": "FP32", "shape": [100_000, 1], "parameters": {"binary_data_size": 400_000}}
    head = json.dumps({"inputs": [tensor]}).encode()
    binary = {"Inference-Header-Content-Length": str(len(head))}
    asked = [
        ("/json", b'{"model":"wide","values":[' + rows + b"]}", {}),
        ("/v2/models/wide/infer", head + np.full(100_000, 1.5, np.float32).tobytes(), binary),
    ]
    answers: list[requests.Response] = []

    def post() -> None:
        for path, body, headers in asked:
            answers.append(requests.post(f"{running.url}{path}", data=body, headers=headers, timeout=120))

    assert longest_wait(running, post) < LONGEST
    expected = np.outer(np.full(100_000, 1.5), np.arange(1, 51)).astype(np.float32)
    np.testing.assert_array_equal(np.array(answers[0].json(), np.float32), expected)
    found = answers[1].json()
    np.testing.assert_array_equal(np.array(found["outputs"][0]["data"], np.float32), expected.ravel())
    assert list(found) == ["model_name", "model_version", "outputs"]


def test_a_form_does_not_delay_other_clients(running: Server) -> None:
    form = b'--b\r\nContent-Disposition: form-data; name="model"; filename="m"\r\n\r\n%b\r\n--b--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    found: list[int] = []

    def post() -> None:
        for content in (b"\r\n-" * (SIZE // 6), bytes(SIZE)):
            answer = requests.post(f"{running.url}/upload", data=form % content, headers=headers, timeout=120)
            found.append(answer.status_code)

    assert longest_wait(running, post) < LONGEST
    assert found == [400, 400]


def test_a_parser_that_was_killed_is_replaced(running: Server) -> None:
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children")
    body = rows_in_json()[:2_000_000].rpartition(b",[")[0] + b"]}"
    first = requests.post(f"{running.url}/json", data=body, timeout=60)
    assert first.status_code == 200
    for child in children.read_text().split():
        os.kill(int(child), signal.SIGKILL)
    answers = [requests.post(f"{running.url}/json", data=body, timeout=60) for _ in range(2)]
    assert answers[-1].content == first.content
