"""Reweighting: factors by class and bin, which change the distributions of variables in the training set.

    binning = Binning.of(params.reweight)
    bins = binning.index(values, events)                # bin of each event, -1 outside of all bins
    histograms = TrainingHistograms(binning.size, classes=2)
    histograms.add(batch)                               # sums of weights by class and bin, exact
    factors = reweighting_factors(histograms.sums(), total, params.reweight, ["background", "signal"])

The rules are those of weaver-core (`reweight_vars`). The factor is 0 for events outside the bins or with NaN, and in
bins in which the class of the event has no positive sum of weights. A bin includes its lower edge; the last bin also
includes its upper edge. Factors multiply the event weights. Afterwards, the weights of all classes have the same sum,
or sums in proportion to those of the histograms in `to`. With a single bin this is class balancing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from mlaas4hep.config import ReweightParams
from mlaas4hep.errors import ConfigError, nearest
from mlaas4hep.specs.exact import UNIT, exact_sum
from mlaas4hep.stream.batch import Batch
from mlaas4hep.stream.split import TRAIN

OUTSIDE = -1
"""The bin of events outside of all bins."""


@dataclass(frozen=True)
class Binning:
    """Bins of several variables, numbered in the order of nested lists.

    Attributes:
        edges: bin edges of each variable, by expression.
    """

    edges: Mapping[str, Sequence[float]]

    @classmethod
    def of(cls, params: ReweightParams | None) -> Binning | None:
        """Return the bins that the params define; None if events are not reweighted."""
        return None if params is None else cls(params.by)

    @property
    def derived(self) -> dict[str, str]:
        """The expressions whose values `index` needs, by name."""
        return {f"reweight '{text}'": text for text in self.edges}

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of bins of each variable."""
        return tuple(len(edges) - 1 for edges in self.edges.values())

    @property
    def size(self) -> int:
        """Total number of bins."""
        return int(np.prod(self.shape, dtype=np.int64))

    def index(self, derived: Mapping[str, np.ndarray], events: int) -> np.ndarray:
        """Return the number of each event's bin, or OUTSIDE, int32 (events,).

        Args:
            derived: values of the expressions `self.derived`, (events,) each.
        """
        number, inside = np.zeros(events, np.int64), np.ones(events, bool)
        for name, edges in zip(self.derived, self.edges.values(), strict=True):
            values = derived[name].astype(np.float64)
            inside &= (values >= edges[0]) & (values <= edges[-1])
            bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
            number = number * (len(edges) - 1) + bins
        return np.where(inside, number, OUTSIDE).astype(np.int32)


