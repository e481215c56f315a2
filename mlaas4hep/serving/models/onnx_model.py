"""ONNX graphs in onnxruntime, for the server's own process and for model processes.

    model = OnnxModel(content, "model.onnx")
    model.run(batch)

onnxruntime is imported when the first model is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlaas4hep.errors import ConfigError, require
from mlaas4hep.protocol.graph_preproc import PREPROC
from mlaas4hep.protocol.limits import DEFAULTS, Limits
from mlaas4hep.serving.models.column_metadata import BRANCHES, KEYS, read_columns
from mlaas4hep.serving.models.rows import Columns
from mlaas4hep.serving.models.tensor import Array, Tensor, describe_input, shown, sizes

_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64}
_REAL_TYPES = (*_TYPES, "tensor(float16)")
_MAPS = "seq(map("

STOCK_OUTPUT = "StatefulPartitionedCall"
"""Output of the SavedModels that stock TFaaS servers run; a params.json may describe such a model and an ONNX graph."""
_log = logging.getLogger(__name__)


class OnnxModel:
    """An ONNX graph with one input: (n, features), (n, height, width, channels) or (n, channels, height, width).

    Args:
        graph: the content of the file, or its path.
        file: name of the file, for errors.
        output: name of the output to return; "", or the name in SavedModels, for the one that `choose_output` prefers.
        channels: number of image channels, 1 or 3; 0: taken from the graph.
        threads: number of cores for one prediction.
        most: limit of the number of values per event.

    Raises:
        ConfigError: the graph cannot be served. The message does not contain its path.
    """

    def __init__(
        self,
        graph: bytes | str,
        file: str,
        output: str = "",
        *,
        channels: int = 0,
        threads: int = 1,
        most: int = DEFAULTS.input_values,
    ) -> None:
        self._session = _open_session(graph, file, threads)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _TYPES:
            raise ConfigError(f"{file} does not have one input of real numbers")
        self._dtype = _TYPES[inputs[0].type]
        self.layout = describe_input(inputs[0].name, inputs[0].shape, channels, file, most)
        chosen = choose_output(self._session.get_outputs(), output, file)
        self.output = Tensor(chosen.name, sizes(chosen.shape[1:]))
        self._has_maps = chosen.type.startswith(_MAPS)
        self.takes_one_row = inputs[0].shape[0] == 1
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.metadata = {name: metadata[name] for name in (KEYS, BRANCHES, PREPROC) if name in metadata}

    def run(self, batch: Array, options: Any = None) -> Any:
        """Return the output for a batch in the layout of the model; maps become rows of their values."""
        given = np.ascontiguousarray(batch, self._dtype)
        output = self._session.run([self.output.name], {self.layout.tensor.name: given}, options)[0]
        return [list(scores.values()) for scores in output] if self._has_maps else output


def choose_output(outputs: Sequence[Any], name: str, file: str) -> Any:
    """Choose the output of a graph that contains the scores.

    Without a name, real numbers are preferred to maps from class to probability, and these to integers: the graphs of
    scikit-learn's classifiers have the predicted labels first.

    Raises:
        ConfigError: the graph has no output of this name.
    """
    if name and name != STOCK_OUTPUT:
        for output in outputs:
            if output.name == name:
                return output
        names = ", ".join(output.name for output in outputs)
        raise ConfigError(f"{file} has no output '{name}', which params.json names", hint=f"its outputs are: {names}")
    for types in (_REAL_TYPES, (_MAPS,)):
        for output in outputs:
            if output.type.startswith(types):
                return output
    return outputs[0]


def columns_of(
    metadata: Mapping[str, str], input_tensor: Tensor, file: str, limits: Limits = DEFAULTS
) -> Columns | None:
    """Return the columns that the metadata of a graph name; None if they name none.

    Raises:
        ConfigError: the metadata are invalid, or do not fit the input of the graph.
    """
    columns = read_columns(metadata, file, limits)
    if columns and (input_tensor.is_image or input_tensor.shape[0] not in (None, len(columns.names))):
        raise ConfigError(f"{file} names {len(columns.names)} columns, but its input has {shown(input_tensor.shape)}")
    return columns


def _open_session(graph: bytes | str, file: str, threads: int) -> Any:
    onnxruntime = require("onnxruntime", "server", "running an ONNX model")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised as well
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base class
        if is_about_memory(error):
            raise MemoryError from error
        _log.warning("onnxruntime cannot load %s: %s", file, error)
        raise ConfigError(f"{file} is not an ONNX model that onnxruntime can load") from error


def is_about_memory(error: BaseException) -> bool:
    """Return whether an error of a framework means that memory ran out."""
    text = str(error)
    return isinstance(error, MemoryError) or any(
        sign in text for sign in ("Failed to allocate memory", "bad_alloc", "bad allocation", "OOM when allocating")
    )
