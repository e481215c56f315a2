"""The Open Inference Protocol v2 with a server that behaves like Triton."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oip_server import OIPServer
from serving_fixtures import run_client
from tinyroot import write_tree

from mlaas4hep.client import TFaaSClient
from mlaas4hep.errors import ConfigError, ServiceError

KEYS = ["MET_pt", "Muon_pt_0", "Muon_pt_1"]
TWO_INPUTS = [
    {"name": "x", "datatype": "FP32", "shape": [-1, 2]},
    {"name": "n", "datatype": "INT64", "shape": [-1]},
]
MODELS: dict[str, dict[str, Any]] = {"named": {"keys": KEYS}, "plain": {}}


@pytest.mark.parametrize("binary", [True, False])
def test_values_are_sent_in_the_order_of_the_models_inputs(binary: bool) -> None:
    with OIPServer(MODELS, binary) as server, TFaaSClient(server.url, protocol="v2") as client:
        events = {"keys": ["Muon_pt_1", "MET_pt", "Muon_pt_0"], "values": [3, 1, 2], "model": "named"}
        assert client.predict(events) == [321.0, 642.0]
        lists = {"keys": ["Muon_pt", "MET_pt"], "values": [[[2, 3, 9], 1], [[2], None], [None, 1]]}
        assert client.predict(lists, "named") == [[321.0, 642.0], [20.0, 40.0], [1.0, 2.0]]
        assert client.predict({"values": [1, 2.5]}, "plain") == [26.0, 52.0]
        assert client.predict({"keys": ["b", "a"], "values": [1, 2.5]}, "plain") == [26.0, 52.0]
        assert server.binary is binary


@pytest.mark.parametrize("binary", [True, False])
def test_scores_have_the_digits_of_their_dtype(binary: bool) -> None:
    with OIPServer(MODELS, binary) as server, TFaaSClient(server.url, protocol="v2") as client:
        assert client.predict({"values": [0.1]}, "plain") == [0.1, 0.2]


@pytest.mark.parametrize("binary", [True, False])
def test_outputs_are_chosen_by_name(binary: bool) -> None:
    """The server returns `attention` first."""
    models = {**MODELS, "labels": {"outputs": [{"name": "class", "datatype": "INT64", "shape": [-1]}]}}
    with OIPServer(models, binary) as server:
        for output, scores in (("", [0.5, 1.0]), ("y", [0.5, 1.0]), ("attention", [5.5]), ("class", [7])):
            with TFaaSClient(server.url, protocol="v2", output=output) as client:
                assert client.predict({"values": [0.5]}, "plain") == scores
        with TFaaSClient(server.url, protocol="v2") as client:
            assert client.predict({"values": [0.5]}, "labels") == [7]
        with (
            TFaaSClient(server.url, protocol="v2", output="nix") as client,
            pytest.raises(ServiceError, match="400: unexpected inference output"),
        ):
            client.predict({"values": [0.5]}, "plain")
        done = run_client("--predict=-", "--output=y", TFAAS_URL=server.url)
    assert done.stderr == "error: TFaaS models have a single output; use 'output' only with the protocol v2\n"


@pytest.mark.parametrize("outputs", [["y"], [{"name": "text", "datatype": "BYTES"}]])
def test_a_model_whose_metadata_have_no_numeric_output_needs_a_name(outputs: Any) -> None:
    with OIPServer({"odd": {"outputs": outputs}}) as server:
        with (
            TFaaSClient(server.url, protocol="v2") as client,
            pytest.raises(ConfigError, match=r"'odd' describe no numeric output: .*; name an output: --output=NAME"),
        ):
            client.predict({"values": [0.5]}, "odd")
        with TFaaSClient(server.url, protocol="v2", output="y") as client:
            assert client.predict({"values": [0.5]}, "odd") == [0.5, 1.0]


def test_the_metadata_of_models_and_server() -> None:
    with OIPServer(MODELS) as server, TFaaSClient(server.url, protocol="v2") as client:
        assert [model["name"] for model in client.models()] == ["named", "plain"]
        assert client.params("named")["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
        assert (client.keys("named"), client.keys("plain")) == (KEYS, [])
        assert client.status()["ready"] is True
    with OIPServer(MODELS, ready=False) as server, TFaaSClient(server.url, protocol="v2") as client:
        assert client.status() == {
            "ready": False,
            "name": "triton",
            "version": "2.50",
            "extensions": ["model_repository", "binary_tensor_data"],
        }


@pytest.mark.parametrize("protocol", ["v2", "tfaas"])
def test_many_events_share_few_requests_and_scores_are_in_order(protocol: str) -> None:
    values = np.arange(4_500.0)[:, None]
    with OIPServer(MODELS) as server, TFaaSClient(server.url, protocol=protocol) as client:
        assert client.predict({"values": values, "model": "plain"}) == [[row, 2 * row] for row in range(4_500)]
        assert server.rows == [2_000, 2_000, 500]


@pytest.mark.parametrize("protocol", ["v2", "tfaas"])
def test_a_rejected_event_among_many_is_identified(protocol: str) -> None:
    with OIPServer({"m": {"refuses": 1_234}}) as server, TFaaSClient(server.url, protocol=protocol) as client:
        with pytest.raises(ServiceError, match=r"^event 1234: POST \S+: 400: model failed$"):
            client.predict({"values": np.arange(2_000.0)[:, None]}, "m")
        assert len(server.requests) < 50


def test_events_of_a_json_file_are_numbered_across_requests(tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text(json.dumps({"values": [[float(row)] for row in range(2_100)], "model": "m"}))
    with OIPServer({"m": {"refuses": 2_050}}) as server:
        done = run_client("--predict=input.json", cwd=tmp_path, TFAAS_URL=server.url)
    assert done.stdout.splitlines() == [f"[{row}.0, {2 * row}.0]" for row in range(2_000)]
    assert (done.returncode, done.stderr[:18]) == (1, "error: event 2050:")


def test_requests_are_split_if_the_server_accepts_fewer_rows() -> None:
    with OIPServer({"m": {"most": 600}}) as server, TFaaSClient(server.url, protocol="v2") as client:
        assert client.predict({"values": np.ones((2_000, 1))}, "m") == [[1.0, 2.0]] * 2_000
        assert server.rows == [500] * 4


@pytest.mark.parametrize(
    ("events", "model", "reason"),
    [
        ({"values": [1]}, None, "has no default model; name one: --model=NAME"),
        ({"values": [1]}, "nix", "404: Request for unknown model: 'nix'"),
        ({"values": [1, 2]}, "named", "model 'named' takes 3 values per event, not 2"),
        ({"keys": ["MET_pt", "Muon_pt_0"], "values": [1, 2]}, "named", "the events lack the key 'Muon_pt_1'; closest"),
        (
            {"keys": [*KEYS, "MET_tp"], "values": [1, 2, 3, 4]},
            "named",
            "the model has no input 'MET_tp'; closest: 'MET_pt'",
        ),
        ({"keys": ["Muon_pt", "MET_pt"], "values": [1, 2]}, "named", "expected a list, not 1"),
        (
            {"keys": ["a", "b"], "values": [1, [2]]},
            "plain",
            r"the value of 'b' must be a number, not \[2\]; name elements of lists, as in Muon_pt_0",
        ),
        ({"values": ["1"]}, "plain", 'value 0 must be a number, not "1"$'),
        ({"keys": KEYS, "values": [1, 2, "3"]}, "named", "the value of 'Muon_pt_1' must be a number"),
        ({"values": [10**400]}, "plain", "a value of an event is too large"),
        ({"values": [[1], [2, 3]]}, "plain", "the events have different numbers of values"),
        (
            {"values": [1]},
            "image",
            r"model 'image' has the inputs \[.*only inputs of numbers of shape",
        ),
        ({"values": [1]}, "words", r"model 'words' has the inputs"),
        ({"values": [1]}, "two", "model 'two' takes 3 values per event, not 1"),
        ({"keys": ["n"], "values": [1]}, "two", "the events lack the key 'x'"),
        ({"keys": ["x", "m"], "values": [[1, 2], 1]}, "two", "the events lack the key 'n'"),
        ({"keys": ["x", "n", "m"], "values": [[1, 2], 1, 1]}, "two", "the model has no input 'm'"),
        (
            {"keys": ["x", "n"], "values": [[1, 2, 3], 1]},
            "two",
            "input 'x' of model 'two' takes 2 values per event, not 3",
        ),
        ({"keys": ["x", "n"], "values": [[1, 2], 1.5]}, "two", "input 'n' takes INT64 from .* to .*, not 1.5"),
        ({"keys": ["x", "n"], "values": [[1, 2], None]}, "two", "not null; integers have no missing values"),
        ({"keys": ["x", "n"], "values": [[1, 2], 2**63]}, "two", "input 'n' takes INT64"),
    ],
)
def test_events_that_do_not_match_the_model_are_an_error(
    events: dict[str, Any], model: str | None, reason: str
) -> None:
    others = {
        "image": {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 8, 8, 3]}]},
        "words": {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [-1, 1]}]},
        "two": {"inputs": TWO_INPUTS},
    }
    with (
        OIPServer({**MODELS, **others}) as server,
        TFaaSClient(server.url, protocol="v2") as client,
        pytest.raises((ConfigError, ServiceError), match=reason) as caught,
    ):
        client.predict(events, model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("binary", [True, False])
def test_several_inputs_and_integers(binary: bool) -> None:
    large = 2**53 + 1  # float64 cannot hold it
    with OIPServer({"m": {"inputs": TWO_INPUTS}}, binary) as server, TFaaSClient(server.url, protocol="v2") as client:
        assert client.predict({"values": [[1, 2, 3], [4, 5, 6]]}, "m") == [[321, 642], [654, 1308]]
        assert server.tensors["x"].dtype == np.float32
        assert server.tensors["n"].shape == (2,)
        client.predict({"keys": ["n", "x_1", "x_0"], "values": [large, 2, 1]}, "m")
        assert server.tensors["n"].tolist() == [large]
        assert server.tensors["x"].tolist() == [[1, 2]]
        assert client.predict({"keys": ["n", "x"], "values": [[3, [1, 2]], [6.0, [4, 5]]]}, "m")[1] == [654, 1308]
        assert server.binary is binary


@pytest.mark.parametrize("metadata", ["empty", "missing"])
def test_a_server_without_metadata(metadata: str, tmp_path: Path) -> None:
    """MLServer returns empty lists by default; other servers have no such route."""
    (tmp_path / "input.json").write_text(json.dumps({"values": [1, 2, 3]}))
    one = [{"name": "inputs", "datatype": "FP32", "shape": [-1, -1]}]
    models = {"plain": {"inputs": one, "metadata": metadata}, "two": {"inputs": TWO_INPUTS, "metadata": metadata}}
    with OIPServer(models) as server:

        def run(*options: str) -> str:
            done = run_client("--protocol=v2", "--predict=input.json", *options, cwd=tmp_path, TFAAS_URL=server.url)
            assert (done.returncode, done.stderr) == (0, "")
            return done.stdout

        assert run("--model=plain") == "[326.0]\n"  # the first output of the response
        assert run("--model=plain", "--input=inputs:FP32", "--output=y") == "[321.0, 642.0]\n"
        two = run("--model=two", "--input=x:FP32:2", "--input=n:INT64:1", "--output=y")
        assert two == "[321.0, 642.0]\n"
        assert server.tensors["n"].dtype == np.int64


def test_the_bundle_of_a_model_describes_its_inputs(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    training = {"params": {}, "identifier": [], "columns": ["ht", "met"], "classes": ["a", "b"], "outputs": 1}
    (bundle / "training.json").write_text(json.dumps(training))
    (bundle / "preproc.json").write_text(json.dumps({"define": {"ht": "2 * met"}, "cut": "met > 1"}))
    write_tree(tmp_path / "e.root", {"met": np.arange(4.0)})
    models = {"m": {"inputs": [{"name": "inputs", "datatype": "FP32", "shape": [-1, 2]}], "metadata": "empty"}}
    options = ["--protocol=v2", "--predict=e.root", "--model=m", "--input=bundle", "--output=y"]
    with OIPServer(models) as server:
        server.rename = {"y": "scores"}
        done = run_client(*options[:-1], cwd=tmp_path, TFAAS_URL=server.url)
    assert done.stdout.splitlines() == ["null", "null", "[24.0, 48.0]", "[36.0, 72.0]"], done.stderr


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (["inputs"], "invalid input 'inputs'; write NAME:DATATYPE"),
        ([":FP32"], "invalid input ':FP32'"),
        (["x:FP32:0"], "invalid input 'x:FP32:0'"),
        (["x:FP23"], "unknown datatype 'FP23' of input 'x'; closest: 'FP32'"),
        (["x:FP32", "x:FP32"], "the input 'x' is given twice"),
    ],
)
def test_invalid_inputs_are_named(inputs: list[str], reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        TFaaSClient("http://localhost", protocol="v2", inputs=inputs)
    assert reason in str(error.value)
    with pytest.raises(ConfigError, match="TFaaS models have a single input"):
        TFaaSClient("http://localhost", inputs=["x:FP32"])


def test_models_are_listed_as_kserve_does() -> None:
    class KServe(OIPServer):
        def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[bytes, int | None]:
            if path == "/v2/models":
                return json.dumps({"models": list(self.models)}).encode(), None
            return super().answer(method, path.replace("/v2/repository", "/nowhere"), headers, body)

    with KServe(MODELS) as server:
        with TFaaSClient(server.url, protocol="v2") as client:
            assert client.models() == [{"name": "named"}, {"name": "plain"}]
        done = run_client("--protocol=v2", "--models", TFAAS_URL=server.url)
        assert done.stdout == "name   version  state\nnamed\nplain\n"


def test_a_model_with_fp64_input_gets_fp64() -> None:
    models = {"m": {"inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 1]}]}}
    with OIPServer(models) as server, TFaaSClient(server.url, protocol="v2") as client:
        assert client.predict({"values": [0.5]}, "m") == [0.5, 1.0]


def test_scores_that_are_not_finite_become_none() -> None:
    class Infinite(OIPServer):
        def _scores(self, matrix: np.ndarray, model: dict[str, Any]) -> np.ndarray:
            return np.array([[np.inf, np.nan, -np.inf, 0.5]], "<f4")

    with Infinite(MODELS) as server, TFaaSClient(server.url, protocol="v2") as client:
        assert client.predict({"values": [1]}, "plain") == [None, None, None, 0.5]


@pytest.mark.parametrize(
    "answer",
    [b"[]", b"{}", b'{"outputs": []}', b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": [1]}]}',
     b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [3, 1], "data": [1, 2, 3]}]}',
     b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [], "data": [1]}]}',
     b'{"outputs": [{"name": "y", "datatype": "BYTES", "shape": [1], "data": ["a"]}]}',
     b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": ["a"]}]}',
     b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}]}'],
)  # fmt: skip
def test_an_invalid_response_is_an_error(answer: bytes) -> None:
    class Broken(OIPServer):
        def _infer(self, *asked: object) -> tuple[bytes, int | None]:
            return answer, None

    with (
        Broken(MODELS) as server,
        TFaaSClient(server.url, protocol="v2") as client,
        pytest.raises(ServiceError) as caught,
    ):
        client.predict({"values": [1]}, "plain")
    assert "/infer: the response has no output 'y' with one row per event; this may be the wrong server" in str(
        caught.value
    )


def test_a_server_with_another_protocol_is_an_error(tmp_path: Path) -> None:
    with OIPServer(MODELS) as server:
        done = run_client("--models", TFAAS_URL=server.url)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"error: GET {server.url}/models: 404: ")


@pytest.mark.parametrize("call", ["upload", "bundle", "delete"])
def test_operations_that_the_protocol_does_not_support_are_errors(call: str) -> None:
    with (
        TFaaSClient("http://localhost", protocol="v2") as client,
        pytest.raises(ConfigError, match="use --protocol=tfaas"),
    ):
        getattr(client, call)("x")
    with pytest.raises(ConfigError, match="unknown protocol 'v3'; available: tfaas, v2"):
        TFaaSClient("http://localhost", protocol="v3")


def test_a_session_prints_readable_text(tmp_path: Path) -> None:
    write_tree(tmp_path / "e.root", {"MET_pt": np.arange(3.0), "Muon_pt": np.ones((3, 2))})
    (tmp_path / "input.json").write_text(json.dumps({"values": [1, 2]}))
    with OIPServer(MODELS) as server:

        def run(*options: str) -> str:
            done = run_client("--protocol=v2", *options, cwd=tmp_path, TFAAS_URL=server.url)
            assert (done.returncode, done.stderr) == (0, "")
            return done.stdout

        assert run("--models") == "name   version  state\nnamed  1        READY\nplain  1        READY\n"
        assert json.loads(run("--status"))["ready"] is True
        assert run("--predict=input.json", "--model=plain") == "[21.0, 42.0]\n"
        scores = "[110.0, 220.0]\n[111.0, 222.0]\n[112.0, 224.0]\n"
        assert run("--predict=e.root", "--model=named") == scores  # the server reports the inputs
        assert run("--predict=e.root", "--model=named", "--branches=Muon_pt,MET_pt") == scores
