"""Upper bounds on the memory and the work of an ONNX graph, derived from the shapes of its tensors.

    bounds = find_bounds(content)
    bounds.rows                 # rows per run; None: the graph has no bounds, or they exceed the limits

A graph has bounds if its file is small, it consists of standard operators without control flow, and all its shapes
follow from the number of rows. Of the shapes in the file, only that of the input is used. The code runs in a model
process (`child`), because shape inference processes an untrusted model, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mlaas4hep.protocol.limits import DEFAULTS, Limits

_STANDARD = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Clip Concat
Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh DequantizeLinear Div Dropout DynamicQuantizeLinear
Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements Gelu Gemm GlobalAveragePool GlobalMaxPool Greater
GreaterOrEqual GRU HardSigmoid HardSwish Identity InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu
Less LessOrEqual Log LogSoftmax LSTM MatMul MatMulInteger Max MaxPool Mean Min Mod Mul Neg Not Or Pad Pow PRelu
QLinearConv QLinearMatMul QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape RNN Round Selu Shape Sigmoid Sign Sin Sinh
Slice Softmax Softplus Softsign Split Sqrt Squeeze Sub Sum Tan Tanh Tile TopK Transpose Unsqueeze Where Xor
"""
STANDARD = frozenset(_STANDARD.split())
"""Operators of ONNX itself that only compute, without control flow."""

TREES = frozenset({"TreeEnsembleClassifier", "TreeEnsembleRegressor"})
MACHINE_LEARNING = TREES | {"LinearClassifier", "LinearRegressor", "Normalizer", "Scaler"}
"""Operators of the domain ai.onnx.ml."""

_FROM_SHAPES = frozenset({"Shape", "Size"})
_MATMULS = frozenset({"MatMul", "MatMulInteger", "QLinearMatMul"})
_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "QLinearConv"})
_RECURRENT = {"RNN": 1, "GRU": 3, "LSTM": 4}  # gates
_SAME_SHAPE = ("Normalizer", "Scaler")
_MAY_BE_A_SHAPE = 4096  # bytes; larger constants are not passed to shape inference
_NUMBER, _TEXT = 8, 100  # bytes of the largest element of a tensor
_LONGEST_LABEL = 60  # bytes
_REAL = (1, 10, 11, 16)  # float, float16, double and bfloat16 in TensorProto
_STRING = 8
_ROWS_TRIED = 64  # largest number of rows for graphs that compute with shapes, for which all numbers are tried


@dataclass(frozen=True)
class Bounds:
    """The bounds of a graph.

    Attributes:
        rows: rows per run that the limits permit; None: the graph has no bounds, or they exceed the limits.
        reason: why `rows` is None, for the log.
    """

    rows: int | None
    reason: str = ""


class _Unbounded(Exception):
    """The graph has no bounds; the message is the reason."""


def find_bounds(content: bytes, limits: Limits = DEFAULTS) -> Bounds:
    """Return how many rows per run the limits `bounded_...` permit.

    The size of the file limits the weights. Tensors that depend only on weights and shapes count as constants, which
    stay in memory. All other tensors count as the memory of a run.
    """
    if len(content) > limits.bounded_file:
        return Bounds(None, f"the file is larger than {limits.bounded_file / 1e6:g} MB")
    try:
        import onnx
    except ModuleNotFoundError:
        return Bounds(None, "the package 'onnx' is not installed")
    try:
        model = onnx.ModelProto.FromString(content)
        _check(model, onnx, limits)
        shapes = _Shapes(model, onnx)
        rows = limits.bounded_rows
        while (reason := shapes.exceeded(rows, limits)) and rows > 1:
            rows //= 2
        if not reason and any(node.op_type in _FROM_SHAPES for node in model.graph.node):
            # Sizes may be any function of the number of rows here; otherwise they only grow with it.
            rows = min(rows, _ROWS_TRIED)
            reason = next(filter(None, (shapes.exceeded(count, limits) for count in range(1, rows + 1))), "")
    except _Unbounded as error:
        reason = str(error)
    except Exception as error:  # protobuf and onnx raise many types
        reason = f"{type(error).__name__}: {str(error)[:200]}"
    return Bounds(None, reason) if reason else Bounds(rows)


