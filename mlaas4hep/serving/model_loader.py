"""From a stored model to one that runs: where it runs, with which limits, and whether it is served at all.

    loader = ModelLoader(ModelLimits(), trusted_keys)
    predictor = loader.load(store.get("htautau"))

An ONNX graph that carries a signature of a trusted key runs in the server's own process. Any other model is checked,
loaded and tried in a process with limits (`subprocess_predictor`), and stays there, unless it is an ONNX graph whose
memory and work are bounded (`onnx_bounds`): then the server loads it, too.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from mlaas4hep.errors import ConfigError, MLaaS4HEPError, PackageMissing, ServiceError
from mlaas4hep.serving.class_labels import read_labels
from mlaas4hep.serving.model_limits import ModelLimits
from mlaas4hep.serving.onnx_bounds import LIMITS
from mlaas4hep.serving.onnx_predictor import OnnxPredictor
from mlaas4hep.serving.params import plain_filename
from mlaas4hep.serving.row_independence import rows_are_independent
from mlaas4hep.serving.store import StoredModel
from mlaas4hep.serving.subprocess_predictor import ModelSource, SubprocessPredictor, check_keras_archive
from mlaas4hep.serving.tensor import CHANNELS
from mlaas4hep.signing import TrustedKeys

_SERVED = "served are .onnx, .keras, frozen graphs (.pb) and SavedModels"
_SAVE_ANEW = "save it as .keras: model.save('model.keras')"
_PROBE = 10.0  # seconds
_REMEMBERED = 1000  # inspections
_AT_ONCE = 4  # uploads that are inspected
_log = logging.getLogger(__name__)


class NeedsProcess(Exception):
    """A model has to be loaded in a process of its own, which takes longer than it may here."""


class _Inspection(NamedTuple):
    """What was found out about an ONNX graph.

    Attributes:
        independent: whether rows do not change each other's scores.
        bounded_rows: rows that the server may run at a time in its own process; None: it may not.
    """

    independent: bool
    bounded_rows: int | None


class ModelLoader:
    """Loads models; safe to use from many threads.

    Args:
        limits: of models that are not trusted.
        trusted: keys whose signature makes an ONNX graph trusted.
    """

    def __init__(self, limits: ModelLimits | None = None, trusted: TrustedKeys | None = None) -> None:
        self.limits = limits or ModelLimits()
        self._trusted = trusted or TrustedKeys()
        self._inspections: OrderedDict[tuple[str, str, int], _Inspection] = OrderedDict()
        self._lock = threading.Lock()
        self._uploads = threading.BoundedSemaphore(_AT_ONCE)

    def load(self, model: StoredModel, *, may_start_process: bool = True) -> OnnxPredictor | SubprocessPredictor:
        """Make a stored model ready to run.

        An ONNX graph or a Keras model that params.json names and that is there comes first, then a SavedModel.

        Raises:
            ConfigError: its file is of a kind that is not served, or is refused, or damaged.
            PackageMissing: what runs it is not installed.
            ServiceError: no process can be started now.
            NeedsProcess: one would have to be started.
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
        """Check a model that is being uploaded, as far as that takes little time: ONNX graphs and Keras models.

        Raises:
            ConfigError: it cannot be run.
            ServiceError: too many others are being checked.
        """
        path = model.folder / plain_filename(str(model.params["model"] or "-"))
        with suppress(PackageMissing):  # another server may have it
            if path.suffix == ".onnx" and path.is_file():
                try:
                    self._load_onnx(model, path, may_start_process=False)
                except NeedsProcess:
                    with _Turn(self._uploads, self.limits.load_time):
                        predictor = self._load_onnx(model, path, may_start_process=True)
                    if isinstance(predictor, SubprocessPredictor):
                        predictor.close()
            elif _source(model, path).kind == "keras":
                with _Turn(self._uploads, self.limits.load_time):
                    check_keras_archive(str(path.absolute()), self.limits)
        if path.is_file() and not path.stat().st_size:
            raise ConfigError(f"{path.name} is empty")

    def _load_onnx(
        self, model: StoredModel, path: Path, may_start_process: bool
    ) -> OnnxPredictor | SubprocessPredictor:
        output, channels = str(model.params["output_name"]), _channels(model)
        here = partial(OnnxPredictor, path, output, channels=channels)
        if self._trusted and (content := self._trusted.read_if_signed(path)) is not None:
            trusted = here(_labels(model), content=content)
            trusted.together = _rows_are_independent(trusted)
            _warn_if_dependent(trusted.together, model)
            return trusted
        content = path.read_bytes() if path.stat().st_size <= LIMITS.file else None
        key = (sha256(content).hexdigest() if content is not None else "", output, channels)
        with self._lock:
            known = self._inspections.get(key)
        if known is not None and known.bounded_rows is not None:
            bounded = here(_labels(model), content=content, most_rows=known.bounded_rows)
            bounded.together = known.independent
            return bounded
        if not may_start_process:
            raise NeedsProcess
        source = ModelSource("onnx", str(path.absolute()), output=output, channels=channels)
        started = self._start(model, source, known)
        if content is not None and started.digest != key[0]:
            started.close()
            raise ServiceError("the model is being replaced", hint="ask again in a second")
        if content is not None and known is None:
            self._remember(key, _Inspection(started.together, started.bounded_rows))
        if content is None or started.bounded_rows is None:
            return started
        started.close()
        return self._load_onnx(model, path, may_start_process)

    def _start(self, model: StoredModel, source: ModelSource, known: _Inspection | None = None) -> SubprocessPredictor:
        """Load a model in a process of its own, and find out whether its rows are independent."""
        predictor = SubprocessPredictor(source, _labels(model), self.limits)
        if known is not None:
            predictor.together, predictor.bounded_rows = known
            return predictor
        predictor.probe()
        if not predictor.alive:
            predictor = SubprocessPredictor(source, _labels(model), self.limits)
            predictor.together, predictor.bounded_rows = False, None
        _warn_if_dependent(predictor.together, model)
        return predictor

    def _remember(self, key: tuple[str, str, int], inspection: _Inspection) -> None:
        with self._lock:
            self._inspections[key] = inspection
            while len(self._inspections) > _REMEMBERED:
                self._inspections.popitem(last=False)


