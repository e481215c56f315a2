"""One ONNX graph from raw branch values to probabilities: the inputs of any network made inside of it.

    graph = with_inputs(onnx.load("network.onnx"), inputs, ("jets", "jets_mask", "event"))

The graph's input is `inputs`, float32 (events, columns), rows of raw numbers as `inputs.layout` has them, NaN where
there is no value; its output is `scores`. Choosing columns, sorting and cutting lists, masks, normalisation and padding
are what `reader.inputs` does, with the formula of `reader.normalise`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from mlaas4hep.reader import VectorLayout
from mlaas4hep.reader.inputs import Input, Inputs
from mlaas4hep.reader.objects import ObjectLayout

INPUT, OUTPUT = "inputs", "scores"


def with_inputs(
    network: onnx.ModelProto, inputs: Inputs, takes: Sequence[str], layout: VectorLayout | None = None
) -> onnx.ModelProto:
    """Return a network's graph with all that makes its inputs in front of it.

    Args:
        network: a graph from inputs and masks to probabilities.
        takes: what the inputs of the network are, in order: names of inputs and of their masks.
        layout: of the graph's rows, where they have room for more than the inputs need.
    """
    opset = next(entry.version for entry in network.opset_import if entry.domain in ("", "ai.onnx"))
    front = _Front(layout or inputs.layout)
    for one in inputs.members:
        if {one.name, one.mask} & set(takes):
            front.add(one)
    first = front.model(takes, opset, network)
    network = compose.add_prefix(network, "network/")
    whole = compose.merge_models(
        first, network, io_map=[(name, slot.name) for name, slot in zip(takes, network.graph.input, strict=True)]
    )
    _rename_output(whole.graph, OUTPUT)
    onnx.checker.check_model(whole)
    return whole


def with_names(network: onnx.ModelProto) -> onnx.ModelProto:
    """Return a network of one input that takes raw events as it is, with the names that servers look for."""
    network = compose.add_prefix(network, "network/")
    (slot,) = network.graph.input
    _rename(network.graph, slot.name, INPUT)
    slot.name = INPUT
    _rename_output(network.graph, OUTPUT)
    onnx.checker.check_model(network)
    return network


def mean(graphs: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """Return a graph of the mean of the scores of several that take the same rows."""
    parts = [
        compose.add_prefix(graph, f"fold{fold}/", rename_inputs=False, rename_nodes=True)
        for fold, graph in enumerate(graphs)
    ]
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
    made = helper.make_model(
        graph,
        ir_version=first.ir_version,
        opset_imports=list(first.opset_import),
        functions=list(functions.values()),
    )
    onnx.checker.check_model(made)
    return made


def about_rows(layout: VectorLayout) -> dict[str, str]:
    """Return the entries that tell a server the names of the columns, and the branches that they come from."""
    return {"mlaas4hep.keys": json.dumps(layout.columns), "mlaas4hep.branches": json.dumps(layout.to_json())}


def describe(model: onnx.ModelProto, classes: Sequence[str], more: Mapping[str, str]) -> None:
    """Write into a graph what a server needs to know: the names of its classes, and what else there is to say."""
    helper.set_model_props(model, {**more, "mlaas4hep.labels": json.dumps(list(classes))})


class _Front:
    """The graph from rows of raw numbers to inputs and masks, as it grows."""

    def __init__(self, layout: VectorLayout) -> None:
        self._layout = layout
        self._nodes: list[Any] = []
        self._constants: dict[str, np.ndarray] = {
            "zero": np.zeros(1, np.float32),
            "nan": np.full(1, np.nan, np.float32),
        }
        self._outputs: dict[str, Any] = {}

    def add(self, one: Input) -> None:
        """Make an input and its mask."""
        if isinstance(one.layout, ObjectLayout):
            raw, mask = self._objects(one.name, one.layout)
        else:
            raw = self._columns(one.name, [(slot.branch, slot.width) for slot in one.layout.slots])
            mask = self._node("Not", [self._node("IsNaN", [raw], f"{one.name}/missing")], f"{one.name}/valid")
        vector = not isinstance(one.layout, ObjectLayout)
        self._normalise(one, raw, one.normalisation.columns if vector else one.normalisation.curves.T,
                        one.normalisation.curved if vector else one.normalisation.bends)  # fmt: skip
        self._node("Cast", [mask], one.mask, to=TensorProto.FLOAT)
        for name, shape in ((one.name, one.shape), (one.mask, one.shape[:1])):
            self._outputs[name] = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["events", *shape])

    def model(self, takes: Sequence[str], opset: int, like: onnx.ModelProto) -> onnx.ModelProto:
        """Return the graph with some of the inputs and masks as its outputs."""
        needed, nodes = set(takes), []
        for node in reversed(self._nodes):  # a mask that nobody takes need not be made
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
        imports = list(like.opset_import) or [helper.make_opsetid("", opset)]
        return helper.make_model(graph, ir_version=like.ir_version, opset_imports=imports)

    def _columns(self, name: str, branches: Sequence[tuple[str, int]]) -> str:
        """Take the first columns of some branches, as many of each as is said, from the rows."""
        first = {slot.branch: slot.first for slot in self._layout.slots}
        index = [first[branch] + number for branch, width in branches for number in range(width)]
        if index == list(range(self._layout.width)):
            return INPUT
        places = self._constant(f"{name}/places", np.array(index, np.int64))
        return self._node("Gather", [INPUT, places], f"{name}/columns", axis=1)

    def _objects(self, name: str, layout: ObjectLayout) -> tuple[str, str]:
        """Return raw objects, (events, length, features), sorted and cut or padded, and which there are."""
        widths = {slot.branch: slot.width for slot in self._layout.slots}
        found = min(widths[branch] for branch in layout.needed)
        flat = self._columns(name, [(branch, found) for branch in layout.branches])
        shape = self._constant(f"{name}/shape", np.array([-1, len(layout.branches), found], np.int64))
        raw = self._node("Reshape", [flat, shape], f"{name}/by_feature")
        raw = self._node("Transpose", [raw], f"{name}/by_object", perm=[0, 2, 1])
        if layout.sort:
            raw = self._sorted(name, layout, raw, found)
        if found > layout.length:
            edges = [self._constant(f"{name}/{edge}", np.array([value], np.int64))
                     for edge, value in (("from", 0), ("to", layout.length), ("axis", 1))]  # fmt: skip
            raw = self._node("Slice", [raw, *edges], f"{name}/cut")
        elif found < layout.length:
            pads = self._constant(f"{name}/pads", np.array([0, 0, 0, 0, layout.length - found, 0], np.int64))
            raw = self._node("Pad", [raw, pads, "nan"], f"{name}/padded")
        there = self._node("Not", [self._node("IsNaN", [raw], f"{name}/missing")], f"{name}/valid")
        last = self._constant(f"{name}/last", np.array([2], np.int64))
        number = self._node("Cast", [there], f"{name}/number", to=TensorProto.FLOAT)
        known = self._node("ReduceSum", [number, last], f"{name}/known", keepdims=0)
        return raw, self._node("Greater", [known, "zero"], f"{name}/is_object")

    def _sorted(self, name: str, layout: ObjectLayout, raw: str, found: int) -> str:
        """Put objects in the order of a branch, those without a number there last, equal ones as they come."""
        key = self._columns(f"{name}/key", [(layout.sort, found)])
        last = self._constant(f"{name}/behind", np.array([-np.inf if layout.descending else np.inf], np.float32))
        odd = self._node("IsNaN", [key], f"{name}/odd")
        key = self._node("Where", [odd, last, key], f"{name}/ranked")
        count = self._constant(f"{name}/count", np.array([found], np.int64))
        outputs = [f"{name}/ordered", f"{name}/order"]
        self._nodes.append(
            helper.make_node("TopK", [key, count], outputs, axis=1, largest=int(layout.descending), sorted=1)
        )
        axis = self._constant(f"{name}/new_axis", np.array([2], np.int64))
        order = self._node("Unsqueeze", [outputs[1], axis], f"{name}/order3")
        shape = self._node("Shape", [raw], f"{name}/all")
        order = self._node("Expand", [order, shape], f"{name}/order_of_all")
        return self._node("GatherElements", [raw, order], f"{name}/sorted", axis=1)

    def _normalise(self, one: Input, raw: str, constants: np.ndarray, curved: np.ndarray) -> None:
        """Write the formula of `reader.normalise`; 0 where there is no value."""
        name = one.name
        missing = self._node("IsNaN", [raw], f"{name}/no_value")
        value = raw
        if not one.normalisation.is_plain:
            low, high, centre, scale, offset, gain = (
                self._constant(f"{name}/{what}", np.ascontiguousarray(row))
                for what, row in zip(("low", "high", "centre", "scale", "offset", "gain"), constants, strict=True)
            )
            value = self._node("Where", [missing, centre, raw], f"{name}/present")
            value = self._node("Max", [value, low], f"{name}/above")
            value = self._node("Min", [value, high], f"{name}/clipped")
            value = self._node("Sub", [value, centre], f"{name}/shifted")
            straight = self._node("Mul", [value, scale], f"{name}/straight")
            bent = self._node("Asinh", [straight], f"{name}/bent")
            bends = self._constant(f"{name}/bends", curved)
            value = self._node("Where", [bends, bent, straight], f"{name}/shaped")
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
