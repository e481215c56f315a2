"""ONNX graphs in the server's own process, for graphs that are trusted or have bounds on memory and work.

    OnnxPredictor(Path("model.onnx")).predict(matrix)         # float32 (n, features) -> float32 (n, k)

`subprocess_predictor` runs all other graphs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlaas4hep.errors import ConfigError, require
from mlaas4hep.protocol.limits import DEFAULTS, Limits
from mlaas4hep.serving.models.deadlines import LimitedRun, TooLong, deadline
from mlaas4hep.serving.models.named_input import Predictor
from mlaas4hep.serving.models.onnx_model import OnnxModel, columns_of
from mlaas4hep.serving.models.request_preprocessing import read_preprocessing
from mlaas4hep.serving.models.tensor import Array, check_fits, shown

_log = logging.getLogger(__name__)


class OnnxPredictor(Predictor):
    """An ONNX graph, see `OnnxModel`.

    Args:
        path: the graph.
        output: name of the output to return, see `OnnxModel`.
        labels: names of the classes.
        content: content of the file, if it was read before.
        channels: number of image channels, 1 or 3; 0: taken from the graph.
        threads: number of cores for one prediction.
        most_rows: maximum number of rows per run; 0: no limit.
        limits: limits of the input and of the metadata.

    Raises:
        ConfigError: the graph cannot be served. The message does not contain its path.
    """

    platform = "onnxruntime_onnx"
    in_process = True

    def __init__(
        self,
        path: Path,
        output: str = "",
        labels: Sequence[str] = (),
        *,
        content: bytes | None = None,
        channels: int = 0,
        threads: int = 1,
        most_rows: int = 0,
        limits: Limits = DEFAULTS,
    ) -> None:
        self.labels = list(labels)
        graph = str(path) if content is None else content
        self._model = OnnxModel(graph, path.name, output, channels=channels, threads=threads, most=limits.input_values)
        self._options = require("onnxruntime", "server", "running an ONNX model").RunOptions
        input_tensor, self._channels_first = self._model.layout
        metadata = self._model.metadata
        columns = columns_of(metadata, input_tensor, path.name, limits)
        super().__init__(input_tensor, columns, read_preprocessing(metadata, columns, path.name, limits))
        self.output = self._model.output
        self.most_rows = 1 if self._model.takes_one_row else most_rows

    def predict(self, rows: Array, seconds: float = DEFAULTS.request_time) -> Array:
        check_fits(rows, self.input)
        given = rows.transpose(0, 3, 1, 2) if self._channels_first else rows
        with deadline(seconds, self._options()) as run:
            most = self.most_rows
            if not most or len(given) <= most:
                return self._run(given, run)
            if not self.rows_independent and not self._model.takes_one_row:
                reason = "its scores depend on the other rows"
                raise ConfigError(f"the model takes up to {most} rows per request, because {reason}")
            return np.concatenate([self._run(given[at : at + most], run) for at in range(0, len(given), most)])

    def _run(self, batch: Array, run: LimitedRun) -> Array:
        try:
            scores = self._model.run(batch, run.options)
        except Exception as error:  # onnxruntime's errors have no common base class
            if run.late:
                raise TooLong("the model exceeded its time limit and was stopped") from error
            _log.warning("onnxruntime refuses an input of shape %s: %s", batch.shape, error)
            events = "an event" if len(batch) == 1 else f"{len(batch)} events at a time"
            raise ConfigError(
                f"the model fails for {events} of {shown(batch.shape[1:])} values", hint="see the server's log"
            ) from error
        try:
            return np.asarray(scores, np.float32).reshape(len(batch), -1)
        except (TypeError, ValueError) as error:
            raise ConfigError("the model's output is not a table of numbers with one row per event") from error
