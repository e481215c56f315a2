"""Backends of all frameworks: example models, and models as users write them."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from check_backend import (
    SHAPES,
    check_export,
    check_one_shot,
    check_seeds_and_state,
    check_stepwise,
    epoch_of,
    toy_batches,
)
from scripts import ROOT

from mlaas4hep.backends.make import make_backend
from mlaas4hep.backends.metrics import auc
from mlaas4hep.backends.model_file import load_model_file
from mlaas4hep.backends.task import Task
from mlaas4hep.backends.xgboost import OBJECTIVES
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError
from mlaas4hep.stream import Batch

TWO = Task.classification(2)

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
    "keras, activations that tf2onnx knows by other names": """
import keras
def model(idim):
    x = keras.Input((idim,))
    hidden = keras.layers.Dense(16, activation="gelu")(x)
    hidden = keras.layers.Dense(16, activation="celu")(hidden)
    return keras.Model(x, keras.layers.Dense(1)(hidden + keras.ops.log1p(keras.ops.relu(hidden))))
""",
    "keras, subclassed": """
import keras
class Net(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.hidden, self.drop, self.out = keras.layers.Dense(64), keras.layers.Dropout(0.1), keras.layers.Dense(1)
    def call(self, x, training=False):
        return self.out(self.drop(keras.ops.relu(self.hidden(x)), training=training))
def model(idim):
    return Net()
""",
    "keras, subclassed, with mask, compiled": """
import keras
class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = keras.layers.Dense(16, activation="relu"), keras.layers.Dense(2, activation="softmax")
    def call(self, vector, there):
        return self.out(self.hidden(keras.ops.concatenate([vector, there], axis=1)))
def model(idim):
    net = Net()
    net.compile(optimizer="adam", loss="categorical_crossentropy")
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
    "keras, in half precision by the policy of the file": """
import keras
keras.config.set_dtype_policy("mixed_float16")
class Twice(keras.Layer):
    def __init__(self, units, **options):
        super().__init__(**options)
        self.units, self.first, self.second = units, keras.layers.Dense(units), keras.layers.Dense(units)
    def call(self, x):
        return self.second(keras.ops.relu(self.first(x)))
    def get_config(self):
        return {**super().get_config(), "units": self.units}
def model(idim):
    x = keras.Input((idim,))
    hidden = keras.layers.BatchNormalization()(Twice(16)(x))
    return keras.Model(x, keras.layers.Dense(1, dtype="float32")(keras.ops.relu(hidden)))
""",
    "keras, in half precision by layers": """
import keras
def model(idim):
    half = {"dtype": "mixed_bfloat16"}
    x = keras.Input((idim,))
    inner = keras.Sequential([keras.Input((idim,)), keras.layers.Dense(16, activation="relu", **half)])
    return keras.Model(x, keras.layers.Dense(2, **half)(inner(x)))
""",
}


@pytest.fixture(autouse=True)
def policy_of_keras():
    """Restore the global dtype policy, which model files may change."""
    yield
    if "keras" in sys.modules:
        sys.modules["keras"].config.set_dtype_policy("float32")


def write(folder, text):
    path = folder / "mine.py"
    path.write_text(text, encoding="utf-8")
    return load_model_file(str(path))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", ["ex_keras.py", "ex_pytorch.py"])
def test_example_models_fulfil_the_backend_contract(name, classes, tmp_path):
    backend = check_stepwise(load_model_file(name), classes, tmp_path)
    assert backend.outputs == (1 if classes == 2 else 3)


@pytest.mark.parametrize("name", MODELS)
def test_user_models_fulfil_the_backend_contract(name, tmp_path):
    check_stepwise(write(tmp_path, MODELS[name]), 2, tmp_path)


@pytest.mark.parametrize("name", ["ex_keras.py", "ex_pytorch.py"])
def test_the_seed_determines_example_models_and_states_are_restored(name):
    check_seeds_and_state(load_model_file(name), 3)


