"""ONNX ops in TensorFlow: shapes, selecting and moving elements; see `elementwise`.

The number of events is unknown during the conversion. A shape is therefore represented by its entries, numbers and
tensors: entries that do not depend on the number of events remain constants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from onnx import numpy_helper

from mlaas4hep.onnx_to_tf.elementwise import Node, Op, as_dtype, static_value, without_attributes

UNBOUNDED = 2**31 - 1
"""Slice bounds with at least this absolute value mean an end of the axis."""


def dimensions(x: Any) -> list[Any]:
    """Return the dimensions of a tensor: numbers, or int64 tensors for dimensions that depend on the events."""
    return [tf.shape(x, tf.int64)[axis] if size is None else size for axis, size in enumerate(x.shape)]


def entries(vector: Any) -> list[Any] | None:
    """Return the entries of a vector, numbers and tensors; None if they cannot be determined."""
    static = tf.get_static_value(vector)
    if static is not None:
        return list(static)
    if vector.shape.rank == 1 and vector.op.type == "Pack":
        values = [(tf.get_static_value(entry), entry) for entry in vector.op.inputs]
        return [entry if value is None else value for value, entry in values]
    return None


def stack(values: Sequence[Any], dtype: Any = tf.int64) -> Any:
    """Return a vector of numbers and tensors; it is an array if all entries are numbers."""
    if any(tf.is_tensor(value) for value in values):
        return tf.stack([tf.cast(value, dtype) for value in values])
    return np.array(values, tf.as_dtype(dtype).as_numpy_dtype)


def _cast(node: Node, x: Any) -> Any:
    dtype = as_dtype(node.get("to"))
    parts = entries(x) if len(x.shape) == 1 and dtype.is_integer else None
    return tf.cast(x, dtype) if parts is None else stack(parts, dtype)


def _shape(node: Node, x: Any) -> Any:
    return stack(dimensions(x)[slice(node.get("start", 0), node.get("end"))])


def _reshape(node: Node, x: Any, shape: Any) -> Any:
    sizes = entries(shape)
    if sizes is not None and not node.get("allowzero", 0):
        own = dimensions(x)
        sizes = [own[axis] if not tf.is_tensor(size) and size == 0 else size for axis, size in enumerate(sizes)]
    return tf.reshape(x, shape if sizes is None else stack(sizes))


def _flatten(node: Node, x: Any) -> Any:
    axis, sizes = node.get("axis", 1), dimensions(x)
    axis += len(sizes) if axis < 0 else 0
    return tf.reshape(x, stack([math.prod(sizes[:axis]), math.prod(sizes[axis:])]))


def _expand(node: Node, x: Any, shape: Any) -> Any:
    sizes = entries(shape)
    expanded = tf.broadcast_to(x, tf.broadcast_dynamic_shape(tf.shape(x, tf.int64), tf.cast(shape, tf.int64)))
    if sizes is not None:
        sizes = [None if tf.is_tensor(size) else int(size) for size in sizes]
        expanded.set_shape(tf.broadcast_static_shape(tf.TensorShape(x.shape), tf.TensorShape(sizes)))
    return expanded


def _axes(node: Node, axes: Any) -> list[int] | None:
    if axes is None:
        attribute: list[int] | None = node.get("axes")
        return attribute
    return [int(axis) for axis in static_value(axes, "the choice of axes").ravel()]


def _squeeze(node: Node, x: Any, axes: Any = None) -> Any:
    over = _axes(node, axes)
    if over is None:
        over = [axis for axis, size in enumerate(x.shape) if size == 1]
    parts = entries(x) if len(x.shape) == 1 and over else None
    return tf.squeeze(x, over) if parts is None else parts[0]


def _unsqueeze(node: Node, x: Any, axes: Any = None) -> Any:
    over = _axes(node, axes) or []
    if len(x.shape) == 0 and len(over) == 1 and tf.as_dtype(x.dtype).is_integer:
        return stack([x], x.dtype)
    rank = len(x.shape) + len(over)
    for axis in sorted(axis % rank for axis in over):
        x = tf.expand_dims(x, axis)
    return x


def _concat(node: Node, *inputs: Any) -> Any:
    axis = node.get("axis")
    if len(inputs[0].shape) == 1 and tf.as_dtype(inputs[0].dtype).is_integer:
        parts = [entries(one) for one in inputs]
        if None not in parts:
            return stack([value for part in parts for value in part or ()], inputs[0].dtype)
    return tf.concat(inputs, axis)


def _split(node: Node, x: Any, sizes: Any = None) -> Any:
    axis = node.get("axis", 0)
    if sizes is not None:
        return tuple(tf.split(x, static_value(sizes, "the sizes").tolist(), axis))
    total, count = x.shape[axis], node.outputs
    each = -(-total // count)
    return tuple(tf.split(x, [min(each, total - start) for start in range(0, total, each)], axis))


def _slice(node: Node, x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    first, last = entries(starts), entries(ends)
    if first is None or last is None:
        raise ValueError("the number of bounds is not static")
    over = range(len(first)) if axes is None else static_value(axes, "the choice of axes").tolist()
    strides = [1] * len(first) if steps is None else static_value(steps, "the steps").tolist()
    cut: list[Any] = [slice(None)] * len(x.shape)
    for axis, start, end, step in zip(over, first, last, strides, strict=True):
        cut[axis] = slice(_bound(start), _bound(end), step)
    parts = entries(x) if len(x.shape) == 1 and tf.as_dtype(x.dtype).is_integer else None
    if parts is not None and not any(tf.is_tensor(bound) for one in cut for bound in (one.start, one.stop)):
        return stack(parts[cut[0]], x.dtype)
    return tf.convert_to_tensor(x)[tuple(cut)]


def _bound(value: Any) -> Any:
    """Return a bound of a slice; None for an unbounded one."""
    if tf.is_tensor(value):
        return tf.cast(value, tf.int64)
    return int(value) if abs(int(value)) < UNBOUNDED else None


def _non_negative(indices: Any, size: Any) -> Any:
    """Return the indices with negative ones, which count from the end, replaced by non-negative ones."""
    static = tf.get_static_value(indices)
    if static is not None and not tf.is_tensor(size):
        return np.where(static < 0, static + size, static).astype(static.dtype)
    return tf.where(tf.less(indices, 0), indices + tf.cast(size, indices.dtype), indices)


def _gather(node: Node, x: Any, indices: Any) -> Any:
    axis = node.get("axis", 0)
    parts = entries(x) if len(x.shape) == 1 and tf.as_dtype(x.dtype).is_integer else None
    if parts is not None and tf.get_static_value(indices) is not None:
        chosen = static_value(indices)
        if chosen.ndim < 2:
            return stack([parts[index] for index in chosen], x.dtype) if chosen.ndim else parts[int(chosen)]
    return tf.gather(x, _non_negative(indices, dimensions(x)[axis]), axis=axis)


def _gather_elements(node: Node, x: Any, indices: Any) -> Any:
    axis = node.get("axis", 0) % len(x.shape)
    return tf.gather_nd(x, _grid(axis, _non_negative(indices, dimensions(x)[axis])))


def _grid(axis: int, indices: Any) -> Any:
    """Return the full indices, (..., rank), of the elements that indices along an axis select."""
    shape = tf.shape(indices, indices.dtype)
    ranges = [tf.range(shape[other]) for other in range(len(indices.shape))]
    positions = tf.meshgrid(*ranges, indexing="ij")
    positions[axis] = indices
    return tf.stack(positions, axis=-1)


def _gather_nd(node: Node, x: Any, indices: Any) -> Any:
    batch = node.get("batch_dims", 0)
    return tf.gather_nd(x, _non_negative(indices, stack(dimensions(x)[batch : batch + indices.shape[-1]])), batch)


def _scatter(node: Node, x: Any, positions: Any, updates: Any) -> Any:
    reduction = node.get("reduction", "none")
    if reduction == "mul":
        raise ValueError("the reduction 'mul' is not supported")
    method = {"none": "update"}.get(reduction, reduction)
    return getattr(tf, f"tensor_scatter_nd_{method}")(x, positions, updates)


def _scatter_nd(node: Node, x: Any, indices: Any, updates: Any) -> Any:
    return _scatter(node, x, _non_negative(indices, stack(dimensions(x)[: indices.shape[-1]])), updates)


def _scatter_elements(node: Node, x: Any, indices: Any, updates: Any) -> Any:
    axis = node.get("axis", 0) % len(x.shape)
    return _scatter(node, x, _grid(axis, _non_negative(indices, dimensions(x)[axis])), updates)


def _top_k(node: Node, x: Any, count: Any) -> Any:
    axis, rank = node.get("axis", -1), len(x.shape)
    order = [*range(rank)]
    order[axis], order[-1] = order[-1], order[axis]
    sign = 1 if node.get("largest", 1) else -1
    values, positions = tf.math.top_k(tf.transpose(sign * x, order), tf.cast(tf.reshape(count, ()), tf.int32))
    return tf.transpose(sign * values, order), tf.cast(tf.transpose(positions, order), tf.int64)


def _pad(node: Node, x: Any, pads: Any, value: Any = None, axes: Any = None) -> Any:
    widths, mode = static_value(pads, "the widths").reshape(2, -1).T.tolist(), node.get("mode", "constant")
    edges = [[0, 0]] * len(x.shape)
    for axis, pair in zip(range(len(edges)) if axes is None else static_value(axes).tolist(), widths, strict=True):
        edges[axis] = pair
    x = tf.convert_to_tensor(x)[tuple(slice(max(0, -low), min(0, high) or None) for low, high in edges)]
    edges = [[max(0, low), max(0, high)] for low, high in edges]
    if mode == "constant":
        filler = tf.zeros((), x.dtype) if value is None else tf.cast(tf.reshape(value, ()), x.dtype)
        return tf.pad(x, edges, constant_values=filler)
    for axis, pair in enumerate(edges):
        if any(pair):
            x = tf.gather(x, np.pad(np.arange(x.shape[axis]), pair, mode=mode), axis=axis)
    return x


def _trilu(node: Node, x: Any, offset: Any = None) -> Any:
    shift = 0 if offset is None else tf.cast(tf.reshape(offset, ()), tf.int64)
    rows, columns = (tf.range(size, dtype=tf.int64) for size in dimensions(x)[-2:])
    distance = columns[None, :] - rows[:, None]
    keep = distance >= shift if node.get("upper", 1) else distance <= shift
    return tf.where(keep, x, tf.zeros_like(x))


def _one_hot(node: Node, indices: Any, depth: Any, values: Any) -> Any:
    count = tf.cast(tf.reshape(depth, ()), tf.int64)
    positions = _non_negative(tf.cast(indices, tf.int64), count)
    hot = tf.one_hot(positions, tf.cast(count, tf.int32), True, False, axis=node.get("axis", -1), dtype=tf.bool)
    return tf.where(hot, values[1], values[0])


def _constant(node: Node) -> Any:
    for name, dtype in (("value_float", "f4"), ("value_floats", "f4"), ("value_int", "i8"), ("value_ints", "i8")):
        if name in node.attributes:
            return np.array(node.attributes[name], dtype)
    return numpy_helper.to_array(node.attributes["value"])


def _constant_of_shape(node: Node, shape: Any) -> Any:
    value = node.get("value")
    return tf.fill(shape, np.float32(0) if value is None else numpy_helper.to_array(value).reshape(()))


def _depth_to_space(node: Node, x: Any) -> Any:
    size, (events, depth, height, width) = node.get("blocksize"), dimensions(x)
    parts = depth // size**2
    if node.get("mode", "DCR") == "DCR":
        blocks = tf.reshape(x, stack([events, size, size, parts, height, width]))
        blocks = tf.transpose(blocks, (0, 3, 4, 1, 5, 2))
    else:
        blocks = tf.reshape(x, stack([events, parts, size, size, height, width]))
        blocks = tf.transpose(blocks, (0, 1, 4, 2, 5, 3))
    return tf.reshape(blocks, stack([events, parts, height * size, width * size]))


OPS: dict[str, Op] = {
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Dropout": lambda node, x, *_: (x, tf.ones_like(x, tf.bool))[: node.outputs],
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Identity": without_attributes(lambda x: x),
    "NonZero": lambda node, x: tf.transpose(tf.where(x)),
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": without_attributes(tf.range),
    "Reshape": _reshape,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Shape": _shape,
    "Size": lambda node, x: tf.size(x, tf.int64),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": without_attributes(tf.tile),
    "TopK": _top_k,
    "Transpose": lambda node, x: tf.transpose(x, node.get("perm")),
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
