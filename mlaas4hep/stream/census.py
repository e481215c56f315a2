"""What is learnt of a whole sample beside its specs: how many events there are of what, and specs without a fold.

    counted = count(sample)
    counted.events[PARTS.index("train")]           # events of each class in the training part
    specs_by_fold(sample, 5)[0]                    # what the events outside of fold 0 are like

Only the branches that are needed for it are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mlaas4hep import console
from mlaas4hep.errors import ConfigError
from mlaas4hep.io.ahead import ahead
from mlaas4hep.io.columns import select_events
from mlaas4hep.reader import Specs
from mlaas4hep.reader.statistics import Statistics
from mlaas4hep.stream.batch import Batch
from mlaas4hep.stream.split import PARTS, TEST, fold_of

if TYPE_CHECKING:
    from mlaas4hep.stream.sample import Sample

T = TypeVar("T")


@dataclass(frozen=True)
class Composition:
    """How many events of what class are in which part.

    Attributes:
        events: int64 (parts, classes), of events that pass the cuts; an event of several labels counts for each. Of a
            regression there is one class.
        weight: float64 (parts, classes), sum of weights.
        totals: int64 (parts,), all events.
        weights: float64 (parts,), sum of all weights.
        negative: int64 (parts,), events of negative weight.
    """

    events: np.ndarray
    weight: np.ndarray
    totals: np.ndarray
    weights: np.ndarray
    negative: np.ndarray

    def factors(self, balance: str) -> np.ndarray | None:
        """Return what weighs each class in training, (classes,), so that their sums of weights are the same.

        Raises:
            ConfigError: a class has no events, or no weight, in the training part.
        """
        if balance == "none":
            return None
        sums = self.weight[0] if balance == "weights" else self.events[0].astype(np.float64)
        if not (sums > 0).all():
            raise ConfigError(
                "the classes cannot be balanced: one has no events, or no sum of weights above 0, in the training part",
                hint="set 'balance' to 'none' in the params, or give more events",
            )
        factors: np.ndarray = (sums.sum() / len(sums) if balance == "weights" else sums.max()) / sums
        return factors


def count(sample: Sample) -> Composition:
    """Count the events of a sample by part and class.

    Raises:
        ConfigError: a label, a weight or a split makes no sense for an event.
    """
    classes = 1 if sample.labels.task == "regression" else len(sample.labels.classes)

    def tally(batch: Batch) -> np.ndarray:
        flags = np.ones((len(batch), 1)) if sample.labels.task == "regression" else _flags(batch.y, classes)
        weight = batch.weight.astype(np.float64)
        columns = np.column_stack([flags, flags * weight[:, None], np.ones(len(batch)), weight, weight < 0])
        return np.stack([columns[batch.part == part].sum(axis=0) for part in range(len(PARTS))])

    table = sum(_over(sample, tally), np.zeros((len(PARTS), 2 * classes + 3)))
    whole = table.astype(np.int64)
    return Composition(whole[:, :classes], table[:, classes : 2 * classes], whole[:, -3], table[:, -2], whole[:, -1])


def moments(sample: Sample, branches: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of some flat branches, (branches,) each, over all but the test part."""

    def add(batch: Batch) -> np.ndarray:
        y = batch.y[batch.part != TEST].astype(np.float64)
        mean = y.mean(axis=0) if len(y) else np.zeros(len(branches))
        return np.stack([np.full(len(branches), len(y), np.float64), mean, ((y - mean) ** 2).sum(axis=0)])

    events, mean, square = np.zeros((3, len(branches)))
    for more, its_mean, its_square in _over(sample, add):
        # Chan, Golub, LeVeque, The American Statistician 37, 242 (1983)
        total = np.maximum(events + more, 1)
        square = square + its_square + (its_mean - mean) ** 2 * events * more / total
        mean = mean + (its_mean - mean) * more / total
        events = events + more
    return mean, np.sqrt(square / np.maximum(events, 1))


def specs_by_fold(sample: Sample, folds: int) -> list[Specs]:
    """Return, for each fold, the specs of all events that are not in it."""
    parts: list[list[Specs]] = [[] for _ in range(folds)]
    for file in range(len(sample.files)):
        with sample.reader(file) as reader:
            kinds = {name: reader.available[name].kind for name in reader.features}
            statistics = [Statistics(kinds) for _ in range(folds)]
            with console.progress("specs of folds", reader.stop) as bar:
                for start, stop in reader.blocks():
                    values, entries = reader.read_columns(start, stop)
                    fold = fold_of(sample.hashes(values, entries, reader.identity), folds)
                    for index in range(folds):
                        mine = fold == index
                        columns = {name: select_events(values[name], mine) for name in kinds}
                        statistics[index].add(columns, int(mine.sum()))
                    bar.advance(stop - start)
            for found, one in zip(parts, statistics, strict=True):
                specs = one.specs()
                found += [specs] if specs is not None else []
    whole = [Specs.merge_all(found) for found in parts]
    return [
        Specs(rest.branches, rest.events, sample.specs.files)
        for rest in (Specs.merge_all([*whole[:index], *whole[index + 1 :]]) for index in range(folds))
    ]


def _over(sample: Sample, make: Callable[[Batch], T]) -> list[T]:
    """Return what is made of the labels and weights of each block of each file."""
    blocks = [(file, *block) for file in range(len(sample.files)) for block in sample.blocks(file, sample.plan.rows)]
    with console.progress("labels and weights", sum(stop - start for _, start, stop in blocks)) as bar:
        made = []
        for (_, start, stop), one in zip(
            blocks, ahead(lambda block: make(sample.bare(*block)), blocks, sample.params.workers), strict=True
        ):
            made.append(one)
            bar.advance(stop - start)
    return made


def _flags(y: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes)[y] if y.ndim == 1 else y.astype(np.float64)
