"""One-shot models of completed folds, stored in checkpoints until all folds are trained.

    store_model(checkpoint, backend, TrainingResult(history, *predictions), events.inputs)
    model, result = load_stored_model(checkpoint, backend, task)

scikit-learn can save its estimators only as pickles, which are never read here. A stored model therefore predicts with
its ONNX graph.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlaas4hep import console
from mlaas4hep.backends.protocol import Backend
from mlaas4hep.backends.task import TOLERANCE, Task
from mlaas4hep.stream import PARTS
from mlaas4hep.training.checkpoint import Checkpoint, TrainingState
from mlaas4hep.training.history import History
from mlaas4hep.training.loop import Predictions
from mlaas4hep.training.onnx_session import new_session
from mlaas4hep.write_errors import write_errno

GRAPH, ABOUT = "network.onnx", "about.json"
ARRAYS = ("y", "scores", "weight")

Inputs = Mapping[str, np.ndarray]


class TrainingResult(NamedTuple):
    """Result of a training: its epochs, and the predictions for each set."""

    history: History
    train: Predictions
    valid: Predictions
    test: Predictions


class StoredModel:
    """A model loaded from a checkpoint; see `Backend`."""

    def __init__(self, like: Backend, files: Mapping[str, bytes]) -> None:
        """Load the files that `store_model` wrote; `like` is an untrained model of the same kind."""
        self.framework, self.takes = like.framework, like.takes
        self.outputs, self.normalised = like.outputs, like.normalised
        self.native_file = like.native_file
        self.exporters: tuple[str, ...] = ("stored graph",)
        self.reads, self.round_noun = like.reads, like.round_noun
        self._files = dict(files)
        self._about = json.loads(self._files.pop(ABOUT))
        self._graph = self._files.pop(GRAPH)
        self._session = new_session(self._graph)

    def predict(self, inputs: Inputs) -> np.ndarray:
        """Return scores, float32 (events, outputs)."""
        feed = {slot.name: np.asarray(inputs[slot.name], np.float32) for slot in self._session.get_inputs()}
        return np.asarray(self._session.run(["scores"], feed)[0], np.float32)

    def size(self) -> str:
        """Describe the size of the model."""
        return str(self._about["size"])

    def save(self, folder: Path) -> str:
        """Write the model's files; return the name of the first, or ""."""
        for name, content in self._files.items():
            (folder / name).write_bytes(content)
        return str(self._about["model"])

    def export(self, path: Path, exporter: str = "") -> None:
        """Write the ONNX graph."""
        path.write_bytes(self._graph)


def store_model(checkpoint: Checkpoint, backend: Backend, result: TrainingResult, examples: Inputs) -> None:
    """Store a trained model and its result, unless its ONNX graph gives different scores for some examples."""
    try:
        files = _files_of(backend)
        scores = StoredModel(backend, files).predict(examples)
        difference = result.test.task.differences(scores, backend.predict(examples)).max()
    except Exception as error:  # any error of an exporter, or onnxruntime is missing; writing the bundle reports it
        if number := write_errno(error):
            console.notice(f"--resume would train this fold again: cannot write temporary files: {os.strerror(number)}")
        return
    if not difference <= TOLERANCE:
        return
    history = result.history
    training_state = TrainingState(epochs=list(history.epochs), best=history.best - 1, finished=True)
    checkpoint.save(training_state, _pack_files(files), _pack_predictions(result))


def load_stored_model(checkpoint: Checkpoint, like: Backend, task: Task) -> tuple[StoredModel, TrainingResult] | None:
    """Return the stored model and its result; None if there is none.

    Args:
        like: an untrained model of the same kind.

    Raises:
        ConfigError, FileUnreadable: see `Checkpoint.load`.
    """
    saved = checkpoint.load()
    if saved is None:
        return None
    training_state, files, predictions = saved
    with zipfile.ZipFile(io.BytesIO(files)) as archive:
        model = StoredModel(like, {name: archive.read(name) for name in archive.namelist()})
    history = History(tuple(training_state.epochs), training_state.best + 1)
    return model, TrainingResult(history, *_unpack_predictions(predictions, task))


def _files_of(backend: Backend) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="mlaas4hep-model-") as name:
        folder = Path(name)
        about: dict[str, Any] = {"model": backend.save(folder), "size": backend.size()}
        backend.export(folder / GRAPH)
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    return {**files, ABOUT: json.dumps(about).encode()}


def _pack_files(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def _pack_predictions(result: TrainingResult) -> bytes:
    packed = io.BytesIO()
    arrays = {f"{part} {name}": getattr(getattr(result, part), name) for part in PARTS for name in ARRAYS}
    np.savez(packed, **arrays)
    return packed.getvalue()


def _unpack_predictions(packed: bytes, task: Task) -> list[Predictions]:
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        columns = [[arrays[f"{part} {name}"] for name in ARRAYS] for part in PARTS]
    return [Predictions(y, scores, weight, task) for y, scores, weight in columns]
