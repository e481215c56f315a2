"""An ONNX graph applied node by node, with TensorFlow's equivalents of its ops.

    Interpreter.read(path).run(inputs, tf.constant)

What does not depend on the events is computed at once, so only the rest becomes part of a TensorFlow graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import tensorflow as tf
from onnx import helper, numpy_helper

from mlaas4hep.errors import ConfigError, MLaaS4HEPError, first_line
from mlaas4hep.training import onnx_layers, onnx_ml, onnx_ops, onnx_recurrent, onnx_shapes
from mlaas4hep.training.onnx_graph import INPUT, OUTPUT
from mlaas4hep.training.onnx_ops import Node

STANDARD = onnx_ops.OPS | onnx_shapes.OPS | onnx_layers.OPS | onnx_recurrent.OPS
FLOW = {"If", "Loop"}
OLDEST = 13

Values = dict[str, Any]
Weight = Callable[[np.ndarray], Any]
"""Makes a tensor, or a variable, of a constant array."""


class Interpreter:
    """A model from `inputs` to `scores`, ready to be applied.

    Attributes:
        shape: of one event: how many numbers it has, or (height, width, channels).
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        model = onnx.inliner.inline_local_functions(model)
        versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
        self._opset = max(versions, default=OLDEST)  # trees alone need no standard op
        unknown = unknown_ops(model)
        if unknown:
            ops = "op" if len(unknown) == 1 else "ops"
            raise ConfigError(f"the ONNX {ops} {', '.join(unknown)} cannot be written for TensorFlow")
        if self._opset < OLDEST:
            raise ConfigError(f"the ONNX graph is of opset {self._opset}", hint=f"write it with {OLDEST} or newer")
        self._graph = model.graph
        self._constants = _constants(model.graph)
        slot = next(slot for slot in model.graph.input if slot.name == INPUT)
        self.shape = tuple(size.dim_value for size in slot.type.tensor_type.shape.dim)[1:]
        self._weight: Weight = tf.constant
        self._weights: dict[int, tuple[np.ndarray, Any]] = {}

    @classmethod
    def read(cls, path: Path) -> Interpreter:
        """Read a model's file."""
        return cls(onnx.load(str(path)))

    def run(self, inputs: Any, weight: Weight) -> Any:
        """Return the scores, (events, outputs), of raw events, (events, ...).

        Args:
            weight: is given each array of weights once.

        Raises:
            ConfigError: an op has a form that TensorFlow has no equivalent for.
        """
        self._weight, self._weights = weight, {}
        return self._apply(self._graph, {INPUT: inputs, **self._constants}, [OUTPUT])[0]

    def _apply(self, graph: onnx.GraphProto, values: Values, wanted: list[str]) -> list[Any]:
        """Return some of a graph's values; `values` holds those that are there already, and gets the others."""
        for node in needed(graph, wanted):
            found = self._outputs(node, values)
            values.update((name, value) for name, value in zip(node.output, found, strict=False) if value is not None)
        return [values[name] for name in wanted]

    def _outputs(self, node: onnx.NodeProto, values: Values) -> list[Any]:
        absent = [name for name in node.input if name and name not in values]
        if absent:
            raise ConfigError(f"the ONNX op {node.op_type} takes {absent[0]}, which cannot be written for TensorFlow")
        given = [values[name] if name else None for name in node.input]
        options = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        about = Node(options, self._opset, len(node.output))
        try:
            if node.op_type == "If":
                return self._if(options, given, values)
            if node.op_type == "Loop":
                return self._loop(options, given, values)
            found = self._computed(node, about, given)
        except MLaaS4HEPError:
            raise
        except Exception as error:  # TensorFlow raises kinds of its own, our functions ValueError
            raise ConfigError(
                f"the ONNX op {node.op_type} cannot be written for TensorFlow: {first_line(error)}"
            ) from error
        return [_settled(one) for one in (found if isinstance(found, tuple) else (found,))]

    def _computed(self, node: onnx.NodeProto, about: Node, given: list[Any]) -> Any:
        function = _table(node)[node.op_type]
        if all(one is None or isinstance(one, np.ndarray) for one in given):
            with tf.init_scope():  # at once, and not as a part of the graph
                return function(about, *given)
        if node.op_type != "Resize":  # the factors of which have to be numbers
            given = [self._made(one) for one in given]
        return function(about, *given)

    def _made(self, value: Any) -> Any:
        """Return weights as a tensor; other constants stay what they are, since shapes and axes must be known."""
        if not isinstance(value, np.ndarray) or value.size < 2 or value.dtype.kind != "f":
            return value
        if id(value) not in self._weights:
            self._weights[id(value)] = value, self._weight(value)
        return tf.convert_to_tensor(self._weights[id(value)][1])

    def _if(self, options: Values, given: list[Any], values: Values) -> list[Any]:
        branch = options["then_branch" if onnx_ops.known(given[0], "the condition").item() else "else_branch"]
        return self._inside(branch, values, [])

    def _loop(self, options: Values, given: list[Any], values: Values) -> list[Any]:
        """Unroll a loop: how often it runs must not depend on the events."""
        body, (count, going, *state) = options["body"], given
        rounds = int(onnx_ops.known(count, "the number of rounds").item()) if count is not None else 2**62
        scanned: list[list[Any]] = [[] for _ in range(len(body.output) - 1 - len(state))]
        for index in range(rounds):
            if going is not None and not onnx_ops.known(going, "the condition").item():
                break
            going, *found = self._inside(body, values, [np.array(index, np.int64), going, *state])
            state = found[: len(state)]
            for kept, value in zip(scanned, found[len(state) :], strict=True):
                kept.append(value)
        return [*state, *(tf.stack(kept) for kept in scanned)]

    def _inside(self, graph: onnx.GraphProto, outer: Values, given: list[Any]) -> list[Any]:
        names = [slot.name for slot in graph.input]
        values = {**outer, **_constants(graph), **dict(zip(names, given, strict=True))}
        return self._apply(graph, values, [slot.name for slot in graph.output])


