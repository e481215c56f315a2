"""The graph that takes raw values does what the reader does, and what the network does after it."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from mlaas4hep.io import Jagged, Kind
from mlaas4hep.reader import METHODS, Normalisation, Specs, VectorLayout
from mlaas4hep.reader.specs import BranchSpecs
from mlaas4hep.training.onnx_graph import describe, with_normalisation


def specs_of_odd_columns():
    """A Gaussian, a heavy tail, a constant, a flag, a big offset, a list, and a column never seen."""
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
    """A network that gives back what it gets: the normalised events, or the mask."""
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
    """Events with padding, infinities, values far outside of what was seen, and zeros."""
    x = rng.normal(0, 50, (200, layout.width)).astype(np.float32)
    x[:, layout.columns.index("time")] += np.float32(1.5e9)
    x[rng.uniform(size=x.shape) < 0.2] = np.nan
    x[0], x[1], x[2], x[3] = np.inf, -np.inf, 0, 3e38
    return x


@pytest.mark.parametrize("takes_mask", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_the_graph_normalises_as_the_reader_does(method, takes_mask, tmp_path):
    specs = specs_of_odd_columns()
    layout = VectorLayout.of(specs)
    normalisation = Normalisation.of(specs, layout, method)
    graph = with_normalisation(passing_network(layout.width, takes_mask), normalisation, takes_mask)
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


def test_the_graph_says_what_its_columns_are():
    specs = specs_of_odd_columns()
    layout = VectorLayout.of(specs)
    graph = with_normalisation(passing_network(layout.width, False), Normalisation.of(specs, layout), False)
    describe(graph, layout, ["background", "signal"], {"mlaas4hep.name": "toy"})
    props = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(props["mlaas4hep.keys"])[-3:] == ["list_0", "list_1", "list_2"]
    assert json.loads(props["mlaas4hep.branches"])["list"] == [6, 3, "jagged"]
    assert json.loads(props["mlaas4hep.labels"]) == ["background", "signal"]
    onnx.checker.check_model(graph)
