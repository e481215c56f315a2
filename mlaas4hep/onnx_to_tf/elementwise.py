"""ONNX ops in TensorFlow: arithmetic, comparison, activations, reductions.

    OPS["Add"](node, a, b)

The function of an op gets the node and its inputs, and returns the output or a tuple of outputs. Inputs are tensors, or
NumPy arrays if they are constants; omitted inputs are None. The ops follow https://onnx.ai/onnx/operators from opset 13
on. `shapes`, `layers`, `recurrent` and `trees` have further ops; `interpreter` applies them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import tensorflow as tf
from onnx import helper

Op = Callable[..., Any]


@dataclass(frozen=True)
class Node:
    """Attributes of a node.

    Attributes:
        attributes: the attributes that are set.
        opset: version of the standard opset.
        outputs: number of outputs.
    """

    attributes: Mapping[str, Any]
    opset: int
    outputs: int

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute; bytes are decoded to str."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value


def static_value(value: Any, what: str = "an input") -> np.ndarray:
    """Return the value of a tensor that must not depend on the events.

    Raises:
        ValueError: it depends on the events.
    """
    static = tf.get_static_value(value)
    if static is None:
        raise ValueError(f"{what} is not constant")
    return np.asarray(static)


def as_dtype(number: int) -> tf.DType:
    """Return the TensorFlow dtype for a value of ONNX's `TensorProto.DataType`."""
    return tf.as_dtype(helper.tensor_dtype_to_np_dtype(number))


def without_attributes(function: Callable[..., Any]) -> Op:
    """Return an op that calls a function with the inputs only."""
    return lambda node, *inputs: function(*inputs)


def _reduce_inputs(function: Callable[..., Any]) -> Op:
    return lambda node, *inputs: reduce(function, inputs)


def _is_inf(node: Node, x: Any) -> Any:
    high = tf.equal(x, np.inf) if node.get("detect_positive", 1) else False
    low = tf.equal(x, -np.inf) if node.get("detect_negative", 1) else False
    return tf.logical_or(high, low)


def _clip(node: Node, x: Any, low: Any = None, high: Any = None) -> Any:
    dtype = tf.as_dtype(x.dtype)  # a missing bound is the largest finite number, also for infinities
    return tf.minimum(tf.maximum(x, dtype.min if low is None else low), dtype.max if high is None else high)


def _celu(node: Node, x: Any) -> Any:
    alpha = node.get("alpha", 1.0)
    return tf.where(x < 0, alpha * tf.math.expm1(tf.minimum(x, 0) / alpha), x)


def _selu(node: Node, x: Any) -> Any:
    alpha, gamma = node.get("alpha", 1.6732632423543772), node.get("gamma", 1.0507009873554805)
    return gamma * tf.where(x > 0, x, alpha * tf.math.expm1(tf.minimum(x, 0)))


def _shrink(node: Node, x: Any) -> Any:
    bias, edge = node.get("bias", 0.0), node.get("lambd", 0.5)
    return tf.where(x < -edge, x + bias, tf.where(x > edge, x - bias, tf.zeros_like(x)))


def _hardmax(node: Node, x: Any) -> Any:
    axis = node.get("axis", -1)
    return tf.one_hot(tf.argmax(x, axis=axis), x.shape[axis], axis=axis, dtype=x.dtype)


def _cumsum(node: Node, x: Any, axis: Any) -> Any:
    over = int(static_value(axis, "the axis").item())
    return tf.cumsum(x, over, exclusive=bool(node.get("exclusive", 0)), reverse=bool(node.get("reverse", 0)))


def _reduction(function: Callable[..., Any]) -> Op:
    """Return the op for a function of `x, axis, keepdims`; axes are an attribute or, in newer opsets, an input."""

    def apply(node: Node, x: Any, axes: Any = None) -> Any:
        over = node.get("axes") if axes is None else static_value(axes, "the choice of axes").tolist()
        if not over and node.get("noop_with_empty_axes", 0):
            return x
        return function(x, axis=over or None, keepdims=bool(node.get("keepdims", 1)))

    return apply


def _largest(x: Any, **options: Any) -> Any:
    return tf.reduce_any(x, **options) if x.dtype == bool else tf.reduce_max(x, **options)


def _smallest(x: Any, **options: Any) -> Any:
    return tf.reduce_all(x, **options) if x.dtype == bool else tf.reduce_min(x, **options)


def _arg_extreme(function: Callable[..., Any]) -> Op:
    """Return the op for an argmax or argmin function."""

    def apply(node: Node, x: Any) -> Any:
        axis = node.get("axis", 0)
        if node.get("select_last_index", 0):
            x = tf.reverse(x, [axis])
            index = tf.cast(tf.shape(x)[axis], tf.int64) - 1 - function(x, axis=axis)
        else:
            index = function(x, axis=axis)
        return tf.expand_dims(index, axis) if node.get("keepdims", 1) else index

    return apply


