"""Inputs that losses and training steps get, but neither the model nor predictions."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
import uproot
from scripts import ROOT, run_script
from tinyroot import write_events

from mlaas4hep.backends.make import make_backend
from mlaas4hep.backends.model_file import load_model_file
from mlaas4hep.backends.task import Task
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError
from mlaas4hep.scoring.files import score_files
from mlaas4hep.stream import Batch, DataGenerator
from mlaas4hep.training import train_model

INPUTS = {
    "event": {"branches": ["met", "shift"]},
    "aux": {"branches": ["mass"], "training_only": True, "normalise": "none"},
}
EXAMPLE = ROOT / "examples/models/ex_disco_pytorch.py"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two classes with `shift`, which is correlated with `mass`, and data without the mass."""
    folder, rng = tmp_path_factory.mktemp("mass"), np.random.default_rng(0)
    for number, name in enumerate(("b", "s", "data")):
        mass = rng.normal(80, 5, 1200) if name == "s" else rng.uniform(40, 140, 1200)
        shift = (mass - 80) ** 2 / 100 + rng.normal(size=1200) - 3 * (name == "s")
        more = {} if name == "data" else {"mass": mass}
        write_events(folder / f"{name}.root", 1200, seed=number, run=number + 1, shift=shift, **more)
    return folder


def test_a_bundle_of_the_example_needs_no_mass(files, tmp_path, without_plots):
    params = Params.parse({"epochs": 2, "inputs": INPUTS, "batch_size": 512, "tfaas": False})
    trained = train_model(
        [files / "b.root", files / "s.root"], ["b", "s"], EXAMPLE.name, params, fout=tmp_path / "bundle"
    )
    events = trained.source.examples(10_000, "valid")  # the validation set is one batch
    example, scores = load_model_file(str(EXAMPLE)), torch.tensor(trained.backend.predict(events.inputs))
    arguments = scores.logit(), torch.tensor(events.y[:, None]).float(), torch.tensor(events.weight)
    own = example.loss(*arguments, {"aux": torch.tensor(events.inputs["aux"])})
    best = trained.fits[0].history
    assert best.epochs[best.best - 1].loss == pytest.approx(float(own), rel=1e-3)
    assert trained.source.shapes == {"event": (2,)}
    training = json.loads((tmp_path / "bundle" / "training.json").read_text())
    assert training["columns"] == ["met", "shift"]
    ((path, _, _),) = score_files(tmp_path / "bundle", [files / "data.root"], tmp_path / "scores")
    with uproot.open(files / "data.root") as file:
        rows = np.stack([file["Events"][name].array(library="np") for name in ("met", "shift")], axis=1)
    session = onnxruntime.InferenceSession(tmp_path / "bundle" / "model.onnx")
    (truth,) = session.run(None, {"inputs": rows.astype("f4")})
    with uproot.open(path) as file:
        np.testing.assert_allclose(file["scores"]["score_s"].array(library="np"), truth[:, 0], atol=1e-6)


def test_batches_have_training_only_inputs_in_the_units_of_the_file(files):
    with DataGenerator([files / "b.root", files / "s.root"], ["b", "s"], {"inputs": INPUTS}) as generator:
        assert generator.columns == ["met", "shift"]
        batch = next(generator.batches("train"))
    with uproot.open(files / "b.root") as one, uproot.open(files / "s.root") as other:
        mass = [file["Events"]["mass"].array(library="np") for file in (one, other)]
    truth = [mass[file][entry] for file, entry in zip(batch.file, batch.entry, strict=True)]
    np.testing.assert_allclose(batch.inputs["aux"][:, 0], truth, rtol=1e-6)
    assert batch.inputs["aux_mask"].all()


def batch_of(classes, events=40):
    """A batch with the input `event`, and the training-only input `aux` with one missing value."""
    rng = np.random.default_rng(1)
    inputs = {"event": rng.normal(size=(events, 2)).astype("f4"), "event_mask": np.ones((events, 2), bool)}
    inputs |= {"aux": rng.normal(size=(events, 3)).astype("f4"), "aux_mask": np.arange(3 * events).reshape(-1, 3) > 0}
    zeros = np.zeros(events, np.int8)
    weight = rng.uniform(-0.5, 2, events).astype("f4")
    return Batch(inputs, rng.integers(0, classes, events), weight, {}, zeros, zeros, np.arange(events))


