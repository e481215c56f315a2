"""Models that run in a subprocess: Keras and TensorFlow models, and ONNX graphs that are neither signed nor bounded.

    source = ModelSource("keras", "/models/htautau/model.keras")
    SubprocessPredictor(source).predict(matrix)           # float32 (n, features) -> float32 (n, k)

The server does not import TensorFlow, and a model cannot harm the server's process.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlaas4hep.errors import ConfigError, MLaaS4HEPError, PackageMissing, ServiceError
from mlaas4hep.protocol.limits import DEFAULTS
from mlaas4hep.serving.models.deadlines import TooLong
from mlaas4hep.serving.models.model_limits import ModelLimits
from mlaas4hep.serving.models.named_input import Predictor
from mlaas4hep.serving.models.onnx_model import columns_of
from mlaas4hep.serving.models.process import ModelProcess, ProcessEnded, TooMuchMemory
from mlaas4hep.serving.models.request_preprocessing import read_preprocessing
from mlaas4hep.serving.models.tensor import Array, Tensor, check_fits

PLATFORMS = {
    "onnx": "onnxruntime_onnx",
    "keras": "keras",
    "saved_model": "tensorflow_savedmodel",
    "frozen_graph": "tensorflow_graphdef",
}
_PACKAGES = {
    "onnx": ("onnxruntime", "server"),
    "keras": ("keras", "keras"),
    "keras_archive": ("h5py", "keras"),
    "saved_model": ("tensorflow", "keras"),
    "frozen_graph": ("tensorflow", "keras"),
}
_INDEPENDENCE_RUNS = 4  # three rows together, then each alone
_log = logging.getLogger(__name__)


class LoadFailed(ConfigError):
    """A model exceeded a limit while it was loaded, or its process died; loading may succeed later."""


@dataclass(frozen=True)
class ModelSource:
    """The model that a process is to load.

    Attributes:
        kind: a key of `PLATFORMS`, or "keras_archive" to check a `.keras` file only.
        input, output: names of tensors; "" for the default ones.
        channels: number of image channels, 1 or 3; 0: taken from the model.
    """

    kind: str
    path: str
    input: str = ""
    output: str = ""
    channels: int = 0


class SubprocessPredictor(Predictor):
    """A model in a subprocess, which the constructor starts.

    Args:
        source: the model to load.
        labels: names of the classes.
        limits: limits of the process.
        background: run at a lower priority than the server, for models that are only checked.

    Attributes:
        digest: SHA-256 of the file, for ONNX graphs.
        bounded_rows: rows per run that keep an ONNX graph within the bounds of memory and work; None: no bounds.
        trial_error: why the model failed in the trial run of `probe`; "" if it did not.

    Raises:
        ConfigError: the model is refused.
        LoadFailed: the model exceeds a limit, or its process dies.
        PackageMissing: its framework is not installed.
        ServiceError: too many processes are busy.
    """

    in_process = False
    trial_error = ""

    def __init__(
        self,
        source: ModelSource,
        labels: Sequence[str] = (),
        limits: ModelLimits | None = None,
        *,
        background: bool = False,
    ) -> None:
        self.labels = list(labels)
        self.platform = PLATFORMS[source.kind]
        self._limits = limits or ModelLimits()
        self._process, loaded = _load(source, self._limits, background)
        input_tensor, self.output = (Tensor(str(loaded[end][0]), tuple(loaded[end][1])) for end in ("input", "output"))
        self.digest, self.bounded_rows = str(loaded.get("digest", "")), loaded.get("rows")
        metadata, general = loaded.get("metadata", {}), self._limits.general
        columns = columns_of(metadata, input_tensor, "the model", general)
        super().__init__(input_tensor, columns, read_preprocessing(metadata, columns, "the model", general))
        self._process.loaded = True

    @property
    def alive(self) -> bool:
        return self._process.alive

    def predict(self, rows: Array, seconds: float = DEFAULTS.request_time) -> Array:
        check_fits(rows, self.input)
        until = time.monotonic() + seconds
        general = self._limits.general
        most = len(rows)
        if self.rows_independent:
            most = max(1, min(general.run_rows, general.run_size * len(rows) // rows.nbytes))
        batches = [rows[start : start + most] for start in range(0, len(rows), most)]
        scores = [self._scores(batch, max(0.1, until - time.monotonic())) for batch in batches]
        return scores[0] if len(scores) == 1 else np.concatenate(scores)

    def _scores(self, rows: Array, seconds: float) -> Array:
        answer, scores = self._process.ask({}, rows, min(seconds, self._limits.run_time))
        if "error" in answer:
            raise _refusal(answer)
        if scores is None or scores.ndim != 2 or len(scores) != len(rows):
            self._process.close()
            raise ServiceError("the model's process sent an invalid answer and was stopped")
        return scores

    def probe(self) -> None:
        """Run a few rows to find out whether rows are independent; then run as many rows as the bounds allow.

        If the second run is slow, exceeds a time limit or ends the process, `bounded_rows` becomes None.

        Raises:
            LoadFailed: a few rows exceed a limit, or the process dies.
            ServiceError: the process was stopped for another reason.
        """
        self.rows_independent = False
        answer = self._trial("run", 1)
        if "failed" not in answer:
            answer = self._trial("independence", _INDEPENDENCE_RUNS)
        self.rows_independent = answer.get("independent") is True
        self.trial_error = str(answer.get("failed", ""))
        if self.trial_error or (self.bounded_rows and not self._is_quick(self.bounded_rows)):
            self.bounded_rows = None

    def _trial(self, kind: str, runs: int) -> dict[str, Any]:
        """Send a probe that takes `runs` runs of a few rows."""
        seconds = self._limits.run_time
        with _explain_failure(self._limits, seconds, "for a few rows", "--run-time", "in a trial run of a few rows"):
            return self._process.ask({"probe": kind, "rows": 0}, None, runs * seconds)[0]

    def _is_quick(self, rows: int) -> bool:
        """Return whether a run of this many rows is short enough for the server's own process."""
        try:
            answer, _ = self._process.ask({"probe": "speed", "rows": rows}, None, self._limits.run_time)
        except TooMuchMemory as error:
            raise _needs_memory(self._limits, f"for {rows:,} rows") from error
        except (TooLong, ProcessEnded):
            return False
        return answer.get("quick") is True

    def close(self) -> None:
        """Stop the process."""
        self._process.close()


