"""ONNX graphs as onnxruntime runs them, in whatever process.

    model = OnnxModel(content, "model.onnx")
    model.run(batch)

onnxruntime is imported when the first model is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlaas4hep.errors import ConfigError, require
from mlaas4hep.serving.column_metadata import BRANCHES, KEYS, read_columns
from mlaas4hep.serving.rows import Columns
from mlaas4hep.serving.tensor import Array, Tensor, describe_input, shown, sizes

_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64}
_log = logging.getLogger(__name__)


class OnnxModel:
    """An ONNX graph with one input: (n, features), (n, height, width, channels) or (n, channels, height, width).

    Args:
        graph: the content of the file, or its path.
        file: its name, for errors.
        output: the name of the output to give; another name stands for the first output.
        channels: of images, 1 or 3; 0: as the graph says.
        threads: cores that one prediction may use.

    Raises:
        ConfigError: it is no such graph. The message does not say where it is.
    """

    def __init__(self, graph: bytes | str, file: str, output: str = "", *, channels: int = 0, threads: int = 1) -> None:
        self._session = _open_session(graph, file, threads)
        inputs, outputs = self._session.get_inputs(), [node.name for node in self._session.get_outputs()]
        if len(inputs) != 1 or inputs[0].type not in _TYPES:
            raise ConfigError(f"{file} does not have one input of real numbers")
        self._dtype = _TYPES[inputs[0].type]
        self.layout = describe_input(inputs[0].name, inputs[0].shape, channels, file)
        name = output if output in outputs else outputs[0]
        self.output = Tensor(name, sizes(self._session.get_outputs()[outputs.index(name)].shape[1:]))
        self.takes_one_row = inputs[0].shape[0] == 1
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.metadata = {name: metadata[name] for name in (KEYS, BRANCHES) if name in metadata}

    def run(self, batch: Array, options: Any = None) -> Any:
        """Return the output for a batch in the model's own layout."""
        given = np.ascontiguousarray(batch, self._dtype)
        return self._session.run([self.output.name], {self.layout.tensor.name: given}, options)[0]


def columns_of(metadata: Mapping[str, str], takes: Tensor, file: str) -> Columns | None:
    """Return the columns that the metadata of a graph name, None where they do not.

    Raises:
        ConfigError: the metadata are invalid, or name other columns than the graph takes.
    """
    columns = read_columns(metadata, file)
    if columns and (takes.is_image or takes.shape[0] not in (None, len(columns.names))):
        raise ConfigError(f"{file} names {len(columns.names)} columns, and takes {shown(takes.shape)}")
    return columns


def _open_session(graph: bytes | str, file: str, threads: int) -> Any:
    onnxruntime = require("onnxruntime", "server", "running an ONNX model")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised as well
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no base of their own
        if is_about_memory(error):
            raise MemoryError from error
        _log.warning("onnxruntime cannot load %s: %s", file, error)
        raise ConfigError(f"{file} is no ONNX model that onnxruntime can load") from error


def is_about_memory(error: BaseException) -> bool:
    """Say whether an error of a framework means that there is not enough memory."""
    text = str(error)
    return isinstance(error, MemoryError) or any(
        sign in text for sign in ("Failed to allocate memory", "bad_alloc", "bad allocation", "OOM when allocating")
    )