def _constants(graph: onnx.GraphProto) -> Values:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def _settled(value: Any) -> Any:
    """Return a value that is known as an array."""
    if isinstance(value, tf.Tensor) and hasattr(value, "numpy"):
        return np.asarray(value.numpy())
    return np.asarray(value) if isinstance(value, np.generic) else value


def _table(node: onnx.NodeProto) -> dict[str, onnx_ops.Op]:
    """Return the ops of a node's domain."""
    return {"": STANDARD, "ai.onnx": STANDARD, "ai.onnx.ml": onnx_ml.OPS}.get(node.domain, {})


def needed(graph: onnx.GraphProto, wanted: Iterable[str]) -> list[onnx.NodeProto]:
    """Return the nodes that some values depend on, in order."""
    names, nodes = set(wanted), []
    for node in reversed(graph.node):
        if names & set(node.output):
            nodes.append(node)
            names |= {*node.input, *_from_outside(node)} - {""}
    return nodes[::-1]


def _from_outside(node: onnx.NodeProto) -> set[str]:
    """Return the names that graphs inside of a node use, their own among them."""
    inner = [entry.g for entry in node.attribute if entry.type == onnx.AttributeProto.GRAPH]
    names = {name for graph in inner for one in graph.node for name in (*one.input, *_from_outside(one))}
    return names | {slot.name for graph in inner for slot in graph.output}


def unknown_ops(model: onnx.ModelProto) -> list[str]:
    """Return the ops that the scores depend on and that are not known, sorted; with their domain if it has one."""
    found: set[str] = set()

    def look(nodes: Iterable[onnx.NodeProto]) -> None:
        for node in nodes:
            if node.op_type not in FLOW and node.op_type not in _table(node):
                found.add(f"{node.domain}.{node.op_type}" if node.domain else node.op_type)
            for entry in node.attribute:
                if entry.type == onnx.AttributeProto.GRAPH:
                    look(entry.g.node)

    look(needed(model.graph, [OUTPUT]))
    return sorted(found)
