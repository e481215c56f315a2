"""The task of a model (classification, multi-label classification or regression), and its metrics.

    task = Task.of(generator.sample.labels)
    task.metrics(y, scores, weight)               # {"loss": 0.42, "accuracy": 0.8, "auc": 0.87}

Scores are what a bundle returns: probabilities, or estimates in the units of the targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mlaas4hep.backends.metrics import accuracy, auc, cross_entropy
from mlaas4hep.config import TaskName
from mlaas4hep.errors import ConfigError
from mlaas4hep.stream.labels import Labels

Output = Literal["logits", "probabilities", "log_probabilities", "numbers"]
"""Meaning of a model's raw outputs; "numbers" are standardised targets."""

TOLERANCE = 1e-5
"""Largest allowed difference between the scores of a model and of its ONNX graph; see `Task.differences`."""


@dataclass(frozen=True)
class Task:
    """The kind of prediction, and the names of the predicted classes, labels or targets.

    Attributes:
        name: "classification", "multilabel" or "regression".
        classes: names of the classes, labels or targets.
        centre, spread: for regression, per target: the model is trained on (target - centre) / spread.
    """

    name: TaskName
    classes: tuple[str, ...]
    centre: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    @classmethod
    def of(cls, labels: Labels) -> Task:
        """Return the task for some labels."""
        return cls(labels.task, labels.classes, labels.centre, labels.spread)

    @classmethod
    def classification(cls, classes: int) -> Task:
        """Return the classification task for a number of classes, named "0", "1", ..."""
        return cls("classification", tuple(map(str, range(classes))))

    @property
    def is_binary(self) -> bool:
        """Whether the task is the classification of two classes."""
        return self.name == "classification" and len(self.classes) == 2

    @property
    def outputs(self) -> int:
        """Number of outputs of an estimator per event: 1 for two classes, else one for each class, label or target."""
        return 1 if self.is_binary else len(self.classes)

    def probe(self, output: np.ndarray, perturbed: Callable[[], np.ndarray], where: Path) -> tuple[int, Output]:
        """Detect the meaning of a model's raw outputs from their range for large random inputs.

        Values within [0, 1] (that add up to 1, if there are several classes) are probabilities. Negative values whose
        exponentials add up to 1 are log-probabilities. Anything else is logits.

        Args:
            output: (events, k), for `probe_inputs`.
            perturbed: returns outputs with noise added to the weights. It is called if `output` is the same for all
                events, for example because the last layer is initialised with zeros.

        Returns:
            Number of outputs per event, and their meaning.

        Raises:
            ConfigError: the number of outputs does not fit the labels.
        """
        classes = len(self.classes)
        if output.ndim != 2 or output.shape[1] not in {self.outputs, classes}:
            noun = {"classification": "class", "multilabel": "label", "regression": "target"}[self.name]
            need = "1 or 2 numbers per event" if self.is_binary else f"{classes} numbers per event, one for each {noun}"
            raise ConfigError(
                f"the model of {where} returns an output of shape {('n', *output.shape[1:])}".replace("'", ""),
                hint=f"it must return {need}",
            )
        return output.shape[1], self._kind(perturbed() if _is_constant(output) else output)

    def _kind(self, output: np.ndarray) -> Output:
        if self.name == "regression":
            return "numbers"
        if _is_constant(output):
            return "logits"
        count = 1 if self.name == "multilabel" else output.shape[1]  # probabilities of labels need not add up to 1
        if _are_probabilities(output, count):
            return "probabilities"
        if count > 1 and (output <= 0).all() and _are_probabilities(np.exp(output), count):
            return "log_probabilities"
        return "logits"

    def target(self, y: np.ndarray, outputs: int) -> np.ndarray:
        """Return the target of a loss.

        Args:
            y: as in `Batch.y`.
            outputs: number of outputs of the model per event.

        Returns:
            int64 (events,), the class, if the model has one output for each class; else float32 (events, outputs).
        """
        if self.name == "regression":
            z: np.ndarray = ((y - np.array(self.centre)) / np.array(self.spread)).astype(np.float32)
            return z
        if self.name == "classification":
            return y if outputs > 1 else y[:, None].astype(np.float32)
        return y

    def made_up_labels(self, events: int) -> np.ndarray:
        """Return labels of a classification or multi-label task, as in `Batch.y`, with all classes."""
        numbers = np.arange(events)
        if self.name == "classification":
            return numbers % len(self.classes)
        return ((numbers[:, None] + np.arange(len(self.classes))) % 2).astype(np.float32)

    def differences(self, scores: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """Return the largest difference between the scores of each event, float64 (events,).

        For regression the difference is divided by the estimate or the spread, whichever is larger, because float32
        has a precision of 24 bits. Where scores are not finite, the difference is 0 if the expected ones are not finite
        either, and otherwise infinite.

        Args:
            scores, expected: (events, outputs).
        """
        found, finite = np.isfinite(scores).all(axis=1), np.isfinite(expected).all(axis=1)
        differences = np.where(found == finite, 0.0, np.inf)
        both = found & finite
        unit = np.maximum(self.spread or 1.0, np.abs(expected[both]))
        differences[both] = (np.abs(scores[both] - expected[both]) / unit).max(axis=1)
        return differences

    def metrics(self, y: np.ndarray, scores: np.ndarray, weight: np.ndarray) -> dict[str, float]:
        """Return metrics by name.

        Classification: "loss" (cross-entropy in nats), "accuracy", "auc". Multi-label: the means of these over the
        labels. Regression: "loss" (mean squared error of standardised targets), and in the units of the targets "rmse"
        (root mean squared error), "mae" (mean absolute error) and "bias" (mean error), for each target as rmse_NAME if
        there are several.
        """
        if self.name == "classification":
            return _class_metrics(y, scores, weight)
        if self.name == "multilabel":
            labels = zip(y.T.astype(np.int64), scores.T[:, :, None], strict=True)
            by_label = [_class_metrics(*label, weight) for label in labels]
            return {name: float(np.mean([metrics[name] for metrics in by_label])) for name in by_label[0]}
        errors = scores.astype(np.float64) - y
        metrics = {"loss": float(np.average(((errors / self.spread) ** 2).mean(axis=1), weights=weight))}
        for index, name in enumerate(self.classes):
            suffix = f"_{name}" if len(self.classes) > 1 else ""
            error = errors[:, index]
            metrics[f"rmse{suffix}"] = float(np.sqrt(np.average(error**2, weights=weight)))
            metrics[f"mae{suffix}"] = float(np.average(np.abs(error), weights=weight))
            metrics[f"bias{suffix}"] = float(np.average(error, weights=weight))
        return metrics


def _class_metrics(y: np.ndarray, scores: np.ndarray, weight: np.ndarray) -> dict[str, float]:
    functions = {"loss": cross_entropy, "accuracy": accuracy, "auc": auc}
    return {name: function(y, scores, weight) for name, function in functions.items()}


def _is_constant(output: np.ndarray) -> bool:
    return bool((output == output[:1]).all())


def _are_probabilities(output: np.ndarray, count: int) -> bool:
    inside = bool(((output >= 0) & (output <= 1)).all())
    return inside and (count == 1 or bool(np.allclose(output.sum(axis=1), 1, atol=1e-4)))