SEEDED = ("torch, with mask, optimizer and loss", "keras, in half precision by the policy of the file")
"""`make soak` checks the others, too."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in SEEDED)) for name in MODELS]
)
def test_the_seed_determines_user_models_and_states_are_restored(name, tmp_path):
    check_seeds_and_state(write(tmp_path, MODELS[name]), 2)


ESTIMATORS = {
    "xgboost": "import xgboost\ndef model(idim): return xgboost.XGBClassifier(n_estimators=20)",
    "forest": "from sklearn.ensemble import RandomForestClassifier\n"
    "def model(idim): return RandomForestClassifier(20, max_depth=6)",
    "boosting": "from sklearn.ensemble import HistGradientBoostingClassifier\n"
    "def model(idim): return HistGradientBoostingClassifier(max_iter=20)",
    "perceptron, by epochs": "from sklearn.neural_network import MLPClassifier\n"
    "def model(idim): return MLPClassifier((16,))",
    "linear, by epochs": "from sklearn.linear_model import SGDClassifier\n"
    "def model(idim): return SGDClassifier(loss='log_loss')",
    "pipeline": "from sklearn.linear_model import LogisticRegression\nfrom sklearn.pipeline import make_pipeline\n"
    "from sklearn.preprocessing import StandardScaler\n"
    "def model(idim): return make_pipeline(StandardScaler(), LogisticRegression())",
}


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_fulfil_the_backend_contract(name, classes, tmp_path):
    task, batches = Task.classification(classes), toy_batches(classes=classes)
    backend = check_one_shot(write(tmp_path, ESTIMATORS[name]), task, batches, tmp_path)
    every = Batch.concatenate(batches)
    scores = backend.predict(every.inputs)
    assert auc(every.y, scores) > 0.8
    assert backend.outputs == (1 if classes == 2 else 3)
    again = make_backend(write(tmp_path, ESTIMATORS[name]), SHAPES, task, Params(seed=1, epochs=10))
    again.fit(lambda epoch: batches, lambda: batches[:3], lambda *_: None)
    np.testing.assert_array_equal(again.predict(every.inputs), scores)


@pytest.mark.parametrize("name", ["xgboost", "forest", "boosting"])
def test_estimators_use_event_weights(name, tmp_path):
    """Events with inverted labels have nearly all of the weight, so that the model learns the inverted labels."""
    batches = toy_batches()
    turned = [
        replace(batch, y=np.where(np.arange(len(batch)) % 2, 1 - batch.y, batch.y),
                weight=np.where(np.arange(len(batch)) % 2, 1, 1e-6).astype(np.float32))
        for batch in batches
    ]  # fmt: skip
    backend = make_backend(write(tmp_path, ESTIMATORS[name]), SHAPES, TWO, Params())
    backend.fit(lambda epoch: turned, lambda: turned[:3], lambda *_: None)
    every = Batch.concatenate(batches)
    assert auc(every.y, backend.predict(every.inputs)) < 0.15


@pytest.mark.parametrize(
    ("text", "params", "says"),
    [
        ("from sklearn.svm import LinearSVC as Any", {}, "LinearSVC of .* has no predict_proba"),
        (
            "from sklearn.linear_model import LinearRegression as Any",
            {},
            "is not a classifier; return a classifier, or change 'task'",
        ),
        (
            "from sklearn.ensemble import RandomForestClassifier as Any",
            {"fit_gb": 1e-5},
            "take more than the 1e-05 GB of",
        ),
    ],
)
def test_unsupported_estimators_are_refused_with_the_reason(text, params, says, tmp_path):
    file = write(tmp_path, f"{text}\ndef model(idim): return Any()")
    with pytest.raises(ConfigError, match=says):
        make_backend(file, SHAPES, TWO, Params(**params)).fit(lambda epoch: toy_batches(), list, print)


def test_an_estimator_that_does_not_support_weights_refuses_them(tmp_path):
    text = "from sklearn.neighbors import KNeighborsClassifier\ndef model(idim): return KNeighborsClassifier()"
    batches = [replace(batch, weight=2 * batch.weight) for batch in toy_batches()]
    with pytest.raises(ConfigError, match=r"KNeighborsClassifier of .* does not support weights"):
        make_backend(write(tmp_path, text), SHAPES, TWO, Params()).fit(lambda epoch: batches, list, print)


@pytest.mark.parametrize("name", ["xgboost", "boosting", "forest", "linear, by epochs"])
def test_estimators_refuse_negative_weights(name, tmp_path):
    batches = [replace(batch, weight=-batch.weight) for batch in toy_batches()]
    backend = make_backend(write(tmp_path, ESTIMATORS[name]), SHAPES, TWO, Params())
    with pytest.raises(
        ConfigError, match="not support negative weights; change 'weight' in the params, for example to abs"
    ):
        backend.fit(lambda epoch: batches, lambda: batches, print)


def small_and_noisy(seed):
    """Return few events, a fifth of them with wrong labels, on which boosting soon overfits."""
    batches = toy_batches(events=256, seed=seed)
    wrong = np.random.default_rng(seed).uniform(size=128) < 0.2
    return [replace(batch, y=np.where(wrong, 1 - batch.y, batch.y)) for batch in batches]


def boost(folder, options, task=TWO, change=lambda batches: batches):
    """Train XGBoost; return the reported rounds, the number of the best round, the backend and the validation data."""
    kind = "XGBRegressor" if task.name == "regression" else "XGBClassifier"
    file = write(folder, f"import xgboost\ndef model(idim): return xgboost.{kind}(n_estimators=60, {options})")
    train, valid = change(small_and_noisy(0)), change(small_and_noisy(1))
    backend, rounds = make_backend(file, SHAPES, task, Params()), []
    kept = backend.fit(lambda epoch: train, lambda: valid, lambda *result: rounds.append(result))
    return rounds, kept, backend, Batch.concatenate(valid)


def test_xgboost_without_early_stopping_keeps_all_rounds(tmp_path):
    rounds, kept, backend, valid = boost(tmp_path, "")
    losses = [metrics["loss"] for _, _, metrics, _ in rounds]
    assert kept == len(rounds) == 60
    assert losses.index(min(losses)) < 59  # the last round is not the best
    assert not any(best for *_, best in rounds)
    expected = TWO.metrics(valid.y, backend.predict(valid.inputs), valid.weight)["loss"]
    assert losses[-1] == pytest.approx(expected, rel=1e-5)


def test_xgboost_early_stopping_uses_eval_metric_and_reports_it_by_name(tmp_path):
    rounds, kept, backend, valid = boost(tmp_path, "eval_metric='auc', early_stopping_rounds=10")
    areas = [metrics["auc"] for _, _, metrics, _ in rounds]
    assert kept == 1 + areas.index(max(areas))
    assert len(rounds) == min(60, kept + 10)
    assert [number for number, *_, best in rounds if best][-1] == kept
    truth = TWO.metrics(valid.y, backend.predict(valid.inputs), valid.weight)
    assert rounds[kept - 1][2] == pytest.approx({"loss": truth["loss"], "auc": truth["auc"]}, rel=1e-5)


def test_the_loss_of_xgboost_regression_refers_to_standardised_targets(tmp_path):
    task = Task("regression", ("energy",), (5000.0,), (300.0,))

    def targets(batches):
        return [replace(batch, y=(5000 + 300 * batch.x[:, :1]).astype(np.float32)) for batch in batches]

    rounds, kept, backend, valid = boost(tmp_path, "eval_metric='mae', early_stopping_rounds=5", task, targets)
    truth = task.metrics(valid.y, backend.predict(valid.inputs), valid.weight)
    assert rounds[kept - 1][2] == pytest.approx({"loss": truth["loss"], "mae": truth["mae"]}, rel=1e-4)


@pytest.mark.parametrize("metric", ["miss", "['auc', miss]"])
def test_xgboost_early_stopping_supports_a_custom_metric(metric, tmp_path):
    """The metric is minimised; it gets the true classes and the scores of the model."""
    text = """
import numpy, xgboost
def miss(y, scores): return numpy.mean((scores > 0.3) != y)
def model(idim): return xgboost.XGBClassifier(n_estimators=60, eval_metric=%s, early_stopping_rounds=5)
"""
    train, valid = small_and_noisy(0), small_and_noisy(1)
    backend, rounds = make_backend(write(tmp_path, text % metric), SHAPES, TWO, Params()), []
    kept = backend.fit(lambda epoch: train, lambda: valid, lambda *result: rounds.append(result))
    every = Batch.concatenate(valid)
    truth = np.mean((backend.predict(every.inputs)[:, 0] > 0.3) != every.y)
    found = [metrics["miss"] for _, _, metrics, _ in rounds]
    assert found[kept - 1] == min(found) == pytest.approx(truth, abs=1e-6)
    assert len(rounds) == kept + 5


def test_a_custom_metric_gets_sample_weight(tmp_path):
    text = """
