"""Models that run in a process of their own: those of Keras and TensorFlow, and ONNX graphs of strangers.

    source = ModelSource("keras", "/models/htautau/model.keras")
    SubprocessPredictor(source).predict(matrix)           # float32 (n, features) -> float32 (n, k)

The server itself stays free of TensorFlow, and of what a model does to the process that runs it.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlaas4hep.errors import ConfigError, MLaaS4HEPError, PackageMissing, ServiceError
from mlaas4hep.serving.deadlines import LONGEST, TooLong
from mlaas4hep.serving.model_limits import ModelLimits
from mlaas4hep.serving.model_process import ModelProcess, ProcessEnded, TooMuchMemory
from mlaas4hep.serving.onnx_model import columns_of
from mlaas4hep.serving.rows import Request, Rows
from mlaas4hep.serving.tensor import Array, Tensor, check_fits, check_takes_rows, rows_of_values

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
_MOST_ROWS, _MOST_BYTES = 1024, 16_000_000  # of one run
_log = logging.getLogger(__name__)


class LoadFailed(ConfigError):
    """A model passed a limit while it was loaded, or its process ended; it may load when the machine is less busy."""


@dataclass(frozen=True)
class ModelSource:
    """What a process is told of its model: the names of what is fed and fetched may be empty."""

    kind: str
    path: str
    input: str = ""
    output: str = ""
    channels: int = 0


class SubprocessPredictor:
    """A model in a process that is started here.

    Args:
        source: what to load.
        labels: the names of the classes.
        limits: what it may use.

    Attributes:
        digest: of ONNX graphs, the SHA-256 of the file that was loaded.
        bounded_rows: rows of an ONNX graph that bounded memory and time suffice for; None where there are no bounds.

    Raises:
        ConfigError: the model is refused.
        LoadFailed: it passes a limit, or its process ends.
        PackageMissing: what runs it is not installed.
        ServiceError: too many processes are busy.
    """

    local = False
    together = True

    def __init__(self, source: ModelSource, labels: Sequence[str] = (), limits: ModelLimits | None = None) -> None:
        self.labels = list(labels)
        self.platform = PLATFORMS[source.kind]
        self._limits = limits or ModelLimits()
        self._process, told = _load(source, self._limits)
        self.input, self.output = (Tensor(str(told[end][0]), tuple(told[end][1])) for end in ("input", "output"))
        self.digest, self.bounded_rows = str(told.get("digest", "")), told.get("rows")
        self._columns = columns_of(told.get("metadata", {}), self.input, "the model")
        self._process.mark_loaded()

    @property
    def alive(self) -> bool:
        return self._process.alive

    @property
    def keys(self) -> Sequence[str] | None:
        return self._columns.names if self._columns else None

    @property
    def branches(self) -> Mapping[str, tuple[int, int, str]]:
        return self._columns.branches if self._columns else {}

    def rows(self, request: Request) -> Rows:
        if self._columns is None:
            return rows_of_values(request, self.input)
        check_takes_rows(self.input)
        return self._columns.place(request)

    def predict(self, rows: Array, seconds: float = LONGEST) -> Array:
        check_fits(rows, self.input)
        until = time.monotonic() + seconds
        most = max(1, min(_MOST_ROWS, _MOST_BYTES * len(rows) // rows.nbytes)) if self.together else len(rows)
        batches = [rows[start : start + most] for start in range(0, len(rows), most)]
        scores = [self._scores(batch, max(0.1, until - time.monotonic())) for batch in batches]
        return scores[0] if len(scores) == 1 else np.concatenate(scores)

    def _scores(self, rows: Array, seconds: float) -> Array:
        answer, scores = self._process.ask({}, rows, min(seconds, self._limits.run_time))
        if "error" in answer:
            raise _refusal(answer)
        if scores is None or scores.ndim != 2 or len(scores) != len(rows):
            self._process.close()
            raise ServiceError("the model's process gave an answer that makes no sense, and was ended")
        return scores

    def probe(self) -> None:
        """Find out whether rows are independent, and whether the bounds are kept; the process may not survive it.

        Raises:
            LoadFailed: even a few rows take too much memory.
        """
        self.together = False
        try:
            answer, _ = self._process.ask({"rows": self.bounded_rows or 0}, None, self._limits.run_time)
        except TooMuchMemory as error:
            raise _needs_memory(self._limits, "for a few rows") from error
        except ServiceError:
            answer = {}
        self.together = answer.get("independent") is True
        if answer.get("quick") is not True:
            self.bounded_rows = None

    def close(self) -> None:
        """End the process."""
        self._process.close()


def check_keras_archive(path: str, limits: ModelLimits) -> None:
    """Check a `.keras` file in a process of its own, without loading it.

    Raises:
        ConfigError: it is refused, or passes a limit.
        PackageMissing: what reads it is not installed.
    """
    _load(ModelSource("keras_archive", path), limits)[0].close()


def _load(source: ModelSource, limits: ModelLimits) -> tuple[ModelProcess, dict[str, Any]]:
    _check_installed(*_PACKAGES[source.kind])
    process = ModelProcess(source.kind, limits)
    told = {**asdict(source), "memory": limits.memory, "load_time": limits.load_time}
    try:
        answer, _ = process.ask(told, None, limits.load_time)
    except TooLong as error:
        raise LoadFailed(
            f"the model takes longer than {limits.load_time:g} s to load, and was stopped",
            hint="the server's option --load-time allows more",
        ) from error
    except TooMuchMemory as error:
        raise _needs_memory(limits, "to load") from error
    except ProcessEnded as error:
        raise LoadFailed(f"{error.what} while it was loaded") from error
    if "error" in answer:
        process.close()
        raise _refusal(answer)
    return process, answer


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
