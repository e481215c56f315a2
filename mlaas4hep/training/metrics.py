"""How good scores are, computed here once for all frameworks.

    auc(y, scores), accuracy(y, scores), cross_entropy(y, scores)

Scores are probabilities: (events, 1) with that of the second class, or (events, classes). Weights may be negative, as
those of generators at next-to-leading order: sums are of signed weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FEWEST = 4
"""Effective events below which there is no p-value (Press et al., Numerical Recipes, section 14.3)."""


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
        return binary_auc(y == 1, table[:, 1], weight)
    return float(np.mean([binary_auc(y == index, table[:, index], weight) for index in range(table.shape[1])]))


def binary_auc(positive: np.ndarray, score: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Return the area under the ROC curve of one score, NaN where all events are positive, or none is."""
    weight = _weights(score, weight)
    values, group = np.unique(score, return_inverse=True)
    above = np.bincount(group, weight * positive, len(values))
    below = np.bincount(group, weight * ~positive, len(values))
    if not above.sum() or not below.sum():
        return float("nan")
    beaten = np.cumsum(below) - below / 2
    return float((above * beaten).sum() / (above.sum() * below.sum()))


def roc_curve(
    positive: np.ndarray, score: np.ndarray, weight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return false and true positive rate at every threshold, float64, from 0 to 1.

    Both rise, but for negative weights.
    """
    weight = _weights(score, weight)
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    true, false = (np.cumsum((weight * which)[order])[last] for which in (positive, ~positive))
    return np.append(0.0, false / (false[-1] or 1)), np.append(0.0, true / (true[-1] or 1))


def auc_uncertainty(area: float, positives: float, negatives: float) -> float:
    """Return the standard error of a two-class AUC (Hanley and McNeil, Radiology 143, 29, 1982, eq. 1).

    Args:
        positives, negatives: how many events; of weighted ones, how many `effective_events`.
    """
    if not positives or not negatives:
        return float("nan")
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (positives - 1) * (q1 - area**2) + (negatives - 1) * (q2 - area**2)
    return float(np.sqrt(max(variance, 0.0) / (positives * negatives)))


def effective_events(weight: np.ndarray) -> float:
    """Return how many events of weight 1 have the same relative error: (sum of w)^2 / sum of w^2."""
    squares = float(np.square(weight, dtype=np.float64).sum())
    return float(weight.sum(dtype=np.float64)) ** 2 / squares if squares else 0.0


def all_classes(scores: np.ndarray) -> np.ndarray:
    """Return (events, classes) also where one column stands for two classes."""
    return np.hstack([1 - scores, scores]) if scores.shape[1] == 1 else scores


def confusion_matrix(y: np.ndarray, scores: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Return sums of weights, float64 (classes, classes), by true class and by the most probable one."""
    table = all_classes(scores)
    count = table.shape[1]
    return np.bincount(y * count + table.argmax(axis=1), _weights(y, weight), count**2).reshape(count, count)


def kolmogorov_smirnov(
    first: np.ndarray,
    second: np.ndarray,
    first_weight: np.ndarray | None = None,
    second_weight: np.ndarray | None = None,
) -> tuple[float, float]:
    """Return the largest distance of the distribution functions of two samples, and its p-value.

    The p-value is that of the asymptotic distribution for the effective numbers of events, NaN where these are too few.
    Both are NaN for a sample that has no events, or whose weights add up to nothing.
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
    return distance, asymptotic_kolmogorov(distance, size) if size >= FEWEST else float("nan")


def asymptotic_kolmogorov(distance: float, size: float) -> float:
    """Return the probability of a larger distance (Stephens, J. R. Stat. Soc. B 32, 115, 1970)."""
    scaled = distance * (np.sqrt(size) + 0.12 + 0.11 / np.sqrt(size))
    if scaled < 0.2:
        return 1.0  # to twelve digits, and the series converges slowly
    k = np.arange(1, 101)
    return float(np.clip(2 * ((-1.0) ** (k - 1) * np.exp(-2 * (k * scaled) ** 2)).sum(), 0, 1))


@dataclass(frozen=True)
class Calibration:
    """What is predicted and what is so, by bins of the predicted probability that have events, float64 (bins,) each.

    Attributes:
        predicted: mean probability.
        observed: share of events that are so.
        low, high: ends of the 68 % interval of `observed` (Wilson, J. Am. Stat. Assoc. 22, 209, 1927).
        share: of all events, in this bin.
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


def calibration(
    right: np.ndarray, probability: np.ndarray, weight: np.ndarray | None = None, bins: int = 10
) -> Calibration:
    """Compare probabilities with what is so.

    Args:
        right: bool (events,), whether it is so.
        probability: (events,), that it is so.
        bins: of equal width; those whose weights add up to nothing, or less, are left out.
    """
    weight = _weights(right, weight)
    which = np.minimum((probability * bins).astype(np.int64), bins - 1)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(which, values, bins)

    sums = total(weight)
    kept = sums > 0
    sums, size = sums[kept], (sums**2 / np.maximum(total(weight**2), 1e-300))[kept]
    observed = total(weight * right)[kept] / sums
    inside = np.clip(observed, 0, 1)  # which negative weights may have left
    centre = (inside + 0.5 / size) / (1 + 1 / size)
    half = np.sqrt(inside * (1 - inside) / size + 0.25 / size**2) / (1 + 1 / size)
    predicted = total(weight * probability)[kept] / sums
    return Calibration(predicted, observed, centre - half, centre + half, sums / weight.sum())


def _weights(events: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    return np.ones(len(events)) if weight is None else weight.astype(np.float64)
