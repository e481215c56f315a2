"""One ONNX graph from raw branch values to probabilities: normalisation and padding in front of any network.

    graph = with_normalisation(onnx.load("network.onnx"), normalisation, takes_mask=False)

The graph's input is `inputs`, float32 (events, features), as in the files, NaN where there is no value; its output is
`scores`. The formula is the one of `mlaas4hep.reader.normalise`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from mlaas4hep.reader import Normalisation, VectorLayout

INPUT, OUTPUT = "inputs", "scores"


def with_normalisation(network: onnx.ModelProto, normalisation: Normalisation, takes_mask: bool) -> onnx.ModelProto:
    """Return a network's graph with normalisation in front of it.

    Args:
        network: a graph from normalised events (and the mask, if it takes one) to probabilities.
    """
    opset = next(entry.version for entry in network.opset_import if entry.domain in ("", "ai.onnx"))
    front = _normalisation_graph(normalisation, takes_mask, opset, network.ir_version, list(network.opset_import))
    network = compose.add_prefix(network, "network/")
    sources = ["normalised", "mask"][: len(network.graph.input)]
    whole = compose.merge_models(
        front, network, io_map=[(name, slot.name) for name, slot in zip(sources, network.graph.input, strict=True)]
    )
    _rename_output(whole.graph, OUTPUT)
    onnx.checker.check_model(whole)
    return whole


def describe(model: onnx.ModelProto, layout: VectorLayout, classes: Sequence[str], more: Mapping[str, str]) -> None:
    """Write into a graph what a server needs to know: the names of its columns, its branches and its classes."""
    entries = {
        "mlaas4hep.keys": json.dumps(layout.columns),
        "mlaas4hep.branches": json.dumps(layout.to_json()),
        "mlaas4hep.labels": json.dumps(list(classes)),
        **more,
    }
    helper.set_model_props(model, entries)


def _normalisation_graph(
    normalisation: Normalisation, takes_mask: bool, opset: int, ir_version: int, imports: list[Any]
) -> onnx.ModelProto:
    width = len(normalisation.curved)
    names = ("low", "high", "centre", "scale", "offset", "gain")
    constants: dict[str, np.ndarray] = {
        **dict(zip(names, normalisation.columns, strict=True)),
        "curved": normalisation.curved,
        "zero": np.zeros(1, np.float32),
    }
    nodes = [helper.make_node("IsNaN", [INPUT], ["missing"])]
    if normalisation.is_plain:
        value = INPUT
    else:
        value = "z"
        nodes += [
            helper.make_node("Where", ["missing", "centre", INPUT], ["present"]),
            helper.make_node("Max", ["present", "low"], ["above"]),
            helper.make_node("Min", ["above", "high"], ["clipped"]),
            helper.make_node("Sub", ["clipped", "centre"], ["shifted"]),
            helper.make_node("Mul", ["shifted", "scale"], ["straight"]),
            helper.make_node("Asinh", ["straight"], ["bent"]),
            helper.make_node("Where", ["curved", "bent", "straight"], ["shaped"]),
            helper.make_node("Sub", ["shaped", "offset"], ["centred"]),
            helper.make_node("Mul", ["centred", "gain"], ["z"]),
        ]
    nodes.append(helper.make_node("Where", ["missing", "zero", value], ["normalised"]))
    outputs = [helper.make_tensor_value_info("normalised", TensorProto.FLOAT, ["events", width])]
    if takes_mask:
        nodes += [
            helper.make_node("Not", ["missing"], ["valid"]),
            helper.make_node("Cast", ["valid"], ["mask"], to=TensorProto.FLOAT),
        ]
        outputs.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["events", width]))
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "normalisation",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["events", width])],
        outputs,
        [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used],
    )
    return helper.make_model(graph, ir_version=ir_version, opset_imports=imports or [helper.make_opsetid("", opset)])


def _rename_output(graph: onnx.GraphProto, name: str) -> None:
    old = graph.output[0].name
    for node in graph.node:
        for names in (node.input, node.output):
            for index, value in enumerate(names):
                if value == old:
                    names[index] = name
    graph.output[0].name = name