import numpy, xgboost
def miss(y, scores, sample_weight=None): return numpy.average((scores > 0.3) != y, weights=sample_weight)
def model(idim): return xgboost.XGBClassifier(n_estimators=3, eval_metric=miss)
"""
    batches = [replace(batch, weight=1 + batch.y.astype("f4")) for batch in small_and_noisy(0)]
    backend, rounds = make_backend(write(tmp_path, text), SHAPES, TWO, Params()), []
    backend.fit(lambda epoch: batches, lambda: batches, lambda *result: rounds.append(result))
    every = Batch.concatenate(batches)
    wrong = (backend.predict(every.inputs)[:, 0] > 0.3) != every.y
    assert rounds[-1][2]["miss"] == pytest.approx(np.average(wrong, weights=every.weight), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            "objective=lambda y, scores: (scores - y, scores)",
            "objective of .* is a function, which is not supported; use one of: binary:logistic",
        ),
        (
            "objective='binary:hinge'",
            "objective of .* is 'binary:hinge', which is not supported; use one of: binary:logistic",
        ),
        ("objective='binary:logitraw'", "objective of .* is 'binary:logitraw'"),
        ("objective='count:poisson'", "objective of .* is 'count:poisson'"),
        ("booster='dart'", "booster of .* is 'dart', which is not supported; use one of: gbtree"),
        ("booster='gblinear'", "booster of .* is 'gblinear'"),
        ("tree_method='exact'", "tree_method of .* is 'exact', which is not supported; use one of: auto, hist"),
        ("multi_strategy='multi_output_tree'", "multi_strategy of .* is 'multi_output_tree'"),
        ("missing=3.0", "missing of .* is 3, but missing values are NaN"),
        (
            "callbacks=[xgboost.callback.EarlyStopping(rounds=1)]",
            "callbacks of .* would have no effect; remove it; early stopping uses early_stopping_r",
        ),
        ("eval_metric=[max, min]", "eval_metric of .* has 2 functions, but XGBoost supports only one"),
        ("n_estimators=0", "n_estimators of .* is 0; it must be at least 1"),
    ],
)
def test_xgboost_settings_that_are_unsupported_or_have_no_effect_are_refused(options, says, tmp_path):
    file = write(tmp_path, f"import xgboost\ndef model(idim): return xgboost.XGBClassifier({options})")
    with pytest.raises(ConfigError, match=says):
        make_backend(file, SHAPES, TWO, Params())


@pytest.mark.parametrize("objective", OBJECTIVES["regression"])
def test_regression_objectives_of_xgboost_are_trained_and_exported(objective, tmp_path):
    task = Task("regression", ("energy",), (5.0,), (2.0,))
    batches = [replace(batch, y=np.exp(batch.x[:, :1] / 4)) for batch in toy_batches(events=512)]
    text = f"import xgboost\ndef model(idim): return xgboost.XGBRegressor(n_estimators=20, objective='{objective}')"
    backend = make_backend(write(tmp_path, text), SHAPES, task, Params())
    backend.fit(lambda epoch: batches, lambda: batches[:1], lambda *_: None)
    every = Batch.concatenate(batches)
    scores = backend.predict(every.inputs)
    check_export(backend, every, scores, tmp_path / "network.onnx", 1e-4)
    assert np.corrcoef(scores[:, 0], every.y[:, 0])[0, 1] > 0.9


REPEATABLE = {
    "xgboost": "import xgboost\ndef model(idim): return xgboost.XGBClassifier(n_estimators=20)",
    "boosting": "from sklearn.ensemble import HistGradientBoostingClassifier\n"
    "def model(idim): return HistGradientBoostingClassifier(max_iter=20, min_samples_leaf=1, early_stopping=False)",
    "linear": "from sklearn.linear_model import LogisticRegression as M\ndef model(idim): return M(tol=1e-8)",
}


@pytest.mark.parametrize("name", REPEATABLE)
def test_estimators_treat_an_integer_weight_as_repetition(name, tmp_path):
    """Values are rounded, so that repeated events do not change the bins."""
    rng = np.random.default_rng(0)
    pairs = [weights_as_repetition(rng, 300) for _ in range(2)]
    once, repeated = (
        [replace(one, inputs={**one.inputs, "x": one.x.round(1)}) for one in side] for side in zip(*pairs, strict=True)
    )
    scores = []
    for batches in (once, repeated):
        backend = make_backend(write(tmp_path, REPEATABLE[name]), SHAPES, TWO, Params())
        backend.fit(lambda epoch, batches=batches: batches, lambda batches=batches: batches, lambda *_: None)
        scores.append(backend.predict(repeated[0].inputs))
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)
    assert np.ptp(scores[0]) > 0.5


def test_xgboost_gives_the_same_scores_from_disk_and_from_memory(tmp_path):
    file, batches = write(tmp_path, ESTIMATORS["xgboost"]), toy_batches()
    scores = []
    for limit in (4.0, 1e-6):
        backend = make_backend(file, SHAPES, TWO, Params(fit_gb=limit))
        backend.fit(lambda epoch: batches, lambda: batches[:3], lambda *_: None)
        scores.append(backend.predict(Batch.concatenate(batches).inputs))
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)


def several(task, batches):
    """Return the task and the batches with two labels, or with two targets of very different size."""

    def changed(batch):
        first = batch.x[:, 0] + batch.x[:, 1]
        both = np.stack([first, 5000 + 300 * batch.x[:, 2]], axis=1)
        y = both if task == "regression" else both > np.array([1.0, 5000.0])
        return replace(batch, y=y.astype(np.float32))

    changed_batches = [changed(batch) for batch in batches]
    y = np.concatenate([batch.y for batch in changed_batches])
    names = ("first", "second")
    if task == "regression":
        return Task(task, names, tuple(y.mean(axis=0).tolist()), tuple(y.std(axis=0).tolist())), changed_batches
    return Task(task, names), changed_batches


@pytest.mark.parametrize("task", ["multilabel", "regression"])
@pytest.mark.parametrize("name", ["ex_keras.py", "ex_pytorch.py", "ex_xgboost.py", "ex_sklearn.py", "neighbours"])
def test_all_frameworks_train_multilabel_and_regression_models(name, task, tmp_path):
    kind = "Classifier" if task == "multilabel" else "Regressor"
    text = f"from sklearn.neighbors import KNeighbors{kind} as M\ndef model(idim): return M()"
    file = write(tmp_path, text) if name == "neighbours" else load_model_file(name)
    whole, batches = several(task, toy_batches(512 if name == "ex_xgboost.py" else 2048))
    every = Batch.concatenate(batches)
    if name in ("ex_keras.py", "ex_pytorch.py"):
        backend = make_backend(file, SHAPES, whole, Params(seed=1))
        for _ in range(20):
            epoch_of(backend, batches)
        size = 1e-5 if task == "multilabel" else 0.05  # targets are about 5000, see check_raw_events
        check_export(backend, every, backend.predict(every.inputs), tmp_path / "network.onnx", size)
    else:
        backend = check_one_shot(file, whole, batches, tmp_path)
    metrics = whole.metrics(every.y, backend.predict(every.inputs), every.weight)
    if task == "multilabel":
        assert metrics["auc"] > 0.95
    else:
        assert metrics["loss"] < 0.25
        assert metrics["rmse_second"] < 150


HEADS = {
    "torch": """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, idim):
        super().__init__()
        self.one, self.two = (nn.Sequential(nn.Linear(idim, 16), nn.ReLU(), nn.Linear(16, 1)) for _ in range(2))
        for head in (self.one, self.two): nn.init.zeros_(head[2].weight), nn.init.zeros_(head[2].bias)
    def forward(self, x): return %s
