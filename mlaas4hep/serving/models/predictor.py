"""Loaded models.

    predictors = Predictors(store)
    predictors.get("htautau").predictor.predict(matrix)         # float32 (n, features) -> float32 (n, k)

The first request for a model loads it, as does the first request after it was replaced or its process ended. `loader`
loads it; `onnx_predictor` and `subprocess_predictor` run it.
"""

from __future__ import annotations

import gc
import threading
import time
from dataclasses import dataclass, field
from typing import NamedTuple

from mlaas4hep.errors import ConfigError, MLaaS4HEPError
from mlaas4hep.protocol.limits import DEFAULTS
from mlaas4hep.serving.models.loader import ModelLoader
from mlaas4hep.serving.models.named_input import Predictor
from mlaas4hep.serving.models.onnx_predictor import OnnxPredictor
from mlaas4hep.serving.models.subprocess_predictor import LoadFailed
from mlaas4hep.serving.store.model_folder import Version
from mlaas4hep.serving.store.store import ModelStore, UnknownModel

__all__ = ["Model", "OnnxPredictor", "Predictor", "Predictors"]

_ATTEMPTS = 5  # to load a model that is being replaced
_FRESH = 1.0  # seconds until the folder of a model is checked again
_RETRY = 60.0  # seconds until a model that failed to load is tried again


class Model(NamedTuple):
    """A loaded model: its name and version in the store (the first version is "1"), and its predictor."""

    name: str
    version: str
    predictor: Predictor


class Predictors:
    """The loaded models. Each one stays loaded until its folder in the store changes.

    Args:
        most: number of models that stay loaded; the least recently used ones are removed.
    """

    def __init__(
        self, store: ModelStore, loader: ModelLoader | None = None, most: int = DEFAULTS.loaded_models
    ) -> None:
        self._store = store
        self._loader = loader or ModelLoader()
        self._most = most
        self._loading: dict[str, threading.Lock] = {}
        self._loaded: dict[str, _Loaded] = {}

    def get(self, name: str, *, may_start_process: bool = True) -> Model:
        """Return a model; load it if it is not loaded, or has changed since.

        Raises:
            UnknownModel: the model does not exist.
            ConfigError, PackageMissing, ServiceError: the model cannot be run.
            NeedsProcess: a process would have to be started.
        """
        loaded = self._current(name)
        if loaded is None:
            self._version(name)  # raises for unknown names, so that they leave no lock behind
            with self._loading.setdefault(name, threading.Lock()):
                loaded = self._current(name)
                if loaded is None:
                    self.forget(name)
                    loaded = self._loaded[name] = self._load(name, may_start_process)
                    self._forget_unused()
        return loaded.model()

    def loaded(self, name: str) -> Model | None:
        """Return a model if it is loaded and has not changed since, else None.

        Raises:
            UnknownModel: the model does not exist.
            ConfigError: the model was refused.
        """
        loaded = self._current(name)
        return loaded.model() if loaded else None

    def forget(self, name: str) -> None:
        """Free the memory of a deleted or replaced model; its process ends after the pending requests."""
        self._loading.pop(name, None)
        if self._loaded.pop(name, None) is not None:
            gc.collect()  # tracebacks of errors may hold it in a reference cycle

    def _forget_unused(self) -> None:
        """Free the memory of the least recently used models if too many are loaded."""
        by_use = sorted(self._loaded.items(), key=lambda item: item[1].used)
        for name, _ in by_use[: max(0, len(by_use) - self._most)]:
            self._loaded.pop(name, None)

    def _current(self, name: str) -> _Loaded | None:
        loaded, changes, now = self._loaded.get(name), self._store.changes, time.monotonic()
        if loaded is None or not loaded.usable:
            return None
        loaded.used = now
        if loaded.changes != changes or now - loaded.checked > _FRESH:  # files may also be changed by hand
            if self._version(name) != loaded.version:
                return None
            loaded.changes, loaded.checked = changes, now
        return loaded

    def _version(self, name: str) -> Version:
        try:
            return self._store.version(name)
        except UnknownModel:
            self.forget(name)
            raise

    def _load(self, name: str, may_start_process: bool) -> _Loaded:
        """Load a model; start again if it was replaced meanwhile, so that model and params belong to one version."""
        for _ in range(_ATTEMPTS):
            model = self._store.get(name)
            result: Model | ConfigError
            try:
                predictor = self._loader.load(model, may_start_process=may_start_process)
                predictor.name = name
                result = Model(name, str(model.number), predictor)
            except ConfigError as error:
                result = _copy(error)
            except MLaaS4HEPError:
                if self._store.version(name) == model.version:
                    raise
                continue
            if self._store.version(name) == model.version:
                return _Loaded(result, model.version)
        raise ConfigError(f"model '{name}' is being replaced", hint="try again in a second")


@dataclass
class _Loaded:
    """A loaded model, or the error for which it was refused.

    Attributes:
        result: the model or the error.
        version: version of its folder.
        changes, checked: the store's counter of changes, and the time, at the last check of the folder.
        loaded, used: time when it was loaded or refused, and time of its last use.
    """

    result: Model | ConfigError
    version: Version
    changes: int = -1
    checked: float = 0.0
    loaded: float = field(default_factory=time.monotonic)
    used: float = field(default_factory=time.monotonic)

    @property
    def usable(self) -> bool:
        if isinstance(self.result, LoadFailed):
            return time.monotonic() - self.loaded < _RETRY
        return isinstance(self.result, ConfigError) or self.result.predictor.alive

    def model(self) -> Model:
        if isinstance(self.result, ConfigError):
            raise _copy(self.result)
        return self.result


def _copy(error: ConfigError) -> ConfigError:
    """Return a copy of an error without traceback and cause, which can be raised repeatedly."""
    kind = LoadFailed if isinstance(error, LoadFailed) else ConfigError
    return kind(error.what, nearest=error.nearest, hint=error.hint)
