"""ONNX graphs, run by onnxruntime in the server's own process: those that are trusted, or whose needs are bounded.

    OnnxPredictor(Path("model.onnx")).predict(matrix)         # float32 (n, features) -> float32 (n, k)

Other graphs run in a process of their own, see `subprocess_predictor`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mlaas4hep.errors import ConfigError, require
from mlaas4hep.serving.deadlines import LONGEST, Run, TooLong, deadline
from mlaas4hep.serving.onnx_model import OnnxModel, columns_of
from mlaas4hep.serving.rows import Request, Rows
from mlaas4hep.serving.tensor import Array, check_fits, check_takes_rows, rows_of_values, shown

_log = logging.getLogger(__name__)


class OnnxPredictor:
    """An ONNX graph, see `OnnxModel`.

    Args:
        path: the graph.
        output: the name of the output to give; another name stands for the first output.
        labels: the names of the classes.
        content: of the file, where it was read already.
        channels: of images, 1 or 3; 0: as the graph says.
        threads: cores that one prediction may use.
        most_rows: at most so many rows are run at a time; 0: any number.

    Raises:
        ConfigError: it is no such graph. The message does not say where it is.
    """

    platform = "onnxruntime_onnx"
    alive = local = together = True

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
    ) -> None:
        self.labels = list(labels)
        graph = str(path) if content is None else content
        self._model = OnnxModel(graph, path.name, output, channels=channels, threads=threads)
        self._options = require("onnxruntime", "server", "running an ONNX model").RunOptions
        self.input, self._channels_first = self._model.layout
        self.output = self._model.output
        self._most_rows = 1 if self._model.takes_one_row else most_rows
        self._columns = columns_of(self._model.metadata, self.input, path.name)

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
        given = rows.transpose(0, 3, 1, 2) if self._channels_first else rows
        with deadline(seconds, self._options()) as run:
            most = self._most_rows
            if not most or len(given) <= most:
                return self._run(given, run)
            if not self.together and not self._model.takes_one_row:
                raise ConfigError(
                    f"the model takes up to {most} rows at a time, since its scores depend on the other rows"
                )
            return np.concatenate([self._run(given[at : at + most], run) for at in range(0, len(given), most)])

    def _run(self, batch: Array, run: Run) -> Array:
        try:
            scores = self._model.run(batch, run.options)
        except Exception as error:  # onnxruntime's errors have no base of their own
            if run.late:
                raise TooLong("the model takes too long for this, and was stopped") from error
            _log.warning("onnxruntime refuses an input of shape %s: %s", batch.shape, error)
            events = "an event" if len(batch) == 1 else f"{len(batch)} events at a time"
            raise ConfigError(
                f"the model fails for {events} of {shown(batch.shape[1:])} values",
                hint="the server's log says why",
            ) from error
        try:
            return np.asarray(scores, np.float32).reshape(len(batch), -1)
        except (TypeError, ValueError) as error:
            raise ConfigError("the model's first output is no table of numbers with a row for each event") from error
