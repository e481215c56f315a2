"""Run a stored model.

    predictors = Predictors(store)
    predictors.get("htautau").predictor.predict(matrix)         # float32 (n, features) -> float32 (n, k)

ONNX is what is served; a further format is one more class with `rows` and `predict`, and a line in `load_predictor`.
onnxruntime is imported when the first model is loaded.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from mlaas4hep.errors import ConfigError, MLaaS4HEPError, require
from mlaas4hep.files import read_lines
from mlaas4hep.serving.params import plain_filename
from mlaas4hep.serving.rows import Columns, Matrix, Request, Rows, plain_rows
from mlaas4hep.serving.store import ModelStore, StoredModel, Version

_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64}
_RELOADS = 5
_FRESH = 1.0  # seconds in which a folder is not looked at again
_log = logging.getLogger(__name__)


class Tensor(NamedTuple):
    """What goes into a model, or comes out: its name, and its shape for one event, with None where that is not said."""

    name: str
    shape: tuple[int | None, ...]


class Predictor(Protocol):
    """A model that is ready to run; may be used from many threads at once."""

    @property
    def input(self) -> Tensor:
        """What it takes, float32 with the events in front: (features,) or, of images, (height, width, channels)."""

    @property
    def output(self) -> Tensor:
        """What it gives, float32 with the events in front: (k,)."""

    @property
    def keys(self) -> Sequence[str] | None:
        """The names of the input columns in order; None where the model does not name them."""

    @property
    def labels(self) -> Sequence[str]:
        """The names of the classes; may be empty."""

    def rows(self, request: Request) -> Rows:
        """Make the matrix that the model takes of what a client asks."""

    def predict(self, rows: Matrix) -> Matrix:
        """Return the scores, float32 (n, k), of float32 (n, features)."""


class Model(NamedTuple):
    """A predictor, and as what it is in the store; versions count from "1"."""

    name: str
    version: str
    predictor: Predictor


class OnnxPredictor:
    """An ONNX graph with one input, (n, features).

    Args:
        path: the graph.
        output: the name of the output to give; another name stands for the first output.
        labels: the names of the classes.
        threads: cores that one prediction may use.

    Raises:
        ConfigError: it is no such graph. The message does not say where it is.
    """

    def __init__(self, path: Path, output: str = "", labels: Sequence[str] = (), threads: int = 1) -> None:
        self.labels = list(labels)
        self._session = _open_session(path, threads)
        inputs, outputs = self._session.get_inputs(), [node.name for node in self._session.get_outputs()]
        if len(inputs) != 1 or len(inputs[0].shape) != 2 or inputs[0].type not in _TYPES:
            raise ConfigError(f"{path.name} does not have one input (n, features) of real numbers")
        self._dtype = _TYPES[inputs[0].type]
        self.input = Tensor(inputs[0].name, _sizes(inputs[0].shape[1:]))
        name = output if output in outputs else outputs[0]
        self.output = Tensor(name, _sizes(self._session.get_outputs()[outputs.index(name)].shape[1:]))
        self._takes_one_row = inputs[0].shape[0] == 1
        self._columns = _read_columns(self._session.get_modelmeta().custom_metadata_map, path.name)
        (features,) = self.input.shape
        if self._columns and features not in (None, len(self._columns.names)):
            raise ConfigError(f"{path.name} names {len(self._columns.names)} columns, and takes {features}")

    @property
    def keys(self) -> Sequence[str] | None:
        return self._columns.names if self._columns else None

    def rows(self, request: Request) -> Rows:
        return self._columns.place(request) if self._columns else plain_rows(request, self.input.shape[0])

    def predict(self, rows: Matrix) -> Matrix:
        batches = np.split(rows, len(rows)) if self._takes_one_row else [rows]
        return np.concatenate([self._run(batch) for batch in batches])

    def _run(self, batch: Matrix) -> Matrix:
        try:
            (scores,) = self._session.run([self.output.name], {self.input.name: batch.astype(self._dtype, copy=False)})
        except Exception as error:  # onnxruntime's errors have no base of their own
            _log.warning("onnxruntime refuses an input of shape %s: %s", batch.shape, error)
            raise ConfigError(f"the model cannot take {batch.shape[1]} values") from error
        try:
            return np.asarray(scores, np.float32).reshape(len(batch), -1)
        except (TypeError, ValueError) as error:
            raise ConfigError("the model's first output is no table of numbers with a row for each event") from error


def load_predictor(model: StoredModel) -> Predictor:
    """Make a stored model ready to run.

    Raises:
        ConfigError: its file is of a kind that is not served, or is damaged.
        PackageMissing: what runs it is not installed.
    """
    file = str(model.params["model"])
    if not file.endswith(".onnx"):
        kind = f"'{file}'" if file else "a SavedModel"
        raise ConfigError(f"model '{model.name}' is {kind}; only .onnx files are run here")
    return OnnxPredictor(model.folder / plain_filename(file), str(model.params["output_name"]), _labels(model))


class Predictors:
    """Models that were loaded, each until its folder in the store is another one."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._loading = threading.Lock()
        self._loaded: dict[str, _Loaded] = {}

    def get(self, name: str) -> Model:
        """Return the model that is in the store under that name now.

        Raises:
            UnknownModel: there is none.
            ConfigError, PackageMissing: it cannot be run.
        """
        loaded = self._current(name)
        if loaded is None:
            with self._loading:
                loaded = self._current(name) or self._load(name)
                self._loaded[name] = loaded
        return loaded.model

    def loaded(self, name: str) -> Model | None:
        """Return the model if it is loaded, and still the one in the store.

        Raises:
            UnknownModel: there is no such model.
        """
        loaded = self._current(name)
        return loaded.model if loaded else None

    def forget(self, name: str) -> None:
        """Free the memory of a model that was deleted."""
        self._loaded.pop(name, None)

    def _current(self, name: str) -> _Loaded | None:
        loaded, changes, now = self._loaded.get(name), self._store.changes, time.monotonic()
        if loaded is None:
            return None
        if loaded.changes != changes or now - loaded.looked > _FRESH:  # folders can also be changed by hand
            if self._store.version(name) != loaded.version:
                return None
            loaded.changes, loaded.looked = changes, now
        return loaded

    def _load(self, name: str) -> _Loaded:
        """Load a model; begin anew where it was replaced meanwhile, so that no graph meets another one's params."""
        for _ in range(_RELOADS):
            model = self._store.get(name)
            try:
                loaded = _Loaded(Model(name, str(model.number), load_predictor(model)), model.version)
            except MLaaS4HEPError:
                if self._store.version(name) == model.version:
                    raise
            else:
                if self._store.version(name) == model.version:
                    return loaded
        raise ConfigError(f"model '{name}' is being replaced", hint="ask again in a second")


@dataclass
class _Loaded:
    """A model, the version of its folder, and when that was looked at: after how many changes, at which time."""

    model: Model
    version: Version
    changes: int = -1
    looked: float = 0.0


def _sizes(shape: Sequence[object]) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in shape)


def _open_session(path: Path, threads: int) -> Any:
    onnxruntime = require("onnxruntime", "server", "running an ONNX model")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised as well
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no base of their own
        _log.warning("onnxruntime cannot load %s: %s", path, error)
        raise ConfigError(f"{path.name} is no ONNX model that onnxruntime can load") from error


def _read_columns(metadata: dict[str, str], file: str) -> Columns | None:
    if "mlaas4hep.keys" not in metadata:
        return None
    try:
        return Columns(json.loads(metadata["mlaas4hep.keys"]), json.loads(metadata.get("mlaas4hep.branches", "{}")))
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"the metadata 'mlaas4hep.keys' and 'mlaas4hep.branches' of {file} make no sense") from error


def _labels(model: StoredModel) -> list[str]:
    file = model.params["labels"]
    try:
        return read_lines(model.folder / plain_filename(file)) if file else []
    except MLaaS4HEPError as error:
        _log.warning("model %s is served without its labels: %s", model.name, error)
        return []
