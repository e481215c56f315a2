"""The contract of a training backend; every framework's must pass it."""

import numpy as np
import onnxruntime

from mlaas4hep.stream import Batch
from mlaas4hep.training.backend import Backend, make_backend
from mlaas4hep.training.metrics import auc
from mlaas4hep.training.model_file import ModelFile

WIDTH = 6
SHAPES = {"x": (WIDTH,)}


def toy_batches(events=2048, size=128, classes=2, seed=0, width=WIDTH):
    """Batches that can be learnt: class k has mean k in column 0; a fifth of the cells are missing."""
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


def check_backend(file: ModelFile, classes: int, folder) -> Backend:
    """Train, save and export the model of a file, and check every promise of `Backend`."""
    backend = make_backend(file, SHAPES, classes, seed=1)
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
    losses = [backend.fit(batches) for _ in range(8)]
    assert losses[-1] < 0.8 * losses[0]
    trained = backend.predict(every.inputs)
    assert auc(every.y, trained) > 0.85

    after = backend.snapshot()
    backend.restore(before)
    np.testing.assert_allclose(backend.predict(every.inputs), scores, atol=1e-6)
    backend.restore(after)
    np.testing.assert_allclose(backend.predict(every.inputs), trained, atol=1e-6)

    assert backend.parameters() > 0
    assert (folder / backend.save(folder)).stat().st_size > 0
    check_export(backend, every, trained, folder / "network.onnx")
    check_same_seed_gives_same_weights(file, classes, batches, every)
    return backend


def check_export(backend, every, expected, path):
    """The exported graph gives the same probabilities for any number of events."""
    backend.export(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [slot.name for slot in session.get_inputs()]
    arrays = [every.inputs[name].astype(np.float32) for name in backend.takes]
    for events in (1, 7, len(every)):
        feed = dict(zip(names, [values[:events] for values in arrays], strict=True))
        np.testing.assert_allclose(session.run(None, feed)[0], expected[:events], atol=1e-5)


def check_same_seed_gives_same_weights(file, classes, batches, every):
    """Two runs with one seed end in the same scores; another seed gives others."""
    scores = []
    for seed in (3, 3, 4):
        backend = make_backend(file, SHAPES, classes, seed=seed)
        backend.fit(batches)
        scores.append(backend.predict(every.inputs))
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)
    assert np.abs(scores[0] - scores[2]).max() > 1e-3
