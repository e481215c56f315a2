"""ONNX ops as TensorFlow: arithmetic, comparison, activations, reductions.

    OPS["Add"](node, a, b)

A function gets the node and its inputs, and returns the output, or a tuple of them. Inputs are tensors, or NumPy
arrays where they are constants; one that is left out is None. Each does what ONNX says from opset 13 on
(https://onnx.ai/onnx/operators). `onnx_shapes`, `onnx_layers` and `onnx_ml` hold the others, `onnx_interpreter` applies
them.
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
    """What an op is told beside its inputs.

    Attributes:
        options: the attributes of the node that are set.
        opset: version of the standard ops.
        outputs: how many outputs it has.
    """

    options: Mapping[str, Any]
    opset: int
    outputs: int

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, strings as str."""
        value = self.options.get(name, default)
        return value.decode() if isinstance(value, bytes) else value


def known(value: Any, what: str = "an input") -> np.ndarray:
    """Return the value of a tensor that must not depend on the events.

    Raises:
        ValueError: it does.
    """
    found = tf.get_static_value(value)
    if found is None:
        raise ValueError(f"{what} is no constant")
    return np.asarray(found)


def as_dtype(number: int) -> tf.DType:
    """Return the TensorFlow type of a number of ONNX's `TensorProto.DataType`."""
    return tf.as_dtype(helper.tensor_dtype_to_np_dtype(number))


def plain(function: Callable[..., Any]) -> Op:
    """Return the op of a function that takes the inputs alone."""
    return lambda node, *inputs: function(*inputs)


def _over_all(function: Callable[..., Any]) -> Op:
    return lambda node, *inputs: reduce(function, inputs)


def _div(node: Node, a: Any, b: Any) -> Any:
    floating = tf.as_dtype(a.dtype).is_floating
    return tf.divide(a, b) if floating else tf.truncatediv(a, b)


def _mod(node: Node, a: Any, b: Any) -> Any:
    return tf.truncatemod(a, b) if node.get("fmod", 0) else tf.math.floormod(a, b)


def _is_inf(node: Node, x: Any) -> Any:
    high = tf.equal(x, np.inf) if node.get("detect_positive", 1) else False
    low = tf.equal(x, -np.inf) if node.get("detect_negative", 1) else False
    return tf.logical_or(high, low)


def _where(node: Node, condition: Any, a: Any, b: Any) -> Any:
    return tf.where(condition, a, b)


def _cast(node: Node, x: Any) -> Any:
    return tf.cast(x, as_dtype(node.get("to")))


def _clip(node: Node, x: Any, low: Any = None, high: Any = None) -> Any:
    kind = tf.as_dtype(x.dtype)  # without a bound, infinity becomes the largest number
    return tf.minimum(tf.maximum(x, kind.min if low is None else low), kind.max if high is None else high)


def _gelu(node: Node, x: Any) -> Any:
    return tf.nn.gelu(x, approximate=node.get("approximate", "none") == "tanh")


def _elu(node: Node, x: Any) -> Any:
    return tf.where(x < 0, node.get("alpha", 1.0) * tf.math.expm1(tf.minimum(x, 0)), x)


def _celu(node: Node, x: Any) -> Any:
    alpha = node.get("alpha", 1.0)
    return tf.where(x < 0, alpha * tf.math.expm1(tf.minimum(x, 0) / alpha), x)


def _selu(node: Node, x: Any) -> Any:
    alpha, gamma = node.get("alpha", 1.6732632423543772), node.get("gamma", 1.0507009873554805)
    return gamma * tf.where(x > 0, x, alpha * tf.math.expm1(tf.minimum(x, 0)))


def _leaky(node: Node, x: Any) -> Any:
    return tf.where(x < 0, node.get("alpha", 0.01) * x, x)


def _thresholded(node: Node, x: Any) -> Any:
    return tf.where(x > node.get("alpha", 1.0), x, tf.zeros_like(x))


def _shrink(node: Node, x: Any) -> Any:
    bias, edge = node.get("bias", 0.0), node.get("lambd", 0.5)
    return tf.where(x < -edge, x + bias, tf.where(x > edge, x - bias, tf.zeros_like(x)))


def _prelu(node: Node, x: Any, slope: Any) -> Any:
    return tf.where(x < 0, slope * x, x)


def _hard_sigmoid(node: Node, x: Any) -> Any:
    return tf.clip_by_value(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0, 1)


def _hard_swish(node: Node, x: Any) -> Any:
    return x * tf.clip_by_value(x / 6 + 0.5, 0, 1)


def _mish(node: Node, x: Any) -> Any:
    return x * tf.tanh(tf.math.softplus(x))


def _swish(node: Node, x: Any) -> Any:
    return x * tf.sigmoid(node.get("alpha", 1.0) * x)


def _softmax(node: Node, x: Any) -> Any:
    return tf.nn.softmax(x, axis=node.get("axis", -1))


def _log_softmax(node: Node, x: Any) -> Any:
    return tf.nn.log_softmax(x, axis=node.get("axis", -1))


def _hardmax(node: Node, x: Any) -> Any:
    axis = node.get("axis", -1)
    return tf.one_hot(tf.argmax(x, axis=axis), x.shape[axis], axis=axis, dtype=x.dtype)