LOSS = """
def loss(outputs, labels, weights, aux):
    assert set(aux) == {{"aux", "aux_mask"}} and aux["aux"].shape[1:] == (3,)
    number = {cast}
    residual = (outputs - number) ** 2
    return {total}(weights * {mean}(residual) * {total_of_mask}) + {total}(aux["aux"][:, 1] * weights)
"""
TORCH = """
import torch
def model(shapes, outputs): return Net(shapes["event"][0], outputs)
class Net(torch.nn.Module):
    def __init__(self, width, outputs):
        super().__init__()
        self.layer = torch.nn.Linear(width, outputs)
    def forward(self, event): return self.layer(event)
""" + LOSS.format(
    cast="labels.float().reshape(len(labels), -1)",
    total="torch.sum",
    mean="(lambda z: z.mean(1))",
    total_of_mask='aux["aux_mask"].sum(1)',
)
KERAS = """
import keras
from keras import ops
def model(shapes, outputs):
    event = keras.Input(shapes["event"], name="event")
    return keras.Model(event, keras.layers.Dense(outputs)(event))
""" + LOSS.format(
    cast='ops.reshape(ops.cast(labels, "float32"), (-1, 1))',
    total="ops.sum",
    mean="(lambda z: ops.mean(z, 1))",
    total_of_mask='ops.sum(aux["aux_mask"], 1)',
)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("text", [TORCH, KERAS], ids=["torch", "keras"])
def test_a_loss_with_four_arguments_gets_weights_and_training_only_inputs(text, classes, tmp_path):
    (tmp_path / "model.py").write_text(text)
    params = Params.parse({"inputs": INPUTS, "mixed_precision": False})
    backend = make_backend(
        load_model_file(str(tmp_path / "model.py")), {"event": (2,)}, Task.classification(classes), params
    )
    batch = batch_of(classes)
    weights, bias = (
        np.asarray(one.detach() if hasattr(one, "detach") else one)
        for one in (backend.model.parameters() if "torch" in text else backend.model.weights)
    )
    outputs = batch.inputs["event"].astype("f8") @ (weights.T if "torch" in text else weights) + bias
    ((loss, size),) = backend.steps([batch])
    residual = ((outputs - batch.y[:, None]) ** 2).mean(axis=1) * batch.inputs["aux_mask"].sum(axis=1)
    truth = (batch.weight * residual).sum() + (batch.inputs["aux"][:, 1] * batch.weight).sum()
    assert float(loss) == pytest.approx(truth, rel=1e-5)
    assert size == pytest.approx(np.abs(batch.weight).sum(), rel=1e-6)
    assert backend.batch_loss(batch) < float(loss)  # after one step
    before = backend.predict(batch.inputs)
    list(backend.steps([batch] * 5))
    assert not np.allclose(before, backend.predict(batch.inputs))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TORCH.partition("def loss")[0], "input 'aux' is training_only, but nothing in .* uses it; define loss"),
        (
            TORCH.replace("return torch.sum", "return torch.ones(3) * torch.sum"),
            "must return the loss of the batch as one",
        ),
        (
            KERAS.replace("return keras.Model(", "m = keras.Model(").replace(
                "(event))\n", '(event))\n    m.compile("adam", "mse")\n    return m\n'
            ),
            "is compiled, so `loss` is not used; do not compile it",
        ),
    ],
    ids=["unused", "per event", "compiled"],
)
def test_a_model_file_that_does_not_use_them_properly_is_refused(text, says, tmp_path):
    (tmp_path / "model.py").write_text(text)
    file, params = load_model_file(str(tmp_path / "model.py")), Params.parse({"inputs": INPUTS})
    with pytest.raises(ConfigError, match=says):
        list(make_backend(file, {"event": (2,)}, Task.classification(2), params).steps([batch_of(2)]))


def test_at_least_one_input_is_for_the_model():
    with pytest.raises(ConfigError, match="all inputs are 'training_only'"):
        Params.parse({"inputs": {"aux": INPUTS["aux"]}})


def test_a_training_step_gets_them(tmp_path):
    text = TORCH.partition("def loss")[0] + (
        "def training_step(model, inputs, y, weight):\n"
        "    return (model(inputs['event'])[:, 0] * inputs['aux'][:, 0] * weight).sum()\n"
    )
    (tmp_path / "model.py").write_text(text)
    file, params = load_model_file(str(tmp_path / "model.py")), Params.parse({"inputs": INPUTS})
    backend, batch = make_backend(file, {"event": (2,)}, Task.classification(2), params), batch_of(2)
    with torch.no_grad():
        output = backend.model(torch.tensor(batch.inputs["event"]))[:, 0].numpy()
    ((loss, _),) = backend.steps([batch])
    assert float(loss) == pytest.approx((output * batch.inputs["aux"][:, 0] * batch.weight).sum(), rel=1e-4)


def test_the_distance_correlation_of_the_example_is_its_definition():
    example = load_model_file(str(EXAMPLE))
    correlation = example.loss.__globals__["squared_distance_correlation"]
    rng = np.random.default_rng(2)
    x, weight = rng.normal(size=30), rng.uniform(0.2, 3, 30)
    y = x**2 + 0.3 * rng.normal(size=30)
    share = weight / weight.sum()

    def covariance(first, second):
        """The sums over two and three independent events, written out."""
        a, b = (np.abs(np.subtract.outer(z, z)) for z in (first, second))
        both = np.einsum("i,j,ij,ij", share, share, a, b)
        apart = np.einsum("i,j,ij", share, share, a) * np.einsum("i,j,ij", share, share, b)
        return both + apart - 2 * np.einsum("i,j,k,ij,ik", share, share, share, a, b)

    truth = covariance(x, y) / np.sqrt(covariance(x, x) * covariance(y, y))
    found = correlation(*map(torch.tensor, (x, y, weight)))
    assert float(found) == pytest.approx(truth, rel=1e-9)
    assert float(correlation(*map(torch.tensor, (x, 3 * x + 1, weight)))) == pytest.approx(1)


@pytest.mark.slow
def test_the_example_draws_its_figure(tmp_path):
    done = run_script("examples/mass_decorrelation.py", "--fout=mass.png", "--events=20000", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    alone, decorrelated = (float(line.split()[-2]) for line in done.stdout.splitlines()[:2])
    assert decorrelated < alone / 3
    assert (tmp_path / "mass.png").read_bytes().startswith(b"\x89PNG")
