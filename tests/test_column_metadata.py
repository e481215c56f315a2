"""Numbers in a graph's metadata are checked before anything is computed from them."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import numpy as np
import pytest
from serving_fixtures import BRANCHES, KEYS, onnx, onnx_model, params

from mlaas4hep.errors import ConfigError
from mlaas4hep.images.decode import decode
from mlaas4hep.serving.models.column_metadata import read_columns
from mlaas4hep.serving.models.loader import ModelLoader
from mlaas4hep.serving.models.tensor import describe_input
from mlaas4hep.serving.store.store import ModelStore, Upload

TWO = ["a", "b"]


def metadata(keys: Any, branches: Any) -> dict[str, str]:
    texts = (content if isinstance(content, str) else json.dumps(content) for content in (keys, branches))
    return dict(zip(("mlaas4hep.keys", "mlaas4hep.branches"), texts, strict=True))


@pytest.mark.parametrize(
    ("keys", "branches", "reason"),
    [
        (TWO, {"J": [0, 10**12, "jagged"]}, "must map the branch 'J' to a first column"),
        (TWO, {"J": [10**12, 1, "jagged"]}, "must map the branch 'J'"),
        (TWO, {"J": [1, 2, "jagged"]}, ", within 2 columns"),
        (TWO, {"J": [-1, 2, "jagged"]}, "must map the branch 'J'"),
        (TWO, {"J": [0, -1, "jagged"]}, "must map the branch 'J'"),
        (TWO, {"J": [0, 0, "flat"]}, "must map the branch 'J'"),
        (TWO, {"J": [0.0, 1, "flat"]}, "must map the branch 'J'"),
        (TWO, {"J": [False, True, "flat"]}, "must map the branch 'J'"),
        (TWO, {"J": ["0", 1, "flat"]}, "must map the branch 'J'"),
        (TWO, {"J": [0, 1, "other"]}, "must map the branch 'J'"),
        (TWO, {"J": [0, 1, ["flat"]]}, "must map the branch 'J'"),
        (TWO, {"J": [0, 1]}, "must map the branch 'J'"),
        (TWO, {"J": 3}, "must map the branch 'J'"),
        (TWO, {"J": [0, 2, "jagged"], "K": [1, 1, "flat"]}, "assigns a column to two branches"),
        (TWO, {"": [0, 1, "flat"]}, "must be an object of branches"),
        (TWO, {"x" * 1001: [0, 1, "flat"]}, "must be an object of branches"),
        (TWO, [], "must be an object of branches"),
        (TWO, '{"J": [0, 99999999999999999999999, "flat"]}', "must map the branch 'J'"),
        (TWO, "{", "'mlaas4hep.branches' of m.onnx is not valid JSON"),
        (["a", "a"], {}, "names a column twice"),
        (["a", 1], {}, "must be a list of names"),
        (["a", ""], {}, "must be a list of names"),
        (["x" * 1001], {}, "must be a list of names"),
        ({"a": 1}, {}, "must be a list of names"),
        ("[" * 5000, {}, "'mlaas4hep.keys' of m.onnx is not valid JSON"),
        ('["\\ud800"]', {}, "not valid JSON"),
        ([str(number) for number in range(100_001)], {}, "names 100,001 columns; the limit is 100,000"),
        (" " * 8_000_001, {}, "is larger than 8 MB"),
        ("[" + "[]," * 200_000 + "1]", {}, "has more than 100,000 lists"),
        (TWO, "{" + '"a":[],' * 200_000 + '"b":1}', "has more than 100,000 lists"),
    ],
)
def test_metadata_out_of_bounds_are_refused(keys: Any, branches: Any, reason: str) -> None:
    start = time.monotonic()
    with pytest.raises(ConfigError, match=reason):
        read_columns(metadata(keys, branches), "m.onnx")
    assert time.monotonic() - start < 5


def test_metadata_that_training_writes_are_accepted() -> None:
    columns = read_columns(metadata(KEYS, BRANCHES), "m.onnx")
    assert columns is not None
    assert (columns.names, columns.branches["Muon_pt"]) == (KEYS, (2, 3, "jagged"))
    empty = read_columns(metadata(KEYS, {**BRANCHES, "Tau_pt": [5, 0, "jagged"]}), "m.onnx")
    assert empty is not None
    assert empty.branches["Tau_pt"] == (5, 0, "jagged")
    assert read_columns({}, "m.onnx") is None


def wide_model(*shape: int | str) -> bytes:
    """Return a graph that takes a shape, and averages all of it."""
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    axes = list(range(1, len(shape)))
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["y"], axes=axes, keepdims=0)],
        "mean",
        [helper.make_tensor_value_info("x", real, shape)],
        [helper.make_tensor_value_info("y", real, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (wide_model("n", 200_000_000), "takes 200000000 values per event; the limit is 10,000,000"),
        (wide_model("n", 12_000, 12_000, 3), "takes 12000 x 12000 x 3 values per event"),
        (wide_model("n", 3, 12_000, 12_000), "takes 3 x 12000 x 12000 values per event"),
        (wide_model("n", "height", 20_000_000, 3), "takes any x 20000000 x 3 values per event"),
        (
            onnx_model(
                [1.0, 1.0], metadata={"mlaas4hep.keys": TWO, "mlaas4hep.branches": {"J": [0, 10**12, "jagged"]}}
            ),
            "must map the branch 'J'",
        ),
    ],
)
def test_an_upload_whose_numbers_are_out_of_bounds_is_refused(tmp_path: Any, graph: bytes, reason: str) -> None:
    store = ModelStore(tmp_path / "models", check=ModelLoader().check)
    description = io.BytesIO(json.dumps(params("m", labels="")).encode())
    with pytest.raises(ConfigError, match=reason):
        store.add_form("m", description, Upload("model.onnx", io.BytesIO(graph)), Upload("labels.txt", io.BytesIO(b"")))
    assert store.names() == []


def test_ordinary_shapes_are_accepted() -> None:
    assert describe_input("x", ("n", 100_000), 0, "m").tensor.shape == (100_000,)
    assert describe_input("x", ("n", 1024, 1024, 3), 0, "m").tensor.shape == (1024, 1024, 3)
    assert describe_input("x", ("n", None, None, 3), 0, "m").tensor.shape == (None, None, 3)


def test_a_tall_image_is_not_resized_to_billions_of_pixels() -> None:
    pillow = pytest.importorskip("PIL.Image")
    content = io.BytesIO()
    pillow.fromarray(np.zeros((100_000, 1), np.uint8)).save(content, "PNG")
    with pytest.raises(ConfigError, match="the resized image would have more than 25 million pixels"):
        decode(content, None, 3000, 3)