class _Turn:
    """One of the few uploads that are inspected at the same time."""

    def __init__(self, turns: threading.BoundedSemaphore, seconds: float) -> None:
        self._turns = turns
        self._seconds = seconds

    def __enter__(self) -> None:
        if not self._turns.acquire(timeout=self._seconds):
            raise ServiceError("the server is checking many other models", hint="upload it again in a minute")

    def __exit__(self, *exception: object) -> None:
        self._turns.release()


def _source(model: StoredModel, path: Path | None) -> ModelSource:
    """Say which model of Keras or TensorFlow a stored model is."""
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
    shown = f"'{path.name}'" if path else "no file"
    hint = _SAVE_ANEW if kind in (".h5", ".hdf5") else ""
    raise ConfigError(f"model '{model.name}' is {shown}; {_SERVED}", hint=hint)


def _rows_are_independent(predictor: OnnxPredictor) -> bool:
    try:
        return rows_are_independent(partial(predictor.predict, seconds=_PROBE), predictor.input.shape)
    except MLaaS4HEPError:
        return False


def _warn_if_dependent(together: bool, model: StoredModel) -> None:
    if not together:
        _log.warning("model %s: scores depend on the rows beside them, so each request is run alone", model.name)


def _channels(model: StoredModel) -> int:
    """Return the channels of images, 0 where params.json does not say 1 or 3, and the graph has to."""
    channels = model.params["img_channels"]
    return int(channels) if channels in CHANNELS else 0


def _labels(model: StoredModel) -> Sequence[str]:
    file = str(model.params["labels"])
    try:
        return read_labels(model.folder, file) if file else []
    except MLaaS4HEPError as error:
        _log.warning("model %s is served without its labels: %s", model.name, error)
        return []
