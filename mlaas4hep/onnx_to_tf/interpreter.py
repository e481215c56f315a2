"""Converts an ONNX graph to TensorFlow, node by node.

    Interpreter.read(path).run(inputs, tf.constant)

Values that do not depend on the events are computed during the conversion (constant folding). Only the other nodes
become part of the TensorFlow graph.
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

from mlaas4hep.errors import ConfigError, MLaaS4HEPError, error_summary
from mlaas4hep.onnx_to_tf import elementwise, layers, recurrent, shapes, trees
from mlaas4hep.onnx_to_tf.elementwise import Node, Op, static_value
from mlaas4hep.training.onnx_graph import INPUT, OUTPUT

STANDARD_OPS = elementwise.OPS | shapes.OPS | layers.OPS | recurrent.OPS
CONTROL_FLOW = {"If", "Loop"}
OLDEST_OPSET = 13

Values = dict[str, Any]
MakeWeight = Callable[[np.ndarray], Any]
"""Converts a constant array to a tensor or a variable."""


class Interpreter:
    """An ONNX model with the input `inputs` and the output `scores`.

    Attributes:
        shape: per-event shape of the input: (columns,) or (height, width, channels).
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        model = onnx.inliner.inline_local_functions(model)
        versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
        self._opset = max(versions, default=OLDEST_OPSET)  # graphs of trees may not import the standard opset
        unsupported = unsupported_ops(model)
        if unsupported:
            ops = "op" if len(unsupported) == 1 else "ops"
            raise ConfigError(f"the ONNX {ops} {', '.join(unsupported)} cannot be converted to TensorFlow")
        if self._opset < OLDEST_OPSET:
            raise ConfigError(
                f"the ONNX graph has opset {self._opset}, which is not supported",
                hint=f"export it with opset {OLDEST_OPSET} or newer",
            )
        self._graph = model.graph
        self._constants = _constants(model.graph)
        slot = next(slot for slot in model.graph.input if slot.name == INPUT)
        self.shape = tuple(size.dim_value for size in slot.type.tensor_type.shape.dim)[1:]
        self._make_weight: MakeWeight = tf.constant
        self._weights: dict[int, tuple[np.ndarray, Any]] = {}

    @classmethod
    def read(cls, path: Path) -> Interpreter:
        """Read the file of a model."""
        return cls(onnx.load(str(path)))

    def run(self, inputs: Any, make_weight: MakeWeight) -> Any:
        """Return the scores (events, outputs) for inputs (events, ...).

        Args:
            make_weight: called once for each array of weights.

        Raises:
            ConfigError: an op cannot be converted with its attributes or inputs.
        """
        self._make_weight, self._weights = make_weight, {}
        return self._apply(self._graph, {INPUT: inputs, **self._constants}, [OUTPUT])[0]

    def _apply(self, graph: onnx.GraphProto, values: Values, names: list[str]) -> list[Any]:
        """Return the values with these names; add all computed values to `values`, which has the known ones."""
        for node in required_nodes(graph, names):
            outputs = self._outputs(node, values)
            values.update((name, value) for name, value in zip(node.output, outputs, strict=False) if value is not None)
        return [values[name] for name in names]

    def _outputs(self, node: onnx.NodeProto, values: Values) -> list[Any]:
        missing = [name for name in node.input if name and name not in values]
        if missing:
            what = f"the ONNX op {node.op_type} needs the value {missing[0]}"
            raise ConfigError(f"{what}, which cannot be converted to TensorFlow")
        inputs = [values[name] if name else None for name in node.input]
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        try:
            if node.op_type == "If":
                is_true = static_value(inputs[0], "the condition").item()
                return self._apply_subgraph(attributes["then_branch" if is_true else "else_branch"], values, [])
            if node.op_type == "Loop":
                return self._loop(attributes, inputs, values)
            outputs = self._convert(node, Node(attributes, self._opset, len(node.output)), inputs)
        except MLaaS4HEPError:
            raise
        except Exception as error:  # TensorFlow raises its own types of errors, our functions ValueError
            what = f"the ONNX op {node.op_type} cannot be converted to TensorFlow"
            raise ConfigError(f"{what}: {error_summary(error)}") from error
        return [_as_array(value) for value in (outputs if isinstance(outputs, tuple) else (outputs,))]

    def _convert(self, node_proto: onnx.NodeProto, node: Node, inputs: list[Any]) -> Any:
        function = _ops_of_domain(node_proto)[node_proto.op_type]
        if all(value is None or isinstance(value, np.ndarray) for value in inputs):
            with tf.init_scope():  # compute the value now, outside the graph
                return function(node, *inputs)
        if node_proto.op_type != "Resize":  # its scales must stay constants
            inputs = [self._weight_tensor(value) for value in inputs]
        return function(node, *inputs)

    def _weight_tensor(self, value: Any) -> Any:
        """Convert an array of weights to a tensor; return other constants (such as shapes and axes) unchanged."""
        if not isinstance(value, np.ndarray) or value.size < 2 or value.dtype.kind != "f":
            return value
        if id(value) not in self._weights:
            self._weights[id(value)] = value, self._make_weight(value)
        return tf.convert_to_tensor(self._weights[id(value)][1])

    def _loop(self, attributes: Values, inputs: list[Any], values: Values) -> list[Any]:
        """Unroll a loop, whose number of iterations must not depend on the events."""
        body, (count, condition, *state) = attributes["body"], inputs
        iterations = int(static_value(count, "the number of iterations").item()) if count is not None else 2**62
        scan_outputs: list[list[Any]] = [[] for _ in range(len(body.output) - 1 - len(state))]
        for index in range(iterations):
            if condition is not None and not static_value(condition, "the condition").item():
                break
            iteration = [np.array(index, np.int64), condition, *state]
            condition, *outputs = self._apply_subgraph(body, values, iteration)
            state = outputs[: len(state)]
            for scan_output, value in zip(scan_outputs, outputs[len(state) :], strict=True):
                scan_output.append(value)
        return [*state, *(tf.stack(scan_output) for scan_output in scan_outputs)]

    def _apply_subgraph(self, graph: onnx.GraphProto, outer: Values, inputs: list[Any]) -> list[Any]:
        names = [slot.name for slot in graph.input]
        values = {**outer, **_constants(graph), **dict(zip(names, inputs, strict=True))}
        return self._apply(graph, values, [slot.name for slot in graph.output])


