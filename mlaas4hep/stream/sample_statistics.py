"""Count the events of each class and sample, and compute the moments of regression targets.

composition = count_events(sample.events.without_features(10_000, workers=1), sample.labels, sample_of)
composition.events[PARTS.index("train")]        # events of each class in the training part
composition.yields[0, 1]                        # of sample 0 and class 1
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mlaas4hep.errors import ConfigError
from mlaas4hep.stream.batch import Batch
from mlaas4hep.stream.labels import Labels
from mlaas4hep.stream.split import PARTS, TEST


@dataclass(frozen=True)
class Composition:
    """Numbers and weights of the events of each class in each part.

    Attributes:
        events: number of events that pass the cuts, int64 (parts, classes). An event with several labels counts once
            for each of them. A regression has one class.
        weight: sum of weights, float64 (parts, classes).
        totals: number of events, int64 (parts,).
        weights: sum of weights, float64 (parts,).
        negative: number of events with negative weight, int64 (parts,).
        yields: number of events, sum of weights and sum of squared weights in all parts together, float64
            (samples, classes, 3).
    """

    events: np.ndarray
    weight: np.ndarray
    totals: np.ndarray
    weights: np.ndarray
    negative: np.ndarray
    yields: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3)))

    def mean_training_weight(self, balance: str) -> float:
        """Return the mean weight of the events of the training part, after balancing; see `factors`."""
        factors = self.factors(balance) if balance == "sampling" else None
        if factors is None:  # "weights" keeps the sum
            return float(self.weights[0] / self.totals[0])
        return float((factors * self.weight[0]).sum() / (factors * self.events[0]).sum())

    def mean_training_events(self, balance: str) -> float:
        """Return the mean number of training events in an epoch, after balancing if that is possible."""
        if balance != "sampling" or not (self.events[0] > 0).all():
            return float(self.totals[0])
        return float((self.factors(balance) * self.events[0]).sum())

    def factors(self, balance: str) -> np.ndarray | None:
        """Return a factor per class, float64 (classes,), that balances the classes of the training part.

        Args:
            balance: "weights": the factors multiply the weights, "sampling": they are the mean number of repetitions of
                an event, "none": there are no factors, and the result is None.

        Raises:
            ConfigError: a class has no events, or no positive sum of weights, in the training part.
        """
        if balance == "none":
            return None
        sums = self.weight[0] if balance == "weights" else self.events[0].astype(np.float64)
        if not (sums > 0).all():
            raise ConfigError(
                "cannot balance the classes: one has no events, or no positive sum of weights, in the training part",
                hint="set 'balance' to 'none' in the params, or give more events",
            )
        return np.asarray((sums.sum() / len(sums) if balance == "weights" else sums.max()) / sums)


def count_events(batches: Iterable[Batch], labels: Labels, sample_of: Sequence[int]) -> Composition:
    """Count the events by part, class and sample.

    Args:
        batches: batches of all events, without features.
        sample_of: index of the sample of each file.

    Raises:
        ConfigError: a label, weight or split is invalid for an event.
    """
    classes = 1 if labels.task == "regression" else len(labels.classes)
    table = np.zeros((len(PARTS), 2 * classes + 3))
    samples = np.array(sample_of)
    yields = np.zeros((max(sample_of) + 1, classes, 3))
    for batch in batches:
        flags = np.ones((len(batch), 1)) if labels.task == "regression" else _flags(batch.y, classes)
        weight = batch.weight.astype(np.float64)
        columns = np.column_stack([flags, flags * weight[:, None], np.ones(len(batch)), weight, weight < 0])
        table = table + np.stack([columns[batch.part == part].sum(axis=0) for part in range(len(PARTS))])
        moments = np.stack([np.ones(len(batch)), weight, weight**2], axis=1)
        for sample in np.unique(samples[batch.file]):
            chosen = samples[batch.file] == sample
            yields[sample] += flags[chosen].T @ moments[chosen]
    events, weights = table[:, :classes].astype(np.int64), table[:, classes : 2 * classes]
    totals, negative = table[:, -3].astype(np.int64), table[:, -1].astype(np.int64)
    return Composition(events, weights, totals, table[:, -2], negative, yields)


def target_moments(batches: Iterable[Batch], targets: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of the targets of a regression, float64 (targets,) each.

    Events of the test part are excluded. The batches need no features; y is (n, targets).
    """
    events, mean, square = np.zeros((3, targets))
    for batch in batches:
        y = batch.y[batch.part != TEST].astype(np.float64)
        batch_mean = y.mean(axis=0) if len(y) else np.zeros(targets)
        # Chan, Golub, LeVeque, The American Statistician 37, 242 (1983)
        total = np.maximum(events + len(y), 1)
        square = square + ((y - batch_mean) ** 2).sum(axis=0) + (batch_mean - mean) ** 2 * events * len(y) / total
        mean = mean + (batch_mean - mean) * len(y) / total
        events = events + len(y)
    return mean, np.sqrt(square / np.maximum(events, 1))


def _flags(y: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes)[y] if y.ndim == 1 else y.astype(np.float64)
