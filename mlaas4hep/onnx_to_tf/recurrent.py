"""ONNX ops in TensorFlow: recurrent layers, unrolled over the (static) sequence length; see `elementwise`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mlaas4hep.onnx_to_tf.elementwise import Node, Op

Step = Callable[[Any, Any, Any], tuple[Any, Any]]
"""Maps the transformed input, (events, gates * hidden), and the state (h, c) to the next (h, c)."""

ACTIVATIONS = {
    "Relu": tf.nn.relu, "Sigmoid": tf.sigmoid, "Tanh": tf.tanh, "Softplus": tf.math.softplus,
    "Softsign": tf.nn.softsign,
}  # fmt: skip


def _lstm(node: Node, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None, c: Any = None,
          peephole: Any = None) -> Any:  # fmt: skip
    if peephole is not None or node.get("input_forget", 0):
        raise ValueError("peepholes are not supported")

    def cell(gate: Callable[..., Any], activation: Callable[..., Any], out: Callable[..., Any], r: Any, b: Any) -> Step:
        def step(x_t: Any, h: Any, c: Any) -> tuple[Any, Any]:
            i, o, f, new = tf.split(x_t + tf.matmul(h, r, transpose_b=True) + b, 4, -1)
            c = gate(f) * c + gate(i) * activation(new)
            return gate(o) * out(c), c

        return step

    return _recurrent(node, cell, 4, ["Sigmoid", "Tanh", "Tanh"], x, w, r, b, lengths, h, c)


def _gru(node: Node, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None) -> Any:
    hidden, late = node.get("hidden_size"), node.get("linear_before_reset", 0)

    def cell(gate: Callable[..., Any], activation: Callable[..., Any], r: Any, b: Any) -> Step:
        r_gates, r_new = tf.split(r, [2 * hidden, hidden])
        b_gates, b_new = tf.split(b, [2 * hidden, hidden])

        def step(x_t: Any, h: Any, c: Any) -> tuple[Any, Any]:
            gates, new = tf.split(x_t, [2 * hidden, hidden], -1)
            z, reset = tf.split(gate(gates + tf.matmul(h, r_gates, transpose_b=True) + b_gates), 2, -1)
            if late:
                new = activation(new + reset * (tf.matmul(h, r_new, transpose_b=True) + b_new))
            else:
                new = activation(new + tf.matmul(reset * h, r_new, transpose_b=True) + b_new)
            return (1 - z) * new + z * h, c

        return step

    return _recurrent(node, cell, 3, ["Sigmoid", "Tanh"], x, w, r, b, lengths, h)


def _rnn(node: Node, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None) -> Any:
    def cell(activation: Callable[..., Any], r: Any, b: Any) -> Step:
        return lambda x_t, h, c: (activation(x_t + tf.matmul(h, r, transpose_b=True) + b), c)

    return _recurrent(node, cell, 1, ["Tanh"], x, w, r, b, lengths, h)


def _recurrent(node: Node, cell: Callable[..., Step], gates: int, default_activations: list[str], x: Any, w: Any,
               r: Any, b: Any, lengths: Any, h: Any = None, c: Any = None) -> Any:  # fmt: skip
    """Run a layer in one direction or both.

    Args:
        cell: makes a Step from activations, recurrence weights and recurrence bias.
        x: (length, events, features), or (events, length, features) with `layout` 1.
        w, r, b: input weights, recurrence weights and both biases, for each direction.
        lengths: sequence length of each event; beyond it the state does not change, and the output is 0.
        h, c: initial state, for each direction.

    Returns:
        The outputs (length, directions, events, hidden), and the last h and c.
    """
    hidden, layout, direction = node.get("hidden_size"), node.get("layout", 0), node.get("direction", "forward")
    if "clip" in node.attributes:
        raise ValueError("clip is not supported")
    directions = 2 if direction == "bidirectional" else 1
    names = [name.decode() for name in node.get("activations", [])] or default_activations * directions
    if layout:
        x, h, c = (None if one is None else tf.transpose(one, (1, 0, 2)) for one in (x, h, c))
    zeros = tf.zeros(tf.stack([tf.shape(x)[1], hidden]), x.dtype)
    outputs, states, cells = [], [], []
    for index in range(directions):
        bias = tf.zeros(2 * gates * hidden, x.dtype) if b is None else b[index]
        input_bias, state_bias = tf.split(bias, 2)
        first = index * len(default_activations)
        functions = [ACTIVATIONS[name] for name in names[first : first + len(default_activations)]]
        step = cell(*functions, r[index], state_bias)
        sequence = tf.unstack(tf.tensordot(x, w[index], [[2], [1]]) + input_bias)
        backward = direction == "reverse" or index == 1
        state = (zeros if h is None else h[index], zeros if c is None else c[index])
        hidden_states, last_h, last_c = _unroll(step, sequence, state, lengths, backward)
        outputs.append(tf.stack(hidden_states))
        states.append(last_h)
        cells.append(last_c)
    y, last = tf.stack(outputs, 1), [tf.stack(states), tf.stack(cells)]
    if layout:
        y, last = tf.transpose(y, (2, 0, 1, 3)), [tf.transpose(one, (1, 0, 2)) for one in last]
    return (y, *last)[: node.outputs]


def _unroll(
    step: Step, sequence: list[Any], state: tuple[Any, Any], lengths: Any, backward: bool
) -> tuple[Any, Any, Any]:
    (h, c), outputs = state, [None] * len(sequence)
    times = range(len(sequence))
    for time in reversed(times) if backward else times:
        new_h, new_c = step(sequence[time], h, c)
        if lengths is None:
            h, c, outputs[time] = new_h, new_c, new_h
        else:
            valid = tf.expand_dims(tf.less(time, lengths), 1)
            h, c = tf.where(valid, new_h, h), tf.where(valid, new_c, c)
            outputs[time] = tf.where(valid, new_h, tf.zeros_like(new_h))
    if lengths is not None:  # for empty sequences ONNX Runtime returns 0, not the initial state
        not_empty = tf.expand_dims(lengths > 0, 1)
        h, c = tf.where(not_empty, h, tf.zeros_like(h)), tf.where(not_empty, c, tf.zeros_like(c))
    return outputs, h, c


OPS: dict[str, Op] = {"GRU": _gru, "LSTM": _lstm, "RNN": _rnn}
