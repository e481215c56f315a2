"""Learning rate schedules: the learning rate of a step, as a fraction of the largest one.

schedule = Schedule("cosine", warmup=100, total=1000)
schedule.factor(0), schedule.factor(100), schedule.factor(999)      # 0.01, 1.0, 0.000003
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlaas4hep.config import Params
from mlaas4hep.config.optimization import ScheduleName

RISING, FIRST, LAST = 0.3, 1 / 25, 1 / 250_000
"""Of one_cycle: fraction of steps in which the rate rises, and its first and last value (defaults of PyTorch)."""

FLAT, DECAYED = 0.7, 0.01
"""Of flat_decay: fraction of steps with a constant rate, and the last value."""


@dataclass(frozen=True)
class Schedule:
    """A learning rate schedule.

    Attributes:
        name: its shape after the warm-up.
        warmup: number of steps of the warm-up.
        total: number of steps of the training; later steps have the learning rate of the last one.
    """

    name: ScheduleName
    warmup: int
    total: int

    def factor(self, step: int) -> float:
        """Return the factor for a step (from 0), between 0 and 1.

        cosine: SGDR without restarts (Loshchilov and Hutter, arXiv:1608.03983); one_cycle: the policy of Smith and
        Topin (arXiv:1708.07120) with cosines for both slopes, as PyTorch's OneCycleLR; flat_decay: constant, then
        exponential.
        """
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        length = max(self.total - self.warmup, 1)
        done = min(step - self.warmup, length) / length
        if self.name == "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        if self.name == "flat_decay":
            return float(DECAYED ** (max(done - FLAT, 0) / (1 - FLAT)))
        return self._one_cycle(step) if self.name == "one_cycle" else 1.0

    def _one_cycle(self, step: int) -> float:
        top, end = max(RISING * self.total - 1, 0), self.total - 1
        if step < top:
            return _between(FIRST, 1.0, step / top)
        return _between(1.0, LAST, min((step - top) / max(end - top, 1), 1.0))


def _between(first: float, last: float, share: float) -> float:
    """Interpolate between two values along half a period of a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def make_schedule(params: Params, batches: int) -> Schedule | None:
    """Return the schedule of the parameters, given the number of batches per epoch; None for a constant rate."""
    if not params.has_schedule:
        return None
    steps = steps_per_epoch(params, batches)
    return Schedule(params.lr_schedule, round(params.lr_warmup * steps), params.epochs * steps)


def steps_per_epoch(params: Params, batches: int) -> int:
    """Return the number of steps of the optimizer in an epoch of this number of batches."""
    return -(-batches // params.accumulate)
