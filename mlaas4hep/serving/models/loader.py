"""Loads stored models, and decides in which process and with which limits they run.

    loader = ModelLoader(ModelLimits(), trusted_keys)
    predictor = loader.load(store.get("htautau"))

An ONNX graph signed by a trusted key runs in the server's own process. Every other model is checked, loaded and tried
in a subprocess with limits (`subprocess_predictor`). It stays there, unless it is an ONNX graph whose memory and work
have bounds (`onnx_bounds`): such a graph is then loaded into the server's process.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from mlaas4hep.errors import ConfigError, MLaaS4HEPError, PackageMissing, ServiceError
from mlaas4hep.protocol.limits import Limits
from mlaas4hep.protocol.params import plain_filename
from mlaas4hep.serving.models.model_limits import ModelLimits
from mlaas4hep.serving.models.onnx_predictor import OnnxPredictor
from mlaas4hep.serving.models.row_independence import rows_are_independent
from mlaas4hep.serving.models.subprocess_predictor import ModelSource, SubprocessPredictor, check_keras_archive
from mlaas4hep.serving.models.tensor import CHANNELS
from mlaas4hep.serving.store.class_labels import read_labels
from mlaas4hep.serving.store.store import StoredModel
from mlaas4hep.signing import TrustedKeys

_SERVED = "supported are .onnx, .keras, frozen graphs (.pb) and SavedModels"
_SAVE_AS_KERAS = "save it as .keras: model.save('model.keras')"
_TRIAL_TIME = 10.0  # seconds for the trial run of a trusted graph
_CACHED = 1000  # inspections
_CONCURRENT_CHECKS = 4  # of uploads
_log = logging.getLogger(__name__)


class NeedsProcess(Exception):
    """A model needs a subprocess, but `may_start_process` is false."""


class _Inspection(NamedTuple):
    """The result of checking an ONNX graph.

    Attributes:
        independent: whether rows do not affect each other's scores.
        bounded_rows: rows per run in the server's own process; None: the graph needs a subprocess.
    """

    independent: bool
    bounded_rows: int | None


class ModelLoader:
    """Loads models; thread-safe.

    Args:
        limits: of untrusted models.
        trusted: public keys; ONNX graphs signed by one of them are trusted.
    """

    def __init__(self, limits: ModelLimits | None = None, trusted: TrustedKeys | None = None) -> None:
        self.limits = limits or ModelLimits()
        self._trusted = trusted or TrustedKeys()
        self._inspections: OrderedDict[tuple[str, str, int], _Inspection] = OrderedDict()
        self._lock = threading.Lock()
        self._uploads = threading.BoundedSemaphore(_CONCURRENT_CHECKS)

    def load(self, model: StoredModel, *, may_start_process: bool = True) -> OnnxPredictor | SubprocessPredictor:
        """Load a stored model.

        If params.json names an ONNX graph or a Keras model that exists, that file is loaded; otherwise a SavedModel.

        Raises:
            ConfigError: the format is not supported, or the file is refused or damaged.
            PackageMissing: its framework is not installed.
            ServiceError: no process can be started now.
            NeedsProcess: a process would have to be started.
        """
        file = str(model.params["model"])
        path = model.folder / plain_filename(file) if file else None
        if path and path.suffix == ".onnx" and path.is_file():
            return self._load_onnx(model, path, may_start_process)
        source = _source(model, path)
        if not may_start_process:
            raise NeedsProcess
        return self._start(model, source)

    def check(self, model: StoredModel) -> None:
        """Check a model that is being uploaded, except SavedModels and frozen graphs, whose check would take long.

        Raises:
            ConfigError: the model cannot be run.
            ServiceError: too many other models are being checked.
        """
        path = model.folder / plain_filename(str(model.params["model"] or "-"))
        with suppress(PackageMissing):  # another server with the same models may have it
            if path.suffix == ".onnx" and path.is_file():
                try:
                    self._load_onnx(model, path, may_start_process=False)
                except NeedsProcess:
                    with self._check_slot():
                        predictor = self._load_onnx(model, path, may_start_process=True, background=True)
                    if isinstance(predictor, SubprocessPredictor):
                        predictor.close()
            elif _source(model, path).kind == "keras":
                with self._check_slot():
                    check_keras_archive(str(path.absolute()), self.limits)
        if path.is_file() and not path.stat().st_size:
            raise ConfigError(f"{path.name} is empty")

    @contextmanager
    def _check_slot(self) -> Iterator[None]:
        """Limit the number of uploads that are checked at the same time."""
        if not self._uploads.acquire(timeout=self.limits.load_time):
            raise ServiceError("the server is checking many other models", hint="upload it again in a minute")
        try:
            yield
        finally:
            self._uploads.release()

    def _load_onnx(
        self, model: StoredModel, path: Path, may_start_process: bool, background: bool = False
    ) -> OnnxPredictor | SubprocessPredictor:
        output, channels = str(model.params["output_name"]), _channels(model)
        general = self.limits.general
        in_process = partial(OnnxPredictor, path, output, channels=channels, limits=general)
        if self._trusted and (content := self._trusted.read_if_signed(path)) is not None:
            trusted = in_process(_labels(model, general), content=content)
            trusted.rows_independent = _find_independence(trusted, model)
            return trusted
        content = path.read_bytes() if path.stat().st_size <= general.bounded_file else None
        key = (sha256(content).hexdigest() if content is not None else "", output, channels)
        with self._lock:
            inspection = self._inspections.get(key)
        if inspection is not None and inspection.bounded_rows is not None:
            bounded = in_process(_labels(model, general), content=content, most_rows=inspection.bounded_rows)
            bounded.rows_independent = inspection.independent
            return bounded
        if not may_start_process:
            raise NeedsProcess
        source = ModelSource("onnx", str(path.absolute()), output=output, channels=channels)
        started = self._start(model, source, inspection, background)
        if content is not None and started.digest != key[0]:
            started.close()
            raise ServiceError("the model is being replaced", hint="try again in a second")
        if content is not None and inspection is None:
            self._remember(key, _Inspection(started.rows_independent, started.bounded_rows))
        if content is None or started.bounded_rows is None:
            return started
        started.close()
        return self._load_onnx(model, path, may_start_process, background)

    def _start(
        self, model: StoredModel, source: ModelSource, inspection: _Inspection | None = None, background: bool = False
    ) -> SubprocessPredictor:
        """Load a model in a subprocess and try it there, unless its inspection is given."""
        labels = _labels(model, self.limits.general)
        predictor = SubprocessPredictor(source, labels, self.limits, background=background)
        if inspection is not None:
            predictor.rows_independent, predictor.bounded_rows = inspection
            return predictor
        try:
            predictor.probe()
        except MLaaS4HEPError as error:
            predictor.close()
            _log.warning("model %s is refused after a trial run: %s", model.name, error)
            raise
        independent, failed = predictor.rows_independent, predictor.trial_error
        if not predictor.alive:
            predictor = SubprocessPredictor(source, labels, self.limits, background=background)
            predictor.rows_independent, predictor.bounded_rows = independent, None
        _warn_if_dependent(independent, model, failed)
        return predictor

    def _remember(self, key: tuple[str, str, int], inspection: _Inspection) -> None:
        with self._lock:
            self._inspections[key] = inspection
            while len(self._inspections) > _CACHED:
                self._inspections.popitem(last=False)


def _source(model: StoredModel, path: Path | None) -> ModelSource:
    """Return the source of a stored Keras or TensorFlow model."""
    folder, channels = model.folder.absolute(), _channels(model)
    path = path and path.absolute()
    names = {key: str(model.params[key] or "") for key in ("input_name", "output_name", "input_node", "output_node")}
    kind = path.suffix.lower() if path and path.is_file() else None
    if kind == ".keras":
        return ModelSource("keras", str(path), channels=channels)
    if (folder / "saved_model.pb").is_file():
        return ModelSource("saved_model", str(folder), names["input_name"], names["output_name"], channels)
    if kind in (".pb", ""):
        return ModelSource("frozen_graph", str(path), names["input_node"], names["output_node"], channels)
    if path and kind is None:
        raise ConfigError(f"the file '{path.name}' of model '{model.name}' is missing", hint="upload the model again")
    file = f"the unsupported file '{path.name}'" if path else "no file"
    hint = _SAVE_AS_KERAS if kind in (".h5", ".hdf5") else ""
    raise ConfigError(f"model '{model.name}' has {file}; {_SERVED}", hint=hint)


def _find_independence(predictor: OnnxPredictor, model: StoredModel) -> bool:
    """Run a few rows of a trusted graph; return whether they are independent."""
    try:
        independent = rows_are_independent(partial(predictor.predict, seconds=_TRIAL_TIME), predictor.input.shape)
    except MLaaS4HEPError as error:
        _warn_if_dependent(False, model, str(error))
        return False
    _warn_if_dependent(independent, model)
    return independent


def _warn_if_dependent(independent: bool, model: StoredModel, failed: str = "") -> None:
    """Log why requests for a model are not batched; `failed` is the error of the trial run, if it failed."""
    if failed:
        _log.warning("model %s: the trial run failed (%s); requests are not batched", model.name, failed)
    elif not independent:
        _log.warning("model %s: scores depend on the other rows of a batch; requests are not batched", model.name)


def _channels(model: StoredModel) -> int:
    """Return the number of image channels in params.json, 1 or 3; 0: taken from the graph."""
    channels = model.params["img_channels"]
    return int(channels) if channels in CHANNELS else 0


def _labels(model: StoredModel, limits: Limits) -> Sequence[str]:
    file = str(model.params["labels"])
    try:
        return read_labels(model.folder, file, limits) if file else []
    except MLaaS4HEPError as error:
        _log.warning("model %s is served without its labels: %s", model.name, error)
        return []
