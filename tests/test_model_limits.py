"""Models that take too much memory or time: one clear error each, no harm to the server or to other models."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
import requests
from onnx import TensorProto, helper, numpy_helper
from serving_fixtures import MET, MET_SCORE, Server, trained_model, write_archive, write_bundle
from test_deadlines import FOR_EVER, looping_model

from mlaas4hep.serving.models.loader import ModelLoader
from mlaas4hep.serving.models.model_limits import ModelLimits
from mlaas4hep.serving.models.subprocess_predictor import LoadFailed, SubprocessPredictor
from mlaas4hep.serving.store.store import ModelStore

LOADER = "mlaas4hep.serving.models.loader"
LIMITS = ("--model-memory=0.5", "--load-time=2", "--run-time=1", "--model-processes=3")


def graph(nodes: Sequence[Any], constants: dict[str, Any] | None = None, shape: Sequence[Any] = ("n", 3)) -> bytes:
    """Return a graph from x to y."""
    real = TensorProto.FLOAT
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", real, shape)],
            [helper.make_tensor_value_info("scores", real, None)],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    return bytes(model.SerializeToString())


def node(kind: str, given: str, *found: str, **attributes: Any) -> Any:
    return helper.make_node(kind, given.split(), list(found), **attributes)


def square_of_ones(size: int) -> Any:
    ones = helper.make_tensor("ones", TensorProto.FLOAT, [1], [1.0])
    return node("ConstantOfShape", "size", "c0", value=ones), {"size": np.array([size, size])}


def folding_model(times: int = 50) -> bytes:
    """Return a graph whose constants take minutes to compute, and less than 1 MB each, however fast the machine is."""
    size = 400
    ones = helper.make_tensor("ones", TensorProto.FLOAT, [1], [1.0])
    pooling = {"kernel_shape": [size, size], "auto_pad": "SAME_UPPER"}  # 400^4 values are compared
    nodes = [
        node("ConstantOfShape", "size", "c0", value=ones),
        *(node("MaxPool", f"c{index}", f"c{index + 1}", **pooling) for index in range(times)),
        node("ReduceSum", f"c{times}", "r", keepdims=0),
        node("Mul", "x r", "scores"),
    ]
    return graph(nodes, {"size": np.array([1, 1, size, size])})


def constant_model(size: int = 30_000) -> bytes:
    """Return a graph with a constant of 3.6 GB that takes a few bytes in the file."""
    ones, constants = square_of_ones(size)
    return graph([ones, node("ReduceSum", "c0", "r", keepdims=0), node("Mul", "x r", "scores")], constants)


def growing_model() -> bytes:
    """Return a graph that takes as many floats as the largest number of its input says."""
    return graph(
        [
            node("ReduceMax", "x", "m", keepdims=0),
            node("Cast", "m", "i", to=TensorProto.INT64),
            node("Abs", "i", "a"),
            node("Unsqueeze", "a axis", "s"),
            node("Expand", "one s", "e"),
            node("Exp", "e", "f"),
            node("ReduceSum", "f", "r", keepdims=0),
            node("Mul", "x r", "scores"),
        ],
        {"axis": np.array([0]), "one": np.ones(1, np.float32)},
    )


def sum_model(*shape: int) -> bytes:
    return graph([node("ReduceSum", "x", "scores", keepdims=1)], shape=["n", *shape])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with small limits and one good model."""
    models = tmp_path_factory.mktemp("limits") / "models"
    write_bundle(models / "htautau")
    with Server.start(models, *LIMITS) as server:
        assert ask(server.url) == MET_SCORE
        yield server


def ask(url: str) -> Any:
    answer = requests.post(f"{url}/json", json={**MET, "model": "htautau"}, timeout=20)
    return answer.json()[0]


def put(server: Server, tmp_path: Path, name: str, model: bytes) -> requests.Response:
    archive = write_archive(tmp_path / f"{name}.tar", write_bundle(tmp_path / name, name, graph=model), name)
    return requests.post(f"{server.url}/upload", data=archive.read_bytes(), timeout=60)