def model(idim): return Net(idim)
def optimizer(weights): return torch.optim.Adam(weights, 0.01)
loss = {"second": nn.MSELoss(), "first": nn.HuberLoss(delta=0.5)}
""",
    "keras": """
import keras
def model(idim):
    x = keras.Input((idim,))
    head = lambda name: keras.layers.Dense(1, kernel_initializer="zeros", name=name)(keras.layers.Dense(16, "relu")(x))
    two, one = head("second"), head("first")
    return keras.Model(x, %s)
optimizer = keras.optimizers.Adam(0.01)
loss = {"second": "mse", "first": keras.losses.Huber(delta=0.5)}
""",
}


@pytest.mark.parametrize(
    ("framework", "outputs"),
    [
        ("torch", "{'second': self.two(x), 'first': self.one(x)[:, 0]}"),
        ("torch", "(self.one(x), self.two(x))"),
        ("keras", "{'second': two, 'first': one}"),
        ("keras", "[two, one]"),
    ],
)
def test_a_model_may_have_an_output_and_a_loss_for_each_target(framework, outputs, tmp_path):
    task, batches = several("regression", toy_batches(2048))
    every = Batch.concatenate(batches)
    backend = make_backend(write(tmp_path, HEADS[framework] % outputs), SHAPES, task, Params(seed=1))
    z = (batches[0].y - task.centre) / task.spread  # all outputs are 0 at first
    huber = np.where(np.abs(z) < 0.5, z**2 / 2, 0.5 * (np.abs(z) - 0.25))
    ((loss, _),) = backend.steps(batches[:1])
    assert float(loss) == pytest.approx((huber[:, 0].mean() + (z[:, 1] ** 2).mean()) / 2, rel=1e-4)
    for _ in range(15):
        epoch_of(backend, batches)
    metrics = task.metrics(every.y, backend.predict(every.inputs), every.weight)
    assert metrics["rmse_first"] < 0.7
    assert metrics["rmse_second"] < 150
    check_export(backend, every, backend.predict(every.inputs), tmp_path / "network.onnx", 0.05)


@pytest.mark.parametrize(
    ("framework", "outputs", "says"),
    [
        (
            "torch",
            "{'first': self.one(x), 'mass': self.two(x)}",
            "returns 'first', 'mass'; .* one for each of: first",
        ),
        ("torch", "[self.one(x)]", "returns 1 arrays; it must return one array, or one for each of: first, second"),
        ("keras", "{'first': one, 'mass': two}", "returns 'first', 'mass'; .* one for each of: first, second"),
    ],
)
def test_outputs_that_are_not_those_of_the_targets_are_named(framework, outputs, says, tmp_path):
    task, _ = several("regression", toy_batches(256))
    with pytest.raises(ConfigError, match=says):
        make_backend(write(tmp_path, HEADS[framework] % outputs), SHAPES, task, Params())


@pytest.mark.parametrize("name", ["torch, two logits", "keras, logits, not compiled"])
def test_the_loss_is_normalised_by_the_sum_of_absolute_weights(name, tmp_path):
    """The loss is sum(weight * loss) / sum(abs(weight))."""
    batch = toy_batches(events=64, size=64)[0]
    weight = np.where(np.arange(64) % 3 == 0, -0.5, 1.0).astype(np.float32)
    file = write(tmp_path, MODELS[name])
    plus, minus = (
        epoch_of(
            make_backend(file, SHAPES, TWO, Params(seed=5)),
            [replace(batch[mine], weight=np.ones(mine.sum(), np.float32))],
        )
        for mine in (weight > 0, weight < 0)
    )
    found = epoch_of(make_backend(file, SHAPES, TWO, Params(seed=5)), [replace(batch, weight=weight)])
    positive, negative = (weight > 0).sum(), (weight < 0).sum()
    assert found == pytest.approx((positive * plus - 0.5 * negative * minus) / (positive + 0.5 * negative), rel=1e-4)


@pytest.mark.parametrize("name", ["torch, two logits", "keras, logits, not compiled"])
def test_networks_treat_an_integer_weight_as_repetition(name, tmp_path):
    once = toy_batches(events=64, size=64)[0]
    weights = np.random.default_rng(0).integers(1, 4, 64)
    weighted = replace(once, weight=weights.astype(np.float32))
    repeated = once[np.repeat(np.arange(64), weights)]
    repeated = Batch(
        repeated.inputs, repeated.y, np.ones_like(repeated.weight), {}, repeated.part, repeated.file, repeated.entry
    )
    file = write(tmp_path, MODELS[name])
    losses = [epoch_of(make_backend(file, SHAPES, TWO, Params(seed=5)), [batch]) for batch in (weighted, repeated)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


LINEAR = "import torch\nfrom torch import nn\ndef model(idim, outputs): return nn.Linear(idim, outputs)\n"


def weights_as_repetition(rng, events=60, classes=2):
    """Return a batch with integer weights, and a batch in which each event is repeated that many times."""
    once = toy_batches(events, events, classes)[0]
    weights = rng.integers(0, 4, events)
    repeated = once[np.repeat(np.arange(events), weights)]
    return replace(once, weight=weights.astype(np.float32)), repeated


def torch_scores(file, classes, batch):
    """Return the loss of one step of gradient descent, the scores after it, and the backend."""
    backend = make_backend(file, SHAPES, Task.classification(classes), Params(seed=5))
    ((loss, _),) = backend.steps([batch])
    return float(loss), backend.predict(batch.inputs), backend


@pytest.mark.parametrize(
    ("loss", "classes"),
    [
        ("nn.BCEWithLogitsLoss()", 2),
        ("nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0]))", 2),
        ("nn.BCEWithLogitsLoss(reduction='sum')", 2),
        ("nn.BCEWithLogitsLoss(reduction='none')", 2),
        ("nn.CrossEntropyLoss()", 3),
        ("nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 2.0]), label_smoothing=0.1)", 3),
        ("lambda output, y: nn.functional.cross_entropy(output, y, reduction='none')", 3),
    ],
)
def test_torch_losses_treat_an_integer_weight_as_repetition(loss, classes, tmp_path):
    text = f"{LINEAR}loss = {loss}\ndef optimizer(weights): return torch.optim.SGD(weights, 0.1)\n"
    file = write(tmp_path, text)
    weighted, repeated = weights_as_repetition(np.random.default_rng(0), classes=classes)
    loss, _, first = torch_scores(file, classes, weighted)
    truth, expected, _ = torch_scores(file, classes, repeated)
    assert loss == pytest.approx(truth, rel=1e-5)
    np.testing.assert_allclose(first.predict(repeated.inputs), expected, atol=1e-6)


ZEROS = {
    "torch, logits": ("torch", "self.out(x)"),
    "torch, sigmoid": ("torch", "torch.sigmoid(self.out(x))"),
    "torch, two logits": ("torch", "torch.cat([self.out(x), 0.3 * self.out(x)], 1)"),
    "torch, softmax": ("torch", "torch.softmax(torch.cat([self.out(x), -self.out(x)], 1), 1)"),
    "torch, log-softmax": ("torch", "torch.log_softmax(torch.cat([self.out(x), -self.out(x)], 1), 1)"),
    "keras, logits": ("keras", "Dense(1, kernel_initializer='zeros')"),
    "keras, prior": ("keras", "Dense(1, kernel_initializer='zeros', bias_initializer='ones')"),
    "keras, sigmoid": ("keras", "Dense(1, activation='sigmoid', kernel_initializer='zeros')"),
    "keras, softmax": ("keras", "Dense(2, activation='softmax', kernel_initializer='zeros')"),
}


@pytest.mark.parametrize("name", ZEROS)
def test_the_output_type_is_detected_for_a_last_layer_initialised_with_zeros(name, tmp_path):
    """The scores are 1/2 (or the sigmoid of a bias of 1): the detection leaves the weights unchanged."""
    framework, end = ZEROS[name]
    if framework == "torch":
        text = f"""
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.out = torch.nn.Linear(6, 1)
        torch.nn.init.zeros_(self.out.weight), torch.nn.init.zeros_(self.out.bias)
    def forward(self, x): return {end}
