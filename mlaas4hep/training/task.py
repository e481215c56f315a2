"""What a model is for: telling classes apart, setting labels, or estimating numbers; and how good it is at that.

    task = Task.of(generator.sample.labels)
    task.figures(y, scores, weight)               # {"loss": 0.42, "accuracy": 0.8, "auc": 0.87}

Scores are what a bundle gives for an event: probabilities, or numbers in the units of the labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mlaas4hep.config import TaskName
from mlaas4hep.errors import ConfigError
from mlaas4hep.stream.labels import Labels
from mlaas4hep.training.metrics import accuracy, auc, cross_entropy

Output = Literal["logits", "probabilities", "log_probabilities", "numbers"]
"""What a model's own outputs are; numbers are targets, standardised."""

TOLERANCE = 1e-5
"""How far the scores of a model's ONNX graph may lie from its own; see `Task.difference`."""


@dataclass(frozen=True)
class Task:
    """What is to be learnt.

    Attributes:
        name: the kind.
        classes: names of the classes, labels or targets.
        centre, spread: of regression: the model sees (target - centre) / spread.
    """

    name: TaskName
    classes: tuple[str, ...]
    centre: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    @classmethod
    def of(cls, labels: Labels) -> Task:
        """Return the task of some labels."""
        return cls(labels.task, labels.classes, labels.centre, labels.spread)

    @classmethod
    def classification(cls, classes: int) -> Task:
        """Return the task of telling so many classes apart, whose names do not matter."""
        return cls("classification", tuple(map(str, range(classes))))

    def probe(self, output: np.ndarray, shaken: Callable[[], np.ndarray], where: Path) -> tuple[int, Output]:
        """Find out what a model's outputs are, from outputs (events, k) for large random inputs.

        Args:
            shaken: gives outputs by other weights; asked where those of the first are the same for all events, as of a
                last layer that begins with zeros, and tell nothing.

        Raises:
            ConfigError: the number of outputs does not fit the labels.
        """
        classes = len(self.classes)
        both = self.name == "classification" and classes == 2
        if output.ndim != 2 or output.shape[1] not in ({1, 2} if both else {classes}):
            need = "1 or 2 numbers an event" if both else f"{classes} numbers an event, one for each {self._noun}"
            raise ConfigError(
                f"the model of {where} gives an output of shape {('n', *output.shape[1:])}".replace("'", ""),
                hint=f"it must give {need}",
            )
        return output.shape[1], self._kind(shaken() if _is_constant(output) else output)

    @property
    def _noun(self) -> str:
        return {"classification": "class", "multilabel": "label", "regression": "target"}[self.name]

    def _kind(self, output: np.ndarray) -> Output:
        if self.name == "regression":
            return "numbers"
        if _is_constant(output):
            return "logits"
        count = 1 if self.name == "multilabel" else output.shape[1]  # probabilities of labels need not add up
        if _are_probabilities(output, count):
            return "probabilities"
        if count > 1 and (output <= 0).all() and _are_probabilities(np.exp(output), count):
            return "log_probabilities"
        return "logits"

    def target(self, y: np.ndarray, outputs: int) -> np.ndarray:
        """Return what a loss compares outputs with.

        Args:
            y: as batches have it.
            outputs: numbers that the model gives for an event.

        Returns:
            int64 (events,), the class, where there is an output for each; else float32 (events, outputs).
        """
        if self.name == "regression":
            z: np.ndarray = ((y - np.array(self.centre)) / np.array(self.spread)).astype(np.float32)
            return z
        if self.name == "classification":
            return y if outputs > 1 else y[:, None].astype(np.float32)
        return y

    def difference(self, scores: np.ndarray, expected: np.ndarray) -> float:
        """Return by how much scores (events, k) differ from what they should be, at most; NaN if any of them is.

        Of numbers that are estimated it is a share of their size or spread, whichever is larger: float32 has 24 bits.
        """
        unit = np.maximum(self.spread or 1.0, np.abs(expected))
        return float((np.abs(scores - expected) / unit).max(initial=0.0))

    def figures(self, y: np.ndarray, scores: np.ndarray, weight: np.ndarray) -> dict[str, float]:
        """Return the figures of merit by name, "loss" among them.

        Of classes loss (cross-entropy in nats), accuracy and AUC; of labels the same as means over them; of targets
        loss (mean square error of standardised targets), and root mean square and mean absolute error and mean
        difference (bias) in their own units, by target if there are several.
        """
        if self.name == "classification":
            return {
                "loss": cross_entropy(y, scores, weight),
                "accuracy": accuracy(y, scores, weight),
                "auc": auc(y, scores, weight),
            }
        if self.name == "multilabel":
            return _mean_of(self.classes, lambda label: _label_figures(y[:, label], scores[:, label], weight))
        errors = scores.astype(np.float64) - y
        loss = float(np.average(((errors / self.spread) ** 2).mean(axis=1), weights=weight))
        found = {"loss": loss}
        for index, name in enumerate(self.classes):
            suffix = f"_{name}" if len(self.classes) > 1 else ""
            error = errors[:, index]
            found[f"rmse{suffix}"] = float(np.sqrt(np.average(error**2, weights=weight)))
            found[f"mae{suffix}"] = float(np.average(np.abs(error), weights=weight))
            found[f"bias{suffix}"] = float(np.average(error, weights=weight))
        return found


def _label_figures(y: np.ndarray, score: np.ndarray, weight: np.ndarray) -> dict[str, float]:
    whether, scores = y.astype(np.int64), score[:, None]
    return {
        "loss": cross_entropy(whether, scores, weight),
        "accuracy": accuracy(whether, scores, weight),
        "auc": auc(whether, scores, weight),
    }


def _mean_of(classes: tuple[str, ...], figures: Callable[[int], dict[str, float]]) -> dict[str, float]:
    every = [figures(label) for label in range(len(classes))]
    return {name: float(np.mean([one[name] for one in every])) for name in every[0]}


def _is_constant(output: np.ndarray) -> bool:
    return bool((output == output[:1]).all())


def _are_probabilities(output: np.ndarray, count: int) -> bool:
    inside = bool(((output >= 0) & (output <= 1)).all())
    return inside and (count == 1 or bool(np.allclose(output.sum(axis=1), 1, atol=1e-4)))
