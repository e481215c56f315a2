"""A bundle's ONNX graph as TensorFlow: the SavedModel and the frozen graph that a stock TFaaS server runs.

    write_saved_model(Path("model.onnx"), Path("folder"))     assets/, variables/, saved_model.pb
    write_frozen_graph(Path("model.onnx"), Path("model.pb"))

The names of operations are those that TFaaS feeds and fetches. What framework the model is of does not matter, as the
graph is written node by node, by `onnx_interpreter`. TensorFlow is imported when it is needed.
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
"""The argument that makes a signature's input the operation `serving_default_inputs_input`."""

FETCHED = "StatefulPartitionedCall"
"""The operation that the output of the only signature is."""


def write_saved_model(onnx_path: Path, folder: Path) -> None:
    """Write a SavedModel into a folder: input `serving_default_inputs_input`, output `StatefulPartitionedCall`.

    Raises:
        ConfigError: the graph has an op, or one of its forms, that is not known.
        PackageMissing: TensorFlow is not installed.
    """
    with _tensorflow() as tf:
        from mlaas4hep.training.onnx_graph import OUTPUT
        from mlaas4hep.training.onnx_interpreter import Interpreter

        interpreter, module = Interpreter.read(onnx_path), tf.Module()
        module.zero = tf.Variable(0.0, trainable=False)  # one is read in any case, or the output had another name
        module.weights = []

        def scores(inputs_input: Any) -> dict[str, Any]:
            there = list(module.weights)  # TensorFlow calls twice; variables are made the first time

            def weight(values: np.ndarray) -> Any:
                if there:
                    return there.pop(0)
                module.weights.append(tf.Variable(values, trainable=False))
                return module.weights[-1]

            found = interpreter.run(inputs_input, weight)
            return {OUTPUT: found + tf.cast(module.zero, found.dtype)}

        module.scores = _traced(tf, scores, interpreter.shape, SERVED)
        tf.saved_model.save(module, str(folder), signatures={"serving_default": module.scores})
    (folder / "assets").mkdir(exist_ok=True)
    (folder / "fingerprint.pb").unlink(missing_ok=True)  # not one of the three that make a SavedModel for TFaaS


def write_frozen_graph(onnx_path: Path, path: Path) -> None:
    """Write a graph without variables, from the node `inputs`, float32 (events, ...), to the node `scores`.

    Raises:
        ConfigError: the graph has an op, or one of its forms, that is not known.
        PackageMissing: TensorFlow is not installed.
    """
    with _tensorflow() as tf:
        from mlaas4hep.training.onnx_graph import INPUT, OUTPUT
        from mlaas4hep.training.onnx_interpreter import Interpreter

        interpreter = Interpreter.read(onnx_path)

        def scores(inputs: Any) -> Any:
            return tf.identity(interpreter.run(inputs, tf.constant), name=OUTPUT)

        graph = _traced(tf, scores, interpreter.shape, INPUT).graph
        # servers older than this TensorFlow do not know its newest attributes, and do without those of default value
        whole = tf.compat.v1.train.export_meta_graph(
            graph=graph, graph_def=graph.as_graph_def(), strip_default_attrs=True
        )
        path.write_bytes(whole.graph_def.SerializeToString())


def _traced(tf: ModuleType, scores: Any, shape: tuple[int, ...], name: str) -> Any:
    """Return a function of raw events, float32 (events, *shape), as TensorFlow's graph of it."""
    return tf.function(scores, autograph=False).get_concrete_function(
        tf.TensorSpec((None, *shape), tf.float32, name=name)
    )


@contextmanager
def _tensorflow() -> Iterator[ModuleType]:
    """Give TensorFlow, and keep what it logs off the terminal; what goes wrong is raised."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # must stand before its import
    with filtered_stderr(""):
        tf = require("tensorflow", "keras", "writing a model for TFaaS")
        logger = tf.get_logger()
        level = logger.level
        logger.setLevel("ERROR")
        try:
            yield tf
        finally:
            logger.setLevel(level)
