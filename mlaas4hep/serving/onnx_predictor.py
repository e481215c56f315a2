"""ONNX graphs, run by onnxruntime in the server's own process.

    OnnxPredictor(Path("model.onnx")).predict(matrix)         # float32 (n, features) -> float32 (n, k)

onnxruntime is imported when the first model is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep.errors import ConfigError, require
from mlaas4hep.serving.column_metadata import read_columns
from mlaas4hep.serving.deadlines import LONGEST, Run, TooLong, deadline
from mlaas4hep.serving.rows import Request, Rows
from mlaas4hep.serving.tensor import (
    Array,
    Tensor,
    check_fits,
    check_takes_rows,
    describe_input,
    rows_of_values,
    shown,
    sizes,
)

_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64}
_log = logging.getLogger(__name__)


class OnnxPredictor:
    """An ONNX graph with one input: (n, features), (n, height, width, channels) or (n, channels, height, width).

    Args:
        path: the graph.
        output: the name of the output to give; another name stands for the first output.
        labels: the names of the classes.
        channels: of images, 1 or 3; 0: as the graph says.
        threads: cores that one prediction may use.

    Raises:
        ConfigError: it is no such graph. The message does not say where it is.
    """

    platform = "onnxruntime_onnx"
    alive = local = together = True

    def __init__(
        self, path: Path, output: str = "", labels: Sequence[str] = (), *, channels: int = 0, threads: int = 1
    ) -> None:
        self.labels = list(labels)
        self._session = _open_session(path, threads)
        self._options = require("onnxruntime", "server", "running an ONNX model").RunOptions
        inputs, outputs = self._session.get_inputs(), [node.name for node in self._session.get_outputs()]
        if len(inputs) != 1 or inputs[0].type not in _TYPES:
            raise ConfigError(f"{path.name} does not have one input of real numbers")
        self._dtype = _TYPES[inputs[0].type]
        self.input, self._channels_first = describe_input(inputs[0].name, inputs[0].shape, channels, path.name)
        name = output if output in outputs else outputs[0]
        self.output = Tensor(name, sizes(self._session.get_outputs()[outputs.index(name)].shape[1:]))
        self._takes_one_row = inputs[0].shape[0] == 1
        self._columns = read_columns(self._session.get_modelmeta().custom_metadata_map, path.name)
        if self._columns and (self.input.is_image or self.input.shape[0] not in (None, len(self._columns.names))):
            takes = shown(self.input.shape)
            raise ConfigError(f"{path.name} names {len(self._columns.names)} columns, and takes {takes}")

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
        batches = np.split(given, len(given)) if self._takes_one_row else [given]
        with deadline(seconds, self._options()) as run:
            return np.concatenate([self._run(batch, run) for batch in batches])

    def _run(self, batch: Array, run: Run) -> Array:
        given = np.ascontiguousarray(batch, self._dtype)
        try:
            (scores,) = self._session.run([self.output.name], {self.input.name: given}, run.options)
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