def _check(model: Any, onnx: Any, limits: Limits) -> None:
    """Raise _Unbounded unless the graph consists of standard operators and plain constants."""
    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer:
        raise _Unbounded("it has functions, training information or sparse constants")
    if len(graph.node) > limits.bounded_nodes:
        raise _Unbounded(f"it has more than {limits.bounded_nodes} operators")
    tensors = list(graph.initializer)
    for node in graph.node:
        operators = {"": STANDARD, "ai.onnx": STANDARD, "ai.onnx.ml": MACHINE_LEARNING}.get(node.domain, frozenset())
        if node.op_type not in operators:
            raise _Unbounded(f"it has the operator {node.domain[:50]}:{node.op_type[:50]}")
        for attribute in node.attribute:
            if attribute.ref_attr_name or attribute.HasField("g") or attribute.graphs or attribute.sparse_tensors:
                raise _Unbounded(f"an attribute of {node.op_type} is a graph, sparse, or a reference")
            if attribute.HasField("sparse_tensor"):
                raise _Unbounded(f"an attribute of {node.op_type} is sparse")
            tensors += [attribute.t] if attribute.HasField("t") else []
            tensors += attribute.tensors
            if attribute.name == "to" and attribute.i == _STRING:
                raise _Unbounded("it converts numbers to strings")
        if max(map(len, _labels(node)), default=0) > _LONGEST_LABEL:
            raise _Unbounded("it has a long label")
        if node.op_type in TREES:
            _check_trees(node)
    for tensor in tensors:
        if tensor.external_data or tensor.data_location != onnx.TensorProto.DEFAULT:
            raise _Unbounded("it has data in other files")
        if tensor.data_type == _STRING:
            raise _Unbounded("it has strings")
        if min(tensor.dims, default=0) < 0:
            raise _Unbounded("a constant has a negative size")
        if math.prod(tensor.dims) > 8 * tensor.ByteSize():  # shape inference would allocate them
            raise _Unbounded("a constant has fewer values than its shape says")


def _check_trees(node: Any) -> None:
    """Raise _Unbounded for trees with a cycle, in which a prediction would never end."""
    trees, ids = _ints(node, "nodes_treeids"), _ints(node, "nodes_nodeids")
    left, right = _ints(node, "nodes_truenodeids"), _ints(node, "nodes_falsenodeids")
    modes = next((one.strings for one in node.attribute if one.name == "nodes_modes"), ())
    if not len(trees) == len(ids) == len(left) == len(right) == len(modes):
        raise _Unbounded("its trees are damaged")
    roots: dict[int, int] = {}
    for tree, number in zip(trees, ids, strict=True):
        roots.setdefault(tree, number)
    children: set[tuple[int, int]] = set(roots.items())
    for tree, mode, *pair in zip(trees, modes, left, right, strict=True):
        for child in {(tree, number) for number in pair} if mode != b"LEAF" else ():
            if child in children:  # each node has one parent, and a root has none
                raise _Unbounded("its trees have cycles or shared nodes")
            children.add(child)


