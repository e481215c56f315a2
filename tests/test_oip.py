"""The Open Inference Protocol: NVIDIA's own client asks a real server; onnxruntime says what is right."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_fixtures import (  # noqa: F401
    KEYS,
    WEIGHTS,
    Server,
    onnx_model,
    server_fixture,
    shared_server_fixture,
    trained_model,
    url_fixture,
    write_archive,
    write_bundle,
)

from mlaas4hep import __version__
from mlaas4hep.errors import ConfigError
from mlaas4hep.serving.models.tensor import Tensor
from mlaas4hep.serving.protocols.oip_tensors import read_input

onnxruntime = pytest.importorskip("onnxruntime")
triton = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")

NAN = float("nan")
GRAPH = trained_model(outputs=2)
EVENTS = np.array([[1, 2, 3, 4, 5], [0.5, NAN, 0, -1, 7], [NAN, NAN, NAN, NAN, NAN]], np.float32)
DATATYPES = {
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "BOOL": np.bool_, "INT8": np.int8, "INT16": np.int16,
    "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32,
    "UINT64": np.uint64,
}  # fmt: skip


@pytest.fixture(name="model")
def model_fixture(url: str, tmp_path: Path) -> str:
    """The URL of a model with two outputs."""
    put(url, tmp_path, GRAPH)
    return f"{url}/v2/models/htautau"


@pytest.fixture(name="client")
def client_fixture(url: str) -> Iterator[Any]:
    with triton.InferenceServerClient(url.removeprefix("http://")) as client:
        yield client


def put(url: str, tmp_path: Path, graph: bytes, name: str = "htautau") -> None:
    archive = write_archive(tmp_path / f"{name}.tar", write_bundle(tmp_path / name, name, graph), name)
    requests.post(f"{url}/upload", data=archive.read_bytes(), timeout=20).raise_for_status()


def truth(matrix: np.ndarray[Any, Any], graph: bytes = GRAPH) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"inputs": matrix.astype(np.float32)})[0])


def given_input(values: np.ndarray[Any, Any], datatype: str = "FP32", *, binary: bool = True) -> Any:
    tensor = triton.InferInput("inputs", list(values.shape), datatype)
    return tensor.set_data_from_numpy(values, binary_data=binary)


def content(**changes: Any) -> dict[str, Any]:
    """Return a request of two events in JSON, with changes to its one input."""
    given = {"name": "inputs", "shape": [2, 5], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6, 7, 8, 9, None]}
    return {"inputs": [{key: value for key, value in {**given, **changes}.items() if value != "left out"}]}


def ask(model: str, request: Any, behind: bytes = b"", **headers: str) -> tuple[int, Any]:
    head = request if isinstance(request, bytes) else json.dumps(request).encode()
    if behind:
        headers = {"Inference-Header-Content-Length": str(len(head)), **headers}
    answer = requests.post(f"{model}/infer", data=head + behind, headers=headers, timeout=20)
    return answer.status_code, answer.json()


@pytest.mark.parametrize("number", range(4))
def test_binary_events_are_scored_wherever_in_the_body_they_begin(client: Any, model: str, number: int) -> None:
    events = np.random.default_rng(number).normal(size=(4096, 5)).astype(np.float32)
    events[events > 2] = NAN
    answer = client.infer("htautau", [given_input(events)], request_id="x" * number)
    np.testing.assert_array_equal(answer.as_numpy("scores"), truth(events))


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_is_accepted_in_binary_and_in_json(client: Any, model: str, datatype: str, binary: bool) -> None:
    dtype = np.dtype(DATATYPES[datatype])
    values = np.array([[1, 0, 1, 1, 0], [0, 0, 1, 0, 1], [2, 3, 100, 7, 0]]).astype(dtype)
    if dtype.kind in "iu":
        values[2, :2] = np.iinfo(dtype).min, np.iinfo(dtype).max
    if dtype.kind == "f":
        values[2, :2] = -1.5, 0.1
    answer = client.infer("htautau", [given_input(values, datatype, binary=binary)])
    np.testing.assert_array_equal(answer.as_numpy("scores"), truth(values))


@pytest.mark.parametrize("binary", [True, False])
def test_the_output_has_the_requested_encoding(client: Any, model: str, binary: bool) -> None:
    outputs = [triton.InferRequestedOutput("scores", binary_data=binary)]
    answer = client.infer("htautau", [given_input(EVENTS)], outputs=outputs, request_id="event 42")
    (output,) = answer.get_response()["outputs"]
    assert {"model_name": "htautau", "id": "event 42"}.items() <= answer.get_response().items()
    assert {"name": "scores", "datatype": "FP32", "shape": [3, 2]}.items() <= output.items()
    assert output.get("parameters") == ({"binary_data_size": 24} if binary else None)
    np.testing.assert_array_equal(answer.as_numpy("scores"), truth(EVENTS))


@pytest.mark.parametrize("wanted", [None, True, False])
@pytest.mark.parametrize("of_all", [None, True, False])
def test_the_parameter_of_an_output_takes_precedence_over_that_of_the_request(
    model: str,
    wanted: bool | None,
    of_all: bool | None,
) -> None:
    asked = {
        **content(),
        "parameters": {} if of_all is None else {"binary_data_output": of_all},
        "outputs": [{"name": "scores", "parameters": {} if wanted is None else {"binary_data": wanted}}],
    }
    answer = requests.post(f"{model}/infer", json=asked, timeout=20)
    is_binary = bool(of_all if wanted is None else wanted)
    assert answer.headers["content-type"] == ("application/octet-stream" if is_binary else "application/json")
    assert ("inference-header-content-length" in answer.headers) == is_binary
    if is_binary:
        assert answer.content.endswith(struct.pack("<4f", 54321, 2 * 54321, 9876, 2 * 9876))
    else:
        assert answer.json()["outputs"][0]["data"] == [54321, 2 * 54321, 9876, 2 * 9876]


def test_data_in_json_may_be_nested_and_null_is_not_measured(model: str) -> None:
    flat = ask(model, content())
    assert flat == ask(model, content(data=[[1, 2, 3, 4, 5], [6, 7, 8, 9, None]]))
    assert flat[1]["outputs"][0]["data"] == [54321, 2 * 54321, 9876, 2 * 9876]
    assert "id" not in flat[1]


def test_numbers_in_json_have_the_digits_of_32_bits_and_nan_is_null(url: str, tmp_path: Path) -> None:
    put(url, tmp_path, onnx_model([0.1, 3e38]))
    status, answer = ask(f"{url}/v2/models/htautau", content(shape=[2, 2], data=[1, 0, 1, 30]))
    assert (status, answer["outputs"][0]["data"]) == (200, [0.1, None])


def test_numbers_beyond_32_bits_are_infinite_in_binary_and_refused_in_json(client: Any, model: str) -> None:
    events = np.array([[1e300, 0, 0, 0, 0], [-1e300, 0, 0, 0, 0]])
    answer = client.infer("htautau", [given_input(events, "FP64")])
    assert answer.as_numpy("scores").tolist() == [[np.inf] * 2, [-np.inf] * 2]
    with pytest.raises(triton.InferenceServerException, match=r"value -1e\+300 in .data. is out of range for float32"):
        client.infer("htautau", [given_input(events, "FP64", binary=False)])


def test_the_server_and_its_models_describe_themselves(client: Any, model: str) -> None:
    assert client.get_server_metadata() == {
        "name": "mlaas4hep",
        "version": __version__,
        "extensions": ["binary_tensor_data", "model_configuration", "statistics"],
    }
    described = {
        "name": "htautau",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "inputs", "datatype": "FP32", "shape": [-1, 5]}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 2]}],
        "parameters": {"keys": KEYS, "labels": ["ggH", "VBF"]},
    }
    assert client.get_model_metadata("htautau") == described
    assert client.get_model_metadata("htautau", "1") == described


def test_health_is_that_of_the_server_and_of_each_model(client: Any, server: Server, model: str) -> None:
    write_bundle(server.models_dir / "broken", "broken", b"garbage")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("htautau")
    assert client.is_model_ready("htautau", "1")
    assert not client.is_model_ready("htautau", "2")
    assert not client.is_model_ready("broken")
    assert not client.is_model_ready("nix")
    assert requests.get(f"{model}/ready", timeout=20).json() == {"name": "htautau", "ready": True}


def test_a_server_that_cannot_read_its_models_is_alive_and_not_ready(client: Any, server: Server) -> None:
    away = server.models_dir.with_name("away")
    server.models_dir.rename(away)
    try:
        assert client.is_server_live()
        assert not client.is_server_ready()
    finally:
        away.rename(server.models_dir)


def test_a_request_for_a_missing_version_is_an_error_that_lists_the_versions(client: Any, model: str) -> None:
    answer = client.infer("htautau", [given_input(EVENTS)], model_version="1")
    assert answer.get_response()["model_version"] == "1"
    with pytest.raises(
        triton.InferenceServerException, match="model 'htautau' has no version \"2\"; it has: 1"
    ) as info:
        client.infer("htautau", [given_input(EVENTS)], model_version="2")
    assert info.value.status() == "404"


def test_the_index_has_all_models_and_says_which_are_broken(client: Any, model: str, server: Server) -> None:
    (server.models_dir / "torn").mkdir()
    (server.models_dir / "torn/params.json").write_text("{")
    ready = {"name": "htautau", "version": "1", "state": "READY", "reason": ""}
    assert client.get_model_repository_index()[0] == ready
    assert client.get_model_repository_index()[1]["state"] == "UNAVAILABLE"
    assert "is not JSON" in client.get_model_repository_index()[1]["reason"]
    index = f"{server.url}/v2/repository/index"
    assert requests.post(index, json={"ready": True}, timeout=20).json() == [ready]
    assert requests.post(index, json={"ready": 1}, timeout=20).status_code == 400


def test_routes_begin_with_the_base_path(tmp_path: Path) -> None:
    server = Server.start(tmp_path / "models", "--base-path=/tfaas")
    try:
        put(server.url, tmp_path, GRAPH)
        with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
            answer = client.infer("htautau", [given_input(EVENTS)])
        np.testing.assert_array_equal(answer.as_numpy("scores"), truth(EVENTS))
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (json.dumps(content(data=[NAN] * 10)).encode()[:-1], "not valid JSON"),
        (b"[" * 100_000 + b"NaN", "not valid JSON"),
        (content(data=[NAN] * 10, datatype="INT32"), "invalid INT32 value NaN in 'data'"),
        (content(data=[NAN] * 9 + [1e39]), "the value 1e+39 in 'data' is out of range"),
        ({}, "'inputs' must be a list of one tensor, 'inputs'"),
        ({"inputs": [content()["inputs"][0]] * 2}, "'inputs' must be a list of one tensor, 'inputs'"),
        (content(name="x"), "unknown input \"x\"; the model's input is 'inputs'"),
        (content(name=["y" * 100_000]), '["yyyy'),
        (content(shape=[1, 5]), "'data' must be a list of 5 numbers, for the shape [1, 5]"),
        (content(shape=[10]), "'inputs' has the shape [10], but the model takes [n, 5]"),
        (content(shape=[5, 2]), "'inputs' has the shape [5, 2], but the model takes [n, 5]"),
        (content(shape=[0, 5], data=[]), "'inputs' has the shape [0, 5]"),
        (content(shape=[-2, 5]), "'inputs' has the shape [-2, 5]"),
        (content(shape=[int("9" * 4299), 5]), "number is infinity"),
        (content(shape=[True, 5]), "'inputs' has the shape [true, 5]"),
        (content(shape="left out"), "'inputs' has the shape null"),
        (content(datatype="FP8"), 'unknown datatype "FP8"; supported: BOOL, INT8'),
        (content(datatype=[]), "unknown datatype []"),
        (content(datatype="BYTES"), 'unknown datatype "BYTES"'),
        (content(data="left out"), "'data' must be a list of 10 numbers"),
        (content(data=[[1, 2, 3, 4, 5], [1, 2, 3, 4]]), "'data' must be a list of 10 numbers"),
        (content(data=[[1, 2, 3, 4, 5], 6, 7, 8, 9, 10]), "'data' must be a list of 10 numbers"),
        (content(data=[1] * 9 + ["1"]), "invalid FP32 value \"1\" in 'data'; use null for a missing value"),
        (content(data=[1] * 9 + [True]), "invalid FP32 value true in 'data'"),
        (content(data=[1] * 9 + [[[1]]]), "invalid FP32 value [[1]] in 'data'"),
        (content(data=[1] * 9 + [1.5], datatype="INT8"), "invalid INT8 value 1.5 in 'data'"),
        (content(data=[1] * 9 + [128], datatype="INT8"), "the value 128 in 'data' is out of range for INT8"),
        (content(data=[1] * 9 + [-1], datatype="UINT8"), "the value -1 in 'data' is out of range for UINT8"),
        (content(data=[1] * 10, datatype="BOOL"), "invalid BOOL value 1 in 'data'"),
        (content(data=[1] * 9 + [10**400]), "number is infinity"),
        (content(parameters={"shared_memory_region": "x"}), "the parameter 'shared_memory_region' is not supported"),
        ({**content(), "parameters": {"sequence_id": 3}}, "the parameter 'sequence_id' is not supported: requests are"),
        (content(parameters=[1]), "'parameters' must be a JSON object"),
        (content(parameters={"binary_data_size": 40}), "is 40 and 0 bytes follow the JSON"),
        ({**content(), "id": 42}, "'id' must be a string, not 42"),
        ({**content(), "parameters": 1}, "'parameters' must be a JSON object"),
        ({**content(), "parameters": {"binary_data_output": 1}}, "must be true or false"),
        ({**content(), "outputs": [{"name": "x"}]}, "unknown output \"x\"; the model's output is 'scores'"),
        (
            {**content(), "outputs": [{"name": "scores"}] * 2},
            "'outputs' must be absent or a list of one tensor, 'scores'",
        ),
        (
            {**content(), "outputs": [{"name": "scores", "parameters": {"classification": 2}}]},
            "the parameter 'classification' is not supported: the server returns scores, not classes",
        ),
    ],
)
def test_a_mistake_in_a_request_is_the_clients_and_is_named(model: str, request_: Any, reason: str) -> None:
    status, answer = ask(model, request_)
    assert status == 400
    assert reason in answer["error"]
    assert len(answer["error"]) < 400


@pytest.mark.parametrize(
    ("changes", "behind", "headers", "reason"),
    [
        ({}, bytes(40), {}, "40 bytes follow the JSON, but no input has a 'binary_data_size'"),
        (
            {"parameters": {"binary_data_size": 40}},
            bytes(44),
            {},
            "takes 40 bytes, but 'binary_data_size' is 40 and 44 bytes",
        ),
        (
            {"parameters": {"binary_data_size": 44}},
            bytes(44),
            {},
            "takes 40 bytes, but 'binary_data_size' is 44 and 44 bytes",
        ),
        ({"parameters": {"binary_data_size": "40"}}, bytes(40), {}, "'binary_data_size' is \"40\""),
        (
            {"parameters": {"binary_data_size": 40}},
            bytes(40),
            {"Inference-Header-Content-Length": "0"},
            "not valid JSON",
        ),
        ({}, bytes(40), {"Inference-Header-Content-Length": "9999"}, "must be a number from 0 to the body's"),
        ({}, bytes(40), {"Inference-Header-Content-Length": "-1"}, "must be a number from 0 to the body's"),
        ({}, bytes(40), {"Inference-Header-Content-Length": "1e2"}, "must be a number from 0 to the body's"),
        ({}, bytes(40), {"Inference-Header-Content-Length": "9" * 5000}, "must be a number from 0 to the body's"),
    ],
)
def test_binary_data_that_do_not_fit_are_refused(
    model: str,
    changes: dict[str, Any],
    behind: bytes,
    headers: dict[str, str],
    reason: str,
) -> None:
    status, answer = ask(model, content(shape=[2, 5], data="left out", **changes), behind, **headers)
    assert status == 400
    assert reason in answer["error"]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [False, True])
def test_compressed_requests_of_tritonclient(client: Any, model: str, algorithm: str, binary: bool) -> None:
    tensor = triton.InferInput("inputs", EVENTS.shape, "FP32").set_data_from_numpy(EVENTS, binary_data=binary)
    plain = client.infer("htautau", [tensor]).as_numpy("scores")
    packed = client.infer("htautau", [tensor], request_compression_algorithm=algorithm).as_numpy("scores")
    np.testing.assert_array_equal(plain, packed)


def test_json_may_have_nan_and_infinity_as_tritonclient_writes_them(client: Any, model: str) -> None:
    """The graph counts NaN as 0."""
    events = np.array([[NAN, 1, 0, 0, 0], [0, np.inf, 0, 0, 0], [0, -np.inf, 0, 0, 0]], np.float32)
    tensor = triton.InferInput("inputs", events.shape, "FP32").set_data_from_numpy(events, binary_data=False)
    scores = client.infer("htautau", [tensor]).as_numpy("scores")
    np.testing.assert_array_equal(scores[:, 0], [10, np.inf, -np.inf])


def test_configuration_and_counters_as_triton_has_them(url: str, tmp_path: Path, client: Any) -> None:
    put(url, tmp_path, GRAPH, "counted")
    config = client.get_model_config("counted")
    assert (config["name"], config["platform"], config["backend"]) == ("counted", "onnxruntime_onnx", "onnxruntime")
    assert config["max_batch_size"] == 1024
    assert config["input"] == [{"name": "inputs", "data_type": "TYPE_FP32", "dims": [5]}]
    assert config["output"] == [{"name": "scores", "data_type": "TYPE_FP32", "dims": [2]}]
    assert config["dynamic_batching"] == {}
    assert client.get_model_config("counted", model_version="1") == config
    for events in (EVENTS, EVENTS, EVENTS[:1]):
        client.infer("counted", [given_input(events)])
    ask(f"{url}/v2/models/counted", content(data=[1] * 9))  # invalid
    (counters,) = client.get_inference_statistics("counted")["model_stats"]
    assert (counters["name"], counters["version"]) == ("counted", "1")
    assert (counters["inference_count"], counters["execution_count"]) == (7, 3)
    assert counters["inference_stats"]["success"]["count"] == 3
    runs = counters["inference_stats"]["compute_infer"]
    assert runs["count"] == 3
    assert 0 < runs["ns"] < 10e9
    assert requests.get(f"{url}/v2/models", timeout=20).json() == {"models": ["counted"]}
    with pytest.raises(triton.InferenceServerException) as info:
        client.get_model_config("counted", model_version="2")
    assert info.value.status() == "404"


def test_parameters_without_effect_are_ignored(client: Any, model: str) -> None:
    request = content(parameters={"content_type": "np", "headers": {"a": 1}})
    request["parameters"] = {"content_type": "np", "sequence_id": 0, "sequence_start": False}
    request["outputs"] = [{"name": "scores", "parameters": {"content_type": "np", "classification": 0}}]
    status, answer = ask(model, request)
    assert (status, answer) == ask(model, content())
    assert status == 200
    tensor = given_input(EVENTS)
    answers = [client.infer("htautau", [tensor], **options) for options in ({}, {"priority": 2, "timeout": 10**6})]
    np.testing.assert_array_equal(*[answer.as_numpy("scores") for answer in answers])


def test_a_body_of_more_than_64_mb_is_a_413(tmp_path: Path) -> None:
    server = Server.start(tmp_path / "models")
    try:
        answer = requests.post(f"{server.url}/v2/models/htautau/infer", data=bytes(64_000_001), timeout=20)
    finally:
        server.stop()
    assert (answer.status_code, "larger than 64 MB" in answer.json()["error"]) == (413, True)


@pytest.mark.parametrize("path", ["/v2/models/nix", "/v2/models/nix/ready", "/v2/models/htautau/versions/2", "/v2/nix"])
def test_missing_routes_and_models_are_a_404_in_json(url: str, model: str, path: str) -> None:
    answer = requests.get(url + path, timeout=20)
    assert (answer.status_code, list(answer.json())) == (404, ["error"])


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("binary_data_size"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
WHERE = [
    (), ("id",), ("inputs",), ("outputs",), ("parameters",), ("parameters", "binary_data_output"), ("inputs", 0),
    *[("inputs", 0, key) for key in ("name", "shape", "datatype", "data", "parameters")], ("inputs", 0, "shape", 0),
    ("inputs", 0, "data", 0), ("inputs", 0, "parameters", "binary_data_size"), ("outputs", 0), ("outputs", 0, "name"),
    ("outputs", 0, "parameters"), ("outputs", 0, "parameters", "binary_data"),
]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, dict[str, str]]:
    """Draw a request with one thing in it replaced, and any number of bytes and any length of its JSON."""
    request: Any = {
        **content(datatype=draw(st.sampled_from(sorted(DATATYPES))), parameters={}),
        "outputs": [{"name": "scores", "parameters": {}}],
        "parameters": {},
    }
    where = draw(st.sampled_from(WHERE))
    request = replaced(request, where, draw(anything))
    head = draw(st.just(json.dumps(request).encode()) | st.binary(max_size=50))
    length = draw(st.just(str(len(head))) | st.integers(-5, 500).map(str) | st.sampled_from(["", "x", "²", "1_0"]))
    headers = draw(st.sampled_from([{}, {"Inference-Header-Content-Length": length.encode()}]))
    return head + draw(st.sampled_from([b"", bytes(40), b"\xff" * 13])), headers


def replaced(inside: Any, where: tuple[Any, ...], value: Any) -> Any:
    if not where:
        return value
    copy = inside.copy()
    known = copy[where[0]] if isinstance(where[0], int) else copy.get(where[0], {})
    copy[where[0]] = replaced(known, where[1:], value)
    return copy


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damaged())
def test_no_body_makes_the_server_fail(model: str, request_: tuple[bytes, dict[str, str]]) -> None:
    body, headers = request_
    with requests.Session() as session:
        for path in (f"{model}/infer", model.replace("models/htautau", "repository/index")):
            answer = session.post(path, data=body, headers=headers, timeout=20)
            assert answer.status_code in (200, 400), answer.text
            assert answer.status_code == 200 or list(answer.json()) == ["error"]


@given(
    st.tuples(*[st.integers(1, 4)] * 4),
    st.sampled_from(sorted(set(DATATYPES) - {"BOOL"})),
    st.randoms(use_true_random=False),
)
def test_images_are_the_same_flat_nested_and_in_binary(shape: tuple[int, ...], datatype: str, random: Any) -> None:
    values = np.array([random.randrange(100) for _ in range(np.prod(shape))], DATATYPES[datatype]).reshape(shape)
    tensor = Tensor("inputs", (None, *shape[2:]))
    common = {"shape": list(shape), "datatype": datatype}
    ways = [
        read_input(content(**common, data=values.ravel().tolist()), memoryview(b""), tensor),
        read_input(content(**common, data=values.tolist()), memoryview(b""), tensor),
        read_input(
            content(**common, data="left out", parameters={"binary_data_size": values.nbytes}),
            memoryview(b"x" + values.tobytes())[1:],
            tensor,
        ),
    ]
    for way in ways:
        np.testing.assert_array_equal(way, values.astype(np.float32))
        assert way.dtype == np.float32
        assert way.flags.c_contiguous
        assert way.flags.aligned
    wrong = Tensor("inputs", (None, *shape[2:-1], shape[-1] + 1))
    with pytest.raises(ConfigError, match=rf"the model takes \[n, any, .*{shape[-1] + 1}\]"):
        read_input(content(**common, data=values.tolist()), memoryview(b""), wrong)


def test_the_scores_are_the_weighted_sums_that_a_person_can_check(client: Any, model: str) -> None:
    sums = np.nan_to_num(EVENTS) @ np.array(WEIGHTS, np.float32)
    scores = client.infer("htautau", [given_input(EVENTS)]).as_numpy("scores")
    np.testing.assert_allclose(scores, np.stack([sums, 2 * sums], axis=1), rtol=1e-6)