def _constants(graph: onnx.GraphProto) -> Values:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def _as_array(value: Any) -> Any:
    """Convert a tensor with a known value to an array; return other tensors unchanged."""
    if isinstance(value, tf.Tensor) and hasattr(value, "numpy"):
        return np.asarray(value.numpy())
    return np.asarray(value) if isinstance(value, np.generic) else value


def _ops_of_domain(node: onnx.NodeProto) -> dict[str, Op]:
    return {"": STANDARD_OPS, "ai.onnx": STANDARD_OPS, "ai.onnx.ml": trees.OPS}.get(node.domain, {})


def required_nodes(graph: onnx.GraphProto, names: Iterable[str]) -> list[onnx.NodeProto]:
    """Return the nodes on which the values with these names depend, in order."""
    required, nodes = set(names), []
    for node in reversed(graph.node):
        if required & set(node.output):
            nodes.append(node)
            required |= {*node.input, *_names_in_subgraphs(node)} - {""}
    return nodes[::-1]


def _subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [entry.g for entry in node.attribute if entry.type == onnx.AttributeProto.GRAPH]


def _names_in_subgraphs(node: onnx.NodeProto) -> set[str]:
    """Return the names of all values that the subgraphs of a node use."""
    subgraphs = _subgraphs(node)
    names = {name for graph in subgraphs for one in graph.node for name in (*one.input, *_names_in_subgraphs(one))}
    return names | {slot.name for graph in subgraphs for slot in graph.output}


def unsupported_ops(model: onnx.ModelProto) -> list[str]:
    """Return the unsupported ops on which the scores depend, sorted, as OP or DOMAIN.OP."""
    unsupported: set[str] = set()

    def check(nodes: Iterable[onnx.NodeProto]) -> None:
        for node in nodes:
            if node.op_type not in CONTROL_FLOW and node.op_type not in _ops_of_domain(node):
                unsupported.add(f"{node.domain}.{node.op_type}" if node.domain else node.op_type)
            for graph in _subgraphs(node):
                check(graph.node)

    check(required_nodes(model.graph, [OUTPUT]))
    return sorted(unsupported)
