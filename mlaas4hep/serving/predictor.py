"""Stored models, ready to run.

    predictors = Predictors(store)
    predictors.get("htautau").predictor.predict(matrix)         # float32 (n, features) -> float32 (n, k)

A model is loaded at the first request for it, and again when it was replaced or its process ended. `model_loader` loads
it; what runs it is in `onnx_predictor` and `subprocess_predictor`.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from mlaas4hep.errors import ConfigError, MLaaS4HEPError
from mlaas4hep.serving.deadlines import LONGEST
from mlaas4hep.serving.model_folder import Version
from mlaas4hep.serving.model_loader import ModelLoader
from mlaas4hep.serving.onnx_predictor import OnnxPredictor
from mlaas4hep.serving.rows import Matrix, Request, Rows
from mlaas4hep.serving.store import ModelStore, UnknownModel
from mlaas4hep.serving.subprocess_predictor import LoadFailed
from mlaas4hep.serving.tensor import Tensor

__all__ = ["Model", "OnnxPredictor", "Predictor", "Predictors", "Tensor"]

_RELOADS = 5
_FRESH = 1.0  # seconds in which a folder is not looked at again
_MOST = 100  # models that are loaded at a time
_REFUSED = 60.0  # seconds until a model that failed to load is tried again


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


class Predictors:
    """Models that were loaded, each until its folder in the store is another one."""

    def __init__(self, store: ModelStore, loader: ModelLoader | None = None) -> None:
        self._store = store
        self._loader = loader or ModelLoader()
        self._loading: dict[str, threading.Lock] = {}
        self._loaded: dict[str, _Loaded] = {}

    def get(self, name: str, *, may_start_process: bool = True) -> Model:
        """Return the model that is in the store under that name now; may load it, which takes its time.

        Raises:
            UnknownModel: there is none.
            ConfigError, PackageMissing, ServiceError: it cannot be run.
            NeedsProcess: a process would have to be started.
        """
        loaded = self._current(name)
        if loaded is None:
            self._version(name)  # what does not exist leaves nothing behind here
            with self._loading.setdefault(name, threading.Lock()):
                loaded = self._current(name)
                if loaded is None:
                    self.forget(name)
                    loaded = self._loaded[name] = self._load(name, may_start_process)
                    self._forget_unused()
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

    def _forget_unused(self) -> None:
        """Free the memory of the models that were not used for longest, where too many are loaded."""
        by_use = sorted(self._loaded.items(), key=lambda item: item[1].used)
        for name, _ in by_use[: max(0, len(by_use) - _MOST)]:
            self._loaded.pop(name, None)

    def _current(self, name: str) -> _Loaded | None:
        loaded, changes, now = self._loaded.get(name), self._store.changes, time.monotonic()
        if loaded is None or not loaded.usable:
            return None
        loaded.used = now
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

    def _load(self, name: str, may_start_process: bool) -> _Loaded:
        """Load a model; begin anew where it was replaced meanwhile, so that no graph meets another one's params."""
        for _ in range(_RELOADS):
            model = self._store.get(name)
            found: Model | ConfigError
            try:
                predictor = self._loader.load(model, may_start_process=may_start_process)
                found = Model(name, str(model.number), predictor)
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
        loaded, used: when it was loaded, or refused, and last asked for.
    """

    found: Model | ConfigError
    version: Version
    changes: int = -1
    looked: float = 0.0
    loaded: float = field(default_factory=time.monotonic)
    used: float = field(default_factory=time.monotonic)

    @property
    def usable(self) -> bool:
        if isinstance(self.found, LoadFailed):
            return time.monotonic() - self.loaded < _REFUSED
        return isinstance(self.found, ConfigError) or self.found.predictor.alive

    def given(self) -> Model:
        if isinstance(self.found, ConfigError):
            raise _copy(self.found)
        return self.found


def _copy(error: ConfigError) -> ConfigError:
    """Return an error that can be raised once more, and holds nothing of what was going on."""
    kind = LoadFailed if isinstance(error, LoadFailed) else ConfigError
    return kind(error.what, nearest=error.nearest, hint=error.hint)
