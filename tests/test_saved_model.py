"""SavedModels and frozen graphs for stock TFaaS give the scores of the ONNX graph, with the tensor names of TFaaS."""

import json
import subprocess
import sys
import warnings

import numpy as np
import onnx
import pytest
from onnx import helper
from scripts import ROOT, run_forked
from test_onnx_graph import raw_events, specs_of_odd_columns
from test_onnx_ops import ROWS, graph_of, grow, onnx_scores, weights
from test_statistics import expected
from tinyroot import write_events

from mlaas4hep.backends.make import make_backend
from mlaas4hep.backends.model_file import load_model_file
from mlaas4hep.backends.task import Task
from mlaas4hep.config import Params, parse_inputs
from mlaas4hep.errors import ConfigError
from mlaas4hep.io import Jagged
from mlaas4hep.onnx_to_tf.saved_model import write_frozen_graph, write_saved_model
from mlaas4hep.reader import VectorLayout
from mlaas4hep.reader.inputs import Inputs
from mlaas4hep.stream import DataGenerator
from mlaas4hep.training import train_model
from mlaas4hep.training.onnx_graph import prepend_inputs

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.usefixtures("without_plots", "without_trial_export")


def session_scores(folder, samples):
    """Score as the Go server does: load the tag `serve`, feed and fetch by names of operations."""
    with warnings.catch_warnings(), tf.Graph().as_default(), tf.compat.v1.Session() as session:
        warnings.simplefilter("ignore")
        tf.compat.v1.saved_model.loader.load(session, ["serve"], str(folder))
        return [session.run("StatefulPartitionedCall:0", {"serving_default_inputs_input:0": x}) for x in samples]


def frozen_scores(path, samples):
    definition = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    assert not [node.name for node in definition.node if "Var" in node.op]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(definition, name="")
        return [session.run("scores:0", {"inputs:0": x}) for x in samples]


def check(folder, samples, tolerance):
    """Check that both graphs in a folder give the scores of its ONNX graph."""
    model = onnx.load(folder / "model.onnx")
    saved, frozen = session_scores(folder / "saved", samples), frozen_scores(folder / "frozen.pb", samples)
    for events, one, other in zip(samples, saved, frozen, strict=True):
        truth = onnx_scores(model, events)
        assert np.isfinite(truth).all()
        np.testing.assert_allclose(one, truth, atol=tolerance, rtol=0)
        np.testing.assert_allclose(other, truth, atol=tolerance, rtol=0)


def object_inputs():
    """Return inputs of sorted jets, padded to 5, and of event variables; raw events have up to 6 jets."""
    rng = np.random.default_rng(5)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 7, 300))])
    table = {
        "pt": Jagged(offsets, rng.exponential(30, offsets[-1]).astype("f4")),
        "eta": Jagged(offsets, rng.normal(size=offsets[-1]).astype("f4")),
        "met": rng.exponential(50, 300),
        "hits": rng.normal(size=(300, 3)).astype("f4"),
    }
    params = {"jets": {"branches": ["eta", "pt"], "length": 5, "sort": "-pt"}, "event": {"branches": ["met", "hits"]}}
    inputs = Inputs.of(expected([(table, 300)]), parse_inputs(params))
    x = inputs.raw_vectors(table, 300)[0]["x"]
    x[0], x[1], x[2], x[3] = np.nan, np.inf, -np.inf, 3e38
    return inputs, x


def vector_inputs():
    specs = specs_of_odd_columns()
    return Inputs.of(specs), raw_events(VectorLayout.of(specs), np.random.default_rng(1))


def write_onnx(name, path, classes=2):
    """Write the ONNX graph of an example model as a bundle does, and return raw events for it."""
    vector = name in ("ex_keras", "ex_pytorch")
    inputs, x = vector_inputs() if vector else object_inputs()
    file, shapes = load_model_file(f"{name}.py"), {one.name: one.shape for one in inputs.members}
    backend = make_backend(file, shapes, Task.classification(classes), Params(seed=3))
    backend.export(path)
    onnx.save(prepend_inputs(onnx.load(path), inputs, backend.takes), path)
    return x


@pytest.mark.parametrize(
    ("name", "classes"),
    [("ex_keras", 3), ("ex_pytorch", 2), ("ex_deepsets_keras", 2), ("ex_transformer_pytorch", 2),
     pytest.param("ex_deepsets_pytorch", 3, marks=pytest.mark.slow),
     pytest.param("ex_transformer_keras", 2, marks=pytest.mark.slow)],
)  # fmt: skip
def test_example_models_give_the_same_scores_with_the_tensor_names_of_tfaas(name, classes, tmp_path, capfd):
    x = write_onnx(name, tmp_path / "model.onnx", classes)
    capfd.readouterr()
    write_saved_model(tmp_path / "model.onnx", tmp_path / "saved")
    write_frozen_graph(tmp_path / "model.onnx", tmp_path / "frozen.pb")
    assert capfd.readouterr() == ("", "")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"assets", "variables", "saved_model.pb"}
    check(tmp_path, [x[:1], x[:7], x], 1e-5)


def test_trees_give_the_same_scores_with_the_tensor_names_of_tfaas(tmp_path):
    rng = np.random.default_rng(0)
    options, leaves = grow(rng, ["BRANCH_LT"])
    options |= weights(rng, leaves, "class", (0,)) | {"classlabels_int64s": [0, 1], "post_transform": "LOGISTIC"}
    node = helper.make_node("TreeEnsembleClassifier", ["inputs"], ["label", "scores"], domain="ai.onnx.ml", **options)
    x = rng.normal(0, 2, (7, 6)).astype(np.float32)
    onnx.save(graph_of([node], x, {}), tmp_path / "model.onnx")
    write_saved_model(tmp_path / "model.onnx", tmp_path / "saved")
    write_frozen_graph(tmp_path / "model.onnx", tmp_path / "frozen.pb")
    check(tmp_path, [x[:1], x], 1e-6)