class _Shapes:
    """The shapes of all tensors as a function of the number of rows."""

    def __init__(self, model: Any, onnx: Any) -> None:
        self._onnx = onnx
        self._model = model
        graph = model.graph
        self._constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        fed = [slot for slot in graph.input if slot.name not in self._constants]
        if len(fed) != 1 or not fed[0].type.tensor_type.shape.dim:
            raise _Unbounded("it does not have one input of a known shape")
        self._element = _TEXT if any(map(_labels, graph.node)) else _NUMBER
        self._drop_irrelevant_parts(fed[0])
        self._batch = graph.input[0].type.tensor_type.shape.dim[0]
        self._fixed_batch = bool(self._batch.dim_value)

    def _drop_irrelevant_parts(self, fed: Any) -> None:
        """Remove the shapes in the file, and the weights that are too large to define a shape."""
        graph, info = self._model.graph, self._onnx.helper.make_tensor_value_info
        del graph.value_info[:]
        for slot in graph.output:
            slot.type.tensor_type.ClearField("shape")
        small = [tensor for tensor in graph.initializer if tensor.ByteSize() <= _MAY_BE_A_SHAPE]
        large = [tensor for tensor in graph.initializer if tensor.ByteSize() > _MAY_BE_A_SHAPE]
        slots = [fed, *(info(tensor.name, tensor.data_type, tensor.dims) for tensor in large)]
        copies = [type(slot).FromString(slot.SerializeToString()) for slot in slots]
        del graph.input[:], graph.initializer[:]
        graph.input.extend(copies)
        graph.initializer.extend(small)

    def exceeded(self, rows: int, limits: Limits) -> str:
        """Return which limit a run with this number of rows exceeds; "" for none.

        Raises:
            _Unbounded: a shape does not follow from the number of rows, or an integer may be divided by zero.
        """
        if not self._fixed_batch:
            self._batch.dim_value = rows
        shapes = self._infer()
        memory = self._bytes(shapes, shapes.keys() - self._constants.keys())
        if self._bytes(shapes, self._computed_constants()) > limits.bounded_constants:
            return f"its constants may take more than {limits.bounded_constants / 1e6:g} MB"
        if memory > limits.bounded_memory:
            return f"its tensors may take {memory / 1e6:.0f} MB"
        work = sum(work_of(node, shapes) for node in self._model.graph.node)
        return f"a run may take {work / 1e9:.1f} billion multiply-adds" if work > limits.bounded_work else ""

    def _bytes(self, shapes: dict[str, tuple[int, ...]], names: Iterable[str]) -> int:
        return sum(self._element * math.prod(shapes[name]) for name in names)

    def _computed_constants(self) -> set[str]:
        """Return the tensors whose values do not depend on the values of the input."""
        dependent: set[str] = {self._model.graph.input[0].name}
        constants: set[str] = set()
        for node in self._model.graph.node:
            depends = node.op_type not in _FROM_SHAPES and not dependent.isdisjoint(node.input)
            (dependent if depends else constants).update(filter(None, node.output))
        return constants

    def _infer(self) -> dict[str, tuple[int, ...]]:
        graph = self._model.graph
        del graph.value_info[:]
        waiting = [node for node in graph.node if node.domain == "ai.onnx.ml" and node.op_type not in _SAME_SHAPE]
        while True:
            inferred = self._onnx.shape_inference.infer_shapes(self._model, data_prop=True).graph
            slots = {slot.name: slot for slot in (*inferred.input, *inferred.output, *inferred.value_info)}
            ready = [node for node in waiting if _sizes(slots.get(node.input[0])) is not None]
            if not ready:
                break
            for node in ready:  # shape inference does not know these operators
                waiting.remove(node)
                graph.value_info.extend(self._outputs(node, _sizes(slots[node.input[0]]) or ()))
        self._check_divisions(slots)
        shapes = dict(self._constants)
        for name in (name for node in graph.node for name in node.output if name):
            sizes = _sizes(slots.get(name))
            if sizes is None:
                raise _Unbounded(f"the shape of '{name[:50]}' does not follow from the number of rows")
            shapes[name] = sizes
        fed = graph.input[0].name
        return {**shapes, fed: _sizes(slots[fed]) or _unknown(fed)}

    def _outputs(self, node: Any, input_shape: tuple[int, ...]) -> Iterator[Any]:
        """Yield the outputs of an operator of ai.onnx.ml."""
        types, info = self._onnx.TensorProto, self._onnx.helper.make_tensor_value_info
        texts = _labels(node)
        lists = {one.name: one.ints for one in node.attribute}
        columns = max(
            *(len(lists.get(name, ())) for name in ("classlabels_int64s", "classlabels_ints")),
            *(one.i for one in node.attribute if one.name in ("n_targets", "targets")),
            *(1 + max(lists.get(name, ()), default=0) for name in ("class_ids", "target_ids")),
            len(texts), 1,
        )  # fmt: skip
        if node.op_type.endswith("Classifier"):
            yield info(node.output[0], types.STRING if texts else types.INT64, input_shape[:1])
            yield info(node.output[1], types.FLOAT, [input_shape[0], max(columns, 2)])
        else:
            yield info(node.output[0], types.FLOAT, [input_shape[0], columns])

    def _check_divisions(self, slots: dict[str, Any]) -> None:
        """Raise _Unbounded if an integer may be divided by zero, which would kill the process."""
        graph = self._model.graph
        constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type not in ("Div", "Mod"):
                continue
            divisor = constants.get(node.input[1])
            if divisor is not None and (self._onnx.numpy_helper.to_array(divisor) > 0).all():
                continue
            slot = slots.get(node.input[1])
            kind = divisor.data_type if divisor is not None else slot.type.tensor_type.elem_type if slot else 0
            if kind not in _REAL:
                raise _Unbounded("it divides integers, possibly by zero")


