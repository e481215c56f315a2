"""How good scores are, computed here once for all frameworks.

    auc(y, scores), accuracy(y, scores), cross_entropy(y, scores)

Scores are probabilities: (events, 1) with that of the second class, or (events, classes).
"""

from __future__ import annotations

import numpy as np


def cross_entropy(y: np.ndarray, scores: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Return the mean of -log of the probability of the true class, in nats; probabilities are kept above 1e-7."""
    probability = np.take_along_axis(all_classes(scores), y[:, None], axis=1)[:, 0].astype(np.float64)
    return float(np.average(-np.log(np.maximum(probability, 1e-7)), weights=weight))


def accuracy(y: np.ndarray, scores: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Return the share of events whose most probable class is the true one."""
    return float(np.average(all_classes(scores).argmax(axis=1) == y, weights=weight))


def auc(y: np.ndarray, scores: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Return the area under the ROC curve; for more than two classes the mean over classes, each against all others.

    The area is the probability that a random event of the class scores higher than one of the others, ties counting
    half (Hanley and McNeil, Radiology 143, 29, 1982). NaN where a class is missing.
    """
    table = all_classes(scores)
    if table.shape[1] == 2:
        return _binary_auc(y == 1, table[:, 1], weight)
    return float(np.mean([_binary_auc(y == index, table[:, index], weight) for index in range(table.shape[1])]))


def roc_curve(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return false and true positive rate at every threshold, float64, both rising from 0 to 1."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    true, false = np.cumsum(positive[order])[last], np.cumsum(~positive[order])[last]
    return np.append(0.0, false / max(false[-1], 1)), np.append(0.0, true / max(true[-1], 1))


def auc_uncertainty(area: float, positives: int, negatives: int) -> float:
    """Return the standard error of a two-class AUC (Hanley and McNeil, Radiology 143, 29, 1982, eq. 1)."""
    if not positives or not negatives:
        return float("nan")
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (positives - 1) * (q1 - area**2) + (negatives - 1) * (q2 - area**2)
    return float(np.sqrt(max(variance, 0.0) / (positives * negatives)))


def all_classes(scores: np.ndarray) -> np.ndarray:
    """Return (events, classes) also where one column stands for two classes."""
    return np.hstack([1 - scores, scores]) if scores.shape[1] == 1 else scores


def _binary_auc(positive: np.ndarray, score: np.ndarray, weight: np.ndarray | None) -> float:
    weight = np.ones(len(score)) if weight is None else weight.astype(np.float64)
    values, group = np.unique(score, return_inverse=True)
    above = np.bincount(group, weight * positive, len(values))
    below = np.bincount(group, weight * ~positive, len(values))
    if not above.sum() or not below.sum():
        return float("nan")
    beaten = np.cumsum(below) - below / 2
    return float((above * beaten).sum() / (above.sum() * below.sum()))