def model(idim): return Net()
"""
    else:
        text = f"import keras\ndef model(idim): return keras.Sequential([keras.Input((6,)), keras.layers.{end}])"
    backend = make_backend(write(tmp_path, text), SHAPES, TWO, Params())
    first = 1 / (1 + np.exp(-1.0)) if "prior" in name else 0.5
    np.testing.assert_allclose(backend.predict(toy_batches()[0].inputs), first, atol=1e-6)
    assert len(list(backend.steps(toy_batches(events=512)))) == 4


KERAS_LINEAR = """
import keras
def model(idim, outputs): return keras.Sequential([keras.Input((idim,)), keras.layers.Dense(outputs)])
optimizer = keras.optimizers.SGD(0.1)
"""


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean", "sum", "mean_with_sample_weight"])
def test_keras_losses_treat_an_integer_weight_as_repetition(reduction, classes, tmp_path):
    kind = "BinaryCrossentropy" if classes == 2 else "SparseCategoricalCrossentropy"
    text = f"{KERAS_LINEAR}loss = keras.losses.{kind}(from_logits=True, reduction='{reduction}')\n"
    weighted, repeated = weights_as_repetition(np.random.default_rng(0), classes=classes)
    found = []
    for batch in (weighted, repeated):
        backend = make_backend(write(tmp_path, text), SHAPES, Task.classification(classes), Params(seed=5))
        ((loss, _),) = backend.steps([batch])
        found.append((loss, backend.predict(repeated.inputs)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-6)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight"])
def test_a_keras_step_divides_signed_terms_by_the_sum_of_absolute_weights(reduction, tmp_path):
    """With zero weights the scores are 1/2 and each gradient is 1/2 * x = 1/2; the event weights are 1, -1 and -1."""
    text = f"""
