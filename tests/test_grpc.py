"""The gRPC service, with NVIDIA's own client."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from grid import Grid
from serving_fixtures import KEYS, Server, trained_model, write_bundle

from mlaas4hep.client import TFaaSClient
from mlaas4hep.serving.protocols.grpc_messages import load_messages

grpc = pytest.importorskip("grpc", reason="grpcio is not installed")
triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] is not installed")
model_config_pb2, service_pb2, service_pb2_grpc = triton.model_config_pb2, triton.service_pb2, triton.service_pb2_grpc

NAN = float("nan")
GRAPH = trained_model(outputs=2)
EVENTS = np.array([[1, 2, 3, 4, 5], [0.5, NAN, 0, -1, 7], [NAN, NAN, NAN, NAN, NAN]], np.float32)
EXPECTED = np.nan_to_num(EVENTS) @ np.outer([1, 10, 100, 1000, 10000], [1, 2])


def port_of(server: Server) -> int:
    found = re.search(r"gRPC on port (\d+)", server.startup[-1])
    assert found
    return int(found[1])


@pytest.fixture(scope="module", name="server")
def server_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("grpc")
    limits = ["--limit", "json_body=200kB"]
    with Server.start(folder / "models", "--grpc-port=0", "--allow-nan", *limits) as server:
        with TFaaSClient(server.url) as client:
            client.bundle(write_bundle(folder / "bundle", graph=GRAPH))
        yield server


@pytest.fixture(name="client")
def client_fixture(server: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{port_of(server)}") as client:
        yield client


@pytest.fixture(name="stub")
def stub_fixture(server: Server) -> Iterator[Any]:
    """The service without NVIDIA's helpers."""
    with grpc.insecure_channel(f"127.0.0.1:{port_of(server)}") as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def tensor(events: np.ndarray, datatype: str = "FP32", name: str = "inputs") -> Any:
    return triton.InferInput(name, events.shape, datatype).set_data_from_numpy(events)


