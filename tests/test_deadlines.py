"""Models that take long for what they are given: they are ended, and hold up nobody else."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import requests
from onnx import TensorProto, helper, numpy_helper
from serving_fixtures import MET, MET_SCORE, Server, write_bundle

from mlaas4hep.serving.models.deadlines import TooLong
from mlaas4hep.serving.models.onnx_predictor import OnnxPredictor

FOR_EVER = 1e15


def looping_model() -> bytes:
    """Return a graph that gives its input back, (n, 2), after as many rounds as its largest number says."""
    real = TensorProto.FLOAT
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["value"], ["same"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", real, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("same", real, None),
        ],
    )
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["inputs"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["rounds"], to=TensorProto.INT64),
            helper.make_node("Loop", ["rounds", "yes", "inputs"], ["scores"], body=body),
        ],
        "loop",
        [helper.make_tensor_value_info("inputs", real, ["n", 2])],
        [helper.make_tensor_value_info("scores", real, ["n", 2])],
        [numpy_helper.from_array(np.array(True), "yes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def test_a_run_that_takes_too_long_is_stopped_and_the_next_one_succeeds(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(looping_model())
    predictor = OnnxPredictor(tmp_path / "m.onnx")
    with pytest.raises(TooLong, match="exceeded its time limit"):
        predictor.predict(np.array([[1, FOR_EVER]], np.float32), seconds=0.2)
    assert predictor.predict(np.array([[1, 2]], np.float32)).tolist() == [[1, 2]]


def test_many_threads_may_have_deadlines_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(looping_model())
    predictor = OnnxPredictor(tmp_path / "m.onnx")

    def ask(number: int) -> object:
        try:
            return predictor.predict(np.array([[number, FOR_EVER if number % 2 else 3]], np.float32), 0.3).tolist()
        except TooLong:
            return "too long"

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(16)))
    assert found == ["too long" if number % 2 else [[number, 3]] for number in range(16)]


def test_a_model_that_becomes_slow_delays_no_other_client_and_stops_with_the_server(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models/loop", "loop", looping_model())
    write_bundle(tmp_path / "models/htautau")
    with Server.start(tmp_path / "models") as server:
        for _ in range(50):  # it is known to be quick
            rows = {"model": "loop", "values": [[1, 1]] * 64}
            assert requests.post(f"{server.url}/json", json=rows, timeout=20).json() == [[1, 1]] * 64
        answers = []

        def ask_long() -> None:
            asked = {"model": "loop", "values": [1, FOR_EVER]}
            answers.append(requests.post(f"{server.url}/json", json=asked, timeout=60))

        long = threading.Thread(target=ask_long)
        long.start()
        for _ in range(20):
            other = requests.post(f"{server.url}/json", json={**MET, "model": "htautau"}, timeout=20)
            assert other.json() == [MET_SCORE]
            assert requests.get(f"{server.url}/v2/health/live", timeout=20).status_code == 200
        assert answers == []  # it is still at it
        server.process.send_signal(signal.SIGTERM)
        long.join(30)
        assert [(answer.status_code, answer.json()) for answer in answers] == [
            (503, {"error": "the server is shutting down; try again in a minute"})
        ]
        assert server.stop() == 0
