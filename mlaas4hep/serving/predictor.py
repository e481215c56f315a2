"""Stored models, ready to run.

    predictors = Predictors(store)
    predictors.get("htautau").predictor.predict(matrix)         # float32 (n, features) -> float32 (n, k)

A model is loaded at the first request for it, and again when it was replaced or its process died. What runs the formats
is in `onnx_predictor` and `foreign`; a further one is one more class that does what `Predictor` says.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from mlaas4hep.errors import ConfigError, MLaaS4HEPError, PackageMissing
from mlaas4hep.serving.class_labels import read_labels
from mlaas4hep.serving.deadlines import LONGEST
from mlaas4hep.serving.foreign import ForeignModel, ForeignPredictor
from mlaas4hep.serving.keras_archive import rewritten
from mlaas4hep.serving.model_folder import Version
from mlaas4hep.serving.onnx_predictor import OnnxPredictor
from mlaas4hep.serving.params import plain_filename
from mlaas4hep.serving.rows import Matrix, Request, Rows
from mlaas4hep.serving.store import ModelStore, StoredModel, UnknownModel
from mlaas4hep.serving.tensor import CHANNELS, Tensor

__all__ = ["Model", "OnnxPredictor", "Predictor", "Predictors", "Tensor", "load_predictor"]

_SERVED = "served are .onnx, .keras, frozen graphs (.pb) and SavedModels"
_SAVE_ANEW = "save it as .keras: model.save('model.keras')"
_RELOADS = 5
_PROBED = 32  # columns, or pixels along an edge, of a model that does not say how many it takes
_SAME = 1e-3  # of the largest score
_PROBE = 10.0  # seconds
_FRESH = 1.0  # seconds in which a folder is not looked at again
_log = logging.getLogger(__name__)


class Predictor(Protocol):
    """A model that is ready to run; may be used from many threads at once."""

    @property
    def platform(self) -> str:
        """What runs it, in the words of the Open Inference Protocol, as "onnxruntime_onnx"."""

    @property
    def local(self) -> bool:
        """Whether it runs in this process."""

    @property
    def together(self) -> bool:
        """Whether rows of several requests may be run at a time, since none changes the scores of another."""

    @property
    def alive(self) -> bool:
        """False once it cannot run any more, because its process ended."""

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
    def branches(self) -> Mapping[str, tuple[int, int, str]]:
        """Branch -> (first column, width, "flat", "fixed" or "jagged"); may be empty."""

    @property
    def labels(self) -> Sequence[str]:
        """The names of the classes; may be empty."""

    def rows(self, request: Request) -> Rows:
        """Make the matrix that the model takes of what a client asks.

        Raises:
            ConfigError: it does not fit the model, which may take images.
        """

    def predict(self, rows: Matrix, seconds: float = LONGEST) -> Matrix:
        """Return the scores, float32 (n, k), of float32 (n, features), or of images (n, height, width, channels).

        Args:
            seconds: that it may take.

        Raises:
            ConfigError: the model does not take them.
            TooLong: it was ended.
            ServiceError: the model's process died of them, or does not answer.
        """


class Model(NamedTuple):
    """A predictor, and as what it is in the store; versions count from "1"."""

    name: str
    version: str
    predictor: Predictor


def load_predictor(model: StoredModel) -> Predictor:
    """Make a stored model ready to run.

    An ONNX graph or a Keras model that params.json names and that is there comes first, then a SavedModel.

    Raises:
        ConfigError: its file is of a kind that is not served, or is refused, or damaged.
        PackageMissing: what runs it is not installed.
        ServiceError: its process ends while it loads, or takes too long.
    """
    file, labels, channels = str(model.params["model"]), _labels(model), _channels(model)
    path = model.folder / plain_filename(file) if file else None

    def load() -> OnnxPredictor | ForeignPredictor:
        if path and path.suffix == ".onnx" and path.is_file():
            return OnnxPredictor(path, str(model.params["output_name"]), labels, channels=channels)
        return ForeignPredictor(_foreign(model, path, channels), labels)

    predictor = load()
    together = _rows_are_independent(predictor)
    if not predictor.alive:  # it did not survive the question
        predictor = load()
    predictor.together = together
    if not together:
        _log.warning("model %s: scores depend on the rows beside them, so each request is run alone", model.name)
    return predictor


def check_servable(model: StoredModel) -> None:
    """Look at a model that is being uploaded, as far as that costs little: ONNX graphs and Keras models.

    Raises:
        ConfigError: it cannot be run.
    """
    path = model.folder / plain_filename(str(model.params["model"] or "-"))
    with suppress(PackageMissing):  # another server may have it
        if path.suffix == ".onnx" and path.is_file():
            OnnxPredictor(path, channels=_channels(model))
        elif _foreign(model, path, 0).kind == "keras":
            with rewritten(path):
                pass
    if path.is_file() and not path.stat().st_size:
        raise ConfigError(f"{path.name} is empty")


def _rows_are_independent(predictor: Predictor) -> bool:
    """Say whether some rows get the same scores together as each alone; also False where that cannot be found out."""
    shape = [size or (_PROBED if index < 2 else 3) for index, size in enumerate(predictor.input.shape)]
    rows = np.random.default_rng(0).normal(0, 30, (3, *shape)).astype(np.float32)
    try:
        together = predictor.predict(rows, _PROBE)
        alone = np.concatenate([predictor.predict(row[None], _PROBE) for row in rows])
    except MLaaS4HEPError:
        return False
    tolerance = _SAME * np.nanmax(np.abs(alone), initial=1.0)
    return bool(np.allclose(together, alone, rtol=0, atol=tolerance, equal_nan=True))


def _foreign(model: StoredModel, path: Path | None, channels: int) -> ForeignModel:
    """Say which model of Keras or TensorFlow a stored model is."""
    folder = model.folder.absolute()
    path = path and path.absolute()
    names = {key: str(model.params[key] or "") for key in ("input_name", "output_name", "input_node", "output_node")}
    kind = path.suffix.lower() if path and path.is_file() else None
    if kind == ".keras":
        return ForeignModel("keras", str(path), channels=channels)
    if (folder / "saved_model.pb").is_file():
        return ForeignModel("saved_model", str(folder), names["input_name"], names["output_name"], channels)
    if kind in (".pb", ""):
        return ForeignModel("frozen_graph", str(path), names["input_node"], names["output_node"], channels)
    if path and kind is None:
        raise ConfigError(f"the file '{path.name}' of model '{model.name}' is missing", hint="upload the model again")
    shown = f"'{path.name}'" if path else "no file"
    hint = _SAVE_ANEW if kind in (".h5", ".hdf5") else ""
    raise ConfigError(f"model '{model.name}' is {shown}; {_SERVED}", hint=hint)


class Predictors:
    """Models that were loaded, each until its folder in the store is another one."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._loading: dict[str, threading.Lock] = {}
        self._loaded: dict[str, _Loaded] = {}

    def get(self, name: str) -> Model:
        """Return the model that is in the store under that name now; may load it, which takes its time.

        Raises:
            UnknownModel: there is none.
            ConfigError, PackageMissing, ServiceError: it cannot be run.
        """
        loaded = self._current(name)
        if loaded is None:
            self._version(name)  # what does not exist leaves nothing behind here
            with self._loading.setdefault(name, threading.Lock()):
                loaded = self._current(name)
                if loaded is None:
                    self.forget(name)
                    loaded = self._loaded[name] = self._load(name)
        return loaded.given()

    def loaded(self, name: str) -> Model | None:
        """Return the model if it is loaded, and still the one in the store.

        Raises:
            UnknownModel: there is no such model.
            ConfigError: it is refused.
        """
        loaded = self._current(name)
        return loaded.given() if loaded else None

    def forget(self, name: str) -> None:
        """Free the memory of a model that was deleted or replaced; its process ends once nobody waits for it."""
        self._loading.pop(name, None)
        if self._loaded.pop(name, None) is not None:
            gc.collect()  # errors may hold on to it in a circle

    def _current(self, name: str) -> _Loaded | None:
        loaded, changes, now = self._loaded.get(name), self._store.changes, time.monotonic()
        if loaded is None or not loaded.usable:
            return None
        if loaded.changes != changes or now - loaded.looked > _FRESH:  # folders can also be changed by hand
            if self._version(name) != loaded.version:
                return None
            loaded.changes, loaded.looked = changes, now
        return loaded

    def _version(self, name: str) -> Version:
        try:
            return self._store.version(name)
        except UnknownModel:
            self.forget(name)
            raise

    def _load(self, name: str) -> _Loaded:
        """Load a model; begin anew where it was replaced meanwhile, so that no graph meets another one's params."""
        for _ in range(_RELOADS):
            model = self._store.get(name)
            found: Model | ConfigError
            try:
                found = Model(name, str(model.number), load_predictor(model))
            except ConfigError as error:
                found = _copy(error)
            except MLaaS4HEPError:
                if self._store.version(name) == model.version:
                    raise
                continue
            if self._store.version(name) == model.version:
                return _Loaded(found, model.version)
        raise ConfigError(f"model '{name}' is being replaced", hint="ask again in a second")


@dataclass
class _Loaded:
    """A model, or why it is refused, which does not change before it is replaced.

    Attributes:
        version: of its folder.
        changes, looked: how many there were, and when, as the folder was last looked at.
    """

    found: Model | ConfigError
    version: Version
    changes: int = -1
    looked: float = 0.0

    @property
    def usable(self) -> bool:
        return isinstance(self.found, ConfigError) or self.found.predictor.alive

    def given(self) -> Model:
        if isinstance(self.found, ConfigError):
            raise _copy(self.found)
        return self.found


def _copy(error: ConfigError) -> ConfigError:
    """Return an error that can be raised once more, and holds nothing of what was going on."""
    return ConfigError(error.what, nearest=error.nearest, hint=error.hint)


def _channels(model: StoredModel) -> int:
    """Return the channels of images, 0 where params.json does not say 1 or 3, and the graph has to."""
    channels = model.params["img_channels"]
    return int(channels) if channels in CHANNELS else 0


def _labels(model: StoredModel) -> list[str]:
    file = str(model.params["labels"])
    try:
        return read_labels(model.folder, file) if file else []
    except MLaaS4HEPError as error:
        _log.warning("model %s is served without its labels: %s", model.name, error)
        return []
