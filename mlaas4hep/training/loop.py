"""Epochs over the whole sample, until the validation loss gets no better.

    history = train(generator, backend, params)

The loop knows neither files nor frameworks; the weights of the best epoch are the ones that stay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlaas4hep import console
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError
from mlaas4hep.stream import Batch, DataGenerator
from mlaas4hep.stream.split import PARTS
from mlaas4hep.training.backend import Backend
from mlaas4hep.training.metrics import accuracy, auc, cross_entropy


@dataclass(frozen=True)
class Scored:
    """The events of one part, with the model's scores.

    Attributes:
        y: int64 (events,).
        scores: float32 (events, outputs).
        weight: float32 (events,).
    """

    y: np.ndarray
    scores: np.ndarray
    weight: np.ndarray

    def figures(self) -> dict[str, float]:
        """Return loss (cross-entropy in nats), accuracy and AUC."""
        return {
            "loss": cross_entropy(self.y, self.scores, self.weight),
            "accuracy": accuracy(self.y, self.scores, self.weight),
            "auc": auc(self.y, self.scores, self.weight),
        }


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training part.

    Attributes:
        epoch: its number, from 1.
        train_loss: mean over the epoch, as the framework sees it (dropout on, weights moving).
        loss, accuracy, auc: on the validation part, after the epoch.
        seconds: of training, without validation.
        events: of the training part, shuffled copies included.
        waiting: how many of the seconds the model waited for data.
    """

    epoch: int
    train_loss: float
    loss: float
    accuracy: float
    auc: float
    seconds: float
    events: int
    waiting: float = 0.0


@dataclass(frozen=True)
class History:
    """What happened in training.

    Attributes:
        epochs: their figures, in order.
        best: the number of the epoch whose weights stay.
        valid: scores of the validation part, by these weights.
    """

    epochs: tuple[Epoch, ...]
    best: int
    valid: Scored

    def to_json(self) -> list[dict[str, Any]]:
        """Return the epochs as plain dicts."""
        return [asdict(epoch) for epoch in self.epochs]


def train(
    generator: DataGenerator, backend: Backend, params: Params, report: Callable[[Epoch, bool], None] | None = None
) -> History:
    """Train until `params.epochs` have passed or the validation loss got no better for `params.patience` of them.

    Args:
        report: called after every epoch, with whether it is the best so far.

    Raises:
        ConfigError: a part of the sample is empty, or the loss is no number.
    """
    epochs: list[Epoch] = []
    best, weights = 0, backend.snapshot()
    for number in range(params.epochs):
        start = time.perf_counter()
        counted = _Counted(generator.batches("train", number), generator, f"epoch {number + 1}/{params.epochs}")
        train_loss = backend.fit(counted)
        seconds = time.perf_counter() - start
        scored = evaluate(generator, backend, "valid")
        figures = scored.figures()
        if not np.isfinite(train_loss) or not np.isfinite(figures["loss"]):
            raise ConfigError(
                f"the loss of epoch {number + 1} is not a number",
                hint="lower the learning rate of the model file, or set 'normalise' to 'auto' in the params",
            )
        epochs.append(Epoch(number + 1, train_loss, seconds=seconds, events=counted.events, **figures))
        improved = number == 0 or figures["loss"] < epochs[best].loss
        if improved:
            best, weights, valid = number, backend.snapshot(), scored
        if report:
            report(epochs[-1], improved)
        if number - best >= params.patience:
            break
    backend.restore(weights)
    return History(tuple(epochs), epochs[best].epoch, valid)


def evaluate(generator: DataGenerator, backend: Backend, part: str) -> Scored:
    """Return the scores of all events of a part.

    Raises:
        ConfigError: the part is empty.
    """
    found = [(batch.y, backend.predict(batch.inputs), batch.weight) for batch in generator.batches(part, shuffle=False)]
    if not found:
        raise _empty(part)
    y, scores, weight = (np.concatenate(column) for column in zip(*found, strict=True))
    return Scored(y, scores, weight)


def check_parts(generator: DataGenerator) -> None:
    """Raise ConfigError, before hours of training, if a part of the sample is empty."""
    for part in PARTS:
        if next(generator.batches(part, shuffle=False), None) is None:
            raise _empty(part)


def _empty(part: str) -> ConfigError:
    return ConfigError(
        f"no event falls into the {part} part",
        hint="more events are needed, or another 'identifier' in the params: the split goes by it",
    )


class _Counted(Iterable[Batch]):
    """Batches that are counted, and drive a progress bar, as they go by."""

    def __init__(self, batches: Iterable[Batch], generator: DataGenerator, title: str) -> None:
        self._batches = batches
        self._total = int(generator.num_entries * generator.sample.split.share_of_training)
        self._title = title
        self.events = 0

    def __iter__(self) -> Iterator[Batch]:
        with console.progress(self._title, self._total) as bar:
            for batch in self._batches:
                yield batch
                self.events += len(batch)
                bar.advance(int((batch.entry >= 0).sum()))
