"""Keras and PyTorch behind one interface: shipped models, and models as users write them."""

from dataclasses import replace

import numpy as np
import pytest
from check_backend import SHAPES, check_backend, toy_batches

from mlaas4hep.errors import ConfigError
from mlaas4hep.stream import Batch
from mlaas4hep.training.backend import make_backend
from mlaas4hep.training.model_file import load_model_file

MODELS = {
    "torch, sigmoid at the end": """
from torch import nn
def model(idim):
    return nn.Sequential(nn.Linear(idim, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())
""",
    "torch, sigmoid inside forward": """
import torch
class Net(torch.nn.Module):
    def __init__(self, idim):
        super().__init__()
        self.hidden, self.out = torch.nn.Linear(idim, 16), torch.nn.Linear(16, 1)
    def forward(self, x):
        return torch.sigmoid(self.out(torch.relu(self.hidden(x))))[:, 0]
def model(idim):
    return Net(idim)
""",
    "torch, two logits": """
from torch import nn
def model(idim):
    return nn.Sequential(nn.Linear(idim, 16), nn.ReLU(), nn.Linear(16, 2))
""",
    "torch, log-softmax": """
from torch import nn
def model(idim):
    return nn.Sequential(nn.Linear(idim, 16), nn.ReLU(), nn.Linear(16, 2), nn.LogSoftmax(dim=1))
""",
    "torch, with mask, optimizer and loss": """
import torch
class Net(torch.nn.Module):
    def __init__(self, idim):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(2 * idim, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    def forward(self, x, mask):
        return self.net(torch.cat([x, mask], dim=1))
def model(idim):
    return Net(idim)
def optimizer(weights):
    return torch.optim.SGD(weights, lr=0.1, momentum=0.9)
loss = torch.nn.BCEWithLogitsLoss()
""",
    "torch, training step": """
import torch
def model(idim):
    return torch.nn.Sequential(torch.nn.Linear(idim, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
def training_step(net, x, mask, y, weight):
    return torch.nn.functional.binary_cross_entropy_with_logits(net(x)[:, 0], y.float())
""",
    "keras, logits, not compiled": """
import keras
def model(idim):
    return keras.Sequential([keras.layers.Dense(16, activation="relu"), keras.layers.Dense(1)])
""",
    "keras, softmax with categorical cross-entropy, as in the original": """
import keras
def model(idim):
    net = keras.Sequential([keras.Input((idim,)), keras.layers.Dense(32, activation="relu"),
                            keras.layers.Dense(2, activation="softmax")])
    net.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
    return net
""",
    "keras, with mask, loss and optimizer": """
import keras
def model(idim):
    x, mask = keras.Input((idim,)), keras.Input((idim,))
    hidden = keras.layers.Dense(16, activation="relu")(keras.layers.Concatenate()([x, mask]))
    return keras.Model([x, mask], keras.layers.Dense(1, activation="sigmoid")(hidden))
loss = keras.losses.BinaryFocalCrossentropy()
optimizer = "rmsprop"
""",
}


def write(folder, text):
    path = folder / "mine.py"
    path.write_text(text, encoding="utf-8")
    return load_model_file(str(path))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", ["ex_keras.py", "ex_pytorch.py"])
def test_shipped_models_keep_the_contract(name, classes, tmp_path):
    backend = check_backend(load_model_file(name), classes, tmp_path)
    assert backend.outputs == (1 if classes == 2 else 3)


@pytest.mark.parametrize("name", MODELS)
def test_models_as_users_write_them_keep_the_contract(name, tmp_path):
    check_backend(write(tmp_path, MODELS[name]), 2, tmp_path)


@pytest.mark.parametrize("name", ["torch, two logits", "keras, logits, not compiled"])
def test_a_weight_of_two_is_an_event_that_stands_twice(name, tmp_path):
    once = toy_batches(events=64, size=64)[0]
    weights = np.random.default_rng(0).integers(1, 4, 64)
    weighted = replace(once, weight=weights.astype(np.float32))
    repeated = once[np.repeat(np.arange(64), weights)]
    repeated = Batch(
        repeated.inputs, repeated.y, np.ones_like(repeated.weight), {}, repeated.part, repeated.file, repeated.entry
    )
    file = write(tmp_path, MODELS[name])
    losses = [make_backend(file, SHAPES, 2, seed=5).fit([batch]) for batch in (weighted, repeated)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_model_with_the_wrong_number_of_outputs_is_told_what_is_needed(tmp_path):
    file = write(tmp_path, "from torch import nn\ndef model(idim): return nn.Linear(idim, 5)")
    with pytest.raises(ConfigError, match="it must give 1 or 2 numbers an event"):
        make_backend(file, SHAPES, 2, seed=0)
    with pytest.raises(ConfigError, match="3 numbers an event, one for each class"):
        make_backend(file, SHAPES, 3, seed=0)


def test_a_model_for_other_vectors_is_refused_before_training(tmp_path):
    file = write(tmp_path, "from torch import nn\ndef model(idim): return nn.Linear(17, 1)")
    with pytest.raises(ConfigError, match="does not take vectors of 6 numbers"):
        make_backend(file, SHAPES, 2, seed=0)


def test_something_that_is_no_model_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"returns a builtins\.int.*must be a Keras model or a torch\.nn\.Module"):
        make_backend(write(tmp_path, "def model(idim): return 3"), SHAPES, 2, seed=0)


def test_a_torch_model_is_saved_so_that_loading_unpickles_nothing(tmp_path):
    import torch

    backend = make_backend(load_model_file("ex_pytorch.py"), SHAPES, 2, seed=0)
    weights = torch.load(tmp_path / backend.save(tmp_path), weights_only=True)
    assert sum(weight.numel() for weight in weights.values()) == backend.parameters()


def test_a_keras_model_is_saved_so_that_loading_runs_no_code(tmp_path):
    import keras

    backend = make_backend(load_model_file("ex_keras.py"), SHAPES, 2, seed=0)
    every = toy_batches(events=8)[0]
    again = keras.saving.load_model(tmp_path / backend.save(tmp_path), compile=False, safe_mode=True)
    np.testing.assert_allclose(again.predict_on_batch(every.x), backend.predict(every.inputs), atol=1e-6)
