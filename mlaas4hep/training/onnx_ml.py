"""ONNX ops as TensorFlow: trees and linear models, the domain ai.onnx.ml; see `onnx_ops`.

https://onnx.ai/onnx/operators/index_classes.html#ai-onnx-ml. All trees of an ensemble are walked at once, one level
a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from mlaas4hep.training.onnx_ops import Node, Op

BRANCHES: dict[str, Callable[[Any, Any], Any]] = {
    "BRANCH_LEQ": tf.less_equal, "BRANCH_LT": tf.less, "BRANCH_GTE": tf.greater_equal, "BRANCH_GT": tf.greater,
    "BRANCH_EQ": tf.equal, "BRANCH_NEQ": tf.not_equal,
}  # fmt: skip


@dataclass(frozen=True)
class Trees:
    """An ensemble as arrays; where an event is at a leaf, the next node is the leaf itself.

    Attributes:
        feature, threshold, missing: by node, of its question; whether what is missing answers yes.
        kind: by node, place of its comparison in `kinds`.
        kinds: the comparisons that there are.
        ways: (nodes, 2), the next node for no and for yes.
        roots: the first node of each tree.
        depth: steps to the deepest leaf.
    """

    feature: np.ndarray
    threshold: np.ndarray
    missing: np.ndarray
    kind: np.ndarray
    kinds: list[str]
    ways: np.ndarray
    roots: np.ndarray
    depth: int

    @classmethod
    def of(cls, node: Node) -> Trees:
        """Read the attributes of an ensemble."""
        places = {pair: place for place, pair in enumerate(_nodes(node))}
        modes = [mode.decode() for mode in node.get("nodes_modes")]
        leaf = np.array([mode == "LEAF" for mode in modes])
        trees, own = np.array(node.get("nodes_treeids")), np.arange(len(modes))
        ways = np.stack([
            [place if leaf[place] else places[tree, child] for place, (tree, child) in
             enumerate(zip(trees.tolist(), node.get(f"nodes_{way}nodeids"), strict=True))]
            for way in ("false", "true")
        ], 1)  # fmt: skip
        children = np.unique(ways[~leaf])
        first = np.setdiff1d(own, children)
        roots = first[np.unique(trees[first], return_index=True)[1]]
        depth, level = 0, roots
        while not leaf[level].all():
            depth, level = depth + 1, np.unique(ways[level])
        kinds = sorted(set(modes) - {"LEAF"})
        return cls(
            np.where(leaf, 0, node.get("nodes_featureids")).astype(np.int32),
            np.array(node.get("nodes_values"), np.float32),
            np.array(node.get("nodes_missing_value_tracks_true", [0] * len(modes)), bool),
            np.array([0 if mode == "LEAF" else kinds.index(mode) for mode in modes], np.int32),
            kinds,
            ways.astype(np.int32),
            roots.astype(np.int32),
            depth,
        )

    def leaves(self, x: Any) -> Any:
        """Return the leaf of each event in each tree, int32 (events, trees)."""
        feature, threshold, ways = tf.constant(self.feature), tf.constant(self.threshold), tf.constant(self.ways)
        missing, kind = tf.constant(self.missing), tf.constant(self.kind)
        place = tf.tile(tf.constant(self.roots)[None], [tf.shape(x)[0], 1])
        for _ in range(self.depth):
            value, edge = tf.gather(x, tf.gather(feature, place), batch_dims=1), tf.gather(threshold, place)
            yes = BRANCHES[self.kinds[0]](value, edge)
            for index, name in enumerate(self.kinds[1:], 1):
                yes = tf.where(tf.equal(tf.gather(kind, place), index), BRANCHES[name](value, edge), yes)
            if self.missing.any():
                yes = tf.logical_or(yes, tf.logical_and(tf.math.is_nan(value), tf.gather(missing, place)))
            place = tf.gather_nd(ways, tf.stack([place, tf.cast(yes, tf.int32)], -1))
        return place


def _nodes(node: Node) -> list[tuple[int, int]]:
    return list(zip(node.get("nodes_treeids"), node.get("nodes_nodeids"), strict=True))


def _sums(node: Node, x: Any, role: str, targets: int) -> Any:
    """Return the sum of the weights of an event's leaves, float32 (events, targets)."""
    if any(name.endswith("_as_tensor") for name in node.options):
        raise ValueError("it has numbers of double precision")
    places = {pair: place for place, pair in enumerate(_nodes(node))}
    table = np.zeros((len(places), targets), np.float32)
    pairs = zip(node.get(f"{role}_treeids"), node.get(f"{role}_nodeids"), strict=True)
    rows = np.array([places[pair] for pair in pairs], int)
    np.add.at(table, (rows, node.get(f"{role}_ids")), np.array(node.get(f"{role}_weights"), np.float32))
    trees = Trees.of(node)
    total = tf.reduce_sum(tf.gather(tf.constant(table), trees.leaves(tf.cast(x, tf.float32))), axis=1)
    how = node.get("aggregate_function", "SUM")
    if how not in ("SUM", "AVERAGE"):
        raise ValueError(f"it takes the {how} of its trees")
    return total / len(trees.roots) if how == "AVERAGE" else total


def _tree_regressor(node: Node, x: Any) -> Any:
    targets, kind = node.get("n_targets", 1), node.get("post_transform", "NONE")
    scores = _sums(node, x, "target", targets) + _floats(node, "base_values", 0.0)
    return scores if targets == 1 and kind != "PROBIT" else _transformed(node, scores)  # as ONNX Runtime does it


