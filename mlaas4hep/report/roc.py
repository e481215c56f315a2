"""ROC curves of one class versus all others.

for curve in one_vs_rest_curves(predictions, ["background", "signal"]):
    curve.area
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlaas4hep.backends.metrics import all_classes, auc_uncertainty, binary_auc, effective_events, roc_curve

if TYPE_CHECKING:
    from mlaas4hep.training.loop import Predictions

MAX_CURVES = 10
"""Largest number of classes with a curve; a plot has as many colours."""

MIN_BACKGROUND = 4
"""Effective background events that a rejection needs; with 4, its statistical error is 50%."""


@dataclass(frozen=True)
class RocCurve:
    """The ROC curve of one class (signal) versus all others (background).

    Attributes:
        label: name of the class.
        background, signal: efficiencies at every threshold, from 0 to 1, float64 (thresholds,).
        area: the AUC.
        uncertainty: standard error of the AUC.
        background_events: effective number of background events, (sum w)^2 / sum w^2.
    """

    label: str
    background: np.ndarray
    signal: np.ndarray
    area: float
    uncertainty: float
    background_events: float

    @property
    def rejection(self) -> np.ndarray:
        """1 / background efficiency; NaN where fewer than `MIN_BACKGROUND` effective background events remain."""
        is_valid = self.background * self.background_events >= MIN_BACKGROUND
        return np.where(is_valid, 1 / np.where(is_valid, self.background, 1), np.nan)

    def rejection_at(self, efficiency: float) -> float:
        """Return the rejection at the tightest threshold with at least this signal efficiency."""
        return float(self.rejection[np.argmax(self.signal >= efficiency)])


def one_vs_rest_curves(predictions: Predictions, classes: Sequence[str]) -> list[RocCurve]:
    """Return the curves of the first `MAX_CURVES` classes, or only that of the second of two classes.

    With several labels per event, each curve compares events with a label to events without it.
    """
    is_multilabel = predictions.task.name == "multilabel"
    scores, curves = predictions.scores if is_multilabel else all_classes(predictions.scores), []
    for index in [1] if len(classes) == 2 and not is_multilabel else range(min(len(classes), MAX_CURVES)):
        is_signal = predictions.y[:, index] > 0 if is_multilabel else predictions.y == index
        if is_signal.all() or not is_signal.any():
            continue
        area = binary_auc(is_signal, scores[:, index], predictions.weight)
        background_events = effective_events(predictions.weight[~is_signal])
        uncertainty = auc_uncertainty(area, effective_events(predictions.weight[is_signal]), background_events)
        background, signal = roc_curve(is_signal, scores[:, index], predictions.weight)
        curves.append(RocCurve(classes[index], background, signal, area, uncertainty, background_events))
    return curves