def check_keras_archive(path: str, limits: ModelLimits) -> None:
    """Check a `.keras` file in a subprocess, without loading it.

    Raises:
        ConfigError: the file is refused, or exceeds a limit.
        PackageMissing: h5py is not installed.
    """
    _load(ModelSource("keras_archive", path), limits, background=True)[0].close()


def _load(source: ModelSource, limits: ModelLimits, background: bool) -> tuple[ModelProcess, dict[str, Any]]:
    _check_installed(*_PACKAGES[source.kind])
    process = ModelProcess(source.kind, limits, background=background)
    general = asdict(limits.general)
    description = {**asdict(source), "memory": limits.memory, "load_time": limits.load_time, "limits": general}
    with _explain_failure(limits, limits.load_time, "to load", "--load-time", "while the model was loaded"):
        answer, _ = process.ask(description, None, limits.load_time)
    if "error" in answer:
        process.close()
        raise _refusal(answer)
    return process, answer


@contextmanager
def _explain_failure(limits: ModelLimits, seconds: float, what: str, option: str, when: str) -> Iterator[None]:
    """Raise LoadFailed if a process exceeds a limit or dies; `what` and `when` describe its task."""
    try:
        yield
    except TooLong as error:
        text = f"the model takes longer than {seconds:g} s {what}, and was stopped"
        raise LoadFailed(text, hint=f"the server's option {option} allows more") from error
    except TooMuchMemory as error:
        raise _needs_memory(limits, what) from error
    except ProcessEnded as error:
        raise LoadFailed(f"{error.what} {when}") from error


def _needs_memory(limits: ModelLimits, what: str) -> LoadFailed:
    return LoadFailed(
        f"the model needs more than {limits.memory / 1e9:g} GB of memory {what}, and was stopped",
        hint="the server's option --model-memory allows more",
    )


def _check_installed(package: str, extra: str) -> None:
    """Raise PackageMissing without importing anything."""
    if importlib.util.find_spec(package) is None:
        raise PackageMissing(
            f"models of this kind need the package '{package}', which is not installed on the server",
            hint=f"install it: pip install 'mlaas4hep[{extra}]'",
        )


def _refusal(answer: dict[str, Any]) -> MLaaS4HEPError:
    if answer.get("detail"):
        _log.warning("%s: %s", answer["error"], answer["detail"])
    kind = PackageMissing if answer.get("missing") else ConfigError
    return kind(str(answer["error"]), nearest=answer.get("nearest", ()), hint=str(answer.get("hint", "")))
