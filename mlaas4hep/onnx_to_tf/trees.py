"""ONNX ops in TensorFlow: trees and linear models of the domain ai.onnx.ml; see `elementwise`.

The ops follow https://onnx.ai/onnx/operators/index_classes.html#ai-onnx-ml. All trees of an ensemble are evaluated in
parallel, one level per step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from mlaas4hep.onnx_to_tf.elementwise import Node, Op

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "BRANCH_LEQ": tf.less_equal, "BRANCH_LT": tf.less, "BRANCH_GTE": tf.greater_equal, "BRANCH_GT": tf.greater,
    "BRANCH_EQ": tf.equal, "BRANCH_NEQ": tf.not_equal,
}  # fmt: skip


@dataclass(frozen=True)
class TreeEnsemble:
    """An ensemble of trees as arrays of its nodes; the successor of a leaf is the leaf itself.

    Attributes:
        feature, threshold: (nodes,), column and threshold of the comparison.
        missing: (nodes,), whether the comparison is true for missing values.
        kind: (nodes,), index of the comparison in `kinds`.
        kinds: names of the comparisons, keys of COMPARISONS.
        successors: (nodes, 2), next node if the comparison is false, and if it is true.
        roots: (trees,), root node of each tree.
        depth: number of comparisons to the deepest leaf.
    """

    feature: np.ndarray
    threshold: np.ndarray
    missing: np.ndarray
    kind: np.ndarray
    kinds: list[str]
    successors: np.ndarray
    roots: np.ndarray
    depth: int

    @classmethod
    def of(cls, node: Node) -> TreeEnsemble:
        """Convert the attributes of a node."""
        positions = {pair: position for position, pair in enumerate(_node_ids(node))}
        modes = [mode.decode() for mode in node.get("nodes_modes")]
        leaf = np.array([mode == "LEAF" for mode in modes])
        trees, own = np.array(node.get("nodes_treeids")), np.arange(len(modes))
        successors = np.stack([
            [position if leaf[position] else positions[tree, child] for position, (tree, child) in
             enumerate(zip(trees.tolist(), node.get(f"nodes_{branch}nodeids"), strict=True))]
            for branch in ("false", "true")
        ], 1)  # fmt: skip
        children = np.unique(successors[~leaf])
        first = np.setdiff1d(own, children)
        roots = first[np.unique(trees[first], return_index=True)[1]]
        depth, level = 0, roots
        while not leaf[level].all():
            depth, level = depth + 1, np.unique(successors[level])
        kinds = sorted(set(modes) - {"LEAF"})
        return cls(
            np.where(leaf, 0, node.get("nodes_featureids")).astype(np.int32),
            np.array(node.get("nodes_values"), np.float32),
            np.array(node.get("nodes_missing_value_tracks_true", [0] * len(modes)), bool),
            np.array([0 if mode == "LEAF" else kinds.index(mode) for mode in modes], np.int32),
            kinds,
            successors.astype(np.int32),
            roots.astype(np.int32),
            depth,
        )

    def leaves(self, x: Any) -> Any:
        """Return the leaf of each event in each tree, int32 (events, trees)."""
        feature, threshold, successors = map(tf.constant, (self.feature, self.threshold, self.successors))
        missing, kind = tf.constant(self.missing), tf.constant(self.kind)
        position = tf.tile(tf.constant(self.roots)[None], [tf.shape(x)[0], 1])
        for _ in range(self.depth):
            value, cut = tf.gather(x, tf.gather(feature, position), batch_dims=1), tf.gather(threshold, position)
            is_true = COMPARISONS[self.kinds[0]](value, cut)
            for index, name in enumerate(self.kinds[1:], 1):
                is_true = tf.where(tf.equal(tf.gather(kind, position), index), COMPARISONS[name](value, cut), is_true)
            if self.missing.any():
                is_true = tf.logical_or(is_true, tf.logical_and(tf.math.is_nan(value), tf.gather(missing, position)))
            position = tf.gather_nd(successors, tf.stack([position, tf.cast(is_true, tf.int32)], -1))
        return position


def _node_ids(node: Node) -> list[tuple[int, int]]:
    return list(zip(node.get("nodes_treeids"), node.get("nodes_nodeids"), strict=True))


def _sum_leaf_weights(node: Node, x: Any, role: str, targets: int) -> Any:
    """Return the sum of the leaf weights over all trees, float32 (events, targets)."""
    if any(name.endswith("_as_tensor") for name in node.attributes):
        raise ValueError("double precision is not supported")
    positions = {pair: position for position, pair in enumerate(_node_ids(node))}
    table = np.zeros((len(positions), targets), np.float32)
    pairs = zip(node.get(f"{role}_treeids"), node.get(f"{role}_nodeids"), strict=True)
    rows = np.array([positions[pair] for pair in pairs], int)
    np.add.at(table, (rows, node.get(f"{role}_ids")), np.array(node.get(f"{role}_weights"), np.float32))
    ensemble = TreeEnsemble.of(node)
    total = tf.reduce_sum(tf.gather(tf.constant(table), ensemble.leaves(tf.cast(x, tf.float32))), axis=1)
    aggregate = node.get("aggregate_function", "SUM")
    if aggregate not in ("SUM", "AVERAGE"):
        raise ValueError(f"the aggregate function {aggregate} is not supported")
    return total / len(ensemble.roots) if aggregate == "AVERAGE" else total


def _tree_regressor(node: Node, x: Any) -> Any:
    targets, kind = node.get("n_targets", 1), node.get("post_transform", "NONE")
    scores = _sum_leaf_weights(node, x, "target", targets) + _floats(node, "base_values", 0.0)
    return scores if targets == 1 and kind != "PROBIT" else _post_transform(node, scores)  # as in ONNX Runtime


def _tree_classifier(node: Node, x: Any) -> tuple[Any, Any]:
    """Return labels and scores. If all leaves belong to the first of two classes, their sum is the score of the second.

    For two classes no labels are returned, because ONNX Runtime has its own rules for them.
    """
    classes, base = len(_labels(node)), _floats(node, "base_values", 0.0)
    scores = _sum_leaf_weights(node, x, "class", classes)
    if classes == 2 and set(node.get("class_ids")) == {0} and len(base) == 1:
        return None, _two_class_scores(node, scores[:, :1] + base, min(node.get("class_weights")) >= 0)
    if base.any() and (classes == 2 or len(base) != classes):
        raise ValueError("one base value for several classes is not supported")
    scores = _post_transform(node, scores + base)
    return _label(node, tf.argmax(scores, axis=1)) if classes > 2 else None, scores


def _linear_classifier(node: Node, x: Any) -> tuple[Any, Any]:
    scores = _linear(node, x)
    if scores.shape[1] == 1 and len(_labels(node)) == 2:
        return _label(node, tf.cast(scores[:, 0] > 0, tf.int32)), _two_class_scores(node, scores, True)
    return _label(node, tf.argmax(scores, axis=1)), _post_transform(node, scores)


def _linear_regressor(node: Node, x: Any) -> Any:
    scores = _linear(node, x)
    return scores if scores.shape[1] == 1 else _post_transform(node, scores)


def _linear(node: Node, x: Any) -> Any:
    weights = _floats(node, "coefficients").reshape(-1, x.shape[1]).T
    return tf.matmul(tf.cast(x, tf.float32), weights) + _floats(node, "intercepts", 0.0)


def _floats(node: Node, name: str, default: float | None = None) -> np.ndarray:
    return np.array(node.get(name) or [default], np.float32)


def _labels(node: Node) -> np.ndarray:
    names = ("classlabels_int64s", "classlabels_ints", "classlabels_strings")
    return np.array(next(node.get(name) for name in names if node.get(name)))


def _two_class_scores(node: Node, score: Any, add_up_to_one: bool) -> Any:
    """Return scores (events, 2) from one score for two classes, (events, 1), as ONNX Runtime does.

    Without post_transform, the scores of both classes add up to 1 if `add_up_to_one` is set, otherwise to 0.
    """
    kind = node.get("post_transform", "NONE")
    if kind == "LOGISTIC":
        return tf.concat([tf.sigmoid(-score), tf.sigmoid(score)], 1)
    if kind == "PROBIT":
        raise ValueError("post_transform PROBIT is not supported")
    return tf.concat([1 - score if add_up_to_one else -score, score], 1)


def _label(node: Node, position: Any) -> Any:
    return tf.gather(tf.constant(_labels(node)), position)


def _post_transform(node: Node, scores: Any) -> Any:
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
    raise ValueError(f"post_transform {kind} is not supported")


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
    is_missing = tf.math.is_nan(x) if missing != missing else tf.equal(x, missing)
    return tf.where(is_missing, values, x)


def _one_hot_encoder(node: Node, x: Any) -> Any:
    found = tf.equal(tf.expand_dims(tf.cast(x, tf.int64), -1), np.array(node.get("cats_int64s"), np.int64))
    return tf.cast(found, tf.float32)


OPS: dict[str, Op] = {
    "ArrayFeatureExtractor": lambda node, x, positions: tf.gather(x, tf.reshape(positions, [-1]), axis=-1),
    "Binarizer": lambda node, x: tf.cast(x > node.get("threshold", 0.0), x.dtype),
    "FeatureVectorizer": lambda node, *inputs: tf.concat([tf.cast(one, tf.float32) for one in inputs], -1),
    "Imputer": _imputer,
    "LinearClassifier": _linear_classifier,
    "LinearRegressor": _linear_regressor,
    "Normalizer": _normalizer,
    "OneHotEncoder": _one_hot_encoder,
    "Scaler": lambda node, x: (tf.cast(x, tf.float32) - _floats(node, "offset", 0.0)) * _floats(node, "scale", 1.0),
    "TreeEnsembleClassifier": _tree_classifier,
    "TreeEnsembleRegressor": _tree_regressor,
}
