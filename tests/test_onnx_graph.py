"""The prepended ONNX graph gives a network the same inputs as the reader."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from test_statistics import expected

from mlaas4hep.config import parse_inputs
from mlaas4hep.io import Jagged, Kind, Nested
from mlaas4hep.reader import METHODS, Normalisation, Specs, VectorLayout
from mlaas4hep.reader.inputs import Inputs, padded
from mlaas4hep.specs.specs import BranchSpecs
from mlaas4hep.training.onnx_graph import column_metadata, prepend_inputs, set_metadata


def specs_of_odd_columns():
    """Return specs of a Gaussian, a heavy tail, a constant, a flag, a large offset, a list and an empty column."""
    rng = np.random.default_rng(0)
    heavy = rng.lognormal(1, 1.5, 4000)
    heavy[:3] = 1e6
    counts = rng.integers(0, 4, 4000)
    jagged = Jagged(np.append(0, np.cumsum(counts)), rng.exponential(30, counts.sum()).astype(np.float32))
    flat = {
        "constant": np.full(4000, 7, np.int32),
        "empty": np.full(4000, np.nan),
        "flag": rng.uniform(size=4000) > 0.9,
        "gauss": rng.normal(3, 2, 4000).astype(np.float32),
        "heavy": heavy,
        "time": 1_500_000_000 + rng.integers(0, 10_000, 4000),
    }
    branches = {name: BranchSpecs.of(values, Kind.FLAT) for name, values in flat.items()}
    return Specs({**branches, "list": BranchSpecs.of(jagged, Kind.JAGGED)}, 4000)


def passing_network(width, takes_mask):
    """Return a network whose output is its input: the normalised events, or the mask."""
    names = ["x", "mask"] if takes_mask else ["x"]
    slots = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name in names]
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", width])
    nodes = [helper.make_node("Identity", [names[-1]], ["out"])]
    if takes_mask:
        nodes = [
            helper.make_node("Mul", ["x", "zero"], ["nothing"]),
            helper.make_node("Add", ["nothing", "mask"], ["out"]),
        ]
    constants = [helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])] if takes_mask else []
    graph = helper.make_graph(nodes, "network", slots, [out], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def raw_events(layout, rng):
    """Return events with padding, infinities, zeros, and values far outside the range of the specs."""
    x = rng.normal(0, 50, (200, layout.width)).astype(np.float32)
    x[:, layout.columns.index("time")] += np.float32(1.5e9)
    x[rng.uniform(size=x.shape) < 0.2] = np.nan
    x[0], x[1], x[2], x[3] = np.inf, -np.inf, 0, 3e38
    return x


@pytest.mark.parametrize("takes_mask", [False, True])
@pytest.mark.parametrize(
    "method", [*METHODS, {"*": {"centre": 7, "scale": -0.3, "clip": [-4, 9]}, "time": {"centre": 1.5e9, "scale": 0.01}}]
)
def test_the_graph_normalises_as_the_reader_does(method, takes_mask, tmp_path):
    specs = specs_of_odd_columns()
    layout = VectorLayout.of(specs)
    normalisation = Normalisation.of(specs, layout, method)
    takes = ("x", "mask") if takes_mask else ("x",)
    graph = prepend_inputs(passing_network(layout.width, takes_mask), Inputs.of(specs, {}, method), takes)
    x = raw_events(layout, np.random.default_rng(1))
    if method == "none":
        x[:2] = 1  # infinities stay infinite there
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(["scores"], {"inputs": x})[0]
    expected = x.copy()
    mask = normalisation.apply(expected, fill=0.0)
    if takes_mask:
        np.testing.assert_array_equal(found, mask.astype(np.float32))
    else:
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


def test_the_graph_has_the_names_of_its_columns_as_metadata():
    specs = specs_of_odd_columns()
    layout = VectorLayout.of(specs)
    graph = prepend_inputs(passing_network(layout.width, False), Inputs.of(specs), ("x",))
    set_metadata(graph, ["background", "signal"], {"mlaas4hep.name": "toy", **column_metadata(layout)})
    props = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(props["mlaas4hep.keys"])[-3:] == ["list_0", "list_1", "list_2"]
    assert json.loads(props["mlaas4hep.branches"])["list"] == [6, 3, "jagged"]
    assert json.loads(props["mlaas4hep.labels"]) == ["background", "signal"]
    onnx.checker.check_model(graph)


def identity_network(arrays, opset):
    """Return a network whose output is the concatenation of its flattened inputs."""
    slots = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *values.shape[1:]]) for name, values in arrays
    ]
    nodes = [helper.make_node("Flatten", [name], [f"flat {name}"], axis=1) for name, _ in arrays]
    nodes.append(helper.make_node("Concat", [f"flat {name}" for name, _ in arrays], ["out"], axis=1))
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", None])
    graph = helper.make_graph(nodes, "network", slots, [out])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize("sort", ["", "pt", "-pt", "-rank"])
@pytest.mark.parametrize("length", [2, 6, 9])
@pytest.mark.parametrize(("method", "opset"), list(zip(METHODS, (13, 15, 18, 20), strict=True)))
def test_the_graph_computes_objects_as_the_reader_does(method, opset, length, sort):
    rng = np.random.default_rng(length)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 7, 150))])
    total = offsets[-1]
    table = {
        "pt": Jagged(offsets, rng.exponential(30, total).round().astype("f4")),  # many are the same
        "eta": Jagged(offsets, rng.normal(size=total).astype("f4")),
        "rank": Jagged(offsets, rng.permutation(total)),
        "met": rng.exponential(50, 150),
        "hits": rng.normal(size=(150, 3)).astype("f4"),
    }
    table["eta"].content[::7] = np.nan
    table["pt"].content[3::7] = np.nan
    table["pt"].content[::14] = np.nan  # all features of an object
    table["met"][:5] = np.nan
    specs = expected([(table, 150)])
    params = {"jets": {"branches": ["eta", "pt"], "length": length, "sort": sort}, "event": {"branches": ["met"]},
              "track": {"branches": ["hits", "met"], "normalise": "none"}}  # fmt: skip
    inputs = Inputs.of(specs, parse_inputs(params), method)
    arrays = padded(inputs.make(table, 150)[0], 0.0)
    rows, _ = inputs.raw_vectors(table, 150)
    taken = [(name, arrays[name]) for name in ("event", "jets_mask", "jets", "track", "track_mask")]
    graph = prepend_inputs(identity_network(taken, opset), inputs, [name for name, _ in taken])
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(["scores"], {"inputs": rows["x"]})[0]
    truth = np.concatenate([values.reshape(150, -1).astype(np.float32) for _, values in taken], axis=1)
    np.testing.assert_allclose(found, truth, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("sort", ["", "pt", "-pt"])
@pytest.mark.parametrize(("length", "inner"), [(2, 2), (3, 9), (9, 3), (8, 8)])
@pytest.mark.parametrize("opset", [13, 18])
def test_the_graph_computes_parts_of_objects_as_the_reader_does(opset, length, inner, sort):
    rng = np.random.default_rng(length)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 7, 150))])
    hits = np.concatenate([[0], np.cumsum(rng.integers(0, 6, offsets[-1]))])
    table = {
        "pt": Jagged(offsets, rng.exponential(30, offsets[-1]).round().astype("f4")),  # many are the same
        "x": Nested(offsets, Jagged(hits, rng.normal(size=hits[-1]).astype("f4"))),
        "y": Nested(offsets, Jagged(hits, rng.integers(0, 1000, hits[-1]))),
        "met": rng.exponential(50, 150),
    }
    table["x"].lists.content[::7] = np.nan
    specs = expected([(table, 150)])
    params = {"hits": {"branches": ["x", "y"], "length": length, "inner_length": inner, "sort": sort},
              "one": {"branches": ["x"], "length": length, "inner_length": inner, "sort": sort},
              "event": {"branches": ["met", "x"]}}  # fmt: skip
    inputs = Inputs.of(specs, parse_inputs(params))
    arrays = padded(inputs.make(table, 150)[0], 0.0)
    assert arrays["hits"].shape == (150, length, inner, 2)
    assert arrays["hits_mask"].shape == (150, length, inner)
    rows, _ = inputs.raw_vectors(table, 150)
    taken = [(name, arrays[name]) for name in ("event", "hits_mask", "hits", "one", "one_mask", "event_mask")]
    graph = prepend_inputs(identity_network(taken, opset), inputs, [name for name, _ in taken])
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(["scores"], {"inputs": rows["x"]})[0]
    truth = np.concatenate([values.reshape(150, -1).astype(np.float32) for _, values in taken], axis=1)
    np.testing.assert_allclose(found, truth, rtol=2e-6, atol=2e-6)


def test_rows_with_longer_inner_lists_than_the_inputs_give_the_same_scores():
    lists = Jagged(np.array([0, 3, 4]), np.array([1, 2, 3, 4], "f4"))
    wide = {"x": Nested(np.array([0, 2]), lists)}
    narrow = {"x": Nested(np.array([0, 1]), Jagged(np.array([0, 2]), np.array([1, 2], "f4")))}
    inputs, rows = Inputs.of(expected([(narrow, 1)]), {}, "none"), Inputs.of(expected([(wide, 1)]))
    x, _ = rows.raw_vectors(wide, 1)
    graph = prepend_inputs(identity_network([("x", np.zeros((1, 2)))], 18), inputs, ["x"], rows.layout)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(["scores"], {"inputs": x["x"]})[0].tolist() == [[1, 2]]