def typed(field: str, values: list[Any], datatype: str = "FP32", **changes: Any) -> Any:
    """A request with typed contents."""
    given = {"name": "inputs", "datatype": datatype, "shape": [len(values) // 5, 5], "contents": {field: values}}
    return service_pb2.ModelInferRequest(model_name="htautau", inputs=[{**given, **changes}])


def test_the_numbers_of_all_fields_are_those_of_triton() -> None:
    published = {}
    for module in (service_pb2, model_config_pb2):
        for name, message in module.DESCRIPTOR.message_types_by_name.items():
            published |= {name: message, **message.nested_types_by_name}
    for name, message in load_messages().items():
        for field in message.DESCRIPTOR.fields:
            other = published[name].fields_by_name[field.name]
            assert other.number == field.number, (name, field.name)
            assert other.type == field.type or (other.type, field.type) == (other.TYPE_ENUM, field.TYPE_INT32)


def test_the_requests_of_sonic_in_their_order(client: Any) -> None:
    """CMS's clients ask for the list of models, the metadata, the configuration, and then for scores."""
    assert client.is_server_live()
    assert client.is_server_ready()
    (entry,) = client.get_model_repository_index().models
    assert (entry.name, entry.version, entry.state) == ("htautau", "1", "READY")
    assert client.is_model_ready("htautau", "1")
    metadata = client.get_model_metadata("htautau")
    (given,), (scores,) = metadata.inputs, metadata.outputs
    assert (metadata.platform, list(metadata.versions)) == ("onnxruntime_onnx", ["1"])
    assert (given.name, given.datatype, list(given.shape)) == ("inputs", "FP32", [-1, 5])
    assert (scores.name, scores.datatype, list(scores.shape)) == ("scores", "FP32", [-1, 2])
    config = client.get_model_config("htautau").config
    assert (config.name, config.platform, config.backend) == ("htautau", "onnxruntime_onnx", "onnxruntime")
    assert (config.max_batch_size, config.HasField("dynamic_batching")) == (1024, True)
    assert (config.input[0].name, list(config.input[0].dims)) == ("inputs", [5])
    assert (config.output[0].data_type, list(config.output[0].dims)) == (model_config_pb2.TYPE_FP32, [2])
    wanted = [triton.InferRequestedOutput("scores")]
    answer = client.infer("htautau", [tensor(EVENTS)], outputs=wanted, request_id="42", model_version="1")
    np.testing.assert_allclose(answer.as_numpy("scores"), EXPECTED)
    response = answer.get_response()
    assert (response.id, response.model_name, response.model_version) == ("42", "htautau", "1")


def test_scores_are_those_of_http(client: Any, server: Server) -> None:
    rows = [[None if np.isnan(value) else float(value) for value in row] for row in EVENTS]
    answer = requests.post(f"{server.url}/json", json={"keys": KEYS, "values": rows, "model": "htautau"}, timeout=20)
    np.testing.assert_array_equal(client.infer("htautau", [tensor(EVENTS)]).as_numpy("scores"), answer.json())


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [("FP16", "f2"), ("FP64", "f8"), ("INT8", "i1"), ("INT64", "i8"), ("UINT16", "u2"), ("BOOL", "?")],
)
def test_raw_contents_of_every_type(client: Any, datatype: str, dtype: str) -> None:
    events = np.array([[1, 0, 1, 1, 0]], dtype)
    scores = client.infer("htautau", [tensor(events, datatype)]).as_numpy("scores")
    np.testing.assert_allclose(scores, [[1101, 2202]])


@pytest.mark.parametrize(
    ("field", "datatype"),
    [("fp32_contents", "FP32"), ("fp64_contents", "FP64"), ("int_contents", "INT8"), ("int64_contents", "INT64"),
     ("uint_contents", "UINT32"), ("uint64_contents", "UINT64"), ("bool_contents", "BOOL")],
)  # fmt: skip
def test_typed_contents_get_typed_scores(stub: Any, field: str, datatype: str) -> None:
    answer = stub.ModelInfer(typed(field, [1, 0, 1, 1, 0], datatype))
    assert list(answer.raw_output_contents) == []
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("scores", "FP32", [1, 2])
    assert list(output.contents.fp32_contents) == [1101, 2202]


def test_missing_and_infinite_values(stub: Any) -> None:
    answer = stub.ModelInfer(typed("fp32_contents", [NAN, 1, 0, 0, 0, np.inf, 0, 0, 0, 0]))
    assert list(answer.outputs[0].contents.fp32_contents) == [10, 20, np.inf, np.inf]


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (typed("fp32_contents", [1] * 4, shape=[1, 5]), "INVALID_ARGUMENT", "'fp32_contents' has 4 values"),
        (typed("fp32_contents", [1] * 5, shape=[5]), "INVALID_ARGUMENT", "the model takes [n, 5]"),
        (typed("fp32_contents", [1] * 5, shape=[2**62, 5]), "INVALID_ARGUMENT", "'fp32_contents' has 5 values"),
        (typed("fp32_contents", [1] * 5, name="x"), "INVALID_ARGUMENT", "the model's input is 'inputs'"),
        (typed("fp32_contents", [1] * 5, "FP64"), "INVALID_ARGUMENT", "'fp64_contents' has 0 values"),
        (typed("fp32_contents", [1] * 5, "FP16"), "INVALID_ARGUMENT", "FP16 has no typed contents"),
        (typed("fp32_contents", [1] * 5, "BYTES"), "INVALID_ARGUMENT", "unknown datatype"),
        (typed("int_contents", [128] * 5, "INT8"), "INVALID_ARGUMENT", "out of range for INT8"),
        (
            typed("fp32_contents", [1] * 5, parameters={"shared_memory_region": {"string_param": "x"}}),
            "INVALID_ARGUMENT",
            "'shared_memory_region' is not supported",
        ),
        (service_pb2.ModelInferRequest(model_name="htautau"), "INVALID_ARGUMENT", "must have one input"),
        (service_pb2.ModelInferRequest(model_name="none"), "NOT_FOUND", "none"),
        (service_pb2.ModelInferRequest(), "INVALID_ARGUMENT", "does not name a model"),
        (service_pb2.ModelInferRequest(model_name="htautau", model_version="2"), "NOT_FOUND", "has no version"),
        (typed("fp32_contents", [1.0] * 100_000), "RESOURCE_EXHAUSTED", "larger than max"),
    ],
)
def test_invalid_requests_are_named(stub: Any, request_: Any, code: str, reason: str) -> None:
    with pytest.raises(grpc.RpcError) as info:
        stub.ModelInfer(request_)
    assert info.value.code().name == code
    assert reason in info.value.details()


