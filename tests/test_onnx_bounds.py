"""Which ONNX graphs the server may run itself: those whose memory and work follow from the number of rows."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from serving_fixtures import onnx_model, trained_model
from test_deadlines import looping_model
from test_model_limits import constant_model, folding_model, graph, growing_model, node, sum_model

from mlaas4hep.protocol.limits import DEFAULTS
from mlaas4hep.serving.models.onnx_bounds import find_bounds


def changed(content: bytes, change: Any) -> bytes:
    model = onnx.ModelProto.FromString(content)
    change(model)
    return bytes(model.SerializeToString())


def lie_about_shapes(model: Any) -> None:
    model.graph.value_info.append(helper.make_tensor_value_info("e", TensorProto.FLOAT, [1]))
    model.graph.value_info.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, [1]))


def peak_model() -> bytes:
    """Return a graph that is small for all numbers of rows but one, 77."""
    one = {name: np.array([value]) for name, value in {"a": 0, "b": 1, "k": 77, "least": 1, "most": 10**9}.items()}
    return graph(
        [
            node("Shape", "x", "s"),
            node("Slice", "s a b", "n"),
            node("Sub", "n k", "d"),
            node("Mul", "d d", "square"),
            node("Mul", "square most", "large"),
            node("Sub", "most large", "size"),
            node("Max", "size least", "c"),
            node("ConstantOfShape", "c", "zeros"),
            node("ReduceSum", "zeros", "r", keepdims=0),
            node("Mul", "x r", "y"),
        ],
        one,
    )


def squares_model(factor: int) -> bytes:
    """Return a graph whose memory grows with the square of the number of rows."""
    return graph(
        [
            node("Transpose", "x", "t"),
            node("MatMul", "x t", "m"),
            node("Tile", "m times", "many"),
            node("ReduceSum", "many axis", "r", keepdims=1),
            node("Slice", "r a b", "s"),
            node("Mul", "x s", "y"),
        ],
        {"times": np.array([1, factor]), "axis": np.array([1]), "a": np.array([0]), "b": np.array([1])},
    )


def tree_model(left: list[int], labels: list[bytes]) -> bytes:
    """Return a classifier of one tree of three nodes."""
    tree = helper.make_node(
        "TreeEnsembleClassifier", ["x"], ["label", "y"], domain="ai.onnx.ml",
        nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[0, 0, 0], nodes_values=[0.0, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "BRANCH_LEQ" if left[1] else "LEAF", "LEAF"], nodes_truenodeids=left,
        nodes_falsenodeids=[2, 2 if left[1] else 0, 0], class_treeids=[0, 0], class_nodeids=[1, 2],
        class_ids=[0, 1], class_weights=[1.0, 1.0], classlabels_strings=labels,
    )  # fmt: skip

    def add_domain(model: Any) -> None:
        model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))

    return changed(graph([tree]), add_domain)


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (trained_model(), 1024),
        (onnx_model(outputs=3, batch=1), 1024),
        (tree_model([1, 0, 0], [b"a", b"b"]), 1024),
        (squares_model(1), 1024),
        (squares_model(1000), 128),
        (graph([node("Shape", "x", "s"), node("ConstantOfShape", "s", "c"), node("Add", "x c", "y")]), 64),
    ],
    ids=["sum", "one row", "tree", "squares", "many squares", "shapes"],
)
def test_a_graph_has_bounds_up_to_a_number_of_rows(content: bytes, rows: int) -> None:
    found = find_bounds(content)
    assert (found.rows, found.reason) == (rows, "")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (folding_model(), "its constants may take more than 20 MB"),
        (constant_model(), "its constants may take more than 20 MB"),
        (sum_model(100_000_000), r"its tensors may take \d+ MB"),
        (sum_model(12_000, 12_000, 3), r"its tensors may take \d+ MB"),
        (growing_model(), "the shape of 'e' does not follow from the number of rows"),
        (changed(growing_model(), lie_about_shapes), "the shape of 'e' does not follow from the number of rows"),
        (peak_model(), "does not follow|its constants may take"),
        (looping_model(), "it has the operator :Loop"),
        (
            changed(squares_model(1), lambda model: model.graph.initializer[0].dims.__setitem__(0, 10**7)),
            "fewer values",
        ),
        (graph([helper.make_node("Sum", ["x"], ["y"], domain="com.microsoft")]), "the operator com.microsoft:Sum"),
        (tree_model([1, 1, 0], [b"a", b"b"]), "its trees have cycles or shared nodes"),
        (tree_model([1, 0, 0], [b"a" * 100, b"b"]), "it has a long label"),
        (
            graph([node("Cast", "x", "t", to=TensorProto.STRING), node("Cast", "t", "y", to=1)]),
            "converts numbers to strings",
        ),
        (
            graph(
                [node("Cast", "x", "i", to=7), node("Div", "one i", "d"), node("Cast", "d", "y", to=1)],
                {"one": np.array([1])},
            ),
            "it divides integers, possibly by zero",
        ),
        (bytes(DEFAULTS.bounded_file + 1), "the file is larger than 50 MB"),
        (b"no graph", "DecodeError|does not have one input"),
        (b"", "does not have one input"),
    ],
)
def test_a_graph_without_bounds_has_a_reason(content: bytes, reason: str) -> None:
    found = find_bounds(content)
    assert found.rows is None
    assert re.search(reason, found.reason), found.reason


def test_a_graph_with_data_in_other_files_has_no_bounds() -> None:
    def move_away(model: Any) -> None:
        entry = model.graph.initializer[0].external_data.add()
        entry.key, entry.value = "location", "/etc/passwd"

    assert find_bounds(changed(trained_model(), move_away)).reason == "it has data in other files"


def test_weights_do_not_count_as_shapes_however_many_they_are() -> None:
    weights = np.ones((3, 2000), np.float32)
    content = graph(
        [node("MatMul", "x w", "h"), node("MatMul", "h v", "y")], {"w": weights, "v": np.ones((2000, 1), np.float32)}
    )
    assert numpy_helper.to_array(onnx.ModelProto.FromString(content).graph.initializer[0]).shape == (3, 2000)
    assert find_bounds(content).rows == 1024