def _tree_classifier(node: Node, x: Any) -> tuple[Any, Any]:
    """Return label and scores; where all leaves are of the first of two classes, they speak for the second.

    Which label it is of two ONNX Runtime has rules of its own for, so there is none.
    """
    classes, base = len(_labels(node)), _floats(node, "base_values", 0.0)
    scores = _sums(node, x, "class", classes)
    if classes == 2 and set(node.get("class_ids")) == {0} and len(base) == 1:
        return None, _of_two(node, scores[:, :1] + base, min(node.get("class_weights")) >= 0)
    if base.any() and (classes == 2 or len(base) != classes):
        raise ValueError("it adds one number to the scores of several classes")
    scores = _transformed(node, scores + base)
    return _label(node, tf.argmax(scores, axis=1)) if classes > 2 else None, scores


def _linear_classifier(node: Node, x: Any) -> tuple[Any, Any]:
    scores = _linear(node, x)
    if scores.shape[1] == 1 and len(_labels(node)) == 2:
        return _label(node, tf.cast(scores[:, 0] > 0, tf.int32)), _of_two(node, scores, True)
    return _label(node, tf.argmax(scores, axis=1)), _transformed(node, scores)


def _linear_regressor(node: Node, x: Any) -> Any:
    scores = _linear(node, x)
    return scores if scores.shape[1] == 1 else _transformed(node, scores)


def _linear(node: Node, x: Any) -> Any:
    weights = _floats(node, "coefficients").reshape(-1, x.shape[1]).T
    return tf.matmul(tf.cast(x, tf.float32), weights) + _floats(node, "intercepts", 0.0)


def _floats(node: Node, name: str, default: float | None = None) -> np.ndarray:
    return np.array(node.get(name) or [default], np.float32)


def _labels(node: Node) -> np.ndarray:
    names = ("classlabels_int64s", "classlabels_ints", "classlabels_strings")
    return np.array(next(node.get(name) for name in names if node.get(name)))


def _of_two(node: Node, score: Any, is_part: bool) -> Any:
    """Return scores (events, 2) of one number for two classes, (events, 1), as ONNX Runtime makes them.

    Args:
        is_part: the numbers of both classes add up to 1, not to 0.
    """
    kind = node.get("post_transform", "NONE")
    if kind == "LOGISTIC":
        return tf.concat([tf.sigmoid(-score), tf.sigmoid(score)], 1)
    if kind == "PROBIT":
        raise ValueError("its transformation is PROBIT")
    return tf.concat([1 - score if is_part else -score, score], 1)


def _label(node: Node, place: Any) -> Any:
    return tf.gather(tf.constant(_labels(node)), place)


def _transformed(node: Node, scores: Any) -> Any:
    kind = node.get("post_transform", "NONE")
    if kind == "NONE":
        return scores
    if kind == "LOGISTIC":
        return tf.sigmoid(scores)
    if kind == "SOFTMAX":
        return tf.nn.softmax(scores)
    if kind == "SOFTMAX_ZERO":
        powers = tf.where(tf.abs(scores) > 1e-7, tf.exp(scores - tf.reduce_max(scores, 1, keepdims=True)), 0.0)
        return powers / tf.reduce_sum(powers, 1, keepdims=True)
    raise ValueError(f"its transformation is {kind}")


def _scaler(node: Node, x: Any) -> Any:
    return (tf.cast(x, tf.float32) - _floats(node, "offset", 0.0)) * _floats(node, "scale", 1.0)


def _normalizer(node: Node, x: Any) -> Any:
    x, norm = tf.cast(x, tf.float32), node.get("norm", "MAX")
    if norm == "L1":
        size = tf.reduce_sum(tf.abs(x), 1, keepdims=True)
    elif norm == "L2":
        size = tf.sqrt(tf.reduce_sum(x * x, 1, keepdims=True))
    else:
        size = tf.reduce_max(x, 1, keepdims=True)
    return tf.where(tf.equal(size, 0), x, x / size)


def _imputer(node: Node, x: Any) -> Any:
    kind = "float" if tf.as_dtype(x.dtype).is_floating else "int64"
    values = np.array(node.get(f"imputed_value_{kind}s"), tf.as_dtype(x.dtype).as_numpy_dtype)
    missing = node.get(f"replaced_value_{kind}", 0)
    gone = tf.math.is_nan(x) if missing != missing else tf.equal(x, missing)
    return tf.where(gone, values, x)


def _one_hot_encoder(node: Node, x: Any) -> Any:
    found = tf.equal(tf.expand_dims(tf.cast(x, tf.int64), -1), np.array(node.get("cats_int64s"), np.int64))
    return tf.cast(found, tf.float32)


OPS: dict[str, Op] = {
    "ArrayFeatureExtractor": lambda node, x, places: tf.gather(x, tf.reshape(places, [-1]), axis=-1),
    "Binarizer": lambda node, x: tf.cast(x > node.get("threshold", 0.0), x.dtype),
    "FeatureVectorizer": lambda node, *inputs: tf.concat([tf.cast(one, tf.float32) for one in inputs], -1),
    "Imputer": _imputer,
    "LinearClassifier": _linear_classifier,
    "LinearRegressor": _linear_regressor,
    "Normalizer": _normalizer,
    "OneHotEncoder": _one_hot_encoder,
    "Scaler": _scaler,
    "TreeEnsembleClassifier": _tree_classifier,
    "TreeEnsembleRegressor": _tree_regressor,
}