OPS: dict[str, Op] = {
    **{name: without_attributes(function) for name, function in {
        "Abs": tf.abs, "Acos": tf.acos, "Acosh": tf.acosh, "Add": tf.add, "And": tf.logical_and, "Asin": tf.asin,
        "Asinh": tf.asinh, "Atan": tf.atan, "Atanh": tf.atanh, "Ceil": tf.math.ceil, "Cos": tf.cos, "Cosh": tf.cosh,
        "Equal": tf.equal, "Erf": tf.math.erf, "Exp": tf.exp, "Floor": tf.floor, "Greater": tf.greater,
        "GreaterOrEqual": tf.greater_equal, "IsNaN": tf.math.is_nan, "Less": tf.less, "LessOrEqual": tf.less_equal,
        "Log": tf.math.log, "Mul": tf.multiply, "Neg": tf.negative, "Not": tf.logical_not, "Or": tf.logical_or,
        "Reciprocal": tf.math.reciprocal, "Relu": tf.nn.relu, "Round": tf.round, "Sigmoid": tf.sigmoid, "Sign": tf.sign,
        "Sin": tf.sin, "Sinh": tf.sinh, "Softplus": tf.math.softplus, "Softsign": tf.nn.softsign, "Sqrt": tf.sqrt,
        "Sub": tf.subtract, "Tan": tf.tan, "Tanh": tf.tanh, "Where": tf.where, "Xor": tf.math.logical_xor,
    }.items()},
    **{name: _reduction(function) for name, function in {
        "ReduceL1": lambda x, **options: tf.reduce_sum(tf.abs(x), **options),
        "ReduceL2": lambda x, **options: tf.sqrt(tf.reduce_sum(x * x, **options)),
        "ReduceLogSum": lambda x, **options: tf.math.log(tf.reduce_sum(x, **options)),
        "ReduceLogSumExp": tf.reduce_logsumexp, "ReduceMax": _largest, "ReduceMean": tf.reduce_mean,
        "ReduceMin": _smallest, "ReduceProd": tf.reduce_prod, "ReduceSum": tf.reduce_sum,
        "ReduceSumSquare": lambda x, **options: tf.reduce_sum(x * x, **options),
    }.items()},
    "ArgMax": _arg_extreme(tf.argmax),
    "ArgMin": _arg_extreme(tf.argmin),
    "CastLike": lambda node, x, like: tf.cast(x, like.dtype),
    "Celu": _celu,
    "Clip": _clip,
    "CumSum": _cumsum,
    "Div": lambda node, a, b: tf.divide(a, b) if tf.as_dtype(a.dtype).is_floating else tf.truncatediv(a, b),
    "Elu": lambda node, x: tf.where(x < 0, node.get("alpha", 1.0) * tf.math.expm1(tf.minimum(x, 0)), x),
    "Gelu": lambda node, x: tf.nn.gelu(x, approximate=node.get("approximate", "none") == "tanh"),
    "HardSigmoid": lambda node, x: tf.clip_by_value(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0, 1),
    "HardSwish": lambda node, x: x * tf.clip_by_value(x / 6 + 0.5, 0, 1),
    "Hardmax": _hardmax,
    "IsInf": _is_inf,
    "LeakyRelu": lambda node, x: tf.where(x < 0, node.get("alpha", 0.01) * x, x),
    "LogSoftmax": lambda node, x: tf.nn.log_softmax(x, axis=node.get("axis", -1)),
    "Max": _reduce_inputs(tf.maximum),
    "Mean": lambda node, *inputs: reduce(tf.add, inputs) / len(inputs),
    "Min": _reduce_inputs(tf.minimum),
    "Mish": lambda node, x: x * tf.tanh(tf.math.softplus(x)),
    "Mod": lambda node, a, b: tf.truncatemod(a, b) if node.get("fmod", 0) else tf.math.floormod(a, b),
    "PRelu": lambda node, x, slope: tf.where(x < 0, slope * x, x),
    "Pow": lambda node, base, exponent: tf.pow(base, tf.cast(exponent, base.dtype)),
    "Selu": _selu,
    "Shrink": _shrink,
    "Softmax": lambda node, x: tf.nn.softmax(x, axis=node.get("axis", -1)),
    "Sum": _reduce_inputs(tf.add),
    "Swish": lambda node, x: x * tf.sigmoid(node.get("alpha", 1.0) * x),
    "ThresholdedRelu": lambda node, x: tf.where(x > node.get("alpha", 1.0), x, tf.zeros_like(x)),
}  # fmt: skip
