"""Models with object inputs: examples from ROOT files to ONNX, and errors for unsuitable models."""

import awkward as ak
import numpy as np
import onnxruntime
import pytest
from check_backend import check_raw_events
from tinyroot import write_tree

from mlaas4hep.backends.make import make_backend
from mlaas4hep.backends.model_file import load_model_file
from mlaas4hep.backends.task import Task
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError
from mlaas4hep.stream import DataGenerator
from mlaas4hep.training import train_model
from mlaas4hep.training.loop import evaluate, train

pytestmark = pytest.mark.usefixtures("without_plots", "without_trial_export")

EVENTS = 700
"""Of each class."""

PARAMS = {
    "epochs": 6, "batch_size": 32, "selected_branches": [], "tfaas": False, "trial_export": False,
    "inputs": {
        "jets": {"branches": ["Jet_pt", "Jet_eta"], "length": 4, "sort": "-Jet_pt"},
        "event": {"branches": ["MET_pt", "Muon_pt"]},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write events with unsorted lists of jets; signal has two jets of high momentum, far apart in angle."""
    folder = tmp_path_factory.mktemp("jets")
    for seed, name in enumerate(("background", "signal")):
        rng = np.random.default_rng(seed)
        counts, muons = rng.integers(0, 7, EVENTS), rng.integers(0, 3, EVENTS)
        pt, eta = rng.exponential(20, counts.sum()), rng.normal(0, 1.5, counts.sum())
        if name == "signal":
            pt, eta = pt * rng.choice([1, 4], len(pt)), eta * 2
        columns = {
            "run": np.full(EVENTS, seed, np.uint32),
            "luminosityBlock": np.ones(EVENTS, np.uint32),
            "event": np.arange(EVENTS, dtype=np.uint64),
            "MET_pt": rng.exponential(30, EVENTS).astype("f4"),
            "Muon_pt": ak.unflatten(rng.exponential(20, muons.sum()).astype("f4"), muons),
            "Jet_pt": ak.unflatten(pt.astype("f4"), counts),
            "Jet_eta": ak.unflatten(eta.astype("f4"), counts),
        }
        write_tree(folder / f"{name}.root", columns, clusters=2)
    return [str(folder / "background.root"), str(folder / "signal.root")]


@pytest.mark.parametrize(
    "model",
    [
        "ex_deepsets_keras",
        "ex_deepsets_pytorch",
        pytest.param("ex_transformer_keras", marks=pytest.mark.slow),
        "ex_transformer_pytorch",
    ],
)
def test_example_models_learn_and_onnx_reproduces_their_scores_for_raw_events(files, model, tmp_path):
    params = Params.parse(PARAMS)
    with DataGenerator(files, ["background", "signal"], params) as generator:
        task = Task.of(generator.sample.labels)
        backend = make_backend(load_model_file(f"{model}.py"), generator.shapes, task, params)
        train(generator, backend, params)
        assert evaluate(generator, backend, "test").metrics()["auc"] > 0.8
        raw = generator.examples(400, None, raw=True)
        assert np.isfinite(raw.x[:, generator.columns.index("Jet_pt_4")]).any()  # some lists are longer than 4
        assert np.isnan(raw.x[:, generator.columns.index("Jet_pt_0")]).any()  # some events have no jet
        check_raw_events(generator, backend, tmp_path)


SUBCLASSED = """
import keras
class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.jet, self.out = keras.layers.Dense(32, activation="relu"), keras.layers.Dense(1)
    def call(self, jets, event, jets_mask):
        each = self.jet(jets) * keras.ops.expand_dims(jets_mask, -1)
        return self.out(keras.ops.concatenate([keras.ops.sum(each, axis=1), event], axis=1))
def model(shapes):
    return Net()
"""


def test_a_subclassed_keras_model_names_its_inputs_by_the_arguments_of_call(files, tmp_path):
    (tmp_path / "own.py").write_text(SUBCLASSED)
    labels, params = ["background", "signal"], Params.parse(PARAMS)
    trained = train_model(files, labels, str(tmp_path / "own.py"), params, fout=tmp_path / "bundle")
    assert trained.backend.takes == ("jets", "event", "jets_mask")
    assert trained.metrics()["test"]["auc"] > 0.8
    session = onnxruntime.InferenceSession(tmp_path / "bundle" / "model.onnx", providers=["CPUExecutionProvider"])
    raw, events = trained.source.examples(400, raw=True), trained.source.examples(400)
    found = session.run(["scores"], {"inputs": raw.x})[0]
    np.testing.assert_allclose(found, trained.backend.predict(events.inputs), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("ex_pytorch.py", "fails, line 15: TypeError"),
        (
            """
import torch
class Net(torch.nn.Module):
    def forward(self, jet, event):
        return event
def model(shapes):
    return Net()
""",
            "takes an unknown input 'jet'; closest: 'jets'.*; the inputs are jets, event, jets_mask, event_mask",
        ),
        (
            SUBCLASSED.replace("jets, event", "jet, event"),
            "call of the model of .* takes an unknown input 'jet'; closest: 'jets'",
        ),
        (
            """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.out = torch.nn.Linear(99, 1)
    def forward(self, event):
        return self.out(event)
def model(shapes):
    return Net()
""",
            r"does not accept inputs of the shapes jets \\(4, 2\\), event \\(3,\\)",
        ),
    ],
)
def test_a_model_with_unknown_inputs_is_refused_with_the_known_ones(files, model, message, tmp_path):
    name = model
    if not model.endswith(".py"):
        (tmp_path / "own.py").write_text(model)
        name = str(tmp_path / "own.py")
    with pytest.raises(ConfigError, match=message.replace("\\\\", "\\")):
        train_model(files, ["a", "b"], name, Params.parse(PARAMS), fout=tmp_path / "bundle")


def test_several_inputs_need_labels(files, tmp_path):
    with pytest.raises(ConfigError, match="events of several inputs need labels"):
        train_model(files, None, "ex_deepsets_pytorch.py", Params.parse(PARAMS), fout=tmp_path / "bundle")