def memory(server: Server) -> float:
    """The server's own memory in MB."""
    return float(psutil.Process(server.process.pid).memory_info().rss) / 1e6


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (folding_model(), "takes longer than 2 s to load, and was stopped"),
        (constant_model(), "needs more than 0.5 GB of memory"),
        (sum_model(100_000_000), "takes 100000000 values per event"),
        (sum_model(2_000_000_000), "takes 2000000000 values per event"),
        (sum_model(12_000, 12_000, 3), "takes 12000 x 12000 x 3 values per event"),
    ],
    ids=["folding", "constant", "columns", "more columns", "pixels"],
)
def test_a_model_that_needs_too_much_is_refused_and_the_server_stays_small(
    server: Server, tmp_path: Path, model: bytes, reason: str
) -> None:
    before, answers = memory(server), []
    upload = threading.Thread(target=lambda: answers.append(put(server, tmp_path, "bad", model)))
    upload.start()
    while upload.is_alive():
        assert ask(server.url) == MET_SCORE
        upload.join(0.05)
    (answer,) = answers
    assert answer.status_code == 400
    assert re.search(reason, answer.json()["error"])
    write_bundle(server.models_dir / "copied", "copied", graph=model)  # by hand, without an upload
    row = requests.post(f"{server.url}/json", json={"model": "copied", "values": [1, 2, 3]}, timeout=60)
    assert row.status_code == 400
    assert re.search(reason, row.json()["error"])
    assert memory(server) < before + 30
    assert psutil.Process(server.process.pid).children() == []


def test_a_run_that_exceeds_its_time_or_memory_is_stopped_and_the_next_one_succeeds(
    server: Server, tmp_path: Path
) -> None:
    assert put(server, tmp_path, "loop", looping_model()).status_code == 200
    assert put(server, tmp_path, "grow", growing_model()).status_code == 200

    def score(name: str, *values: float) -> tuple[int, Any]:
        answer = requests.post(f"{server.url}/json", json={"model": name, "values": values}, timeout=60)
        return answer.status_code, answer.json()

    assert score("loop", 1, 2) == (200, [1, 2])
    assert score("loop", 1, FOR_EVER) == (
        503,
        {"error": "the model exceeded its time limit of 1 s and was stopped"},
    )
    assert score("loop", 3, 2) == (200, [3, 2])
    assert score("grow", 1, 1, 2)[0] == 200
    assert score("grow", 1, 1, 1e9) == (
        503,
        {"error": "the model exceeded its memory limit of 0.5 GB and was stopped"},
    )
    assert score("grow", 1, 1, 2)[0] == 200
    assert ask(server.url) == MET_SCORE


def endless_model() -> bytes:
    """Return a graph that gives its input back after 2^62 rounds, whatever the input."""
    model = onnx.load_model_from_string(looping_model())
    rounds = numpy_helper.from_array(np.array(2**62), "rounds")
    loop = next(part for part in model.graph.node if part.op_type == "Loop")
    del model.graph.node[:]
    model.graph.node.append(loop)
    model.graph.initializer.append(rounds)
    return bytes(model.SerializeToString())


def hungry_model() -> bytes:
    """Return a graph of a few bytes that takes 4 GB for any rows."""
    return graph(
        [
            node("ReduceMax", "x", "m", keepdims=0),
            node("Expand", "m size", "e"),
            node("Exp", "e", "f"),
            node("ReduceSum", "f", "r", keepdims=0),
            node("Mul", "x r", "scores"),
        ],
        {"size": np.array([1_000_000_000])},
    )


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            endless_model(),
            "the model takes longer than 1 s for a few rows, and was stopped; the server's option --run-time",
        ),
        (hungry_model(), "the model needs more than 0.5 GB of memory for a few rows, and was stopped"),
    ],
    ids=["time", "memory"],
)
def test_an_upload_whose_trial_run_passes_a_limit_is_refused_and_the_older_model_stays(
    server: Server, tmp_path: Path, model: bytes, reason: str
) -> None:
    assert put(server, tmp_path, "tried", looping_model()).status_code == 200
    answer = put(server, tmp_path, "tried", model)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]
    row = {"model": "tried", "values": [1, 2]}
    assert requests.post(f"{server.url}/json", json=row, timeout=60).json() == [1, 2]


def test_the_log_names_the_reason_for_a_refusal_after_a_trial_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_bundle(tmp_path / "endless", "endless", endless_model())
    reason = "the model takes longer than 0.5 s for a few rows, and was stopped"
    with pytest.raises(LoadFailed, match=reason):
        ModelLoader(ModelLimits(run_time=0.5)).load(ModelStore(tmp_path).get("endless"))
    (line,) = [record.getMessage() for record in caplog.records if record.name == LOADER]
    assert line.startswith(f"model endless is refused after a trial run: {reason}; ")


def test_the_log_names_the_reason_if_a_trial_run_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    failing = graph([node("Gather", "x index", "scores", axis=0)], {"index": np.array([7])})  # the input has no row 7
    write_bundle(tmp_path / "failing", "failing", failing)
    ModelLoader().load(ModelStore(tmp_path).get("failing")).close()
    (line,) = [record.getMessage() for record in caplog.records if record.name == LOADER]
    assert line.startswith("model failing: the trial run failed (")
    assert "indices element out of data bounds" in line
    assert line.endswith("); requests are not batched")


