"""Checks that every training backend must pass."""

import re

import numpy as np
import onnx
import onnxruntime
import pytest

from mlaas4hep.backends.make import make_backend
from mlaas4hep.backends.metrics import auc
from mlaas4hep.backends.model_file import ModelFile
from mlaas4hep.backends.protocol import Backend, OneShotBackend, StepwiseBackend
from mlaas4hep.backends.task import Task
from mlaas4hep.config import Params
from mlaas4hep.stream import Batch
from mlaas4hep.training.onnx_graph import prepend_inputs

WIDTH = 6
SHAPES = {"x": (WIDTH,)}


def toy_batches(events=2048, size=128, classes=2, seed=0, width=WIDTH):
    """Return learnable batches: column 0 has mean 2k for class k; a fifth of the values are missing."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, events)
    x = rng.normal(size=(events, width)).astype(np.float32)
    x[:, 0] += 2 * y
    mask = rng.uniform(size=x.shape) > 0.2
    mask[:, 0] = True
    x[~mask] = 0
    inputs, ones = {"x": x, "mask": mask}, np.ones(events, np.float32)
    every = Batch(inputs, y, ones, {}, np.zeros(events, np.int8), np.zeros(events, np.int32), np.arange(events))
    return [every[start : start + size] for start in range(0, events, size)]


def epoch_of(backend: Backend, batches) -> float:
    """Train on batches; return the mean loss."""
    steps = [(float(loss), weight) for loss, weight in backend.steps(batches)]
    return float(np.average([loss for loss, _ in steps], weights=[weight for _, weight in steps]))


def check_stepwise(file: ModelFile, classes: int, folder) -> Backend:
    """Train, save and export the model of a file, and check the contract of `StepwiseBackend`.

    `check_seeds_and_state` checks the rest of it.
    """
    task = Task.classification(classes)
    backend = make_backend(file, SHAPES, task, Params(seed=1))
    assert isinstance(backend, StepwiseBackend)
    batches = toy_batches(classes=classes)
    every = Batch.concatenate(batches)

    scores = backend.predict(every.inputs)
    assert scores.shape == (len(every), backend.outputs)
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    if backend.outputs > 1:
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(scores, backend.predict(every.inputs))

    before = backend.snapshot()
    losses = [epoch_of(backend, batches) for _ in range(8)]
    assert losses[-1] < 0.8 * losses[0]
    trained = backend.predict(every.inputs)
    assert auc(every.y, trained) > 0.85

    after = backend.snapshot()
    backend.restore(before)
    np.testing.assert_allclose(backend.predict(every.inputs), scores, atol=1e-6)
    backend.restore(after)
    np.testing.assert_allclose(backend.predict(every.inputs), trained, atol=1e-6)

    assert re.fullmatch(r"[\d,]+ weights", backend.size())
    assert (folder / backend.save(folder)).stat().st_size > 0
    check_export(backend, every, trained, folder / "network.onnx")
    return backend


def check_one_shot(file: ModelFile, task: Task, batches, folder) -> Backend:
    """Train, save and export the model of a file, and check the contract of `OneShotBackend`."""
    backend = make_backend(file, SHAPES, task, Params(seed=1, epochs=10))
    assert isinstance(backend, OneShotBackend)
    rounds = []
    kept = backend.fit(lambda epoch: batches, lambda: batches[:3], lambda *result: rounds.append(result))
    assert [number for number, *_ in rounds] == list(range(1, len(rounds) + 1))
    valid = Batch.concatenate(batches[:3])
    if rounds:  # the loss of the round that is kept is that of the model
        loss = task.metrics(valid.y, backend.predict(valid.inputs), valid.weight)["loss"]
        assert rounds[kept - 1][2]["loss"] == pytest.approx(loss, rel=1e-4)
    else:
        assert kept == 0
    every = Batch.concatenate(batches)
    scores = backend.predict(every.inputs)
    assert scores.shape == (len(every), backend.outputs)
    assert scores.dtype == np.float32
    if task.name != "regression":
        assert ((scores >= 0) & (scores <= 1)).all()
    name = backend.save(folder)
    assert not name or (folder / name).stat().st_size > 0
    check_export(backend, every, scores, folder / "network.onnx", 1e-5 * max(1.0, float(np.abs(scores).max())))
    return backend


def check_seeds_and_state(file: ModelFile, classes: int) -> None:
    """Check that the seed determines the scores after an epoch, and that a restored state gives the same steps."""
    task, batches = Task.classification(classes), toy_batches(classes=classes)
    every = Batch.concatenate(batches)
    models = []
    for seed in (1, 1, 2):
        models.append(make_backend(file, SHAPES, task, Params(seed=seed)))
        epoch_of(models[-1], batches)
    first, again, second = models
    expected = first.predict(every.inputs)
    np.testing.assert_allclose(again.predict(every.inputs), expected, atol=1e-6)
    assert np.abs(second.predict(every.inputs) - expected).max() > 1e-3
    state, losses = first.state(), []
    for model in (again, second):
        model.load_state(state)  # the random numbers are those of the process
        losses.append(epoch_of(model, batches[5:]))
    assert losses[0] == losses[1]
    np.testing.assert_array_equal(again.predict(every.inputs), second.predict(every.inputs))


def check_export(backend, every, expected, path, tolerance=1e-5):
    """Check that the exported graph gives the same scores for any number of events."""
    backend.export(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [slot.name for slot in session.get_inputs()]
    arrays = [every.inputs[name].astype(np.float32) for name in backend.takes]
    for events in (1, 7, len(every)):
        feed = dict(zip(names, [values[:events] for values in arrays], strict=True))
        np.testing.assert_allclose(session.run(None, feed)[0], expected[:events], atol=tolerance)


def check_raw_events(generator, backend, folder, events=400):
    """Check that a bundle's graph gives the framework's scores for unnormalised events, within 1e-5.

    For regression the tolerance is relative to the estimate or the spread, whichever is larger. Return the scores.
    """
    backend.export(folder / "network.onnx")
    network = onnx.load(str(folder / "network.onnx"))
    graph = prepend_inputs(network, generator.sample.inputs, backend.takes, generator.layout)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    taken = {name for node in graph.graph.node for name in node.input}
    assert {one.name for one in graph.graph.initializer} <= taken  # ONNX Runtime warns of others
    found = session.run(["scores"], {"inputs": generator.examples(events, None, raw=True).x})[0]
    expected = backend.predict(generator.examples(events, None).inputs)
    assert found.shape == expected.shape == (events, backend.outputs)
    unit = np.maximum(backend.task.spread or 1.0, np.abs(expected))
    assert (np.abs(found - expected) / unit).max() <= 1e-5
    return expected
