"""Metrics, the same for all frameworks.

    auc(y, scores), accuracy(y, scores), cross_entropy(y, scores)

Scores are probabilities: (events, 1), of the second class, or (events, classes). Weights may be negative, as in samples
of next-to-leading-order generators; sums are of signed weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Weights = np.ndarray | None
"""Weights of events, (events,); None: all are 1."""

MIN_EFFECTIVE_EVENTS = 4
"""Effective events that a p-value needs (Press et al., Numerical Recipes, section 14.3)."""


def cross_entropy(y: np.ndarray, scores: np.ndarray, weight: Weights = None) -> float:
    """Return the mean of -log(probability of the true class), in nats; probabilities are clipped at 1e-7."""
    probability = np.take_along_axis(all_classes(scores), y[:, None], axis=1)[:, 0].astype(np.float64)
    return float(np.average(-np.log(np.maximum(probability, 1e-7)), weights=weight))


def accuracy(y: np.ndarray, scores: np.ndarray, weight: Weights = None) -> float:
    """Return the fraction of events whose most probable class is the true class."""
    return float(np.average(all_classes(scores).argmax(axis=1) == y, weights=weight))


def auc(y: np.ndarray, scores: np.ndarray, weight: Weights = None) -> float:
    """Return the area under the ROC curve; for more than two classes the mean of one-versus-rest AUCs.

    The AUC is the probability that a random event of the class scores higher than a random event of another class; ties
    count half (Hanley and McNeil, Radiology 143, 29, 1982). It is NaN if a class has no events.
    """
    table = all_classes(scores)
    if table.shape[1] == 2:
        return binary_auc(y == 1, table[:, 1], weight)
    return float(np.mean([binary_auc(y == index, table[:, index], weight) for index in range(table.shape[1])]))


def binary_auc(positive: np.ndarray, score: np.ndarray, weight: Weights = None) -> float:
    """Return the area under the ROC curve of one score; NaN if all events are positive, or all are negative."""
    weight = _weights(score, weight)
    values, group = np.unique(score, return_inverse=True)
    above = np.bincount(group, weight * positive, len(values))
    below = np.bincount(group, weight * ~positive, len(values))
    if not above.sum() or not below.sum():
        return float("nan")
    beaten = np.cumsum(below) - below / 2
    return float((above * beaten).sum() / (above.sum() * below.sum()))


def roc_curve(positive: np.ndarray, score: np.ndarray, weight: Weights = None) -> tuple[np.ndarray, np.ndarray]:
    """Return false and true positive rates at every threshold, float64, from 0 to 1.

    Both increase, unless there are negative weights.
    """
    weight = _weights(score, weight)
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    true, false = (np.cumsum((weight * which)[order])[last] for which in (positive, ~positive))
    return np.append(0.0, false / (false[-1] or 1)), np.append(0.0, true / (true[-1] or 1))


def auc_uncertainty(area: float, positives: float, negatives: float) -> float:
    """Return the standard error of a two-class AUC (Hanley and McNeil, Radiology 143, 29, 1982, eq. 1).

    Args:
        positives, negatives: numbers of events; for weighted events, of `effective_events`.
    """
    if not positives or not negatives:
        return float("nan")
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (positives - 1) * (q1 - area**2) + (negatives - 1) * (q2 - area**2)
    return float(np.sqrt(max(variance, 0.0) / (positives * negatives)))


def effective_events(weight: np.ndarray) -> float:
    """Return the number of unweighted events with the same relative error: (sum of w)^2 / sum of w^2."""
    squares = float(np.square(weight, dtype=np.float64).sum())
    return float(weight.sum(dtype=np.float64)) ** 2 / squares if squares else 0.0


def all_classes(scores: np.ndarray) -> np.ndarray:
    """Return probabilities of all classes, (events, classes), also if scores have one column for two classes."""
    return np.hstack([1 - scores, scores]) if scores.shape[1] == 1 else scores


def confusion_matrix(y: np.ndarray, scores: np.ndarray, weight: Weights = None) -> np.ndarray:
    """Return sums of weights, float64 (classes, classes), by true class (row) and most probable class (column)."""
    table = all_classes(scores)
    count = table.shape[1]
    return np.bincount(y * count + table.argmax(axis=1), _weights(y, weight), count**2).reshape(count, count)


def kolmogorov_smirnov(
    first: np.ndarray, second: np.ndarray, first_weight: Weights = None, second_weight: Weights = None
) -> tuple[float, float]:
    """Return the largest distance between the distribution functions of two samples, and its p-value.

    The p-value uses the asymptotic distribution and the effective numbers of events; it is NaN if these are too small.
    Both are NaN if a sample has no events, or if its weights do not add up to more than 0.
    """
    grid = np.unique(np.concatenate([first, second]))
    weights = _weights(first, first_weight), _weights(second, second_weight)
    sums = [
        np.cumsum(np.bincount(np.searchsorted(grid, values), weight, len(grid)))
        for values, weight in zip((first, second), weights, strict=True)
    ]
    if not all(len(each) and each[-1] > 0 for each in sums):
        return float("nan"), float("nan")
    distance = float(np.abs(sums[0] / sums[0][-1] - sums[1] / sums[1][-1]).max())
    n, m = (effective_events(weight) for weight in weights)
    size = n * m / (n + m)
    return distance, asymptotic_kolmogorov(distance, size) if size >= MIN_EFFECTIVE_EVENTS else float("nan")


def asymptotic_kolmogorov(distance: float, size: float) -> float:
    """Return the probability of a larger distance (Stephens, J. R. Stat. Soc. B 32, 115, 1970)."""
    scaled = distance * (np.sqrt(size) + 0.12 + 0.11 / np.sqrt(size))
    if scaled < 0.2:
        return 1.0  # exact to twelve digits; the series converges slowly here
    k = np.arange(1, 101)
    return float(np.clip(2 * ((-1.0) ** (k - 1) * np.exp(-2 * (k * scaled) ** 2)).sum(), 0, 1))


@dataclass(frozen=True)
class Calibration:
    """Predicted and observed probabilities in bins of the prediction, float64 (bins,) each; empty bins are omitted.

    Attributes:
        predicted: mean predicted probability.
        observed: fraction of positive events.
        low, high: ends of the 68 % interval of `observed` (Wilson, J. Am. Stat. Assoc. 22, 209, 1927).
        share: fraction of all events that are in the bin.
    """

    predicted: np.ndarray
    observed: np.ndarray
    low: np.ndarray
    high: np.ndarray
    share: np.ndarray

    @property
    def expected_error(self) -> float:
        """The mean of |observed - predicted| over events (Naeini et al., AAAI 2015)."""
        return float((self.share * np.abs(self.observed - self.predicted)).sum())


def calibration(positive: np.ndarray, probability: np.ndarray, weight: Weights = None, bins: int = 10) -> Calibration:
    """Compare predicted probabilities with observed fractions.

    Args:
        positive: bool (events,).
        probability: (events,), predicted probability of being positive.
        bins: number of bins of equal width; bins whose weights do not add up to more than 0 are omitted.
    """
    weight = _weights(positive, weight)
    which = np.minimum((probability * bins).astype(np.int64), bins - 1)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(which, values, bins)

    sums = total(weight)
    kept = sums > 0
    sums, size = sums[kept], (sums**2 / np.maximum(total(weight**2), 1e-300))[kept]
    observed = total(weight * positive)[kept] / sums
    inside = np.clip(observed, 0, 1)  # negative weights may push it out of [0, 1]
    centre = (inside + 0.5 / size) / (1 + 1 / size)
    half = np.sqrt(inside * (1 - inside) / size + 0.25 / size**2) / (1 + 1 / size)
    predicted = total(weight * probability)[kept] / sums
    return Calibration(predicted, observed, centre - half, centre + half, sums / weight.sum())


def _weights(events: np.ndarray, weight: Weights) -> np.ndarray:
    return np.ones(len(events)) if weight is None else weight.astype(np.float64)
