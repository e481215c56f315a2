"""Bundles in the model repository of Triton; its own protobuf definition reads the configuration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving_fixtures import onnx, onnx_model, run_client, write_bundle

from mlaas4hep.client.oip.triton_repository import add_to_repository
from mlaas4hep.errors import ConfigError

pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] is not installed")

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2


def read_config(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_becomes_a_model_of_a_repository(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    done = run_client(f"--bundle={bundle}", "--to=models", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "wrote models/htautau/1\n", "")
    folder = tmp_path / "models" / "htautau"
    assert set(snapshot(tmp_path / "models")) == {
        "htautau/1/model.onnx", "htautau/config.pbtxt", "htautau/labels.txt"
    }  # fmt: skip
    assert (folder / "1" / "model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()
    config = read_config(folder)
    assert (config.name, config.platform, config.max_batch_size) == ("htautau", "onnxruntime_onnx", 1024)
    assert config.HasField("dynamic_batching")
    (given,), (scores,) = config.input, config.output
    assert (given.name, given.data_type, list(given.dims)) == ("inputs", model_config_pb2.TYPE_FP32, [5])
    assert (scores.name, scores.data_type, list(scores.dims)) == ("scores", model_config_pb2.TYPE_FP32, [1])
    assert scores.label_filename == "labels.txt"
    assert (folder / "labels.txt").read_text() == "VBF\n"  # the score is the probability of the second class


def test_a_second_export_is_a_new_version_and_changes_nothing_else(tmp_path: Path) -> None:
    models = tmp_path / "models"
    add_to_repository(write_bundle(tmp_path / "a"), models)
    config = models / "htautau" / "config.pbtxt"
    config.write_text(config.read_text() + "instance_group [ { kind: KIND_GPU } ]\n")
    (models / "htautau" / "7").mkdir()
    (models / "notes.txt").write_text("mine")
    before = snapshot(models)
    newer = write_bundle(tmp_path / "b", graph=onnx_model([5.0] * 5))
    assert add_to_repository(newer, models) == models / "htautau" / "8"
    after = snapshot(models)
    assert after.pop("htautau/8/model.onnx") == (newer / "model.onnx").read_bytes()
    assert after == before
    assert sorted(path.name for path in (models / "htautau").iterdir()) == ["1", "7", "8", "config.pbtxt", "labels.txt"]


@pytest.mark.parametrize("change", ["width", "outputs", "labels", "no config"])
def test_another_model_of_the_name_is_not_changed(tmp_path: Path, change: str) -> None:
    models = tmp_path / "models"
    add_to_repository(write_bundle(tmp_path / "a"), models)
    graph = {"width": onnx_model([1.0] * 4), "outputs": onnx_model(outputs=2)}.get(change)
    bundle = write_bundle(tmp_path / "b", graph=graph)
    if change == "labels":
        (bundle / "labels.txt").write_text("a\nb\n")
    if change == "no config":
        (models / "htautau" / "config.pbtxt").unlink()
    before = snapshot(models)
    done = run_client(f"--bundle={bundle}", f"--to={models}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "choose another repository, or another name in params.json" in done.stderr
    assert snapshot(models) == before
    assert {path.name for path in models.iterdir()} == {"htautau"}


def test_graphs_of_other_shapes_and_types(tmp_path: Path) -> None:
    """Two inputs, an output without a second dimension, and one of integers."""
    helper, proto = onnx.helper, onnx.TensorProto
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Squeeze", ["a", "axes"], ["first"]),
        helper.make_node("Cast", ["b"], ["second"], to=proto.INT64),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [info("a", proto.FLOAT, ["n", 1]), info("b", proto.BOOL, ["n", 3])],
        [info("first", proto.FLOAT, ["n"]), info("second", proto.INT64, ["n", None])],
        [onnx.numpy_helper.from_array(np.array([1]), "axes")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    bundle = write_bundle(tmp_path / "two", "two", model.SerializeToString(), output_name="second")
    (bundle / "labels.txt").write_text("a\nb\nc\n")
    config = read_config(add_to_repository(bundle, tmp_path / "models").parent)
    assert [(one.name, list(one.dims)) for one in config.input] == [("a", [1]), ("b", [3])]
    assert config.input[1].data_type == model_config_pb2.TYPE_BOOL
    first, second = config.output
    assert (list(first.dims), first.HasField("reshape"), list(first.reshape.shape)) == ([1], True, [])
    assert (list(second.dims), second.data_type) == ([-1], model_config_pb2.TYPE_INT64)
    assert (first.label_filename, second.label_filename) == ("", "labels.txt")
    fixed = write_bundle(tmp_path / "fixed", "fixed", onnx_model(batch=1))
    config = read_config(add_to_repository(fixed, tmp_path / "models").parent)
    assert (config.max_batch_size, config.HasField("dynamic_batching")) == (0, False)
    assert list(config.input[0].dims) == [1, 5]


@pytest.mark.parametrize("change", ["no params", "keras", "damaged", "archive", "no graph"])
def test_bundles_that_triton_cannot_run_are_refused(tmp_path: Path, change: str) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    reasons = {
        "no params": "is not a model folder: it has no params.json",
        "keras": "is model.keras, not an ONNX graph",
        "damaged": "model.onnx is not an ONNX graph",
        "archive": "is not a model folder",
        "no graph": "'model' in params.json is the file 'model.onnx', which is not in the upload",
    }
    if change == "no params":
        (bundle / "params.json").unlink()
    elif change == "keras":
        (bundle / "model.onnx").rename(bundle / "model.keras")
        content = json.loads((bundle / "params.json").read_text())
        (bundle / "params.json").write_text(json.dumps({**content, "model": "model.keras"}))
    elif change == "damaged":
        (bundle / "model.onnx").write_bytes(b"\x07damaged")
    elif change == "archive":
        bundle = Path(shutil.make_archive(str(tmp_path / "a"), "gztar", bundle))
    else:
        (bundle / "model.onnx").unlink()
    with pytest.raises(ConfigError) as error:
        add_to_repository(bundle, tmp_path / "models")
    assert reasons[change] in error.value.what
    assert not (tmp_path / "models").exists()


def test_to_needs_a_bundle() -> None:
    done = run_client("--models", "--to=x")
    assert (done.returncode, done.stderr) == (1, "error: --to cannot be used with --models, only with --bundle\n")
