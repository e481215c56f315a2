"""ONNX graphs of strangers: their metadata, and the bounds on which the server relies when it runs one itself.

Uploads of whole models are in `server_targets`; each of those starts a process, which takes a second.
"""

from __future__ import annotations

import json
import logging
import random
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
from serving_fixtures import onnx, onnx_model

from fuzz.checks import Parse, Target
from fuzz.json_mutations import mutate_json
from mlaas4hep.errors import MLaaS4HEPError
from mlaas4hep.protocol.graph_preproc import PREPROC
from mlaas4hep.serving.models.column_metadata import BRANCHES, KEYS
from mlaas4hep.serving.models.onnx_bounds import find_bounds
from mlaas4hep.serving.models.onnx_model import OnnxModel, columns_of
from mlaas4hep.serving.models.onnx_predictor import OnnxPredictor
from mlaas4hep.serving.models.rows import parse_request
from mlaas4hep.serving.models.tensor import Tensor

_TAKES = Tensor("inputs", (5,))
_SHOWN = 20  # keys or branches in a request


def _onnx_metadata(folder: Path, stack: ExitStack) -> Parse:
    """The input is the metadata `mlaas4hep.keys`, `.branches` and `.preproc` as JSON, separated by zero bytes.

    The last one may be missing.
    """
    _silence()
    path = folder / "model.onnx"
    empty = onnx.ModelProto.FromString(onnx_model())

    def parse(data: bytes) -> None:
        texts = data.decode(errors="replace").split("\0", 2)
        metadata = {KEYS: texts[0], BRANCHES: "", **dict(zip((BRANCHES, PREPROC), texts[1:], strict=False))}
        columns = columns_of(metadata, _TAKES, "model.onnx")
        assert columns is not None
        model = onnx.ModelProto()
        model.CopyFrom(empty)
        onnx.helper.set_model_props(model, metadata)
        predictor = OnnxPredictor(path, content=model.SerializeToString())
        needed = predictor.preprocessing.needed if predictor.preprocessing else []
        for names in (columns.names, list(columns.branches), [*needed, *columns.branches]):
            for value in (1, None, [2.5, None], "x"):
                request = {"keys": names[:_SHOWN], "values": [value] * len(names[:_SHOWN])}
                with suppress(MLaaS4HEPError):
                    rows = predictor.rows(parse_request(json.dumps(request).encode()))
                    if len(rows.matrix):
                        predictor.predict(rows.matrix)

    return parse


def _silence() -> None:
    logging.getLogger("mlaas4hep.serving.models.onnx_model").setLevel(
        logging.CRITICAL
    )  # which warns of each invalid graph


def _onnx_bounds(folder: Path, stack: ExitStack) -> Parse:
    """The input is a graph; if its needs are bounded, it is run here as the server would run it."""
    _silence()

    def parse(data: bytes) -> None:
        rows = find_bounds(data).rows
        if rows is None:
            return
        model = OnnxModel(data, "model.onnx")
        shape = [8 if size is None else size for size in model.layout.tensor.shape]
        with suppress(Exception):  # of onnxruntime, which the server answers with a status
            model.run(np.ones((1 if model.takes_one_row else rows, *shape), np.float32))

    return parse


_OPERATORS = ["Expand", "Tile", "Range", "ConstantOfShape", "Pad", "Concat", "Reshape", "MatMul", "Gemm", "Mul", "Loop",
              "Where", "Resize", "OneHot", "Gather", "Transpose", "ReduceSum", "Shape", "Cast", "Identity"]  # fmt: skip
_SIZES = [0, 1, -1, 2, 3, 5, 1000, 2**20, 2**31 - 1, 2**31, 2**40, 2**63 - 1, -(2**63)]


def mutate_graph(data: bytes, rng: random.Random) -> bytes | None:
    """Return a variant of a graph that is still a graph; None if the input is not one."""
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception:  # protobuf's error has no stable base
        return None
    graph = model.graph
    if not graph.node or not graph.input:
        return None
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change(graph, rng)
    return bytes(model.SerializeToString())


def _change(graph: onnx.GraphProto, rng: random.Random) -> None:
    names = [name for node in graph.node for name in (*node.input, *node.output)] + [one.name for one in graph.input]
    node, kind = rng.choice(graph.node), rng.randrange(8)
    tensors = [*graph.initializer, *(one.t for other in graph.node for one in other.attribute if one.HasField("t"))]
    if kind == 0:
        node.op_type = rng.choice(_OPERATORS)
    elif kind == 1 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)
    elif kind == 2 and tensors:
        tensor = rng.choice(tensors)
        sizes = rng.choices(_SIZES, k=rng.choice((0, 1, 2, 4)))
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(sizes, np.int64), tensor.name))
    elif kind == 3 and tensors:
        dims = rng.choice(tensors).dims
        dims[:] = [rng.choice(_SIZES), *dims[1:]]
    elif kind == 4:
        del rng.choice((graph.input, graph.output))[0].type.tensor_type.shape.dim[1:]
        for _ in range(rng.randrange(4)):
            graph.input[0].type.tensor_type.shape.dim.add(dim_value=rng.choice(_SIZES))
    elif kind == 5:
        node.attribute.append(onnx.helper.make_attribute(rng.choice(("axis", "to", "axes", "perm", "pads")), rng.choice(
            [rng.choice(_SIZES), rng.choices(_SIZES, k=2), 1.5, "x"])))  # fmt: skip
    elif kind == 6:
        made = f"made_{len(graph.node)}"
        graph.node.append(
            onnx.helper.make_node(rng.choice(_OPERATORS), rng.choices(names, k=rng.choice((1, 2, 3))), [made])
        )
        graph.output[0].name = made
    else:
        graph.node.append(rng.choice(graph.node))


TARGETS = [
    Target("onnx_metadata", _onnx_metadata, 4096, mutate=mutate_json),
    Target("onnx_bounds", _onnx_bounds, 4096, mutate=mutate_graph),
]