def test_forty_models_that_never_load_hold_up_no_other(server: Server, tmp_path: Path) -> None:
    for index in range(40):
        write_bundle(server.models_dir / f"fold{index}", f"fold{index}", graph=folding_model(50 + index))
    write_bundle(server.models_dir / "late", "late", graph=trained_model())
    with ThreadPoolExecutor(40) as pool:
        bad = [
            pool.submit(requests.post, f"{server.url}/json", json={"model": f"fold{index}", "values": [1, 2, 3]})
            for index in range(40)
        ]
        longest = 0.0
        for _ in range(20):
            began = time.monotonic()
            assert ask(server.url) == MET_SCORE
            assert requests.get(f"{server.url}/models", timeout=20).status_code == 200
            longest = max(longest, time.monotonic() - began)
        assert len(psutil.Process(server.process.pid).children()) <= 3
        assert longest < 2
        answers = [one.result() for one in bad]
    assert {answer.status_code for answer in answers} <= {400, 503}
    assert all(len(answer.json()["error"].splitlines()) == 1 for answer in answers)


def test_idle_processes_end_for_other_models(server: Server, tmp_path: Path) -> None:
    for index in range(5):
        write_bundle(server.models_dir / f"loop{index}", f"loop{index}", graph=looping_model())
    for index in (0, 1, 2, 3, 4, 0):
        row = {"model": f"loop{index}", "values": [1, index]}
        assert requests.post(f"{server.url}/json", json=row, timeout=60).json() == [1, index]
        assert len(psutil.Process(server.process.pid).children()) <= 3


def test_models_are_checked_at_a_low_priority_and_served_at_the_servers_own(server: Server, tmp_path: Path) -> None:
    process = psutil.Process(server.process.pid)
    own = process.nice()
    write_bundle(server.models_dir / "served", "served", graph=looping_model())
    row = {"model": "served", "values": [1, 2]}
    assert requests.post(f"{server.url}/json", json=row, timeout=60).json() == [1, 2]
    assert {child.nice() for child in process.children()} == {own}

    upload = threading.Thread(target=put, args=(server, tmp_path, "bad", folding_model()))
    upload.start()
    found: set[tuple[int, str]] = set()
    while upload.is_alive():
        for child in process.children():
            with suppress(psutil.Error, OSError):
                found.add((child.nice(), session_priority(child.pid)))
        upload.join(0.02)
    lowered = min(own + 5, 19)
    assert (lowered, "nice 5") in found or (lowered, "") in found


def session_priority(pid: int) -> str:
    """The niceness of a process's session, as in "nice 5"; "" if Linux does not schedule sessions as groups."""
    path = Path(f"/proc/{pid}/autogroup")
    return path.read_text().strip().partition(" ")[2] if path.exists() else ""


def test_a_server_stops_within_ten_seconds_even_if_models_hang(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models/htautau")
    write_bundle(tmp_path / "models/loop", "loop", looping_model())
    write_bundle(tmp_path / "models/fold", "fold", folding_model())
    with Server.start(tmp_path / "models", "--workers=2") as server:
        assert ask(server.url) == MET_SCORE
        rows = [{"model": "loop", "values": [1, FOR_EVER]}, {"model": "fold", "values": [1, 2, 3]}] * 2

        def send(row: dict[str, Any]) -> None:
            with suppress(requests.ConnectionError):
                requests.post(f"{server.url}/json", json=row, timeout=60)

        with ThreadPoolExecutor(4) as pool:
            pool.map(send, rows)
            end = time.monotonic() + 60
            while len(psutil.Process(server.process.pid).children(recursive=True)) < 4:
                assert time.monotonic() < end
            children = psutil.Process(server.process.pid).children(recursive=True)
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 10
        psutil.wait_procs(children, timeout=10)
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_a_bounded_graph_without_a_row_for_each_event_can_be_loaded_again(tmp_path: Path) -> None:
    mean = graph([helper.make_node("ReduceMean", ["x"], ["scores"], axes=[0], keepdims=0)])
    write_bundle(tmp_path / "mean", "mean", mean)
    model, loader = ModelStore(tmp_path).get("mean"), ModelLoader()
    for _ in range(2):  # the second time from what is known of the graph
        predictor = loader.load(model)
        assert not predictor.rows_independent
        if isinstance(predictor, SubprocessPredictor):
            predictor.close()
