"""Writes an ONNX graph as SavedModel and as frozen graph, which stock TFaaS servers run.

    write_saved_model(Path("model.onnx"), Path("folder"))     assets/, variables/, saved_model.pb
    write_frozen_graph(Path("model.onnx"), Path("model.pb"))

The graph has the operation names that TFaaS feeds and fetches. It reads one number as a missing value (NaN), because
stock TFaaS servers read null as 0. Models of all frameworks can be written, because `interpreter` converts the ONNX
graph. TensorFlow is imported only when it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mlaas4hep.console import filtered_stderr
from mlaas4hep.errors import require

SERVED = "inputs_input"
"""Name of the function's argument; its operation in the SavedModel is `serving_default_inputs_input`."""

FETCHED = "StatefulPartitionedCall"
"""Name of the operation of the only signature's output."""


def write_saved_model(onnx_path: Path, folder: Path, missing: float | None = None) -> None:
    """Write a SavedModel into a folder: input `serving_default_inputs_input`, output `StatefulPartitionedCall`.

    Args:
        missing: number that the graph reads as NaN; see `protocol.missing_value`.

    Raises:
        ConfigError: an op cannot be converted.
        PackageMissing: TensorFlow is not installed.
    """
    with _tensorflow() as tf:
        from mlaas4hep.onnx_to_tf.interpreter import Interpreter
        from mlaas4hep.training.onnx_graph import OUTPUT

        interpreter, module = Interpreter.read(onnx_path), tf.Module()
        module.zero = tf.Variable(0.0, trainable=False)  # without a variable, the output would have another name
        module.weights = []

        def scores(inputs_input: Any) -> dict[str, Any]:
            existing = list(module.weights)  # TensorFlow traces twice; the first time creates the variables

            def make_weight(values: np.ndarray) -> Any:
                if existing:
                    return existing.pop(0)
                module.weights.append(tf.Variable(values, trainable=False))
                return module.weights[-1]

            output = interpreter.run(_with_nan(tf, inputs_input, missing), make_weight)
            return {OUTPUT: output + tf.cast(module.zero, output.dtype)}

        module.scores = _trace(tf, scores, interpreter.shape, SERVED)
        tf.saved_model.save(module, str(folder), signatures={"serving_default": module.scores})
    (folder / "assets").mkdir(exist_ok=True)
    (folder / "fingerprint.pb").unlink(missing_ok=True)  # TFaaS does not expect it


def write_frozen_graph(onnx_path: Path, path: Path, missing: float | None = None) -> None:
    """Write a graph without variables, with input `inputs`, float32 (events, ...), and output `scores`.

    Args:
        missing: number that the graph reads as NaN; see `protocol.missing_value`.

    Raises:
        ConfigError: an op cannot be converted.
        PackageMissing: TensorFlow is not installed.
    """
    with _tensorflow() as tf:
        from mlaas4hep.onnx_to_tf.interpreter import Interpreter
        from mlaas4hep.training.onnx_graph import INPUT, OUTPUT

        interpreter = Interpreter.read(onnx_path)

        def scores(inputs: Any) -> Any:
            return tf.identity(interpreter.run(_with_nan(tf, inputs, missing), tf.constant), name=OUTPUT)

        graph = _trace(tf, scores, interpreter.shape, INPUT).graph
        # older versions of TensorFlow do not know new attributes; attributes with default values can be left out
        options = {"graph_def": graph.as_graph_def(), "strip_default_attrs": True}
        meta_graph = tf.compat.v1.train.export_meta_graph(graph=graph, **options)
        path.write_bytes(meta_graph.graph_def.SerializeToString())


def _with_nan(tf: ModuleType, inputs: Any, missing: float | None) -> Any:
    """Return the inputs with NaN instead of `missing`."""
    return inputs if missing is None else tf.where(tf.equal(inputs, missing), np.float32(np.nan), inputs)


def _trace(tf: ModuleType, scores: Any, shape: tuple[int, ...], name: str) -> Any:
    """Return the concrete function for inputs float32 (events, *shape)."""
    spec = tf.TensorSpec((None, *shape), tf.float32, name=name)
    return tf.function(scores, autograph=False).get_concrete_function(spec)


@contextmanager
def _tensorflow() -> Iterator[ModuleType]:
    """Import TensorFlow, and suppress its log messages within the block."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it on import
    with filtered_stderr(""):
        tf = require("tensorflow", "keras", "writing a model for TFaaS")
        logger, level = tf.get_logger(), tf.get_logger().level
        logger.setLevel("ERROR")
        try:
            yield tf
        finally:
            logger.setLevel(level)
