"""Complete training runs: folds, weights, checkpoints, logs."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from scripts import ROOT, run_forked, run_script
from tinyroot import write_events, write_tree

from mlaas4hep.backends.make import make_backend
from mlaas4hep.backends.model_file import load_model_file
from mlaas4hep.backends.task import Task
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, FileUnreadable
from mlaas4hep.files import write_lock
from mlaas4hep.stream import DataGenerator
from mlaas4hep.stream.split import fold_of, identity_hash
from mlaas4hep.training import train_model
from mlaas4hep.training.callbacks import Callbacks, Stopped
from mlaas4hep.training.checkpoint import Checkpoint
from mlaas4hep.training.logs import EpochLog
from mlaas4hep.training.loop import evaluate, train
from mlaas4hep.training.run import AlreadyTrained

pytestmark = pytest.mark.usefixtures("without_plots", "without_trial_export")

SMALL = """
import torch
def model(idim, outputs=1):
    nn = torch.nn
    return nn.Sequential(nn.Linear(idim, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, outputs))
def optimizer(weights):
    return torch.optim.Adam(weights, lr=0.01)
"""
SMALL_KERAS = """
import keras
def model(idim, outputs=1):
    return keras.Sequential([keras.Input((idim,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dropout(0.2),
                             keras.layers.Dense(outputs)])
"""


TREES = "import xgboost\ndef model(idim): return xgboost.XGBClassifier(n_estimators=50, n_jobs=1)\n"
ESTIMATOR = """
from sklearn.linear_model import LogisticRegression
def model(idim): return LogisticRegression()
"""


def write_sample(folder, events=1500):
    """Write a file with the class in branch `kind`; `shift` is larger for class 1. Return its path and columns."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, events)
    columns = write_events(
        folder / "a.root", events, kind=kind, shift=(kind * 2 + rng.normal(size=events)).astype("f4")
    )
    return str(folder / "a.root"), columns


def write_model(folder, text=SMALL):
    (folder / "small.py").write_text(text)
    return str(folder / "small.py")


def out_of_fold(bundle, path, folds):
    """Score each event with the ONNX graph of its fold; return scores and folds by entry, and the raw events."""
    training = json.loads((bundle / "training.json").read_text())
    scores = {}
    with DataGenerator(path, "kind", {**training["params"], "kfold": 0}, str(bundle / "specs.json")) as generator:
        raw = generator.examples(10**6, part=None, raw=True)
    ids = {name: raw.ids[name] for name in training["identifier"]}
    fold = fold_of(identity_hash(ids, raw.entry, ""), folds)
    for index in range(folds):
        session = onnxruntime.InferenceSession(str(bundle / f"folds/{index}/model.onnx"))
        mine = fold == index
        found = session.run(["scores"], {"inputs": raw.x[mine]})[0]
        scores.update(zip(raw.entry[mine].tolist(), found[:, 0].tolist(), strict=True))
    return scores, dict(zip(raw.entry.tolist(), fold.tolist(), strict=True)), raw


@pytest.mark.parametrize(("text", "share", "folds"), [(SMALL, 0.99, 2), (TREES, 0.9, 3)], ids=["torch", "xgboost"])
def test_the_model_of_a_fold_depends_on_all_other_folds_but_not_on_its_own(text, share, folds, tmp_path):
    path, columns = write_sample(tmp_path)
    model = write_model(tmp_path, text)
    params = Params(kfold=folds, epochs=2, batch_size=64, chunk_size=500, tfaas=False)
    trained = train_model(path, "kind", model, params, fout=tmp_path / "first")
    first, fold, raw = out_of_fold(tmp_path / "first", path, folds)
    assert len(trained.test.y) == 1500
    assert trained.metrics()["test"]["auc"] > 0.85
    assert len(trained.metrics()["folds"]) == folds

    for changed in range(folds):  # change all events of the fold except 50
        mine = [entry for entry, its in fold.items() if its == changed]
        shift, met = columns["shift"].copy(), columns["met"].copy()
        shift[mine[50:]] = 100 - shift[mine[50:]]  # must not affect the model of this fold
        met[mine[50:]] *= 50
        write_tree(path, {**columns, "shift": shift, "met": met}, clusters=3)
        train_model(path, "kind", model, params, fout=tmp_path / "other")
        other, _, _ = out_of_fold(tmp_path / "other", path, folds)
        np.testing.assert_array_equal([first[entry] for entry in mine[:50]], [other[entry] for entry in mine[:50]])
        for fold_of_others in {*range(folds)} - {changed}:
            theirs = [entry for entry, its in fold.items() if its == fold_of_others]
            assert np.mean([first[entry] != other[entry] for entry in theirs]) > share

    mean = onnxruntime.InferenceSession(str(tmp_path / "other" / "model.onnx")).run(None, {"inputs": raw.x[:9]})[0]
    each = [
        onnxruntime.InferenceSession(str(tmp_path / "other" / f"folds/{index}/model.onnx")).run(
            None, {"inputs": raw.x[:9]}
        )[0]
        for index in range(folds)
    ]
    np.testing.assert_allclose(mean, np.mean(each, axis=0), atol=1e-6)


@pytest.mark.parametrize("model", ["ex_pytorch.py", "ex_xgboost.py"])
def test_the_onnx_graph_of_a_run_classifies_its_events(model, tmp_path):
    path, _ = write_sample(tmp_path)
    train_model(path, "kind", model, Params(epochs=2, tfaas=False), fout=tmp_path / "out")
    with DataGenerator(path, "kind", {}, str(tmp_path / "out" / "specs.json")) as generator:
        raw = generator.examples(500, raw=True)
    scores = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx")).run(None, {"inputs": raw.x})[0]
    assert np.mean((scores[:, 0] > 0.5) == raw.y) > 0.7


def model_of(generator, folder, text=SMALL):
    """Return the backend of a model for the events of a generator."""
    file = load_model_file(write_model(folder, text))
    return make_backend(file, generator.shapes, Task.of(generator.sample.labels), generator.params)


@pytest.mark.parametrize("balance", ["none", "weights", "sampling"])
@pytest.mark.parametrize("model", [TREES, ESTIMATOR], ids=["xgboost", "scikit-learn"])
def test_estimators_do_not_depend_on_the_unit_of_the_weights(model, balance, tmp_path, capsys):
    path, _ = write_sample(tmp_path, 600)
    scores = []
    for unit in ("1", "1e-4", "3e5"):
        params = Params.parse({**RUN, "weight": f"{unit} * (1 + 0.1 * met / 30)", "balance": balance})
        trained = train_model(path, "kind", write_model(tmp_path, model), params, fout=tmp_path / f"out{unit}")
        scores.append(trained.test.scores)
    assert scores[0].std() > 0.01
    for other in scores[1:]:
        np.testing.assert_allclose(other, scores[0], atol=1e-3)
    assert "their mean in the training set, as estimators expect" in capsys.readouterr().err


@pytest.mark.parametrize("model", [SMALL, AUC_TREES := TREES.replace("n_jobs=1", "n_jobs=1, eval_metric='auc',"
                                   " early_stopping_rounds=3")], ids=["torch", "xgboost"])  # fmt: skip
def test_a_class_that_is_absent_from_a_set_is_named_and_does_not_stop_early(model, tmp_path, capsys):
    path, _ = write_sample(tmp_path, 600)
    split = {"valid": "event % 10 == 0 & kind == 0", "test": "event % 10 == 1"}
    params = Params.parse({**RUN, "split": split, "epochs": 2})
    trained = train_model(path, "kind", write_model(tmp_path, model), params, fout=tmp_path / "out")
    lines = capsys.readouterr().err.splitlines()
    assert any("the validation set has no events with the label '1' (events by label: 0 " in line for line in lines)
    if model is AUC_TREES:
        assert "note: no early stopping, because 'auc' of the validation set is not finite" in lines
        assert trained.backend.size() == "50 rounds"


@pytest.mark.parametrize("size", ["1e30", "1e-30"])
def test_weights_that_leave_the_range_of_float32_are_named(size, tmp_path):
    path, _ = write_sample(tmp_path, 300)
    params = Params.parse({**RUN, "weight": f"{size} * (1 + 0 * met)"})
    value = size.replace("1e30", r"1e\+30")
    with pytest.raises(ConfigError, match=rf"the weights are about {value} .*; scale 'weight' .* / {value}'"):
        train_model(path, "kind", write_model(tmp_path), params, fout=tmp_path / "out")


def test_trees_without_splits_are_reported_and_not_exported(tmp_path, capsys):
    """onnxmltools would write another score."""
    path, _ = write_sample(tmp_path, 300)
    model = write_model(tmp_path, TREES.replace("n_estimators=50", "n_estimators=3, min_child_weight=1e9"))
    train_model(path, "kind", model, Params.parse(RUN), fout=tmp_path / "out")
    (line,) = capsys.readouterr().err.splitlines()
    assert "no tree of the model of" in line
    assert "lower gamma or min_child_weight" in line
    assert (tmp_path / "out" / "model.ubj").exists()


def test_metrics_treat_an_integer_weight_as_repetition(tmp_path):
    """Compares the metrics of an untrained model for the validation and test sets."""
    rng = np.random.default_rng(0)
    kind, w = rng.integers(0, 2, 400), rng.integers(1, 4, 400)
    columns = write_events(tmp_path / "once.root", 400, kind=kind, w=w)
    repeated = {name: values[np.repeat(np.arange(400), w)] for name, values in columns.items()}
    write_tree(tmp_path / "often.root", repeated, clusters=3)
    figures = []
    for name, weight in (("once", "w"), ("often", "")):
        params = Params(weight=weight, exclude_branches=["w"], normalise="none")
        with DataGenerator(str(tmp_path / f"{name}.root"), "kind", params) as generator:
            backend = model_of(generator, tmp_path)
            figures.append([evaluate(generator, backend, part).metrics() for part in ("valid", "test")])
    for once, often in zip(*figures, strict=True):
        assert once == pytest.approx(often, rel=1e-5)


def test_training_and_validation_loss_are_both_signed_means(tmp_path):
    """With a learning rate of 0, the training loss equals the loss of the training set after the epoch."""
    rng = np.random.default_rng(0)
    kind, w = rng.integers(0, 2, 600), rng.choice([1.0, 2.0, -1.0], 600)
    write_events(tmp_path / "a.root", 600, kind=kind, w=w)
    params = Params(weight="w", epochs=1, batch_size=32)
    with DataGenerator(str(tmp_path / "a.root"), "kind", params) as generator:
        frozen = SMALL.replace("lr=0.01", "lr=0.0").replace("nn.Dropout(0.2), ", "")
        backend = model_of(generator, tmp_path, frozen)
        (epoch,) = train(generator, backend, params).epochs
        for part, loss in (("train", epoch.train_loss), ("valid", epoch.loss)):
            assert loss == pytest.approx(evaluate(generator, backend, part).metrics()["loss"], rel=1e-5)


def test_a_sum_of_weights_that_is_not_positive_is_refused_before_training(tmp_path):
    write_events(tmp_path / "a.root", 100, kind=np.arange(100) % 2)
    params = Params(weight="-1 * met")
    with pytest.raises(ConfigError, match=r"the weights of the training set add up to -\d.*; the sum must be positive"):
        train_model(str(tmp_path / "a.root"), "kind", write_model(tmp_path), params, fout=tmp_path / "out")


def test_a_second_run_into_the_same_folder_is_refused_at_the_start(tmp_path):
    with (
        write_lock(tmp_path / "out"),
        pytest.raises(FileUnreadable, match=r"another run is writing .*out; wait for it"),
    ):
        train_model("a.root", "kind", "nothing.py", fout=tmp_path / "out")


def test_a_folder_for_tensorboard_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    params = Params(tensorboard=str(tmp_path / "file" / "runs"))
    with pytest.raises(FileUnreadable, match=r"cannot write .*runs"):
        train_model("a.root", "kind", write_model(tmp_path), params, fout=tmp_path / "out")


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ("def auc(y, scores): return 17.0\nmetrics = [auc]", "the name 'auc' is already used"),
        ("metrics = {'events': max}", "the name 'events' is already used"),
        ("metrics = [lambda y, s: 1, lambda y, s: 2]", "the name '<lambda>' is already used"),
        ("metrics = 'auc'", "metrics of .* is 'auc'; it must be a list of functions, or a dict"),
        ("def own(y, scores): return 1 / 0\nmetrics = [own]", "the metric 'own' of .* fails: ZeroDivisionError"),
    ],
)
def test_an_invalid_metric_is_refused_before_training(metrics, says, tmp_path):
    path, _ = write_sample(tmp_path, 100)
    with pytest.raises(ConfigError, match=says):
        train_model(path, "kind", write_model(tmp_path, ESTIMATOR + metrics), fout=tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_a_metric_that_fails_only_for_the_test_set_is_left_out_of_the_bundle(tmp_path, capsys):
    path, _ = write_sample(tmp_path, 300)
    metrics = "def own(y, scores): return 1 / (len(y) == 20)\nmetrics = {'own': own, 'size': lambda y, s: len(y)}\n"
    params = Params(tfaas=False)
    trained = train_model(path, "kind", write_model(tmp_path, ESTIMATOR + metrics), params, fout=tmp_path / "out")
    assert trained.custom_metrics == {"size": len(trained.test.y)}
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["test"]["size"] == len(trained.test.y)
    assert "note: the bundle is written without this metric: the metric 'own' of" in capsys.readouterr().err


def test_a_model_whose_scores_depend_on_the_batch_gets_no_onnx_graph(tmp_path, capsys):
    path, _ = write_sample(tmp_path, 300)
    model = """
import torch
class Net(torch.nn.Linear):
    def forward(self, x): return super().forward(x - x.mean(0, keepdim=True))
def model(idim): return Net(idim, 1)
"""
    train_model(
        path,
        "kind",
        write_model(tmp_path, model),
        Params(tfaas=False, epochs=1, trial_export=True),
        fout=tmp_path / "out",
    )
    before, after = capsys.readouterr().err.splitlines()
    assert before.startswith(
        "note: the model can be trained, but it cannot be served as it is: the scores of the model"
    )
    assert "depend on the other events in the batch" in after
    assert (tmp_path / "out" / "model.pt").exists()
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_an_estimator_whose_export_fails_after_training_is_reported_as_not_saved(tmp_path):
    """The export check before training uses few events, too few for this estimator."""
    path, _ = write_sample(tmp_path, 600)
    model = """
from sklearn.linear_model import LogisticRegression
class Own(LogisticRegression):
    def fit(self, x, y):
        if len(x) < 300: raise ValueError("too few")
        return super().fit(x, y)
def model(idim): return Own()
"""
    with pytest.raises(
        ConfigError, match=r"metrics, but not the model as ONNX: .*; the trained estimator is in model\."
    ):
        train_model(
            path, "kind", write_model(tmp_path, model), Params(tfaas=False, trial_export=True), fout=tmp_path / "out"
        )
    estimator = pickle.loads((tmp_path / "out" / "model.pickle").read_bytes())
    assert type(estimator).__name__ == "Own"
    assert estimator.coef_.shape[0] == 1


TANH = """
import numpy
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
tanh = FunctionTransformer(numpy.tanh)
"""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{TANH}def Any(): return make_pipeline(tanh, LogisticRegression())", "Pipeline of .* cannot be exported"),
        (f"{TANH}class Any(GaussianNB): pass", "Any of .* ONNX, the only format in which estimators are saved"),
    ],
)
def test_an_estimator_that_cannot_be_exported_is_refused_before_training(text, says, tmp_path):
    path, _ = write_sample(tmp_path, 300)
    model = write_model(tmp_path, f"{text}\ndef model(idim): return Any()")
    with pytest.raises(ConfigError, match=says):
        train_model(path, "kind", model, Params(tfaas=False, trial_export=True), fout=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model", [SMALL, SMALL_KERAS, TREES], ids=["torch", "keras", "xgboost"])
def test_the_export_before_training_does_not_change_the_training(model, tmp_path):
    """Two of the models have dropout, which draws random numbers in every step."""
    path, _ = write_sample(tmp_path, 600)
    first, second = (
        train_model(
            path,
            "kind",
            write_model(tmp_path, model),
            Params.parse({**RUN, "epochs": 2, "trial_export": trial_export}),
            fout=tmp_path / str(trial_export),
        )
        for trial_export in (True, False)
    )
    np.testing.assert_array_equal(first.test.scores, second.test.scores)


def test_a_run_continues_if_checkpoint_and_table_cannot_be_written(tmp_path, capsys):
    path, _ = write_sample(tmp_path, 300)
    (tmp_path / "file").write_text("")
    params, log = Params(epochs=3), EpochLog(tmp_path / "file" / "epochs.csv")
    with DataGenerator(path, "kind", params) as generator:
        backend = model_of(generator, tmp_path)
        callbacks, checkpoint = Callbacks(log=log), Checkpoint(tmp_path / "file" / "c", "key")
        assert len(train(generator, backend, params, callbacks, checkpoint=checkpoint).epochs) == 3
        callbacks.stop_training = True
        with pytest.raises(Stopped) as caught:
            train(generator, backend, params, callbacks, checkpoint=checkpoint)
    assert "--resume" not in str(caught.value)
    said = capsys.readouterr().err
    assert said.count("note: training continues without a new checkpoint: cannot write ") == 1
    assert said.count("note: training continues without a table of epochs: cannot write ") == 1
    assert len(log.text().splitlines()) == 1 + 3


def test_epochs_are_logged_as_a_table_and_for_tensorboard(tmp_path):
    path, _ = write_sample(tmp_path)
    params = Params(epochs=2, kfold=2, tensorboard=str(tmp_path / "runs"), tfaas=False)
    trained = train_model(path, "kind", write_model(tmp_path), params, fout=tmp_path / "out")
    head, *rows = (tmp_path / "out" / "epochs.csv").read_text().splitlines()
    assert head == "fold,epoch,train_loss,seconds,events,waiting,loss,accuracy,auc"
    assert [row.split(",")[:2] for row in rows] == [["0", "1"], ["0", "2"], ["1", "1"], ["1", "2"]]
    assert float(rows[0].split(",")[2]) == trained.fits[0].history.epochs[0].train_loss
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.root", "out", "runs", "small.py"]

    found = points(tmp_path / "runs" / "fold1")
    assert [epoch for epoch, _ in found] == [1, 2]
    assert [loss for _, loss in found] == pytest.approx(
        [epoch.loss for epoch in trained.fits[1].history.epochs], rel=1e-6
    )


@pytest.mark.parametrize(
    "model", [SMALL.replace("0.01", "0.3"), SMALL_KERAS + "optimizer = keras.optimizers.Adam(0.3)\n"]
)
def test_the_learning_rate_is_lowered_when_the_validation_loss_does_not_improve(model, tmp_path):
    """The learning rates follow from the losses, also in a run that was stopped and resumed."""
    path, _ = write_sample(tmp_path, 400)
    params = Params(epochs=10, patience=99, lr_patience=2, lr_factor=0.5, tfaas=False)
    callbacks = Callbacks()
    callbacks.on_epoch_end = lambda epoch, *_: setattr(callbacks, "stop_training", epoch.epoch == 6)
    with pytest.raises(Stopped):
        train_model(path, "kind", write_model(tmp_path, model), params, fout=tmp_path / "out", callbacks=callbacks)
    model = str(tmp_path / "small.py")
    trained = train_model(path, "kind", model, params, fout=tmp_path / "out", resume=True)
    whole = train_model(path, "kind", model, params, fout=tmp_path / "whole")
    epochs = trained.fits[0].history.epochs
    rate, expected, best, waited = 0.3, [], np.inf, 0
    for epoch in epochs:
        expected.append(rate)
        best, waited = (epoch.loss, 0) if epoch.loss < best else (best, waited + 1)
        if waited == 2:
            rate, waited = rate / 2, 0
    assert [epoch.learning_rate for epoch in epochs] == pytest.approx(expected, rel=1e-6)
    assert len(set(expected)) > 1
    assert [epoch.loss for epoch in whole.fits[0].history.epochs] == [epoch.loss for epoch in epochs]


def test_lr_patience_is_refused_for_an_optimizer_with_a_schedule(tmp_path):
    path, _ = write_sample(tmp_path, 300)
    schedule = "optimizer = keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.01, 10, 0.9))\n"
    model = write_model(tmp_path, SMALL_KERAS + schedule)
    with pytest.raises(ConfigError, match="already has a learning rate schedule; set 'lr_patience' to 0"):
        train_model(path, "kind", model, Params(lr_patience=1, tfaas=False), fout=tmp_path / "out")


def points(folder):
    """Return epoch and validation loss of each point that TensorBoard finds in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.tensor_proto.float_val[0]) for event in events.Tensors("loss/validation")]


def test_a_resumed_run_writes_every_epoch_once_for_tensorboard(tmp_path):
    path, _ = write_sample(tmp_path, 300)
    params = Params(epochs=3, patience=9, tensorboard=str(tmp_path / "runs"), tfaas=False)
    callbacks = Callbacks()
    callbacks.on_epoch_end = lambda epoch, *_: setattr(callbacks, "stop_training", epoch.epoch == 2)
    with pytest.raises(Stopped):
        train_model(path, "kind", write_model(tmp_path), params, fout=tmp_path / "out", callbacks=callbacks)
    train_model(path, "kind", str(tmp_path / "small.py"), params, fout=tmp_path / "out", resume=True)
    assert [epoch for epoch, _ in points(tmp_path / "runs")] == [1, 2, 3]
    assert len((tmp_path / "out" / "epochs.csv").read_text().splitlines()) == 1 + 3


KILLED = ["--files=a.root", "--labels=kind", "--model=small.py", "--params=p.json", "--resume"]
RUN = {"tfaas": False, "epochs": 4, "batch_size": 16, "chunk_size": 300, "checkpoint": 0, "patience": 9}


def figures_of(bundle):
    """Return the metrics of a bundle without durations."""
    metrics = json.loads((bundle / "metrics.json").read_text())
    for part in (metrics, *metrics.get("folds", [])):
        for epoch in part["epochs"]:
            del epoch["seconds"], epoch["waiting"]
    return metrics


@dataclass
class Victim:
    """A run that is killed repeatedly, and the metrics that it must end with."""

    folder: Path
    whole: dict
    seconds: float

    @classmethod
    def prepare(cls, folder, model, run=run_forked, **params):
        """Complete the run once, and measure its duration."""
        write_sample(folder, 600)
        write_model(folder, model)
        (folder / "p.json").write_text(json.dumps({"tfaas": False, "epochs": 8, "patience": 9, **params}))
        start = time.monotonic()
        done = run("workflow.py", *KILLED, "--fout=whole", cwd=folder)
        assert done.returncode == 0, done.stderr
        return cls(folder, figures_of(folder / "whole"), time.monotonic() - start)

    def run(self, seconds):
        """Resume the run and kill it after a time; return its stdout, or None if it had completed."""
        command = [sys.executable, str(ROOT / "workflow.py"), *KILLED, "--fout=killed"]
        with subprocess.Popen(
            command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                _, errors = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                return process.communicate()[0].splitlines()
        assert process.returncode == 0, errors
        return None

    def check(self):
        """Check the metrics and files of the completed run, and delete its bundle."""
        assert figures_of(self.folder / "killed") == self.whole
        assert sorted(path.name for path in self.folder.glob("*killed*")) == ["killed"]
        shutil.rmtree(self.folder / "killed")


KILLS = int(os.environ.get("MLAAS4HEP_KILLS", "30"))
"""Per slow case; another number means other moments."""


def test_a_run_that_is_killed_and_resumed_ends_as_one_that_was_not(tmp_path):
    victim = Victim.prepare(tmp_path, SMALL, batch_size=16, epochs=4, checkpoint=0)
    command = ["workflow.py", *KILLED, "--fout=killed"]
    killed = run_forked(*command, cwd=tmp_path, signal_after=("epoch   2", signal.SIGKILL))
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "killed.checkpoint").exists()
    done = run_forked(*command, cwd=tmp_path)
    (first,) = (line for line in killed.stdout.splitlines() if line.startswith("epoch   1 "))
    assert first in done.stdout  # with the time that it took then
    victim.check()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "params"),
    [
        (SMALL, {"batch_size": 2}),
        (SMALL, {"batch_size": 2, "kfold": 3, "epochs": 3}),
        (TREES, {"kfold": 3}),
        (SMALL_KERAS, {"batch_size": 8}),
    ],
    ids=["torch", "torch, folds", "xgboost, folds", "keras"],
)
def test_a_run_killed_at_any_moment_and_resumed_gives_the_same_result(model, params, tmp_path, capsys):
    """The moments are random, from the start to the writing of the bundle."""
    victim = Victim.prepare(tmp_path, model, run_script, **params)
    rng = np.random.default_rng(KILLS)
    moments = (np.arange(KILLS) + rng.uniform(size=KILLS)) / KILLS * victim.seconds  # one in each interval
    for moment in moments:
        while (said := victim.run(moment)) is None:  # the resumed run completed: start again
            victim.check()
            moment *= 0.85  # and earlier, because it may be faster than the first
        with capsys.disabled():
            print(f"\nkilled after {moment:.1f} s of {victim.seconds:.1f} s: {(said or ['nothing said'])[-1]}")
    assert victim.run(None) is None
    if model is TREES:
        again = run_script("workflow.py", *KILLED, "--fout=killed", cwd=tmp_path)
        assert again.returncode == 0
        assert "note: killed is already trained" in again.stderr
    victim.check()


@pytest.mark.parametrize("model", [TREES, ESTIMATOR], ids=["xgboost", "scikit-learn"])
def test_completed_folds_are_not_trained_again(model, tmp_path):
    path, _ = write_sample(tmp_path, 600)
    params, trained = Params(kfold=3, tfaas=False), []

    def went(name, **more):
        return train_model(path, "kind", write_model(tmp_path, model), params, fout=tmp_path / name, **more)

    whole = went("whole", callbacks=Callbacks(on_train_begin=lambda generator, backend, fold: trained.append(fold)))
    assert trained == [0, 1, 2]
    callbacks = Callbacks()
    callbacks.on_train_begin = lambda generator, backend, fold: setattr(callbacks, "stop_training", fold == 2)
    with pytest.raises(Stopped, match="with --resume to continue from the last checkpoint"):
        went("out", callbacks=callbacks)
    assert sorted(path.name for path in tmp_path.glob("out.*checkpoint")) == [
        "out.fold0.checkpoint",
        "out.fold1.checkpoint",
    ]
    again = went("out", resume=True)
    assert [type(fit.backend).__name__ == "StoredModel" for fit in again.fits] == [True, True, False]
    assert figures_of(tmp_path / "out") == figures_of(tmp_path / "whole")
    for name in ("model.onnx", "folds/0/model.onnx"):
        rows = np.random.default_rng(0).normal(size=(50, len(whole.source.columns))).astype("f4")
        found = [onnxruntime.InferenceSession(str(tmp_path / out / name)).run(None, {"inputs": rows})[0]
                 for out in ("whole", "out")]  # fmt: skip
        np.testing.assert_array_equal(*found)
    assert {path.name for path in (tmp_path / "out/folds/0").iterdir()} == {
        path.name for path in (tmp_path / "whole/folds/0").iterdir()
    }


def test_sigterm_stops_training_with_a_checkpoint(tmp_path):
    write_sample(tmp_path, 600)
    write_model(tmp_path)
    (tmp_path / "p.json").write_text(json.dumps({**RUN, "epochs": 500, "patience": 500, "checkpoint": 60}))
    done = run_forked("workflow.py", *KILLED, "--fout=out", cwd=tmp_path, signal_after=("epoch   2", signal.SIGTERM))
    assert done.returncode == 143
    assert done.stderr.splitlines()[-1].startswith("error: stopped in epoch ")
    assert done.stderr.rstrip().endswith(
        "batches; run the same command with --resume to continue from the last checkpoint"
    )
    assert (tmp_path / "out.checkpoint").exists()


TERM = "import os, signal\ndef term(): os.kill(os.getpid(), signal.SIGTERM)\n"
NET = f"""{TERM}
import torch
class Net(torch.nn.Linear):
    tested, trained = 0, False
    def forward(self, x):
        self.tested += not self.training
        return super().forward(x)
    def load_state_dict(self, *weights, **more):  # called when training restores the best weights
        self.trained = True
        return super().load_state_dict(*weights, **more)
def model(idim): return Net(idim, 1)
"""
EVALUATED = NET.replace("self.tested += not self.training", "self.trained and not self.training and term()")
WRITTEN = NET.replace("self.tested += not self.training", "").replace(
    "def load", "def state_dict(self, **more):\n        if self.trained: term()\n"
    "        return super().state_dict(**more)\n    def load")  # fmt: skip
REPORTED = NET + "def own(y, scores):\n    if len(y) != 20: term()\n    return 1\nmetrics = [own]\n"
VALIDATED = NET.replace(  # the export before the training also calls the model
    "self.tested += not self.training",
    "self.started = getattr(self, 'started', False) or self.training\n        "
    "self.tested += self.started and not self.training\n        if self.tested == 2: term()",
)
XGBOOST = "import xgboost\ndef model(idim): return xgboost.XGBClassifier(n_estimators=10**6, n_jobs=1)\n"
FOREST = f"""{TERM}
from sklearn.ensemble import HistGradientBoostingClassifier
class Long(HistGradientBoostingClassifier):
    def fit(self, x, y):
        term()
        return super().fit(x, y)
def model(idim): return Long(max_iter=10**6, early_stopping=False)
"""
FIRST_PASS = TERM + "branches = ['met']\ndef preprocessing(events):\n    term()\n    return events\n"
LAST, ANEW = "with --resume to continue from the last checkpoint", "run the same command to start again"


def check_left(folder, resumable):
    """Check that a stopped run has left only its inputs, its log and, if it is resumable, its checkpoint."""
    kept = {"out.checkpoint", "out.epochs.csv"} & {path.name for path in folder.iterdir()}
    assert {path.name for path in folder.iterdir()} - {"p.json", "pre.py"} == {"a.root", "small.py", "temporary", *kept}
    assert ("out.checkpoint" in kept) == resumable
    assert not [path for path in (folder / "temporary").iterdir() if not path.name.startswith("torchinductor")]


@pytest.mark.parametrize(
    ("model", "preproc", "says"),
    [
        ("def model(idim): pass", FIRST_PASS, f"stopped by SIGTERM; {ANEW}"),
        (FOREST, "", f"stopped by SIGTERM; {ANEW}"),
        (XGBOOST, "", f"stopped while training a model that has no checkpoints; {ANEW}"),
    ],
    ids=["first pass", "scikit-learn", "xgboost"],
)
def test_sigterm_stops_a_run_without_checkpoints_at_any_stage_and_leaves_no_files(model, preproc, says, tmp_path):
    write_sample(tmp_path, 600)
    write_model(tmp_path, model)
    (tmp_path / "pre.py").write_text(preproc)
    (tmp_path / "p.json").write_text(json.dumps({**RUN, "epochs": 1, "checkpoint": 60}))
    (tmp_path / "temporary").mkdir()
    done = run_forked(
        "workflow.py", *KILLED, "--fout=out", *["--preproc=pre.py"] * bool(preproc), cwd=tmp_path,
        env={"TMPDIR": str(tmp_path / "temporary")},
        signal_after=("round   1", signal.SIGTERM) if model is XGBOOST else None,
    )  # fmt: skip
    assert done.returncode == 143, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(says)
    check_left(tmp_path, resumable=False)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (VALIDATED, f"stopped in epoch 1 after 27 batches; run the same command {LAST}"),
        (EVALUATED, LAST),
        (REPORTED, LAST),
        (WRITTEN, LAST),
    ],
    ids=["validation", "evaluation", "report", "bundle"],
)
def test_sigterm_stops_a_stepwise_run_at_any_stage_with_a_checkpoint(model, says, tmp_path, monkeypatch):
    path, _ = write_sample(tmp_path, 600)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    params, callbacks = Params.parse({**RUN, "epochs": 1, "checkpoint": 60}), Callbacks()
    with pytest.raises(Stopped) as caught, callbacks.stop_on_signals():
        train_model(path, "kind", write_model(tmp_path, model), params, fout=tmp_path / "out", callbacks=callbacks)
    assert str(caught.value).endswith(says)
    assert caught.value.exit_code == 143
    check_left(tmp_path, resumable=True)


def test_sigterm_during_scoring_leaves_no_incomplete_files(tmp_path):
    path, _ = write_sample(tmp_path, 600)
    (tmp_path / "pre.py").write_text(FIRST_PASS.replace("    term()", "    'term' in os.environ and term()"))
    model = write_model(tmp_path, ESTIMATOR)
    train_model(path, "kind", model, Params(tfaas=False), fout=tmp_path / "out", preproc=str(tmp_path / "pre.py"))
    args = ["--predict=out", "--files=a.root", "--preproc=pre.py"]
    done = run_forked("workflow.py", *args, cwd=tmp_path, env={"term": "1"})
    assert done.returncode == 143
    assert done.stderr == f"error: stopped by SIGTERM; {ANEW}\n"
    assert not list(tmp_path.glob("scores/*"))


def test_a_checkpoint_of_another_run_is_refused_by_resume_and_replaced_otherwise(tmp_path):
    path, _ = write_sample(tmp_path, 600)
    model = write_model(tmp_path)
    callbacks = Callbacks()

    def stop(*_):
        callbacks.stop_training = True

    callbacks.on_epoch_end = stop
    with pytest.raises(Exception, match="stopped in epoch 2 after 1 batches"):
        train_model(path, "kind", model, Params(epochs=3, tfaas=False), fout=tmp_path / "out", callbacks=callbacks)
    with pytest.raises(Exception, match="belongs to a run with other files, labels, preprocessing, parameters or"):
        train_model(path, "kind", model, Params(epochs=3, tfaas=False, seed=1), fout=tmp_path / "out", resume=True)
    train_model(path, "kind", model, Params(epochs=5, tfaas=False), fout=tmp_path / "out", resume=True)
    assert len(json.loads((tmp_path / "out" / "metrics.json").read_text())["epochs"]) == 5
    assert not (tmp_path / "out.checkpoint").exists()
    with pytest.raises(AlreadyTrained):
        train_model(path, "kind", model, Params(epochs=5, tfaas=False), fout=tmp_path / "out", resume=True)


@pytest.mark.parametrize(
    ("labels", "before", "after"),
    [
        ("high", {"define": {"high": "met > 30"}}, {"define": {"high": "shift > 1"}}),
        ("kind", {"define": {"heavy": "1 + met"}}, {"define": {"heavy": "1 + shift**2"}}),
        ("kind", {"cut": "met > 10"}, {"cut": "met < 90"}),
        (
            "kind",
            "def preprocessing(events): return events[events.met > 10]",
            "def preprocessing(events): return events",
        ),
    ],
    ids=["labels", "weights", "cuts with specs", "a Python file with specs"],
)
def test_resume_is_refused_after_a_change_of_the_preprocessing(labels, before, after, tmp_path):
    """The specs are given, so that only the preprocessing differs."""
    path, _ = write_sample(tmp_path, 300)
    model, callbacks = write_model(tmp_path), Callbacks()
    with DataGenerator(path, "kind", {"selected_branches": ["met", "shift"]}) as generator:
        specs = generator.specs
    weight = "heavy" if "heavy" in str(before) else ""
    params = Params(weight=weight, selected_branches=["met", "shift"], tfaas=False)

    def went(content, **more):
        preproc = tmp_path / ("pre.py" if isinstance(content, str) else "pre.json")
        preproc.write_text(content if isinstance(content, str) else json.dumps(content))
        given = {"specs": specs, "preproc": str(preproc), **more}
        return train_model(path, labels, model, params, fout=tmp_path / "out", **given)

    callbacks.on_train_begin = lambda *_: setattr(callbacks, "stop_training", True)
    with pytest.raises(Stopped):
        went(before, callbacks=callbacks)
    with pytest.raises(ConfigError, match="belongs to a run with other files, labels, preprocessing, parameters or"):
        went(after, resume=True)


def test_resume_accepts_files_that_were_touched_or_copied(tmp_path):
    path, _ = write_sample(tmp_path, 300)
    model, params = write_model(tmp_path), Params(epochs=2, batch_size=64, tfaas=False)
    callbacks = Callbacks(on_train_begin=lambda *_: setattr(callbacks, "stop_training", True))
    with pytest.raises(Stopped, match="stopped in epoch 1 after 1 batches"):
        train_model(path, "kind", model, params, fout=tmp_path / "out", callbacks=callbacks)
    shutil.copyfile(tmp_path / "out.checkpoint", tmp_path / "new.checkpoint")
    os.utime(path, (1, 1))
    callbacks = Callbacks(on_train_begin=lambda *_: setattr(callbacks, "stop_training", True))
    with pytest.raises(Stopped, match="stopped in epoch 1 after 2 batches"):
        train_model(path, "kind", model, params, fout=tmp_path / "out", callbacks=callbacks, resume=True)
    (tmp_path / "staged").mkdir()
    shutil.copyfile(path, tmp_path / "staged" / "again.root")
    elsewhere = str(tmp_path / "staged" / "again.root")
    callbacks = Callbacks(on_train_begin=lambda *_: setattr(callbacks, "stop_training", True))
    with pytest.raises(Stopped, match="stopped in epoch 1 after 3 batches"):
        train_model(elsewhere, "kind", model, params, fout=tmp_path / "out", callbacks=callbacks, resume=True)
    write_sample(tmp_path, 300)  # the same events in a new file
    with pytest.raises(Exception, match="belongs to a run with other files"):
        train_model(path, "kind", model, params, fout=tmp_path / "new", resume=True)


def test_a_damaged_checkpoint_is_reported_in_one_line(tmp_path):
    path, _ = write_sample(tmp_path, 300)
    with zipfile.ZipFile(tmp_path / "out.checkpoint", "w") as archive:
        archive.writestr("standing.json", "{}")
    with open(tmp_path / "out.checkpoint", "r+b") as file:
        file.truncate(60)
    with pytest.raises(
        FileUnreadable, match=r"cannot read the checkpoint .*out.checkpoint: .*; delete it to start again"
    ):
        train_model(path, "kind", write_model(tmp_path), fout=tmp_path / "out", resume=True)