@pytest.mark.parametrize(("model", "kfold"), [("ex_xgboost", 0), ("ex_sklearn", 0), ("ex_pytorch", 2)])
def test_a_bundle_is_a_saved_model_and_has_a_frozen_graph(model, kfold, tmp_path):
    """Compares a TensorFlow session on the bundle of a run, as in TFaaS, with ONNX Runtime."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 900)
    write_events(tmp_path / "a.root", 900, kind=kind, shift=(kind + rng.normal(size=900)).astype("f4"))
    params = Params(kfold=kfold, epochs=1)
    train_model(str(tmp_path / "a.root"), "kind", f"{model}.py", params, fout=tmp_path / "saved")
    with DataGenerator(str(tmp_path / "a.root"), "kind", {}, str(tmp_path / "saved" / "specs.json")) as generator:
        x = generator.examples(100, raw=True).x
    (tmp_path / "model.onnx").write_bytes((tmp_path / "saved" / "model.onnx").read_bytes())
    (tmp_path / "frozen.pb").write_bytes((tmp_path / "saved" / "model.pb").read_bytes())
    check(tmp_path, [x[:1], x], 1e-5)
    upload = json.loads((tmp_path / "saved" / "upload_tfaas.json").read_text())
    told = json.loads((tmp_path / "saved" / upload["params"]).read_text())
    assert (upload["model"], told["model"]) == ("model.pb", "model.pb")
    assert (told["input_node"], told["output_node"], told["name"]) == ("inputs", "scores", upload["name"])
    assert told["options"] == ["missing=-9999999"]
    assert np.isnan(x).any(axis=1).sum() > 10  # short lists
    numbers = np.where(np.isnan(x), np.float32(-9999999), x)
    truth = onnx_scores(onnx.load(tmp_path / "model.onnx"), x)
    for scores in (*session_scores(tmp_path / "saved", [numbers]), *frozen_scores(tmp_path / "frozen.pb", [numbers])):
        np.testing.assert_allclose(scores, truth, atol=1e-5, rtol=0)


def test_the_number_for_missing_values_is_not_in_the_sample(tmp_path):
    """A branch that uses -9999999 itself: the graph reads it as a value, and another number as missing."""
    kind, rng = np.arange(600) % 2, np.random.default_rng(0)
    write_events(tmp_path / "a.root", 600, kind=kind, odd=np.where(rng.random(600) < 0.5, -9999999, kind).astype("f8"))
    params = Params(epochs=1, selected_branches=["odd", "pt"])
    train_model(str(tmp_path / "a.root"), "kind", "ex_sklearn.py", params, fout=tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "params.json").read_text())["options"] == ["missing=-16777215"]
    model = onnx.load(tmp_path / "saved" / "model.onnx")
    width = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    x = np.full((3, width), np.nan, np.float32)
    x[1:, 0] = -9999999, 1
    scores = session_scores(tmp_path / "saved", [np.where(np.isnan(x), np.float32(-16777215), x)])[0]
    np.testing.assert_allclose(scores, onnx_scores(model, x), atol=1e-6, rtol=0)
    assert len(np.unique(scores)) == 3


def test_a_bundle_written_without_tensorflow_is_reported_as_not_for_stock_tfaas(tmp_path):
    write_events(tmp_path / "a.root", 600, kind=np.arange(600) % 2)
    code = """
import sys
sys.modules["tensorflow"] = None  # simulate that it is not installed
from mlaas4hep.report import plots
plots.available = lambda: False  # saves seconds
from mlaas4hep.config import Params
from mlaas4hep.training import train_model
train_model("a.root", "kind", "ex_pytorch.py", Params(epochs=1, tfaas=sys.argv[1] == "yes"), fout="model")
"""
    (tmp_path / "run.py").write_text(code)
    said = []
    for tfaas in ("yes", "no"):
        done = run_forked(tmp_path / "run.py", tfaas, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        said.append([line for line in done.stderr.splitlines() if "TFaaS" in line])
        assert (tmp_path / "model" / "model.onnx").exists()
        assert not (tmp_path / "model" / "saved_model.pb").exists()
    ((line,), none) = said
    assert line.startswith("note: the bundle works only with our own server, not with stock TFaaS, because TensorF")
    assert none == []


def test_an_unsupported_op_is_named_in_one_line(tmp_path):
    nodes = [helper.make_node("Det", ["inputs"], ["a"]), helper.make_node("Own", ["a"], ["scores"], domain="mine"),
             helper.make_node("Unknown", ["a"], ["nobody wants this"])]  # fmt: skip
    onnx.save(graph_of(nodes, ROWS, {}), tmp_path / "model.onnx")
    for write in (write_saved_model, write_frozen_graph):
        with pytest.raises(ConfigError) as caught:
            write(tmp_path / "model.onnx", tmp_path / "out")
        assert str(caught.value) == "the ONNX ops Det, mine.Own cannot be converted to TensorFlow"
    assert not (tmp_path / "out").exists()


def test_importing_tensorflow_for_the_export_prints_nothing(tmp_path):
    onnx.save(graph_of([helper.make_node("Relu", ["inputs"], ["scores"])], ROWS, {}), tmp_path / "model.onnx")
    code = (
        "import sys; from pathlib import Path; from mlaas4hep.onnx_to_tf.saved_model import write_saved_model;"
        "assert 'tensorflow' not in sys.modules; write_saved_model(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, tmp_path / "model.onnx", tmp_path / "saved"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
