"""The epochs of a training and their metrics.

history = History((Epoch(1, 0.5, {"loss": 0.4}, seconds=3.0, events=1000),), best=1)
history.to_json()
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training set; for one-shot models, one boosting round.

    Attributes:
        epoch: number of the epoch, from 1.
        train_loss: average over the epoch, with signed weights, as the framework computes it (with dropout, and while
            the weights change).
        metrics: metrics of the validation set after the epoch, see `Task.metrics`.
        seconds: duration of training, without validation.
        events: number of training events, shuffled copies included.
        waiting: seconds during which training waited for data.
        learning_rate: learning rate of the optimizer; None if it is constant.
    """

    epoch: int
    train_loss: float
    metrics: dict[str, float]
    seconds: float
    events: int
    waiting: float = 0.0
    learning_rate: float | None = None

    @property
    def loss(self) -> float:
        """Loss of the validation set."""
        return self.metrics["loss"]

    def to_json(self) -> dict[str, Any]:
        """Return the epoch as a flat dict: the attributes, with the entries of `metrics` instead of `metrics`."""
        content = asdict(self)
        metrics = content.pop("metrics")
        if self.learning_rate is None:
            del content["learning_rate"]
        return {**content, **metrics}


@dataclass(frozen=True)
class History:
    """The epochs of a training.

    Attributes:
        epochs: all epochs, in order.
        best: number of the epoch whose weights are kept, from 1.
    """

    epochs: tuple[Epoch, ...]
    best: int

    def to_json(self) -> list[dict[str, Any]]:
        """Return the epochs as flat dicts."""
        return [epoch.to_json() for epoch in self.epochs]
