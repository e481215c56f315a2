"""ONNX ops as TensorFlow: recurrent layers, unrolled over the length of the lists, which is known; see `onnx_ops`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mlaas4hep.training.onnx_ops import Node, Op

Step = Callable[[Any, Any, Any], tuple[Any, Any]]
"""From what comes in, (events, gates x hidden), and the state h and c, to the next h and c."""

ACTIVATIONS = {
    "Relu": tf.nn.relu, "Sigmoid": tf.sigmoid, "Tanh": tf.tanh, "Softplus": tf.math.softplus,
    "Softsign": tf.nn.softsign,
}  # fmt: skip


def _lstm(node: Node, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None, c: Any = None,
          peephole: Any = None) -> Any:  # fmt: skip
    if peephole is not None or node.get("input_forget", 0):
        raise ValueError("it has peepholes")

    def cell(gate: Callable[..., Any], inside: Callable[..., Any], out: Callable[..., Any], r: Any, b: Any) -> Step:
        def step(given: Any, h: Any, c: Any) -> tuple[Any, Any]:
            i, o, f, new = tf.split(given + tf.matmul(h, r, transpose_b=True) + b, 4, -1)
            c = gate(f) * c + gate(i) * inside(new)
            return gate(o) * out(c), c

        return step

    return _recurrent(node, cell, 4, ["Sigmoid", "Tanh", "Tanh"], x, w, r, b, lengths, h, c)


def _gru(node: Node, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None) -> Any:
    hidden, late = node.get("hidden_size"), node.get("linear_before_reset", 0)

    def cell(gate: Callable[..., Any], inside: Callable[..., Any], r: Any, b: Any) -> Step:
        r_gates, r_new = tf.split(r, [2 * hidden, hidden])
        b_gates, b_new = tf.split(b, [2 * hidden, hidden])

        def step(given: Any, h: Any, c: Any) -> tuple[Any, Any]:
            gates, new = tf.split(given, [2 * hidden, hidden], -1)
            z, reset = tf.split(gate(gates + tf.matmul(h, r_gates, transpose_b=True) + b_gates), 2, -1)
            if late:
                new = inside(new + reset * (tf.matmul(h, r_new, transpose_b=True) + b_new))
            else:
                new = inside(new + tf.matmul(reset * h, r_new, transpose_b=True) + b_new)
            return (1 - z) * new + z * h, c

        return step

    return _recurrent(node, cell, 3, ["Sigmoid", "Tanh"], x, w, r, b, lengths, h)


def _rnn(node: Node, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None) -> Any:
    def cell(inside: Callable[..., Any], r: Any, b: Any) -> Step:
        return lambda given, h, c: (inside(given + tf.matmul(h, r, transpose_b=True) + b), c)

    return _recurrent(node, cell, 1, ["Tanh"], x, w, r, b, lengths, h)


def _recurrent(node: Node, cell: Callable[..., Step], gates: int, usual: list[str], x: Any, w: Any, r: Any, b: Any,
               lengths: Any, h: Any = None, c: Any = None) -> Any:  # fmt: skip
    """Run a layer in one direction or both.

    Args:
        cell: makes a step of activations, the weights of the state and their bias.
        x: (length, events, features), or events first with `layout` 1.
        w, r, b: weights of the inputs, of the state, and both biases, by direction.
        lengths: of the list of each event; behind its end the state stays, and the output is 0.
        h, c: first state, by direction.

    Returns:
        The outputs (length, directions, events, hidden), and the last h and c.
    """
    hidden, layout, way = node.get("hidden_size"), node.get("layout", 0), node.get("direction", "forward")
    if "clip" in node.options:
        raise ValueError("it clips")
    directions = 2 if way == "bidirectional" else 1
    names = [name.decode() for name in node.get("activations", [])] or usual * directions
    if layout:
        x, h, c = (None if one is None else tf.transpose(one, (1, 0, 2)) for one in (x, h, c))
    zeros = tf.zeros(tf.stack([tf.shape(x)[1], hidden]), x.dtype)
    outputs, states, cells = [], [], []
    for index in range(directions):
        bias = tf.zeros(2 * gates * hidden, x.dtype) if b is None else b[index]
        of_input, of_state = tf.split(bias, 2)
        functions = [ACTIVATIONS[name] for name in names[index * len(usual) : (index + 1) * len(usual)]]
        step = cell(*functions, r[index], of_state)
        given = tf.unstack(tf.tensordot(x, w[index], [[2], [1]]) + of_input)
        backward = way == "reverse" or index == 1
        state = (zeros if h is None else h[index], zeros if c is None else c[index])
        found, last_h, last_c = _unroll(step, given, state, lengths, backward)
        outputs.append(tf.stack(found))
        states.append(last_h)
        cells.append(last_c)
    y, last = tf.stack(outputs, 1), [tf.stack(states), tf.stack(cells)]
    if layout:
        y, last = tf.transpose(y, (2, 0, 1, 3)), [tf.transpose(one, (1, 0, 2)) for one in last]
    return (y, *last)[: node.outputs]


def _unroll(step: Step, given: list[Any], state: tuple[Any, Any], lengths: Any, backward: bool) -> tuple[Any, Any, Any]:
    (h, c), outputs = state, [None] * len(given)
    places = range(len(given))
    for place in reversed(places) if backward else places:
        new_h, new_c = step(given[place], h, c)
        if lengths is None:
            h, c, outputs[place] = new_h, new_c, new_h
        else:
            there = tf.expand_dims(tf.less(place, lengths), 1)
            h, c = tf.where(there, new_h, h), tf.where(there, new_c, c)
            outputs[place] = tf.where(there, new_h, tf.zeros_like(new_h))
    if lengths is not None:  # ONNX Runtime does not give back the first state where there is nothing
        some = tf.expand_dims(lengths > 0, 1)
        h, c = tf.where(some, h, tf.zeros_like(h)), tf.where(some, c, tf.zeros_like(c))
    return outputs, h, c


OPS: dict[str, Op] = {"GRU": _gru, "LSTM": _lstm, "RNN": _rnn}