def _sizes(slot: Any) -> tuple[int, ...] | None:
    """Return the shape of a tensor; None if it is not completely known."""
    if slot is None or slot.type.WhichOneof("value") != "tensor_type" or not slot.type.tensor_type.HasField("shape"):
        return None
    sizes = [size.dim_value if size.HasField("dim_value") else -1 for size in slot.type.tensor_type.shape.dim]
    return None if min(sizes, default=0) < 0 else tuple(sizes)


def _unknown(name: str) -> tuple[int, ...]:
    raise _Unbounded(f"the shape of '{name[:50]}' does not follow from the number of rows")


def _labels(node: Any) -> Sequence[bytes]:
    """Return the names of classes in an operator of ai.onnx.ml."""
    return next((one.strings for one in node.attribute if one.name.startswith("classlabels_") and one.strings), ())


def work_of(node: Any, shapes: dict[str, tuple[int, ...]]) -> int:
    """Return the maximum number of multiply-adds of an operator; moving or changing a number counts as one."""
    inputs = [shapes[name] for name in node.input if name]
    outputs = [shapes[name] for name in node.output if name]
    moved = sum(map(math.prod, inputs)) + sum(map(math.prod, outputs))
    results = math.prod(outputs[0]) if outputs else 0
    if node.op_type in _MATMULS:
        return moved + results * (inputs[0][-1] if inputs[0] else 1)
    if node.op_type == "Gemm":
        transposed = next((one.i for one in node.attribute if one.name == "transA"), 0)
        return moved + results * inputs[0][0 if transposed else 1]
    if node.op_type in _CONVOLUTIONS:
        weights = inputs[3] if node.op_type == "QLinearConv" else inputs[1]
        return moved + results * math.prod(weights[1:])
    if node.op_type == "ConvTranspose":
        return moved + math.prod(inputs[0]) * math.prod(inputs[1][1:])
    if node.op_type in ("MaxPool", "AveragePool"):
        return moved + results * math.prod(_ints(node, "kernel_shape"))
    if node.op_type in _RECURRENT:
        steps, batch = inputs[0][0], inputs[0][1]
        return moved + 2 * steps * batch * (math.prod(inputs[1]) + math.prod(inputs[2]))
    if node.op_type in TREES:
        return moved + inputs[0][0] * max(len(_ints(node, "nodes_treeids")), 1)
    if node.op_type in ("LinearClassifier", "LinearRegressor"):
        return moved + inputs[0][0] * max((len(one.floats) for one in node.attribute), default=0)
    if node.op_type == "TopK":
        return moved * 32
    if node.op_type in ("Softmax", "LogSoftmax", "Erf", "Gelu", "Pow", "Exp", "Log", "Tanh", "Asinh", "Sigmoid"):
        return moved * 8
    return moved * 2


def _ints(node: Any, name: str) -> Sequence[int]:
    return next((one.ints for one in node.attribute if one.name == name), ())