import keras
def model(idim): return keras.Sequential([keras.Input((idim,)), keras.layers.Dense(1, kernel_initializer="zeros")])
optimizer = keras.optimizers.SGD(1.0)
loss = keras.losses.BinaryCrossentropy(from_logits=True, reduction="{reduction}")
"""
    batch = toy_batches(events=3, size=3)[0]
    batch = replace(batch, inputs={"x": np.ones((3, 6), "f4"), "mask": np.ones((3, 6), bool)}, y=np.ones(3, np.int64),
                    weight=np.array([1, -1, -1], "f4"))  # fmt: skip
    backend = make_backend(write(tmp_path, text), SHAPES, TWO, Params())
    ((loss, size),) = backend.steps([batch])
    assert (loss, size) == (pytest.approx(-np.log(2) / 3, rel=1e-5), 3)
    np.testing.assert_allclose(backend.model.get_weights()[0], -0.5 / 3, rtol=1e-5)


MEAN = "keras.ops.mean(keras.ops.square(y - output))"


@pytest.mark.parametrize(
    "loss",
    [
        f"def loss(y, output): return {MEAN}",
        f"class Loss(keras.losses.Loss):\n    def call(self, y, output): return {MEAN}\nloss = Loss()",
    ],
)
def test_a_keras_loss_with_one_number_per_batch_refuses_weights(loss, tmp_path):
    weighted, repeated = weights_as_repetition(np.random.default_rng(0))
    backend = make_backend(write(tmp_path, f"{KERAS_LINEAR}{loss}\n"), SHAPES, TWO, Params())
    assert np.isfinite(epoch_of(backend, [repeated]))
    with pytest.raises(ConfigError, match="returns one number per batch, so that weights cannot be applied; let it"):
        epoch_of(backend, [weighted])


def test_a_keras_loss_without_reduction_is_refused(tmp_path):
    text = f"{KERAS_LINEAR}loss = keras.losses.MeanSquaredError(reduction='none')\n"
    with pytest.raises(ConfigError, match="has reduction='none', but Keras needs one number per batch"):
        make_backend(write(tmp_path, text), SHAPES, TWO, Params())


def test_a_saved_subclassed_keras_model_is_loaded_with_its_class(tmp_path):
    import keras

    file = write(tmp_path, MODELS["keras, subclassed"])
    backend = make_backend(file, SHAPES, TWO, Params())
    every = toy_batches(events=8)[0]
    known = {"Net": type(file.build(SHAPES, TWO))}
    again = keras.saving.load_model(tmp_path / backend.save(tmp_path), known, compile=False)  # runs the user's class
    scores = 1 / (1 + np.exp(-again.predict_on_batch(every.x)))
    np.testing.assert_allclose(scores, backend.predict(every.inputs), atol=1e-6)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("def call(self, x): return keras.ops.reshape(x, (-1, 2, 3))", r"returns an output of shape \(n, 2, 3\)"),
        (
            "def call(self, x): return keras.ops.matmul(x, keras.ops.ones((7, 1)))",
            "does not accept vectors of 6 numbers: ",
        ),
        ("def call(self, x, mask, more): return x", "does not accept vectors of 6 numbers: "),
        (
            "def call(self, x): return x\n    def train_step(self, data): return {}",
            "overrides train_step, but is not a functional",
        ),
    ],
)
def test_an_unsuitable_subclassed_keras_model_is_refused_with_the_reason(body, says, tmp_path):
    text = f"import keras\nclass Net(keras.Model):\n    {body}\ndef model(idim): return Net()"
    with pytest.raises(ConfigError, match=says):
        make_backend(write(tmp_path, text), SHAPES, TWO, Params())


OWN_STEP = """
import keras
class Net(keras.Model):
    def {method}(self, *given, **more):
        raise RuntimeError("called")
def model(idim):
    x = keras.Input((idim,))
    return Net(x, keras.layers.Dense(1)(x))
"""


@pytest.mark.parametrize("method", ["fit", "predict_step"])
def test_a_keras_model_with_a_method_that_is_not_called_is_refused(method, tmp_path):
    with pytest.raises(ConfigError, match=f"the model of .* overrides {method}, which is not called; remove it"):
        make_backend(write(tmp_path, OWN_STEP.format(method=method)), SHAPES, TWO, Params())


@pytest.mark.parametrize("method", ["train_step", "compute_loss", "train_on_batch"])
def test_the_own_methods_of_a_functional_keras_model_are_called(method, tmp_path):
    backend = make_backend(write(tmp_path, OWN_STEP.format(method=method)), SHAPES, TWO, Params())
    with pytest.raises(RuntimeError, match="called"):
        next(backend.steps(toy_batches()))


LIGHTNING = """
import torch
class Net(torch.nn.Module):
    def __init__(self, idim):
        super().__init__()
        self.linear = torch.nn.Linear(idim, 1)
    def forward(self, x): return self.linear(x)
    def {method}(self, *given): raise RuntimeError("called")
def model(idim): return Net(idim)
"""


@pytest.mark.parametrize(
    ("method", "replacement"),
    [
        ("training_step", "def training_step(model, x, mask, y, weight): return model(x).mean()"),
        ("training_step", "loss = torch.nn.BCEWithLogitsLoss()"),
        ("configure_optimizers", "optimizer = torch.optim.SGD"),
    ],
)
def test_methods_of_lightning_are_refused_unless_the_model_file_replaces_them(method, replacement, tmp_path):
    text = LIGHTNING.format(method=method)
    with pytest.raises(ConfigError, match=f"has a method {method}, which is not called; define `.*` in the model file"):
        make_backend(write(tmp_path, text), SHAPES, TWO, Params())
    next(make_backend(write(tmp_path, f"{text}\n{replacement}\n"), SHAPES, TWO, Params()).steps(toy_batches()))


def test_a_half_precision_keras_model_that_cannot_be_converted_to_float32_is_refused(tmp_path):
    text = MODELS["keras, subclassed"].replace(
        "keras.layers.Dense(64)", "keras.layers.Dense(64, dtype='mixed_float16')"
    )
    with pytest.raises(ConfigError, match="cannot be converted to float32, in which it is served: nested layers set"):
        make_backend(write(tmp_path, text), SHAPES, TWO, Params())


def test_keras_with_the_torch_backend_needs_no_tensorflow(tmp_path):
    code = f"""