def _cumsum(node: Node, x: Any, axis: Any) -> Any:
    where = int(known(axis, "the axis").item())
    return tf.cumsum(x, where, exclusive=bool(node.get("exclusive", 0)), reverse=bool(node.get("reverse", 0)))


def _reduction(function: Callable[..., Any]) -> Op:
    """Return the op of a function of `x, axis, keepdims`; the axes are an attribute or, in newer opsets, an input."""

    def apply(node: Node, x: Any, axes: Any = None) -> Any:
        over = node.get("axes") if axes is None else known(axes, "the choice of axes").tolist()
        if not over and node.get("noop_with_empty_axes", 0):
            return x
        return function(x, axis=over or None, keepdims=bool(node.get("keepdims", 1)))

    return apply


def _log_sum(x: Any, **options: Any) -> Any:
    return tf.math.log(tf.reduce_sum(x, **options))


def _l1(x: Any, **options: Any) -> Any:
    return tf.reduce_sum(tf.abs(x), **options)


def _l2(x: Any, **options: Any) -> Any:
    return tf.sqrt(tf.reduce_sum(x * x, **options))


def _sum_square(x: Any, **options: Any) -> Any:
    return tf.reduce_sum(x * x, **options)


def _largest(x: Any, **options: Any) -> Any:
    return tf.reduce_any(x, **options) if x.dtype == bool else tf.reduce_max(x, **options)


def _smallest(x: Any, **options: Any) -> Any:
    return tf.reduce_all(x, **options) if x.dtype == bool else tf.reduce_min(x, **options)


def _position(function: Callable[..., Any]) -> Op:
    """Return the op of an argmax or argmin."""

    def apply(node: Node, x: Any) -> Any:
        axis = node.get("axis", 0)
        if node.get("select_last_index", 0):
            x = tf.reverse(x, [axis])
            found = tf.cast(tf.shape(x)[axis], tf.int64) - 1 - function(x, axis=axis)
        else:
            found = function(x, axis=axis)
        return tf.expand_dims(found, axis) if node.get("keepdims", 1) else found

    return apply


OPS: dict[str, Op] = {
    **{name: plain(function) for name, function in {
        "Abs": tf.abs, "Acos": tf.acos, "Acosh": tf.acosh, "Add": tf.add, "And": tf.logical_and, "Asin": tf.asin,
        "Asinh": tf.asinh, "Atan": tf.atan, "Atanh": tf.atanh, "Ceil": tf.math.ceil, "Cos": tf.cos, "Cosh": tf.cosh,
        "Equal": tf.equal, "Erf": tf.math.erf, "Exp": tf.exp, "Floor": tf.floor, "Greater": tf.greater,
        "GreaterOrEqual": tf.greater_equal, "IsNaN": tf.math.is_nan, "Less": tf.less, "LessOrEqual": tf.less_equal,
        "Log": tf.math.log, "Mul": tf.multiply, "Neg": tf.negative, "Not": tf.logical_not, "Or": tf.logical_or,
        "Reciprocal": tf.math.reciprocal, "Relu": tf.nn.relu, "Round": tf.round, "Sigmoid": tf.sigmoid, "Sign": tf.sign,
        "Sin": tf.sin, "Sinh": tf.sinh, "Softplus": tf.math.softplus, "Softsign": tf.nn.softsign, "Sqrt": tf.sqrt,
        "Sub": tf.subtract, "Tan": tf.tan, "Tanh": tf.tanh, "Xor": tf.math.logical_xor,
    }.items()},
    **{name: _reduction(function) for name, function in {
        "ReduceL1": _l1, "ReduceL2": _l2, "ReduceLogSum": _log_sum, "ReduceLogSumExp": tf.reduce_logsumexp,
        "ReduceMax": _largest, "ReduceMean": tf.reduce_mean, "ReduceMin": _smallest, "ReduceProd": tf.reduce_prod,
        "ReduceSum": tf.reduce_sum, "ReduceSumSquare": _sum_square,
    }.items()},
    "ArgMax": _position(tf.argmax),
    "ArgMin": _position(tf.argmin),
    "Cast": _cast,
    "CastLike": lambda node, x, like: tf.cast(x, like.dtype),
    "Celu": _celu,
    "Clip": _clip,
    "CumSum": _cumsum,
    "Div": _div,
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Hardmax": _hardmax,
    "IsInf": _is_inf,
    "LeakyRelu": _leaky,
    "LogSoftmax": _log_softmax,
    "Max": _over_all(tf.maximum),
    "Mean": lambda node, *inputs: reduce(tf.add, inputs) / len(inputs),
    "Min": _over_all(tf.minimum),
    "Mish": _mish,
    "Mod": _mod,
    "PRelu": _prelu,
    "Pow": lambda node, base, exponent: tf.pow(base, tf.cast(exponent, base.dtype)),
    "Selu": _selu,
    "Shrink": _shrink,
    "Softmax": _softmax,
    "Sum": _over_all(tf.add),
    "Swish": _swish,
    "ThresholdedRelu": _thresholded,
    "Where": _where,
}  # fmt: skip
