"""ONNX graphs from unnormalised branch values to scores.

    graph = prepend_inputs(onnx.load("network.onnx"), inputs, ("jets", "jets_mask", "event"))

The graph's input is `inputs`, float32 (events, columns): rows with the columns of `inputs.layout`, NaN for missing
values. Its output is `scores`. The graph selects columns, sorts, truncates and pads lists, computes masks and
normalises as `reader.inputs` and `reader.normalise` do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from mlaas4hep.reader import VectorLayout
from mlaas4hep.reader.inputs import Input, Inputs
from mlaas4hep.reader.objects import ObjectLayout

INPUT, OUTPUT = "inputs", "scores"
OPSET = 18


def prepend_inputs(
    network: onnx.ModelProto, inputs: Inputs, takes: Sequence[str], layout: VectorLayout | None = None
) -> onnx.ModelProto:
    """Prepend the computation of a network's inputs to its graph.

    Args:
        network: graph from inputs and masks to scores.
        takes: names of the inputs and masks of the network, in order.
        layout: layout of the rows, if they have more columns than `inputs.layout`.
    """
    first = input_graph(inputs, takes, layout, network.ir_version, network.opset_import)
    network = compose.add_prefix(network, "network/")
    merged = compose.merge_models(
        first, network, io_map=[(name, slot.name) for name, slot in zip(takes, network.graph.input, strict=True)]
    )
    _rename_output(merged.graph, OUTPUT)
    onnx.checker.check_model(merged)
    return merged


def input_graph(
    inputs: Inputs,
    takes: Sequence[str],
    layout: VectorLayout | None = None,
    ir_version: int = 8,
    imports: Sequence[onnx.OperatorSetIdProto] = (),
) -> onnx.ModelProto:
    """Return the graph from rows of unnormalised values to the inputs and masks in `takes`.

    Args:
        layout: see `prepend_inputs`.
        ir_version, imports: version of the format, and operator sets; by default those of opset OPSET.
    """
    builder = _InputGraphBuilder(layout or inputs.layout)
    for one in inputs.members:
        if {one.name, one.mask} & set(takes):
            builder.add(one)
    return builder.build(takes, ir_version, imports or [helper.make_opsetid("", OPSET)])


def rename_input_and_output(network: onnx.ModelProto) -> onnx.ModelProto:
    """Return a network with a single input, whose input and output are renamed to `inputs` and `scores`."""
    network = compose.add_prefix(network, "network/")
    (slot,) = network.graph.input
    _rename(network.graph, slot.name, INPUT)
    slot.name = INPUT
    _rename_output(network.graph, OUTPUT)
    onnx.checker.check_model(network)
    return network


def mean(graphs: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """Return a graph that computes the mean of the scores of several graphs with the same input."""
    add_prefix = partial(compose.add_prefix, rename_inputs=False, rename_nodes=True)
    parts = [add_prefix(graph, f"fold{fold}/") for fold, graph in enumerate(graphs)]
    first = parts[0]
    scores = [f"fold{fold}/{OUTPUT}" for fold in range(len(parts))]
    last = helper.make_node("Mean", scores, [OUTPUT])
    graph = helper.make_graph(
        [*(node for part in parts for node in part.graph.node), last],
        "mean of folds",
        [first.graph.input[0]],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["events", None])],
        [array for part in parts for array in part.graph.initializer],
    )
    functions = {(one.domain, one.name): one for part in parts for one in part.functions}
    model = helper.make_model(
        graph, ir_version=first.ir_version, opset_imports=list(first.opset_import), functions=list(functions.values())
    )
    onnx.checker.check_model(model)
    return model


def column_metadata(layout: VectorLayout) -> dict[str, str]:
    """Return the metadata entries with the names of the columns, and with the branches that they contain."""
    return {"mlaas4hep.keys": json.dumps(layout.columns), "mlaas4hep.branches": json.dumps(layout.to_json())}


def set_metadata(model: onnx.ModelProto, classes: Sequence[str], metadata: Mapping[str, str]) -> None:
    """Set the metadata of a graph: the names of its classes, and further entries."""
    helper.set_model_props(model, {**metadata, "mlaas4hep.labels": json.dumps(list(classes))})


class _InputGraphBuilder:
    """Builds the graph from rows of unnormalised values to inputs and masks."""

    def __init__(self, layout: VectorLayout) -> None:
        self._layout = layout
        self._nodes: list[Any] = []
        self._constants = {"zero": np.zeros(1, np.float32), "nan": np.full(1, np.nan, np.float32)}
        self._outputs: dict[str, Any] = {}

    def add(self, one: Input) -> None:
        """Add the computation of an input and its mask."""
        if isinstance(one.layout, ObjectLayout):
            raw, mask = self._objects(one.name, one.layout)
        else:
            raw = self._columns(one.name, [(slot.branch, slot.length, slot.inner) for slot in one.layout.slots])
            mask = self._node("Not", [self._node("IsNaN", [raw], f"{one.name}/missing")], f"{one.name}/valid")
        vector = not isinstance(one.layout, ObjectLayout)
        self._normalise(one, raw, one.normalisation.column_constants if vector else one.normalisation.constants.T,
                        one.normalisation.column_uses_asinh if vector else one.normalisation.uses_asinh)  # fmt: skip
        self._node("Cast", [mask], one.mask, to=TensorProto.FLOAT)
        for name, shape in ((one.name, one.shape), (one.mask, one.mask_shape)):
            self._outputs[name] = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["events", *shape])

    def build(
        self, takes: Sequence[str], ir_version: int, imports: Sequence[onnx.OperatorSetIdProto]
    ) -> onnx.ModelProto:
        """Return the graph, with the inputs and masks in `takes` as its outputs."""
        needed, nodes = set(takes), []
        for node in reversed(self._nodes):  # masks that the network does not take are left out
            if needed & set(node.output):
                nodes.append(node)
                needed |= set(node.input)
        graph = helper.make_graph(
            nodes[::-1],
            "inputs",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["events", self._layout.width])],
            [self._outputs[name] for name in takes],
            [numpy_helper.from_array(array, name) for name, array in self._constants.items() if name in needed],
        )
        return helper.make_model(graph, ir_version=ir_version, opset_imports=list(imports))

    def _columns(self, name: str, branches: Sequence[tuple[str, int, int]]) -> str:
        """Select the first `length` values, or the first `inner` values of the first `length` lists, of branches."""
        slots = {slot.branch: slot for slot in self._layout.slots}
        index = [
            slots[branch].first + i * slots[branch].inner + j
            for branch, length, inner in branches
            for i in range(length)
            for j in range(inner)
        ]
        if index == list(range(self._layout.width)):
            return INPUT
        indices = self._constant(f"{name}/indices", np.array(index, np.int64))
        return self._node("Gather", [INPUT, indices], f"{name}/columns", axis=1)

    def _objects(self, name: str, layout: ObjectLayout) -> tuple[str, str]:
        """Return unnormalised objects (events, *mask_shape, features), sorted, truncated and padded, and their mask."""
        slots = {slot.branch: slot for slot in self._layout.slots}
        longest = min(slots[branch].length for branch in layout.needed)
        inner = min(slots[branch].inner for branch in layout.branches)
        flat = self._columns(name, [(branch, longest, inner) for branch in layout.branches])
        sizes = [longest] if layout.inner_length is None else [longest, inner]
        shape = self._constant(f"{name}/shape", np.array([-1, len(layout.branches), *sizes], np.int64))
        raw = self._node("Reshape", [flat, shape], f"{name}/by_feature")
        raw = self._node("Transpose", [raw], f"{name}/by_object", perm=[0, *range(2, 2 + len(sizes)), 1])
        if layout.sort:
            raw = self._sorted(name, layout, raw, longest)
        for axis, (size, wanted) in enumerate(zip(sizes, layout.mask_shape, strict=True), 1):
            raw = self._resized(name, raw, axis, size, wanted, 2 + len(sizes))
        valid = self._node("Not", [self._node("IsNaN", [raw], f"{name}/missing")], f"{name}/valid")
        last = self._constant(f"{name}/last", np.array([-1], np.int64))
        number = self._node("Cast", [valid], f"{name}/number", to=TensorProto.FLOAT)
        count = self._node("ReduceSum", [number, last], f"{name}/known", keepdims=0)
        return raw, self._node("Greater", [count, "zero"], f"{name}/is_object")

    def _resized(self, name: str, raw: str, axis: int, size: int, wanted: int, rank: int) -> str:
        """Truncate an axis of a tensor, or pad it with NaN."""
        if size > wanted:
            edges = [self._constant(f"{name}/{edge}{axis}", np.array([value], np.int64))
                     for edge, value in (("from", 0), ("to", wanted), ("axis", axis))]  # fmt: skip
            return self._node("Slice", [raw, *edges], f"{name}/cut{axis}")
        if size == wanted:
            return raw
        pads = np.zeros(2 * rank, np.int64)
        pads[rank + axis] = wanted - size
        return self._node("Pad", [raw, self._constant(f"{name}/pads{axis}", pads), "nan"], f"{name}/padded{axis}")

    def _sorted(self, name: str, layout: ObjectLayout, raw: str, longest: int) -> str:
        """Sort objects by a branch, stably; objects for which it is NaN come last."""
        key = self._columns(f"{name}/key", [(layout.sort, longest, 1)])
        last = self._constant(f"{name}/last_key", np.array([-np.inf if layout.descending else np.inf], np.float32))
        missing = self._node("IsNaN", [key], f"{name}/no_key")
        key = self._node("Where", [missing, last, key], f"{name}/sort_key")
        count = self._constant(f"{name}/count", np.array([longest], np.int64))
        outputs = [f"{name}/ordered", f"{name}/order"]
        options = {"axis": 1, "largest": int(layout.descending), "sorted": 1}
        self._nodes.append(helper.make_node("TopK", [key, count], outputs, **options))
        axes = self._constant(f"{name}/new_axes", np.arange(2, 2 + len(layout.mask_shape), dtype=np.int64))
        order = self._node("Unsqueeze", [outputs[1], axes], f"{name}/order_of_each")
        shape = self._node("Shape", [raw], f"{name}/all")
        order = self._node("Expand", [order, shape], f"{name}/order_of_all")
        return self._node("GatherElements", [raw, order], f"{name}/sorted", axis=1)

    def _normalise(self, one: Input, raw: str, constants: np.ndarray, uses_asinh: np.ndarray) -> None:
        """Add the formula of `reader.normalise`; missing values become 0."""
        name = one.name
        missing = self._node("IsNaN", [raw], f"{name}/no_value")
        value = raw
        if not one.normalisation.is_identity:
            low, high, centre, scale, offset, gain = (
                self._constant(f"{name}/{what}", np.ascontiguousarray(row))
                for what, row in zip(("low", "high", "centre", "scale", "offset", "gain"), constants, strict=True)
            )
            value = self._node("Where", [missing, centre, raw], f"{name}/present")
            value = self._node("Max", [value, low], f"{name}/clipped_below")
            value = self._node("Min", [value, high], f"{name}/clipped")
            value = self._node("Sub", [value, centre], f"{name}/shifted")
            linear = self._node("Mul", [value, scale], f"{name}/linear")
            asinh = self._node("Asinh", [linear], f"{name}/asinh")
            condition = self._constant(f"{name}/uses_asinh", uses_asinh)
            value = self._node("Where", [condition, asinh, linear], f"{name}/scaled")
            value = self._node("Sub", [value, offset], f"{name}/centred")
            value = self._node("Mul", [value, gain], f"{name}/z")
        self._node("Where", [missing, "zero", value], name)

    def _constant(self, name: str, values: np.ndarray) -> str:
        self._constants[name] = values
        return name

    def _node(self, kind: str, sources: Sequence[str], output: str, **options: Any) -> str:
        self._nodes.append(helper.make_node(kind, sources, [output], **options))
        return output


def _rename_output(graph: onnx.GraphProto, name: str) -> None:
    _rename(graph, graph.output[0].name, name)
    graph.output[0].name = name


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for index, value in enumerate(names):
                if value == old:
                    names[index] = new
