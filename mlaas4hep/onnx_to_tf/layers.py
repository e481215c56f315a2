"""ONNX ops in TensorFlow: matrix products, convolution, pooling, normalisation; see `elementwise`.

On a CPU, TensorFlow's convolution and pooling require the layout channels-last, so inputs are transposed to it and
outputs back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mlaas4hep.onnx_to_tf.elementwise import Node, Op, static_value
from mlaas4hep.onnx_to_tf.shapes import dimensions, entries, stack


def _matmul(node: Node, a: Any, b: Any) -> Any:
    rows, columns = len(a.shape) == 1, len(b.shape) == 1
    a = tf.expand_dims(a, 0) if rows else a
    b = tf.expand_dims(b, 1) if columns else b
    product = tf.matmul(a, b)
    product = tf.squeeze(product, -1) if columns else product
    return tf.squeeze(product, -1 if columns else -2) if rows else product


def _gemm(node: Node, a: Any, b: Any, c: Any = None) -> Any:
    product = tf.matmul(a, b, transpose_a=bool(node.get("transA", 0)), transpose_b=bool(node.get("transB", 0)))
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    product = product if alpha == 1 else alpha * product
    if c is None:
        return product
    return product + (c if beta == 1 else beta * c)


def _channels_last(x: Any) -> Any:
    rank = len(x.shape)
    return tf.transpose(x, [0, *range(2, rank), 1])


def _channels_first(x: Any) -> Any:
    rank = len(x.shape)
    return tf.transpose(x, [0, rank - 1, *range(1, rank - 1)])


def _extents(kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """Return the sizes of a dilated kernel."""
    return [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]


def _steps(node: Node, count: int) -> tuple[Sequence[int], Sequence[int]]:
    """Return the strides and dilations for a number of spatial dimensions."""
    return node.get("strides", [1] * count), node.get("dilations", [1] * count)


def _edges(node: Node, sizes: Sequence[int], kernel: Sequence[int]) -> list[list[int]]:
    """Return the padding before and after each spatial dimension."""
    count = len(kernel)
    auto, (strides, dilations) = node.get("auto_pad", "NOTSET"), _steps(node, count)
    extents = _extents(kernel, dilations)
    if auto == "NOTSET":
        pads = node.get("pads", [0] * 2 * count)
        pairs = [[pads[axis], pads[axis + count]] for axis in range(count)]
    elif auto == "VALID":
        pairs = [[0, 0] for _ in kernel]
    else:
        pairs = []
        for size, step, extent in zip(sizes, strides, extents, strict=True):
            total = max(0, (-(-size // step) - 1) * step + extent - size)
            less, more = total // 2, total - total // 2
            pairs.append([less, more] if auto == "SAME_UPPER" else [more, less])
    if node.get("ceil_mode", 0):
        for axis, (size, step, extent) in enumerate(zip(sizes, strides, extents, strict=True)):
            padded = size + sum(pairs[axis])
            last = -(-(padded - extent) // step) * step
            if last < size + pairs[axis][0]:  # a window must not start after the last element
                pairs[axis][1] += max(0, last + extent - padded)
    return pairs


def _conv(node: Node, x: Any, w: Any, b: Any = None) -> Any:
    edges = _edges(node, x.shape[2:], w.shape[2:])
    y = _convolve(_channels_last(x), w, edges, *_steps(node, len(edges)), node.get("group", 1))
    return _channels_first(y if b is None else y + b)


def _convolve(
    x: Any, w: Any, edges: list[list[int]], strides: Sequence[int], dilations: Sequence[int], groups: int
) -> Any:
    """Return the convolution of x (events, ..., channels) with w (outputs, channels per group, ...)."""
    x = tf.pad(x, [[0, 0], *edges, [0, 0]]) if any(map(any, edges)) else x
    count = len(edges)
    kernel = tf.transpose(w, [*range(2, count + 2), 1, 0])
    if groups == x.shape[-1] and w.shape[1] == 1 and count < 3:
        return _depthwise(x, kernel, strides, dilations)
    parts = [
        tf.nn.convolution(part, weights, strides=strides, padding="VALID", dilations=dilations)
        for part, weights in zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1), strict=True)
    ]
    return parts[0] if groups == 1 else tf.concat(parts, -1)


def _depthwise(x: Any, kernel: Any, strides: Sequence[int], dilations: Sequence[int]) -> Any:
    """Convolve each channel separately. Strides are applied by slicing, because TensorFlow requires equal strides."""
    if len(kernel.shape) == 3:
        x, kernel, strides, dilations = x[:, None], kernel[None], [1, *strides], [1, *dilations]
        return tf.squeeze(_depthwise(x, kernel, strides, dilations), 1)
    kernel = tf.reshape(kernel, [*kernel.shape[:2], x.shape[-1], -1])
    y = tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "VALID", dilations=dilations)
    return y[:, :: strides[0], :: strides[1]]


def _conv_transpose(node: Node, x: Any, w: Any, b: Any = None) -> Any:
    """Insert zeros between the elements, and convolve with the reversed kernel."""
    count, groups = len(w.shape) - 2, node.get("group", 1)
    strides, dilations = _steps(node, count)
    output_padding = node.get("output_padding", [0] * count)
    extents = _extents(w.shape[2:], dilations)
    shape = node.get("output_shape")
    auto, pads = node.get("auto_pad", "NOTSET"), node.get("pads", [0] * 2 * count)
    y, edges = _channels_last(x), []
    for axis in range(count):
        low, high, size, step = pads[axis], pads[axis + count], x.shape[axis + 2], strides[axis]
        if shape is not None or auto.startswith("SAME"):
            new_size = size * step if shape is None else shape[axis]
            total = max(0, step * (size - 1) + output_padding[axis] + extents[axis] - new_size)
            low, high = total // 2, total - total // 2
            low, high = (high, low) if auto == "SAME_LOWER" else (low, high)
        edges.append([extents[axis] - 1 - low, extents[axis] - 1 - high + output_padding[axis]])
        y = _insert_zeros(y, axis + 1, step)
    parts = tf.split(tf.reverse(w, list(range(2, count + 2))), groups, 0)  # (inputs, outputs per group, ...)
    kernel = tf.concat([tf.transpose(part, [1, 0, *range(2, count + 2)]) for part in parts], 0)
    crop = [slice(None), *(slice(max(0, -low), min(0, high) or None) for low, high in edges)]
    y = y[tuple(crop)]
    y = _convolve(y, kernel, [[max(0, low), max(0, high)] for low, high in edges], [1] * count, dilations, groups)
    return _channels_first(y if b is None else y + b)


def _insert_zeros(x: Any, axis: int, step: int) -> Any:
    """Insert step - 1 zeros between adjacent elements along an axis."""
    if step == 1:
        return x
    sizes, pads = dimensions(x), [[0, 0]] * (len(x.shape) + 1)
    pads[axis + 1] = [0, step - 1]
    wide = tf.pad(tf.expand_dims(x, axis + 1), pads)
    wide = tf.reshape(wide, stack([*sizes[:axis], sizes[axis] * step, *sizes[axis + 1 :]]))
    return tf.split(wide, [sizes[axis] * step - step + 1, step - 1], axis)[0]


def _max_pool(node: Node, x: Any) -> Any:
    if node.outputs > 1:
        raise ValueError("the output of indices is not supported")
    edges = _edges(node, x.shape[2:], node.get("kernel_shape"))
    return _channels_first(_pool(node, _channels_last(x), edges, "MAX", x.dtype.min))


def _pool(node: Node, x: Any, edges: list[list[int]], kind: str, filler: float) -> Any:
    if any(map(any, edges)):
        x = tf.pad(x, [[0, 0], *edges, [0, 0]], constant_values=tf.cast(filler, x.dtype))
    window, (strides, dilations) = node.get("kernel_shape"), _steps(node, len(edges))
    if max(dilations) == 1 and all(step <= size for step, size in zip(strides, window, strict=True)):
        return tf.nn.pool(x, window, kind, padding="VALID", strides=strides)
    y = tf.nn.pool(x, window, kind, padding="VALID", dilations=dilations)  # TensorFlow supports no strides here
    strided = [slice(None), *(slice(None, None, step) for step in strides)]
    return y[tuple(strided)]


def _average_pool(node: Node, x: Any) -> Any:
    kernel, sizes = node.get("kernel_shape"), x.shape[2:]
    edges = _edges(node, sizes, kernel)
    y = _pool(node, _channels_last(x), edges, "AVG", 0)
    counted = np.ones((1, *sizes, 1), np.float32)
    uncounted_edges = edges
    if node.get("count_include_pad", 0):  # padding counts, except for what ceil_mode adds to it
        padding = _edges(Node({**node.attributes, "ceil_mode": 0}, node.opset, 1), sizes, kernel)
        counted = np.pad(counted, [(0, 0), *map(tuple, padding), (0, 0)], constant_values=1)
        uncounted_edges = [[0, pair[1] - before[1]] for pair, before in zip(edges, padding, strict=True)]
    if any(map(any, uncounted_edges)):
        y = y / _pool(node, tf.constant(counted), uncounted_edges, "AVG", 0)
    return _channels_first(y)


def _pool_globally(function: Callable[..., Any]) -> Op:
    return lambda node, x: function(x, axis=list(range(2, len(x.shape))), keepdims=True)


def _by_channel(values: Any, rank: int) -> Any:
    return tf.reshape(values, [-1] + [1] * (rank - 2))


def _batch_norm(node: Node, x: Any, scale: Any, bias: Any, mean: Any, variance: Any) -> Any:
    rank, gain = len(x.shape), scale * tf.math.rsqrt(variance + node.get("epsilon", 1e-5))
    return x * _by_channel(gain, rank) + _by_channel(bias - mean * gain, rank)


def _standardise(x: Any, axes: list[int], epsilon: float) -> tuple[Any, Any, Any]:
    """Return x with mean 0 and variance 1 over some axes, the mean, and the inverse standard deviation."""
    mean = tf.reduce_mean(x, axes, keepdims=True)
    shifted = x - mean
    gain = tf.math.rsqrt(tf.reduce_mean(shifted * shifted, axes, keepdims=True) + epsilon)
    return shifted * gain, mean, gain


def _layer_norm(node: Node, x: Any, scale: Any, bias: Any = None) -> Any:
    rank = len(x.shape)
    y, mean, gain = _standardise(x, list(range(node.get("axis", -1) % rank, rank)), node.get("epsilon", 1e-5))
    y = y * scale
    return (y if bias is None else y + bias, mean, gain)[: node.outputs]


def _rms_norm(node: Node, x: Any, scale: Any) -> Any:
    rank = len(x.shape)
    axes = list(range(node.get("axis", -1) % rank, rank))
    return x * tf.math.rsqrt(tf.reduce_mean(x * x, axes, keepdims=True) + node.get("epsilon", 1e-5)) * scale


def _instance_norm(node: Node, x: Any, scale: Any, bias: Any) -> Any:
    rank = len(x.shape)
    y, _, _ = _standardise(x, list(range(2, rank)), node.get("epsilon", 1e-5))
    return y * _by_channel(scale, rank) + _by_channel(bias, rank)


def _group_norm(node: Node, x: Any, scale: Any, bias: Any) -> Any:
    groups, sizes = node.get("num_groups"), dimensions(x)
    group_size = sizes[1] // groups
    y = tf.reshape(x, stack([sizes[0], groups, group_size, *sizes[2:]]))
    y, _, _ = _standardise(y, list(range(2, len(y.shape))), node.get("epsilon", 1e-5))
    y = tf.reshape(y, stack(sizes))
    if node.opset < 21:  # one number per group; newer opsets have one per channel
        scale, bias = tf.repeat(scale, group_size), tf.repeat(bias, group_size)
    return y * _by_channel(scale, len(sizes)) + _by_channel(bias, len(sizes))


def _lp_norm(node: Node, x: Any) -> Any:
    size = tf.norm(x, 1 if node.get("p", 2) == 1 else "euclidean", node.get("axis", -1), keepdims=True)
    return tf.math.divide_no_nan(x, size)


def _resize(node: Node, x: Any, roi: Any = None, scales: Any = None, sizes: Any = None) -> Any:
    """Multiply each spatial dimension by an interpolation matrix."""
    mode, rank = node.get("mode", "nearest"), len(x.shape)
    if mode not in ("nearest", "linear") or node.get("antialias", 0):
        raise ValueError(f"the mode '{mode}' is not supported")
    new_sizes = None if sizes is None else entries(sizes)
    for index, axis in enumerate(node.get("axes", list(range(rank)))):
        old = x.shape[axis]
        if old is None:
            continue  # events are not resized
        if new_sizes is None:
            scale = float(static_value(scales, "the scale")[index])
            new = int(np.floor(old * scale))
        else:
            new = int(new_sizes[index])
            scale = new / old
        if new == old and scale == 1:
            continue
        weights = _interpolation_matrix(node, mode, old, new, scale)
        x = tf.tensordot(x, weights, [[axis], [0]])
        order = list(range(rank - 1))
        order.insert(axis, rank - 1)
        x = tf.transpose(x, order)
    return x


def _interpolation_matrix(node: Node, mode: str, old: int, new: int, scale: float) -> np.ndarray:
    """Return the interpolation matrix (old, new) of a resized dimension."""
    positions, coordinates = np.arange(new), node.get("coordinate_transformation_mode", "half_pixel")
    if coordinates == "align_corners":
        at = positions * ((old - 1) / max(new - 1, 1))
    elif coordinates == "asymmetric":
        at = positions / scale
    elif coordinates == "half_pixel" or (coordinates == "pytorch_half_pixel" and new > 1):
        at = (positions + 0.5) / scale - 0.5
    else:
        raise ValueError(f"the coordinates '{coordinates}' are not supported")
    weights = np.zeros((old, new), np.float32)
    if mode == "linear":
        below = np.floor(at)
        for cell, part in ((below, 1 - (at - below)), (below + 1, at - below)):
            np.add.at(weights, (np.clip(cell, 0, old - 1).astype(int), positions), part.astype(np.float32))
        return weights
    rounding: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "round_prefer_floor": lambda a: np.ceil(a - 0.5),
        "round_prefer_ceil": lambda a: np.floor(a + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    cells = rounding[node.get("nearest_mode", "round_prefer_floor")](at)
    weights[np.clip(cells, 0, old - 1).astype(int), positions] = 1
    return weights


OPS: dict[str, Op] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": lambda node, *inputs: tf.einsum(node.get("equation").replace(" ", ""), *inputs),
    "Gemm": _gemm,
    "GlobalAveragePool": _pool_globally(tf.reduce_mean),
    "GlobalMaxPool": _pool_globally(tf.reduce_max),
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_norm,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "RMSNormalization": _rms_norm,
    "Resize": _resize,
}
