"""Keys and values become the row that the model takes; replaced models are loaded again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from check_predictor import check_predictor
from serving_fixtures import KEYS, MET, MET_SCORE, WEIGHTS, onnx_model, trained_model, write_archive, write_bundle

from mlaas4hep.errors import ConfigError
from mlaas4hep.serving.models.batching import Batches
from mlaas4hep.serving.models.predictor import OnnxPredictor, Predictors
from mlaas4hep.serving.models.rows import Columns, parse_request
from mlaas4hep.serving.store.store import ModelStore, UnknownModel

NAN = float("nan")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def trained(store: ModelStore) -> OnnxPredictor:
    return load(store, trained_model())


def load(store: ModelStore, graph: bytes, **changes: Any) -> Any:
    write_bundle(store.folder / "htautau", graph=graph, **changes)
    return Predictors(store).get("htautau").predictor


def rows(predictor: Any, **request: Any) -> list[list[float]]:
    return predictor.rows(parse_request(json.dumps(request).encode())).matrix.tolist()


def same(left: list[list[float]], right: list[list[float]]) -> bool:
    return np.array_equal(np.array(left), np.array(right), equal_nan=True)


def one_node_model(op: str, **attributes: Any) -> bytes:
    """Return a graph (n, 2) -> (n, 2) of one operation, or, of a mean, what rows differ from it."""
    real = onnx.TensorProto.FLOAT
    nodes = [onnx.helper.make_node(op, ["inputs"], ["found"], **attributes)]
    if op == "ReduceMean":
        nodes.append(onnx.helper.make_node("Sub", ["inputs", "found"], ["scores"]))
    else:
        nodes.append(onnx.helper.make_node("Identity", ["found"], ["scores"]))
    ends = [[onnx.helper.make_tensor_value_info(name, real, ["n", 2])] for name in ("inputs", "scores")]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "one", *ends), opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8
    )
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("graph", "independent"),
    [
        (trained_model(), True),
        (onnx_model(outputs=2), True),
        (one_node_model("Softmax", axis=1), True),
        (one_node_model("Softmax", axis=0), False),
        (one_node_model("ReduceMean", axes=[0]), False),
        (one_node_model("ReduceMean", axes=[1], keepdims=1), True),
    ],
)
def test_a_model_whose_rows_change_each_others_scores_is_found_out(
    store: ModelStore, graph: bytes, independent: bool
) -> None:
    assert load(store, graph).rows_independent is independent


def test_rows_of_several_clients_are_batched_only_if_scores_do_not_depend_on_other_rows(store: ModelStore) -> None:
    model = load(store, one_node_model("ReduceMean", axes=[0]))

    async def ask() -> list[list[list[float]]]:
        batches = Batches()
        events = [np.array([[number, -number]], np.float32) for number in range(40)]
        found = await asyncio.gather(*(batches.score(model, event) for event in events))
        batches.close()
        return [scores.tolist() for scores in found]

    assert asyncio.run(ask()) == [[[0, 0]]] * 40


def test_values_are_put_where_their_keys_belong(trained: OnnxPredictor) -> None:
    assert rows(trained, keys=KEYS[::-1], values=[5, 4, 3, 2, 1]) == [[1, 2, 3, 4, 5]]


def test_the_list_of_a_branch_is_padded_or_truncated(trained: OnnxPredictor) -> None:
    assert same(rows(trained, **MET), [[1, 2, 3, 4, NAN]])
    assert rows(trained, keys=MET["keys"], values=[2, 1, [3, 4, 5, 6, 7]]) == [[1, 2, 3, 4, 5]]
    assert same(rows(trained, keys=MET["keys"], values=[2, 1, []]), [[1, 2, NAN, NAN, NAN]])
    assert same(rows(trained, keys=MET["keys"], values=[None, 1, None]), [[1, NAN, NAN, NAN, NAN]])
    assert same(rows(trained, keys=MET["keys"], values=[2, 1, [3, None, 5]]), [[1, 2, 3, NAN, 5]])


def test_without_keys_values_are_columns_in_order(trained: OnnxPredictor) -> None:
    assert same(rows(trained, values=[1, 2, 3, None, 5]), [[1, 2, 3, NAN, 5]])
    with pytest.raises(ConfigError, match="takes 5 values, but the request has 4"):
        rows(trained, values=[1, 2, 3, 4])


def test_many_rows_are_a_list_of_lists(trained: OnnxPredictor) -> None:
    values = [[2, 1, [3]], [20, 10, [30, 40]]]
    assert same(rows(trained, keys=MET["keys"], values=values), [[1, 2, 3, NAN, NAN], [10, 20, 30, 40, NAN]])
    assert rows(trained, values=[[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]]) == [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]]


def test_one_event_whose_branches_are_all_lists_is_one_row() -> None:
    columns = Columns(["a_0", "a_1", "b_0", "b_1"], {"a": [0, 2, "jagged"], "b": [2, 2, "fixed"]})

    def place(values: list[Any]) -> tuple[list[list[float]], bool]:
        placed = columns.rows(parse_request(json.dumps({"keys": ["b", "a"], "values": values}).encode()))
        return placed.matrix.tolist(), placed.many

    assert place([[1, 2], [3, 4]]) == ([[3, 4, 1, 2]], False)
    assert place([[[1, 2], [3, 4]]]) == ([[3, 4, 1, 2]], True)
    assert place([[[1, 2], [3, 4]], [[5, 6], [7, 8]]]) == ([[3, 4, 1, 2], [7, 8, 5, 6]], True)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"keys": ["MET_pT"], "values": [1]}, "unknown key 'MET_pT'; closest: 'MET_pt'"),
        ({"keys": ["a", "b"], "values": [1, 2]}, "2 unknown keys: 'a', 'b'"),
        ({"keys": ["MET_pt"], "values": [1]}, "2 missing keys: 'MET_phi', 'Muon_pt'; use null for a missing value"),
        ({"keys": ["MET_pt", "MET_phi", "Muon_pt_0"], "values": [1, 2, 3]}, "2 missing keys: 'Muon_pt_1', 'Muon_pt_2'"),
        ({"keys": ["MET_pt", "MET_pt"], "values": [1, 2]}, "'MET_pt' repeats a column of another key"),
        ({"keys": [*KEYS, "Muon_pt"], "values": [1, 2, 3, 4, 5, []]}, "'Muon_pt' repeats a column of another"),
        ({"keys": KEYS, "values": [1, 2]}, "the request has 2 values for 5 keys"),
        ({"keys": KEYS, "values": [[1, 2, 3, 4, 5], [1]]}, "row 1 has 1 values for 5 keys"),
        ({"keys": KEYS, "values": [1, 2, "3", 4, 5]}, "value of 'Muon_pt_0' must be a number, .*, not \"3\""),
        ({"keys": KEYS, "values": [1, True, 3, 4, 5]}, "value of 'MET_pt' must be a number, .*, not true"),
        ({"keys": KEYS, "values": [1, [2], 3, 4, 5]}, r"value of 'MET_pt' must be a number, .*, not \[2\]"),
        ({"keys": KEYS, "values": [1, 1e39, 3, 4, 5]}, r"value of 'MET_pt' is out of range for float32: 1e\+39"),
        ({"keys": KEYS, "values": [1, 10**400, 3, 4, 5]}, "not valid JSON .*: number is infinity"),
        ({"keys": MET["keys"], "values": [1, 2, 3]}, "'Muon_pt' must be a list of numbers, not 3"),
        ({"keys": MET["keys"], "values": [1, 2, [3, "x"]]}, "number 1 of 'Muon_pt' must be a number"),
        ({"values": []}, "'values' must be a list of numbers"),
        ({"values": 3}, "'values' must be a list of numbers"),
        ({"keys": [1], "values": [3]}, "'keys' must be a list of names"),
        ({"values": [1], "model": 3}, "'model' must be a name"),
    ],
)
def test_a_mistake_in_a_request_is_named(trained: OnnxPredictor, request_: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        rows(trained, **request_)


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b'{"values": [NaN]}', b"[" * 100_000, b"9" * 5000])
def test_invalid_requests_are_refused(body: bytes) -> None:
    with pytest.raises(ConfigError, match="the request is no"):
        parse_request(body)


def test_many_missing_keys_are_counted_and_five_are_named() -> None:
    columns = Columns([f"b{number}" for number in range(9)], {})
    with pytest.raises(ConfigError, match=r"8 missing keys: 'b1', 'b2', 'b3', 'b4', 'b5', \.\.\.;"):
        columns.rows(parse_request(b'{"keys": ["b0"], "values": [1]}'))


@pytest.mark.parametrize("batch", ["n", 1])
def test_a_graph_keeps_the_contract(store: ModelStore, batch: str | int) -> None:
    x = np.random.default_rng(0).integers(-9, 9, (6, 5)).astype(np.float32)
    check_predictor(load(store, trained_model(outputs=2, batch=batch)), x, np.outer(x @ WEIGHTS, [1, 2]))


def test_scores_agree_with_the_graph(trained: OnnxPredictor, store: ModelStore) -> None:
    assert trained.predict(np.array([[1, 2, 3, 4, NAN]], np.float32)).tolist() == [[MET_SCORE]]
    assert trained.labels == ["ggH", "VBF"]
    assert trained.keys == KEYS
    three = load(store, trained_model(outputs=3))
    assert three.predict(np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0]], np.float32)).tolist() == [[1, 2, 3], [10, 20, 30]]


def test_a_graph_without_names_takes_values_in_the_given_order(store: ModelStore) -> None:
    foreign = load(store, onnx_model())
    assert foreign.keys is None
    assert rows(foreign, keys=["what", "ever"], values=[1, 2, 3, 4, 5]) == [[1, 2, 3, 4, 5]]
    with pytest.raises(ConfigError, match="takes 5 values, but row 1 has 2"):
        rows(foreign, values=[[1, 2, 3, 4, 5], [1, 2]])


@pytest.mark.parametrize("classes", [["a", "b", "c"], [3, 5, 9]], ids=["texts", "integers"])
@pytest.mark.parametrize("kind", ["maps", "arrays"])
def test_the_graphs_of_scikit_learn_give_probabilities_and_not_labels(
    store: ModelStore, kind: str, classes: list[Any]
) -> None:
    linear_model, skl2onnx = pytest.importorskip("sklearn.linear_model"), pytest.importorskip("skl2onnx")
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    model = linear_model.LogisticRegression().fit(x, np.array(classes)[np.arange(60) % 3])
    types = [("x", skl2onnx.common.data_types.FloatTensorType([None, 4]))]
    options = {"zipmap": True} if kind == "maps" else {"zipmap": False}
    graph = skl2onnx.convert_sklearn(model, initial_types=types, options={id(model): options}, target_opset=17)
    served = load(store, graph.SerializeToString(), output_name="")
    np.testing.assert_allclose(served.predict(x), model.predict_proba(x), atol=1e-6)
    names = [output.name for output in graph.graph.output]
    assert served.output.name == names[1] == ("output_probability" if kind == "maps" else "probabilities")
    if kind == "arrays":
        assert load(store, graph.SerializeToString(), output_name="probabilities").output.name == "probabilities"


def test_an_output_that_is_not_in_the_graph_is_refused(store: ModelStore) -> None:
    with pytest.raises(
        ConfigError, match=r"^model.onnx has no output 'y', which params.json names; its outputs are: sc"
    ):
        load(store, trained_model(), output_name="y")
    # in bundles of image models, params.json has the name that stock servers need for the SavedModel
    assert load(store, trained_model(), output_name="StatefulPartitionedCall").output.name == "scores"


def test_a_graph_with_a_batch_size_of_one_scores_several_rows(store: ModelStore) -> None:
    one = load(store, onnx_model([1, 10], batch=1))
    assert one.predict(np.array([[1, 2], [3, 4]], np.float32)).tolist() == [[21], [43]]


def test_the_error_for_an_unsupported_file_lists_the_supported_ones(store: ModelStore) -> None:
    with pytest.raises(
        ConfigError,
        match=r"model 'htautau' has the unsupported file 'model.pt'; supported are \.onnx",
    ):
        load(store, b"graph", model="model.pt")


def test_a_refused_model_is_served_once_it_was_replaced(store: ModelStore, tmp_path: Path) -> None:
    predictors = Predictors(store)
    write_bundle(store.folder / "htautau", graph=b"no graph")
    (store.folder / "htautau/.tfaas-version").write_text("1")
    for _ in range(2):
        with pytest.raises(ConfigError, match="not an ONNX model"):
            predictors.get("htautau")
    with write_archive(tmp_path / "new.tar", write_bundle(tmp_path / "new")).open("rb") as archive:
        store.add_bundle(archive)
    assert predictors.get("htautau").predictor.predict(np.ones((1, 5), np.float32)).tolist() == [[11111]]


@pytest.mark.parametrize("model", [b"", b"no graph", trained_model()[:100]])
def test_the_error_for_a_damaged_graph_does_not_contain_its_path(store: ModelStore, model: bytes) -> None:
    with pytest.raises(ConfigError, match="not an ONNX model") as caught:
        load(store, model)
    assert str(store.folder) not in str(caught.value)


def test_metadata_that_does_not_fit_the_graph_is_an_error(store: ModelStore) -> None:
    with pytest.raises(ConfigError, match="names 2 columns, but its input has 5"):
        load(store, onnx_model(metadata={"mlaas4hep.keys": ["a", "b"]}))
    with pytest.raises(ConfigError, match="must map the branch 'a' to a first column"):
        load(store, onnx_model(metadata={"mlaas4hep.keys": KEYS, "mlaas4hep.branches": {"a": 3}}))


def test_a_model_is_loaded_once_and_again_when_it_was_replaced(store: ModelStore, tmp_path: Path) -> None:
    predictors = Predictors(store)
    for factor in (1, 2):
        new = write_bundle(tmp_path / f"new{factor}", graph=trained_model(weights=[factor * w for w in WEIGHTS]))
        with write_archive(tmp_path / "new.tar", new).open("rb") as archive:
            store.add_bundle(archive)
        first = predictors.get("htautau").predictor
        assert predictors.get("htautau").predictor is first
        assert first.predict(np.ones((1, 5), np.float32)).tolist() == [[11111 * factor]]


def test_a_deleted_model_is_unknown_at_once(store: ModelStore) -> None:
    write_bundle(store.folder / "htautau")
    (store.folder / "htautau/.tfaas-version").write_text("1")
    predictors = Predictors(store)
    predictors.get("htautau")
    store.delete("htautau")
    with pytest.raises(UnknownModel):
        predictors.get("htautau")


def test_a_list_branch_without_columns_may_be_given():
    columns = Columns(["x"], {"J": [1, 0, "jagged"]})
    request = parse_request(b'{"model": "m", "keys": ["x", "J"], "values": [1.5, [2.0]]}')
    assert columns.rows(request).matrix.tolist() == [[1.5]]