import sys, pathlib
sys.modules["tensorflow"] = sys.modules["tf2onnx"] = None  # simulate that they are not installed
from check_backend import check_seeds_and_state, check_stepwise
from mlaas4hep.backends.model_file import load_model_file
check_stepwise(load_model_file("ex_keras.py"), 2, pathlib.Path({str(tmp_path)!r}))
check_seeds_and_state(load_model_file("ex_keras.py"), 2)
"""
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.keras").exists()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_without_weights_the_loss_is_that_of_torch(reduction, tmp_path):
    import torch

    loss = f"nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 2.0]), reduction='{reduction}')"
    file = write(tmp_path, f"{LINEAR}loss = {loss}\n")
    batch = toy_batches(50, 50, 3)[0]
    backend = make_backend(file, SHAPES, Task.classification(3), Params(seed=5))
    with torch.no_grad():
        truth = file.loss(backend.model(torch.from_numpy(batch.x)), torch.from_numpy(batch.y))
    assert file.loss.reduction == reduction
    assert float(next(iter(backend.steps([batch])))[0]) == pytest.approx(float(truth), rel=1e-6)


def test_a_torch_loss_with_one_number_per_batch_refuses_weights(tmp_path):
    text = f"{LINEAR}def loss(output, y): return nn.functional.binary_cross_entropy_with_logits(output, y)\n"
    file = write(tmp_path, text)
    weighted, repeated = weights_as_repetition(np.random.default_rng(0))
    assert np.isfinite(torch_scores(file, 2, repeated)[0])
    with pytest.raises(ConfigError, match="returns one number per batch, so that weights cannot be applied; let it"):
        torch_scores(file, 2, weighted)


BATCH_NORM = """
from torch import nn
def model(idim): return nn.Sequential(nn.Linear(idim, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
"""


@pytest.mark.parametrize("text", [BATCH_NORM, MODELS["keras, logits, not compiled"]], ids=["torch", "keras"])
def test_a_batch_with_zero_weights_does_not_change_the_state(text, tmp_path):
    first, nothing, *_ = toy_batches(256, 64)
    nothing = replace(nothing, weight=np.zeros(64, np.float32))
    backend = make_backend(write(tmp_path, text), SHAPES, TWO, Params(seed=1))
    epoch_of(backend, [first])  # gives the optimizer momentum
    state = backend.state()
    assert [(float(loss), weight) for loss, weight in backend.steps([nothing])] == [(0.0, 0.0)]
    assert backend.state() == state


@pytest.mark.parametrize("text", [LINEAR, BATCH_NORM], ids=["plain", "with batch normalisation"])
def test_a_last_batch_of_one_event_is_trained_on(text, tmp_path):
    first, second = toy_batches(65, 64)
    assert len(second) == 1
    backend = make_backend(write(tmp_path, text), SHAPES, TWO, Params(seed=1))
    epoch_of(backend, [first])
    before = backend.predict(second.inputs)
    ((loss, weight),) = backend.steps([second])
    assert np.isfinite(float(loss))
    assert weight == 1
    assert (backend.predict(second.inputs) > before) == (second.y[0] == 1)


@pytest.mark.parametrize("end", ["", ", nn.Sigmoid()"])
def test_mixed_precision_keeps_weights_and_scores_in_float32(end, tmp_path):
    """Scores differ from a float32 training within the precision of bfloat16; weights and scores are float32."""
    import torch

    text = f"from torch import nn\ndef model(idim): return nn.Sequential(nn.Linear(idim, 8), nn.Linear(8, 1){end})"
    file, batches = write(tmp_path, text), toy_batches()
    scores = []
    for mixed in (False, True):
        backend = make_backend(file, SHAPES, TWO, Params(seed=1))
        backend.mixed = mixed
        seen = []
        backend.model[0].register_forward_hook(lambda layer, given, output, seen=seen: seen.append(output.dtype))
        epoch_of(backend, batches)
        assert set(seen) == {torch.bfloat16 if mixed else torch.float32}
        scores.append(backend.predict(batches[0].inputs))
        assert scores[-1].dtype == np.float32
        assert {weight.dtype for weight in backend.model.state_dict().values()} == {torch.float32}
        saved = torch.load(tmp_path / backend.save(tmp_path), weights_only=True)
        assert {weight.dtype for weight in saved.values()} == {torch.float32}
        check_export(backend, batches[0], scores[-1], tmp_path / "network.onnx")
    assert 0 < np.abs(scores[0] - scores[1]).max() < 0.02


def test_a_wrong_number_of_outputs_is_refused_with_the_right_number(tmp_path):
    file = write(tmp_path, "from torch import nn\ndef model(idim): return nn.Linear(idim, 5)")
    with pytest.raises(ConfigError, match="it must return 1 or 2 numbers per event"):
        make_backend(file, SHAPES, TWO, Params())
    with pytest.raises(ConfigError, match="3 numbers per event, one for each class"):
        make_backend(file, SHAPES, Task.classification(3), Params())


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("import torch\nclass Net(torch.nn.Linear):\n    def forward(self, x): return super().forward(x), x\n"
         "def model(idim): return Net(idim, 1)", "tuple"),
        ("import torch\nclass Net(torch.nn.Linear):\n    def forward(self, x): return {'out': super().forward(x)}\n"
         "def model(idim): return Net(idim, 1)", "dict"),
        ("import keras\ndef model(idim):\n    x = keras.Input((idim,))\n"
         "    return keras.Model(x, [keras.layers.Dense(1)(x), keras.layers.Dense(2)(x)])", "list"),
    ],
    ids=["torch, tuple", "torch, dict", "keras"],
)  # fmt: skip
def test_a_model_with_several_output_arrays_is_refused(text, kind, tmp_path):
    with pytest.raises(ConfigError, match=f"the model of .* returns a {kind}; it must return one array"):
        make_backend(write(tmp_path, text), SHAPES, TWO, Params())


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("loss = 'mse'", "`loss` of .* is 'mse'; it must be a loss of torch.nn, as nn.BCEWithLogitsLoss"),
        ("loss = nn.BCEWithLogitsLoss", "`loss` of .* is <class .*; it must be a loss of torch.nn"),
        (
            "def loss(output, y): return torch.zeros(3)",
            r"`loss` of .* returns shape \(3,\) for 128 events; it must ret",
        ),
        ("def loss(output, y): return 1.0", r"`loss` of .* returns 1.0 for 128 events; it must return one number per"),
        ("def loss(output, y): return torch.zeros(len(y))", "`loss` of .* does not depend on the weights"),
        ("optimizer = 'adam'", "`optimizer` of .* is 'adam'; it must be a function: def optimizer"),
        (
            "def optimizer(weights): return [torch.optim.Adam(weights)], []",
            r"`optimizer` of .* returns a tuple \(list, list\); it must return one optimizer; return a learning r",
        ),
        ("def optimizer(weights): pass", "`optimizer` of .* returns None; it must be a function: def optimizer"),
        (
            "optimizer = torch.optim.LBFGS",
            "`optimizer` of .* is LBFGS, which needs a closure that re-evaluates the loss",
        ),
        (
            "def training_step(*given): pass",
            "`training_step` of .* returns None; it must return the loss as one number",
        ),
        ("def training_step(*given): return torch.ones(9)", r"`training_step` of .* returns shape \(9,\); it must"),
    ],
)
def test_an_invalid_loss_optimizer_or_training_step_is_quoted(more, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        epoch_of(make_backend(write(tmp_path, LINEAR + more), SHAPES, TWO, Params()), toy_batches(128))


@pytest.mark.parametrize(
    ("loss", "classes"),
    [
        ("'mse'", 2),
        ("'binary_crossentropy'", 3),
        ("keras.losses.MeanAbsoluteError()", 3),
        ("keras.losses.categorical_hinge", 3),
        ("keras.losses.CategoricalCrossentropy()", 2),
    ],
)
def test_keras_losses_that_are_not_sparse_get_one_hot_targets(loss, classes, tmp_path):
    """The loss of the first step is computed with one-hot targets."""
    import keras

    text = f"""
import keras
def model(idim):  # Rescaling hides the logits of softmax, which Keras would use with a sigmoid
    layers = [keras.layers.Dense({classes}, activation="softmax"), keras.layers.Rescaling(1.0)]
    return keras.Sequential([keras.Input((idim,)), *layers])
loss = {loss}
"""
    batch = toy_batches(64, 64, classes)[0]
    file = write(tmp_path, text)
    backend = make_backend(file, SHAPES, Task.classification(classes), Params())
    one_hot, scores = np.eye(classes, dtype="f4")[batch.y], backend.predict(batch.inputs)
    ((found, _),) = backend.steps([batch])
    truth = np.mean(keras.losses.get(file.loss)(keras.ops.array(one_hot), keras.ops.array(scores)))
    assert found == pytest.approx(float(truth), rel=1e-4)


def test_a_custom_keras_loss_gets_integer_classes(tmp_path):
    text = """
import keras
def model(idim, outputs): return keras.Sequential([keras.Input((idim,)), keras.layers.Dense(3)])
class Own(keras.losses.Loss):
    def call(self, y, output): return keras.ops.sparse_categorical_crossentropy(y, output, from_logits=True)
loss = Own()
"""
    backend = make_backend(write(tmp_path, text), SHAPES, Task.classification(3), Params())
    batch = toy_batches(64, 64, 3)[0]
    truth = -np.log(backend.predict(batch.inputs)[np.arange(64), batch.y]).mean()
    ((found, _),) = backend.steps([batch])
    assert found == pytest.approx(truth, rel=1e-4)


COMPILED = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, idim):
        super().__init__()
        self.first, self.second = nn.Linear(idim, 8), nn.Linear(8, 1)
        %s
    def forward(self, x, mask=None, scale=1.0):
        return scale * self.second(torch.relu(self.first(x * mask)))
class Wrapper(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net
    def forward(self, *args, **kwargs): return self.net(*args, **kwargs)
def optimizer(weights): return torch.optim.Adam(weights, 0.02)
"""


@pytest.mark.parametrize(
    ("part", "made"),
    [
        ("", "torch.compile(Net(idim), backend='eager')"),
        ("self.first = torch.compile(self.first, backend='eager')", "Net(idim)"),
        ("", "Wrapper(Wrapper(Net(idim)))"),
        ("", "torch.compile(Wrapper(Net(idim)), backend='eager')"),
        ("", "nn.DataParallel(Net(idim))"),
    ],
)
def test_compiled_and_wrapped_torch_models_fulfil_the_backend_contract(part, made, tmp_path):
    """The wrapped module gets the mask; an argument whose default is a number does not."""
    import torch

    file = write(tmp_path, COMPILED % part + f"def model(idim): return {made}")
    backend = check_stepwise(file, 2, tmp_path)
    assert backend.takes == ("x", "mask")
    assert not [name for name in torch.load(tmp_path / "model.pt", weights_only=True) if name.startswith("_orig_mod")]


def test_a_failed_pytorch_export_is_reported_with_its_cause(tmp_path):
    text = """
import torch
class Net(torch.nn.Linear):
    def forward(self, x): return super().forward(x) if x.sum() > 0 else super().forward(-x)
def model(idim): return Net(idim, 1)
"""
    backend = make_backend(write(tmp_path, text), SHAPES, TWO, Params())
    with pytest.raises(ConfigError, match=r"PyTorch cannot export the model: \w+: Could not guard on data-dependent"):
        backend.export(tmp_path / "network.onnx")


def test_a_model_with_another_input_size_is_refused_before_training(tmp_path):
    file = write(tmp_path, "from torch import nn\ndef model(idim): return nn.Linear(17, 1)")
    with pytest.raises(ConfigError, match="does not accept vectors of 6 numbers"):
        make_backend(file, SHAPES, TWO, Params())


def test_an_unsupported_model_type_is_named(tmp_path):
    with pytest.raises(
        ConfigError, match=r"returns a builtins\.int.*must be a Keras model, a torch\.nn\.Module, or an estimator"
    ):
        make_backend(write(tmp_path, "def model(idim): return 3"), SHAPES, TWO, Params())


def test_a_saved_torch_model_loads_without_unpickling(tmp_path):
    import torch

    backend = make_backend(load_model_file("ex_pytorch.py"), SHAPES, TWO, Params())
    weights = torch.load(tmp_path / backend.save(tmp_path), weights_only=True)
    assert f"{sum(weight.numel() for weight in weights.values()):,} weights" == backend.size()


def test_a_saved_keras_model_loads_in_safe_mode(tmp_path):
    import keras

    backend = make_backend(load_model_file("ex_keras.py"), SHAPES, TWO, Params())
    every = toy_batches(events=8)[0]
    again = keras.saving.load_model(tmp_path / backend.save(tmp_path), compile=False, safe_mode=True)
    scores = 1 / (1 + np.exp(-again.predict_on_batch(every.x)))
    np.testing.assert_allclose(scores, backend.predict(every.inputs), atol=1e-6)