class TrainingHistograms:
    """Numbers of events and exact sums of their weights in the training part, by class and bin.

    The sums do not depend on the order of the events.
    """

    def __init__(self, bins: int, classes: int) -> None:
        self._events = np.zeros((classes, bins + 1), np.int64)  # the last bin is OUTSIDE
        self._sums: dict[int, int] = {}

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches unchanged, and add each of them."""
        for batch in batches:
            self.add(batch)
            yield batch

    def add(self, batch: Batch) -> None:
        """Add the training events of a batch, which needs no features."""
        assert batch.bin is not None
        chosen = batch.part == TRAIN
        width = self._events.shape[1]
        key = batch.y[chosen] * width + np.where(batch.bin[chosen] == OUTSIDE, width - 1, batch.bin[chosen])
        self._events += np.bincount(key, minlength=self._events.size).reshape(self._events.shape)
        order = np.argsort(key, kind="stable")
        keys, first = np.unique(key[order], return_index=True)
        for one, weights in zip(keys.tolist(), np.split(batch.weight[chosen][order], first[1:]), strict=False):
            self._sums[one] = self._sums.get(one, 0) + exact_sum(weights)

    @property
    def events(self) -> np.ndarray:
        """Number of events, int64 (classes, bins)."""
        return self._events[:, :-1]

    @property
    def outside(self) -> np.ndarray:
        """Number of events outside of all bins, int64 (classes,)."""
        return self._events[:, -1]

    def sums(self) -> np.ndarray:
        """Return the sums of weights, float64 (classes, bins)."""
        sums = np.zeros(self._events.size)
        for key, total in self._sums.items():
            sums[key] = float(Fraction(total, UNIT))
        return sums.reshape(self._events.shape)[:, :-1]


@dataclass(frozen=True)
class Reweighting:
    """The reweighting of a sample, or of a fold of it.

    Attributes:
        params: its parameters.
        classes: names of the classes.
        events: number of events of the training part, int64 (classes, bins).
        outside: number of events of the training part outside of all bins, int64 (classes,).
        sums: sum of their weights, float64 (classes, bins).
        factors: factor of an event, float64 (classes, bins).
    """

    params: ReweightParams
    classes: Sequence[str]
    events: np.ndarray
    outside: np.ndarray
    sums: np.ndarray
    factors: np.ndarray

    @classmethod
    def of(
        cls, params: ReweightParams, classes: Sequence[str], histograms: TrainingHistograms, total: float
    ) -> Reweighting:
        """Compute the factors; see `reweighting_factors`."""
        sums = histograms.sums()
        factors = reweighting_factors(sums, total, params, classes)
        return cls(params, classes, histograms.events, histograms.outside, sums, factors)

    def of_events(self, events: Batch) -> np.ndarray:
        """Return the factor of each event, float64 (events,)."""
        assert events.bin is not None
        return np.where(events.bin == OUTSIDE, 0.0, self.factors[events.y, events.bin])

    def mean_training_weight(self, mean: float) -> float:
        """Return the mean weight of training events after reweighting, given the mean before."""
        if self.params.method == "weights":  # the sum stays the same
            return mean
        return float((self.sums * self.factors).sum() / (self.events * self.factors).sum())

    def mean_training_events(self, number: float) -> float:
        """Return the mean number of training events in an epoch after reweighting, given the number before."""
        return number if self.params.method == "weights" else float((self.events * self.factors).sum())

    def to_json(self) -> dict[str, Any]:
        """Return the content of reweighting.json; histograms are nested lists in the order of the variables."""

        def by_class(values: np.ndarray) -> dict[str, Any]:
            histograms = values.reshape(len(self.classes), *self.params.shape).tolist()
            return dict(zip(self.classes, histograms, strict=True))

        histograms = {"events": self.events, "weights": self.sums, "factors": self.factors}
        return {
            "by": self.params.by,
            **{name: by_class(values) for name, values in histograms.items()},
            "outside": dict(zip(self.classes, self.outside.tolist(), strict=True)),
        }


def reweighting_factors(sums: np.ndarray, total: float, params: ReweightParams, classes: Sequence[str]) -> np.ndarray:
    """Return the factor of events by class and bin, float64 (classes, bins).

    Args:
        sums: sum of weights of the training events, (classes, bins).
        total: sum of the weights of all training events, which stays the same.
        classes: names of the classes.

    Raises:
        ConfigError: a class has no events in the bins of its target, or `to` does not match the classes.
    """
    targets, shares = _targets(sums, params, classes)
    factors = np.zeros(sums.shape)
    for index, (name, content, target) in enumerate(zip(classes, sums, targets, strict=True)):
        filled = content > 0
        ratio = np.divide(target, content, out=np.zeros(len(content)), where=filled)
        if not ratio.any():
            raise ConfigError(
                f"cannot reweight: class '{name}' has no positive sum of weights in the bins of its target",
                hint="change 'by' or 'to' of 'reweight' in the params, or use more events",
            )
        ratio = np.minimum(ratio, _limit(params, content, ratio))
        factors[index] = ratio * (total * shares[index] / (content * ratio)[filled].sum())
    return factors


def _targets(sums: np.ndarray, params: ReweightParams, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the target distribution of each class, (classes, bins), and its share of the weights, (classes,)."""
    equal = np.full(len(classes), 1 / len(classes))
    if params.to == "flat":
        return np.ones(sums.shape), equal
    if isinstance(params.to, str):
        if params.to not in classes:
            known = "it is 'flat', a class, or histograms of all classes: " + ", ".join(classes)
            close = nearest(params.to, ["flat", *classes])
            raise ConfigError(f"'to' of 'reweight': there is no class '{params.to}'", nearest=close, hint=known)
        return np.broadcast_to(np.maximum(sums[list(classes).index(params.to)], 0), sums.shape), equal
    if set(params.to) != set(classes):
        raise ConfigError(
            f"'to' of 'reweight' has histograms of {', '.join(params.to)}, but the classes are {', '.join(classes)}",
            hint="give one histogram per class",
        )
    histograms = np.array([np.ravel(params.to[name]) for name in classes], np.float64)
    yields = histograms.sum(axis=1)
    return histograms, yields / yields.sum()


def _limit(params: ReweightParams, content: np.ndarray, ratio: np.ndarray) -> float:
    """Return the upper limit of the ratios of a class."""
    limit = np.inf
    if params.max is not None:
        filled = content > 0
        limit = largest_factor(ratio[filled], content[filled], params.max)
    if params.threshold is not None:
        if params.to == "flat":  # as in weaver-core, bins below 1% of the median do not count
            filled_contents = content[content > 0]
            counted = filled_contents[filled_contents > 0.01 * np.median(filled_contents)]
            limit = min(limit, 1 / float(np.percentile(counted, params.threshold)))
        else:
            limit = min(limit, float(np.percentile(ratio[ratio > 0], 100 - params.threshold)))
    return limit


def largest_factor(factors: np.ndarray, content: np.ndarray, most: float) -> float:
    """Return the limit of factors that is `most` times their mean after they have been limited.

    Args:
        factors: not negative, at least one positive, (bins,).
        content: positive weights of the bins in the mean, (bins,).
        most: more than 1.
    """
    order = np.argsort(factors)
    values, share = factors[order], content[order] / content.sum()
    below, above = np.cumsum(values * share), np.append(np.cumsum(share[::-1])[::-1][1:], 0.0)
    # if the first i + 1 factors are not limited, the mean is below[i] + limit * above[i]
    possible = 1 - most * above > 0
    limits = most * below[possible] / (1 - most * above[possible])
    upper = np.append(values[1:], np.inf)[possible]
    return float(limits[np.argmax(limits <= upper)])
