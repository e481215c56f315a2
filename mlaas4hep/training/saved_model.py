"""A bundle's ONNX graph as TensorFlow: the SavedModel and the frozen graph that a stock TFaaS server runs.

    write_saved_model(Path("model.onnx"), Path("folder"))     assets/, variables/, saved_model.pb
    write_frozen_graph(Path("model.onnx"), Path("model.pb"))

The names of operations are those that TFaaS feeds and fetches. What framework the model is of does not matter, as the
graph is written node by node, by the tables of `onnx_ops` and its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mlaas4hep.console import filtered_stderr
from mlaas4hep.training.onnx_graph import INPUT, OUTPUT
from mlaas4hep.training.onnx_interpreter import Interpreter

SERVED = "inputs_input"
"""The argument that makes a signature's input the operation `serving_default_inputs_input`."""


def write_saved_model(onnx_path: Path, folder: Path) -> None:
    """Write a SavedModel into a folder: input `serving_default_inputs_input`, output `StatefulPartitionedCall`.

    Raises:
        ConfigError: the graph has an op, or one of its forms, that is not known.
    """
    with _quiet():
        module = _Served(Interpreter.read(onnx_path))
        tf.saved_model.save(module, str(folder), signatures={"serving_default": module.scores})
    (folder / "assets").mkdir(exist_ok=True)
    (folder / "fingerprint.pb").unlink(missing_ok=True)  # of no use to a server, and none of the three of TFaaS


def write_frozen_graph(onnx_path: Path, path: Path) -> None:
    """Write a graph without variables, from the node `inputs`, float32 (events, columns), to the node `scores`.

    Raises:
        ConfigError: the graph has an op, or one of its forms, that is not known.
    """
    with _quiet():
        interpreter = Interpreter.read(onnx_path)

        def scores(inputs: Any) -> Any:
            return tf.identity(interpreter.run(inputs, tf.constant), name=OUTPUT)

        traced = tf.function(scores, autograph=False).get_concrete_function(_spec(interpreter, INPUT))
        # servers are older than this TensorFlow: they do not know its newest attributes, and need none by default
        whole = tf.compat.v1.train.export_meta_graph(
            graph=traced.graph, graph_def=traced.graph.as_graph_def(), strip_default_attrs=True
        )
        path.write_bytes(whole.graph_def.SerializeToString())


class _Served(tf.Module):  # type: ignore[misc]  # mypy is told not to follow TensorFlow
    """The scores as a function of variables, which a SavedModel keeps beside the graph."""

    def __init__(self, interpreter: Interpreter) -> None:
        super().__init__()
        self.zero = tf.Variable(0.0, trainable=False)  # one is read in any case, or the output had another name
        self.weights: list[Any] = []

        def scores(inputs_input: Any) -> dict[str, Any]:
            there = list(self.weights)  # TensorFlow traces twice; variables are made the first time

            def weight(values: np.ndarray) -> Any:
                if there:
                    return there.pop(0)
                self.weights.append(tf.Variable(values, trainable=False))
                return self.weights[-1]

            found = interpreter.run(inputs_input, weight)
            return {OUTPUT: found + tf.cast(self.zero, found.dtype)}

        self.scores = tf.function(scores, autograph=False).get_concrete_function(_spec(interpreter, SERVED))


def _spec(interpreter: Interpreter, name: str) -> Any:
    return tf.TensorSpec((None, interpreter.columns), tf.float32, name=name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what TensorFlow logs off the terminal; what goes wrong is raised."""
    with filtered_stderr(""):
        level = tf.get_logger().level
        tf.get_logger().setLevel("ERROR")
        try:
            yield
        finally:
            tf.get_logger().setLevel(level)
