"""ONNX ops as TensorFlow: products of matrices, convolution, pooling, normalisation; see `onnx_ops`.

TensorFlow's convolutions and pools on a CPU want channels last, so all here turn their input around and back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mlaas4hep.training.onnx_ops import Node, Op, known
from mlaas4hep.training.onnx_shapes import dimensions, entries, stack


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


def _einsum(node: Node, *inputs: Any) -> Any:
    return tf.einsum(node.get("equation").replace(" ", ""), *inputs)


def _channels_last(x: Any) -> Any:
    rank = len(x.shape)
    return tf.transpose(x, [0, *range(2, rank), 1])


def _channels_first(x: Any) -> Any:
    rank = len(x.shape)
    return tf.transpose(x, [0, rank - 1, *range(1, rank - 1)])


def _edges(node: Node, sizes: Sequence[int], kernel: Sequence[int]) -> list[list[int]]:
    """Return how many cells are added before and behind each spatial dimension."""
    count = len(kernel)
    auto, strides = node.get("auto_pad", "NOTSET"), node.get("strides", [1] * count)
    reach = [(size - 1) * wide + 1 for size, wide in zip(kernel, node.get("dilations", [1] * count), strict=True)]
    if auto == "NOTSET":
        pads = node.get("pads", [0] * 2 * count)
        pairs = [[pads[axis], pads[axis + count]] for axis in range(count)]
    elif auto == "VALID":
        pairs = [[0, 0] for _ in kernel]
    else:
        pairs = []
        for size, step, extent in zip(sizes, strides, reach, strict=True):
            total = max(0, (-(-size // step) - 1) * step + extent - size)
            less, more = total // 2, total - total // 2
            pairs.append([less, more] if auto == "SAME_UPPER" else [more, less])
    if node.get("ceil_mode", 0):
        for axis, (size, step, extent) in enumerate(zip(sizes, strides, reach, strict=True)):
            padded = size + sum(pairs[axis])
            last = -(-(padded - extent) // step) * step
            if last < size + pairs[axis][0]:  # a window must not begin behind the last cell
                pairs[axis][1] += max(0, last + extent - padded)
    return pairs


def _conv(node: Node, x: Any, w: Any, b: Any = None) -> Any:
    count = len(w.shape) - 2
    edges = _edges(node, x.shape[2:], w.shape[2:])
    strides, dilations = node.get("strides", [1] * count), node.get("dilations", [1] * count)
    y = _convolve(_channels_last(x), w, edges, strides, dilations, node.get("group", 1))
    return _channels_first(y if b is None else y + b)


def _convolve(
    x: Any, w: Any, edges: list[list[int]], strides: Sequence[int], dilations: Sequence[int], groups: int
) -> Any:
    """Return the convolution of x (events, ..., channels) with w (outputs, channels of a group, ...)."""
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
    """Convolve every channel on its own; other strides along the two dimensions are taken as rows left out."""
    if len(kernel.shape) == 3:
        x, kernel, strides, dilations = x[:, None], kernel[None], [1, *strides], [1, *dilations]
        return tf.squeeze(_depthwise(x, kernel, strides, dilations), 1)
    kernel = tf.reshape(kernel, [*kernel.shape[:2], x.shape[-1], -1])
    y = tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "VALID", dilations=dilations)
    return y[:, :: strides[0], :: strides[1]]


def _conv_transpose(node: Node, x: Any, w: Any, b: Any = None) -> Any:
    """Put zeros between the cells, and convolve with the kernel turned around."""
    count, groups = len(w.shape) - 2, node.get("group", 1)
    strides, dilations = node.get("strides", [1] * count), node.get("dilations", [1] * count)
    more = node.get("output_padding", [0] * count)
    reach = [(size - 1) * wide + 1 for size, wide in zip(w.shape[2:], dilations, strict=True)]
    shape = node.get("output_shape")
    auto, pads = node.get("auto_pad", "NOTSET"), node.get("pads", [0] * 2 * count)
    y, edges = _channels_last(x), []
    for axis in range(count):
        low, high, size, step = pads[axis], pads[axis + count], x.shape[axis + 2], strides[axis]
        if shape is not None or auto.startswith("SAME"):
            wanted = size * step if shape is None else shape[axis]
            total = max(0, step * (size - 1) + more[axis] + reach[axis] - wanted)
            low, high = total // 2, total - total // 2
            low, high = (high, low) if auto == "SAME_LOWER" else (low, high)
        edges.append([reach[axis] - 1 - low, reach[axis] - 1 - high + more[axis]])
        y = _spread(y, axis + 1, step)
    parts = tf.split(tf.reverse(w, list(range(2, count + 2))), groups, 0)  # (inputs, outputs of a group, ...)
    kernel = tf.concat([tf.transpose(part, [1, 0, *range(2, count + 2)]) for part in parts], 0)
    crop = [slice(None), *(slice(max(0, -low), min(0, high) or None) for low, high in edges)]
    y = y[tuple(crop)]
    y = _convolve(y, kernel, [[max(0, low), max(0, high)] for low, high in edges], [1] * count, dilations, groups)
    return _channels_first(y if b is None else y + b)


def _spread(x: Any, axis: int, step: int) -> Any:
    """Return x with step - 1 zeros between any two cells along an axis."""
    if step == 1:
        return x
    sizes, pads = dimensions(x), [[0, 0]] * (len(x.shape) + 1)
    pads[axis + 1] = [0, step - 1]
    wide = tf.pad(tf.expand_dims(x, axis + 1), pads)
    wide = tf.reshape(wide, stack([*sizes[:axis], sizes[axis] * step, *sizes[axis + 1 :]]))
    return tf.split(wide, [sizes[axis] * step - step + 1, step - 1], axis)[0]


def _max_pool(node: Node, x: Any) -> Any:
    if node.outputs > 1:
        raise ValueError("it gives places, too")
    kernel = node.get("kernel_shape")
    edges = _edges(node, x.shape[2:], kernel)
    return _channels_first(_pool(node, _channels_last(x), edges, "MAX", x.dtype.min))


def _pool(node: Node, x: Any, edges: list[list[int]], kind: str, filler: float) -> Any:
    if any(map(any, edges)):
        x = tf.pad(x, [[0, 0], *edges, [0, 0]], constant_values=tf.cast(filler, x.dtype))
    window, ones = node.get("kernel_shape"), [1] * len(edges)
    strides, dilations = node.get("strides", ones), node.get("dilations", ones)
    leaps = max(dilations) > 1 or any(step > size for step, size in zip(strides, window, strict=True))
    if not leaps:
        return tf.nn.pool(x, window, kind, padding="VALID", strides=strides)
    y = tf.nn.pool(x, window, kind, padding="VALID", dilations=dilations)  # which has no strides then
    some = [slice(None), *(slice(None, None, step) for step in strides)]
    return y[tuple(some)]


def _average_pool(node: Node, x: Any) -> Any:
    kernel, sizes = node.get("kernel_shape"), x.shape[2:]
    edges = _edges(node, sizes, kernel)
    y = _pool(node, _channels_last(x), edges, "AVG", 0)
    there = np.ones((1, *sizes, 1), np.float32)
    own = edges
    if node.get("count_include_pad", 0):  # what was padded counts; what ceil_mode reaches behind that does not
        own = _edges(Node({**node.options, "ceil_mode": 0}, node.opset, 1), sizes, kernel)
        there = np.pad(there, [(0, 0), *map(tuple, own), (0, 0)], constant_values=1)
        own = [[0, pair[1] - before[1]] for pair, before in zip(edges, own, strict=True)]
    if any(map(any, own)):
        y = y / _pool(node, tf.constant(there), own, "AVG", 0)
    return _channels_first(y)


def _over_space(function: Callable[..., Any]) -> Op:
    return lambda node, x: function(x, axis=list(range(2, len(x.shape))), keepdims=True)


def _by_channel(values: Any, rank: int) -> Any:
    return tf.reshape(values, [-1] + [1] * (rank - 2))


def _batch_norm(node: Node, x: Any, scale: Any, bias: Any, mean: Any, variance: Any) -> Any:
    rank, gain = len(x.shape), scale * tf.math.rsqrt(variance + node.get("epsilon", 1e-5))
    return x * _by_channel(gain, rank) + _by_channel(bias - mean * gain, rank)


def _standardised(x: Any, axes: list[int], epsilon: float) -> tuple[Any, Any, Any]:
    """Return x with mean 0 and variance 1 over some axes, the mean, and one over the standard deviation."""
    mean = tf.reduce_mean(x, axes, keepdims=True)
    shifted = x - mean
    gain = tf.math.rsqrt(tf.reduce_mean(shifted * shifted, axes, keepdims=True) + epsilon)
    return shifted * gain, mean, gain


def _layer_norm(node: Node, x: Any, scale: Any, bias: Any = None) -> Any:
    rank = len(x.shape)
    y, mean, gain = _standardised(x, list(range(node.get("axis", -1) % rank, rank)), node.get("epsilon", 1e-5))
    y = y * scale
    return (y if bias is None else y + bias, mean, gain)[: node.outputs]


def _rms_norm(node: Node, x: Any, scale: Any) -> Any:
    rank = len(x.shape)
    axes = list(range(node.get("axis", -1) % rank, rank))
    return x * tf.math.rsqrt(tf.reduce_mean(x * x, axes, keepdims=True) + node.get("epsilon", 1e-5)) * scale


def _instance_norm(node: Node, x: Any, scale: Any, bias: Any) -> Any:
    rank = len(x.shape)
    y, _, _ = _standardised(x, list(range(2, rank)), node.get("epsilon", 1e-5))
    return y * _by_channel(scale, rank) + _by_channel(bias, rank)


def _group_norm(node: Node, x: Any, scale: Any, bias: Any) -> Any:
    groups, sizes = node.get("num_groups"), dimensions(x)
    each = sizes[1] // groups
    y = tf.reshape(x, stack([sizes[0], groups, each, *sizes[2:]]))
    y, _, _ = _standardised(y, list(range(2, len(y.shape))), node.get("epsilon", 1e-5))
    y = tf.reshape(y, stack(sizes))
    if node.opset < 21:  # one number a group, where newer ones have one a channel
        scale, bias = tf.repeat(scale, each), tf.repeat(bias, each)
    return y * _by_channel(scale, len(sizes)) + _by_channel(bias, len(sizes))


def _lp_norm(node: Node, x: Any) -> Any:
    axis = node.get("axis", -1)
    if node.get("p", 2) == 1:
        return tf.math.divide_no_nan(x, tf.reduce_sum(tf.abs(x), axis, keepdims=True))
    return tf.math.divide_no_nan(x, tf.sqrt(tf.reduce_sum(x * x, axis, keepdims=True)))


def _resize(node: Node, x: Any, roi: Any = None, scales: Any = None, sizes: Any = None) -> Any:
    """Multiply each spatial dimension by a matrix: which cells make a new one, and how much of each."""
    mode, rank = node.get("mode", "nearest"), len(x.shape)
    if mode not in ("nearest", "linear") or node.get("antialias", 0):
        raise ValueError(f"its mode is '{mode}'")
    new_sizes = None if sizes is None else entries(sizes)
    for index, axis in enumerate(node.get("axes", list(range(rank)))):
        old = x.shape[axis]
        if old is None:
            continue  # events are not resized
        if new_sizes is None:
            scale = float(known(scales, "the scale")[index])
            new = int(np.floor(old * scale))
        else:
            new = int(new_sizes[index])
            scale = new / old
        if new == old and scale == 1:
            continue
        weights = _cells(node, mode, old, new, scale)
        x = tf.tensordot(x, weights, [[axis], [0]])
        order = list(range(rank - 1))
        order.insert(axis, rank - 1)
        x = tf.transpose(x, order)
    return x


def _cells(node: Node, mode: str, old: int, new: int, scale: float) -> np.ndarray:
    """Return the matrix (old, new) of a resized dimension."""
    places, way = np.arange(new), node.get("coordinate_transformation_mode", "half_pixel")
    if way == "align_corners":
        at = places * ((old - 1) / max(new - 1, 1))
    elif way == "asymmetric":
        at = places / scale
    elif way == "half_pixel" or (way == "pytorch_half_pixel" and new > 1):
        at = (places + 0.5) / scale - 0.5
    else:
        raise ValueError(f"its coordinates are '{way}'")
    weights = np.zeros((old, new), np.float32)
    if mode == "linear":
        below = np.floor(at)
        for cell, part in ((below, 1 - (at - below)), (below + 1, at - below)):
            np.add.at(weights, (np.clip(cell, 0, old - 1).astype(int), places), part.astype(np.float32))
        return weights
    rounding: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "round_prefer_floor": lambda a: np.ceil(a - 0.5),
        "round_prefer_ceil": lambda a: np.floor(a + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    cells = rounding[node.get("nearest_mode", "round_prefer_floor")](at)
    weights[np.clip(cells, 0, old - 1).astype(int), places] = 1
    return weights


OPS: dict[str, Op] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GlobalAveragePool": _over_space(tf.reduce_mean),
    "GlobalMaxPool": _over_space(tf.reduce_max),
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_norm,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "RMSNormalization": _rms_norm,
    "Resize": _resize,
}
