"""Models that are trained in one go, kept until those of all folds are: what a bundle needs of one, as files.

    keep(checkpoint, backend, Result(history, *parts), events.inputs)
    backend, result = find(checkpoint, backend, task)

Estimators of scikit-learn have no format but pickles, which are never read: what was kept predicts by its ONNX graph.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlaas4hep.stream import PARTS
from mlaas4hep.training.backend import Backend
from mlaas4hep.training.checkpoint import Checkpoint, Standing
from mlaas4hep.training.loop import Epoch, History, Scored
from mlaas4hep.training.task import TOLERANCE, Task

GRAPH, ABOUT = "network.onnx", "about.json"
KEYS = ("y", "scores", "weight")


class Result(NamedTuple):
    """What came of a training: figures of every epoch, and scores of the parts."""

    history: History
    train: Scored
    valid: Scored
    test: Scored


class StoredModel:
    """A model that was kept; see `Backend`."""

    def __init__(self, like: Backend, files: Mapping[str, bytes]) -> None:
        """Take the files of `keep`; `like` is a model of the same kind, which need not be trained."""
        import onnxruntime

        self.framework, self.takes = like.framework, like.takes
        self.outputs, self.normalised = like.outputs, like.normalised
        self._files = dict(files)
        self._about = json.loads(self._files.pop(ABOUT))
        self._graph = self._files.pop(GRAPH)
        self._session = onnxruntime.InferenceSession(self._graph, providers=["CPUExecutionProvider"])

    def predict(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return scores, float32 (events, outputs)."""
        feed = {slot.name: np.asarray(inputs[slot.name], np.float32) for slot in self._session.get_inputs()}
        return np.asarray(self._session.run(["scores"], feed)[0], np.float32)

    def size(self) -> str:
        """Return how large the model is, in words."""
        return str(self._about["size"])

    def save(self, folder: Path) -> str:
        """Write the model's files, and return the name of the first, or ""."""
        for name, content in self._files.items():
            (folder / name).write_bytes(content)
        return str(self._about["model"])

    def export(self, path: Path) -> None:
        """Write the ONNX graph."""
        path.write_bytes(self._graph)


def keep(checkpoint: Checkpoint, backend: Backend, result: Result, examples: Mapping[str, np.ndarray]) -> None:
    """Keep a model that was trained, with its result; one whose graph does not give its scores is not kept.

    Args:
        examples: inputs of some events, by which to compare.
    """
    try:
        files = _files_of(backend)
        worst = result.test.task.difference(StoredModel(backend, files).predict(examples), backend.predict(examples))
    except Exception:  # whatever exporters raise, or there is no onnxruntime; the bundle will say it
        return
    if not worst <= TOLERANCE:
        return
    history = result.history
    standing = Standing(epochs=[asdict(epoch) for epoch in history.epochs], best=history.best - 1, finished=True)
    checkpoint.save(standing, _packed(files), _packed_scores(result))


def find(checkpoint: Checkpoint, like: Backend, task: Task) -> tuple[StoredModel, Result] | None:
    """Return what was kept; None where nothing was.

    Raises:
        ConfigError, FileUnreadable: see `Checkpoint.load`.
    """
    found = checkpoint.load()
    if found is None:
        return None
    standing, files, scores = found
    with zipfile.ZipFile(io.BytesIO(files)) as archive:
        model = StoredModel(like, {name: archive.read(name) for name in archive.namelist()})
    history = History(tuple(Epoch(**epoch) for epoch in standing.epochs), standing.best + 1)
    return model, Result(history, *_unpacked_scores(scores, task))


def _files_of(backend: Backend) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="mlaas4hep-model-") as name:
        folder = Path(name)
        about: dict[str, Any] = {"model": backend.save(folder), "size": backend.size()}
        backend.export(folder / GRAPH)
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    return {**files, ABOUT: json.dumps(about).encode()}


def _packed(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def _packed_scores(result: Result) -> bytes:
    packed = io.BytesIO()
    arrays = {f"{part} {key}": getattr(getattr(result, part), key) for part in PARTS for key in KEYS}
    np.savez(packed, **arrays)
    return packed.getvalue()


def _unpacked_scores(packed: bytes, task: Task) -> list[Scored]:
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        columns = [[arrays[f"{part} {key}"] for key in KEYS] for part in PARTS]
    return [Scored(y, scores, weight, task) for y, scores, weight in columns]