def test_raw_contents_must_fit(stub: Any) -> None:
    given = {"name": "inputs", "datatype": "FP32", "shape": [1, 5]}
    for raw, reason in (([bytes(19)], "takes 20 bytes"), ([bytes(20)] * 2, "more contents than inputs")):
        request = service_pb2.ModelInferRequest(model_name="htautau", inputs=[given], raw_input_contents=raw)
        with pytest.raises(grpc.RpcError) as info:
            stub.ModelInfer(request)
        assert info.value.code().name == "INVALID_ARGUMENT"
        assert reason in info.value.details()
    wrong = service_pb2.ModelInferRequest(
        model_name="htautau", inputs=[given], raw_input_contents=[bytes(20)], outputs=[{"name": "x"}]
    )
    with pytest.raises(grpc.RpcError, match="the model's output is 'scores'"):
        stub.ModelInfer(wrong)


def test_a_message_that_is_compressed_has_the_same_limit(server: Server) -> None:
    """1 MB of zeros are 1 kB when compressed."""
    with grpc.insecure_channel(f"127.0.0.1:{port_of(server)}", compression=grpc.Compression.Gzip) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        scores = stub.ModelInfer(typed("fp32_contents", [0.0] * 5_000)).outputs[0].contents.fp32_contents
        assert len(scores) == 2_000
        with pytest.raises(grpc.RpcError) as info:
            stub.ModelInfer(typed("fp32_contents", [0.0] * 250_000))
        assert info.value.code().name == "RESOURCE_EXHAUSTED"


def test_bytes_that_are_no_message_and_methods_that_do_not_exist(server: Server) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port_of(server)}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError, match="is not a protobuf message"):
            call(b"\xff\xff")
        with pytest.raises(grpc.RpcError) as info:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).TraceSetting(service_pb2.TraceSettingRequest())
        assert info.value.code().name == "UNIMPLEMENTED"


def test_requests_are_counted(client: Any, server: Server) -> None:
    before = client.get_inference_statistics("htautau").model_stats[0]
    client.infer("htautau", [tensor(EVENTS)])
    after = client.get_inference_statistics("htautau").model_stats[0]
    assert after.inference_count - before.inference_count == 3
    assert after.execution_count - before.execution_count == 1
    assert after.inference_stats.success.count - before.inference_stats.success.count == 1
    assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    route = '{method="POST",route="/inference.GRPCInferenceService",status="200"}'
    assert f"mlaas4hep_requests_total{route}" in requests.get(f"{server.url}/metrics", timeout=20).text


def test_a_private_server_asks_for_a_token(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("a-token-of-tests-1234\n")
    write_bundle(tmp_path / "models" / "htautau")
    options = ["--grpc-port=0", "--private", f"--token-file={tmp_path / 'tokens'}", "--workers=2"]
    with Server.start(tmp_path / "models", *options) as server:
        with triton.InferenceServerClient(f"127.0.0.1:{port_of(server)}") as client:
            assert client.is_server_live()
            for headers in ({}, {"authorization": "Bearer wrong-token-of-tests"}):
                with pytest.raises(triton.InferenceServerException, match="token") as info:
                    client.infer("htautau", [tensor(EVENTS)], headers=headers)
                assert info.value.status() == "StatusCode.UNAUTHENTICATED"
            headers = {"authorization": "Bearer a-token-of-tests-1234"}
            answer = client.infer("htautau", [tensor(EVENTS)], headers=headers)
            np.testing.assert_allclose(answer.as_numpy("scores"), EXPECTED[:, :1])
            (counters,) = client.get_inference_statistics("htautau", headers=headers).model_stats
            assert (counters.inference_count, counters.inference_stats.success.count) == (3, 1)  # of both workers
        with pytest.raises(
            AssertionError, match=f"error: cannot listen on .* port {port_of(server)}: Address already in"
        ):
            Server.start(tmp_path / "other", f"--grpc-port={port_of(server)}")


def test_the_service_uses_the_certificate_of_the_server(tmp_path: Path) -> None:
    grid = Grid(tmp_path / "grid", key="ec")
    write_bundle(tmp_path / "models" / "htautau")
    options = [f"--cert={grid.certificate}", f"--key={grid.key}", "--grpc-port=0"]
    root = (grid.folder / "authority.pem").read_bytes()
    with Server.start(tmp_path / "models", *options) as server:
        credentials = grpc.ssl_channel_credentials(root_certificates=root)
        with grpc.secure_channel(f"localhost:{port_of(server)}", credentials) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert list(stub.ModelInfer(typed("fp32_contents", [1] * 5)).outputs[0].contents.fp32_contents) == [11111]
        with grpc.insecure_channel(f"localhost:{port_of(server)}") as channel, pytest.raises(grpc.RpcError):
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ServerLive(service_pb2.ServerLiveRequest(), timeout=5)
