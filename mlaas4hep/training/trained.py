"""A trained model with everything that its bundle and its report need.

`run` and `images.train` create a `TrainedModel`; `bundle` writes it to a folder, `report` to an HTML page. A
`SampleContent` describes the sample: `event_content` for events, `images.content` for images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mlaas4hep.backends.metrics import auc_uncertainty, effective_events
from mlaas4hep.backends.model_file import ModelFile
from mlaas4hep.backends.protocol import Backend
from mlaas4hep.stream import PARTS, Batch, BatchSource
from mlaas4hep.training.compared_events import ComparedEvents
from mlaas4hep.training.history import History
from mlaas4hep.training.loop import PART_NAMES, Predictions

EXTRA_METRICS = ("auc_uncertainty", "events")
"""Keys of the test set in metrics.json in addition to the metrics of the task and of the model file."""

Section = tuple[str, Callable[[], str]]
"""A section of a report: its title, and a function that returns its HTML."""


class SampleContent(Protocol):
    """The description of the sample for a bundle and its report.

    Attributes:
        channels: 1 or 3 for images, 0 for events.
        packages: packages that read the sample; training.json lists their versions.
    """

    channels: int
    packages: Sequence[str]

    def params(self) -> dict[str, Any]:
        """Return the parameters that apply to the sample and its training, for training.json."""

    def describe(self) -> dict[str, Any]:
        """Return the entries of training.json about the sample."""

    def write(self, folder: Path, fold: int | None = None) -> None:
        """Write the files about the sample to a bundle, or to the folder of a fold."""

    def example(self, name: str, count: int) -> dict[str, Any] | None:
        """Return the content of example.json for a model: some test events with their labels; None: no example.json."""
        return None

    def watch(self, batch: Batch, fold: int) -> None:
        """Take note of unusual events among those that the model of a fold is evaluated on."""
        return

    def compared_events(self, fold: int) -> ComparedEvents:
        """Return the events for which the ONNX graph of a fold must give the scores of its model."""

    def scoring_graph(self, network: Any, takes: Sequence[str], fold: int) -> Any:
        """Return the ONNX graph from raw events (`inputs`) to `scores`.

        Args:
            network: ONNX graph of the model alone.
            takes: names of its inputs and masks, in order.
            fold: index of the fold.
        """

    def graph_metadata(self) -> dict[str, str]:
        """Return the metadata of the ONNX graph that describe its inputs."""
        return {}

    def missing_value(self) -> float | None:
        """Return a number that no event of the sample contains, see `protocol.missing_value`; None if there is none."""
        return None

    def write_derived(self, folder: Path, trained: TrainedModel) -> dict[str, Any]:
        """Write files that are derived from the ONNX graph; return additional entries of metrics.json."""
        return {}

    def metrics(self) -> dict[str, Any]:
        """Return additional entries of metrics.json about the sample."""
        return {}

    def skipped_data(self) -> Sequence[str]:
        """Return messages about data that could not be read."""
        return ()

    def sample_section(self, training: Mapping[str, Any]) -> str:
        """Return HTML about the files and the split of the sample; `training` is the content of training.json."""

    def first_sections(self) -> Sequence[Section]:
        """Return the sections of the report before the section about training."""

    def last_sections(self, trained: TrainedModel) -> Sequence[Section]:
        """Return the sections of the report after the sections about scores."""


@dataclass(frozen=True)
class Fit:
    """The model of one fold, or the only model.

    Attributes:
        source: the batches of this model.
        history: its epochs.
        train, valid, test: predictions with the weights of the best epoch.
    """

    backend: Backend
    source: BatchSource
    history: History
    train: Predictions
    valid: Predictions
    test: Predictions

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of the test set, the training set and all epochs, as in metrics.json."""
        return {
            "test": _finite({**self.test.metrics(), "events": len(self.test.y)}),
            "train": _finite(self.train.metrics()),
            "best_epoch": self.history.best,
            "epochs": [_finite(epoch) for epoch in self.history.to_json()],
        }


@dataclass(frozen=True)
class TrainedModel:
    """A model, or one model per fold, and the run that trained it.

    Attributes:
        name: name of the model on a server.
        source: the whole sample.
        content: describes the sample.
        fits: the only model, or the models of all folds.
        key: identifies events, parameters and model file.
        custom_metrics: values of the model file's `metrics` for the test set.
    """

    name: str
    file: ModelFile
    source: BatchSource
    content: SampleContent
    fits: tuple[Fit, ...]
    key: str
    custom_metrics: dict[str, float] = field(default_factory=dict)

    @property
    def backend(self) -> Backend:
        """The model; with folds the first one."""
        return self.fits[0].backend

    @property
    def folds(self) -> bool:
        """Whether there is one model per fold."""
        return bool(self.source.params.kfold)

    @cached_property
    def test(self) -> Predictions:
        """Predictions for the test set; with folds for all events, by the model that was not trained on the event."""
        parts = [fit.test for fit in self.fits]
        columns = ([getattr(part, name) for part in parts] for name in ("y", "scores", "weight"))
        y, scores, weight = map(np.concatenate, columns)
        return Predictions(y, scores, weight, parts[0].task)

    def metrics(self) -> dict[str, Any]:
        """Return the content of metrics.json."""
        test: dict[str, float | int] = {**self.test.metrics(), **self.custom_metrics}
        if self.test.task.is_binary:
            background, signal = (effective_events(self.test.weight[self.test.y == label]) for label in (0, 1))
            test["auc_uncertainty"] = auc_uncertainty(test["auc"], signal, background)
        test["events"] = len(self.test.y)
        folds = {"folds": [fit.metrics() for fit in self.fits]} if self.folds else {}
        return {**self.fits[0].metrics(), "test": _finite(test), **folds, **self.content.metrics()}


def _finite(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return metrics with None for values that are not finite, such as the AUC of a set without one of the classes."""
    return {key: value if np.isfinite(value) else None for key, value in metrics.items()}


def describe_split(shares: Sequence[float]) -> str:
    """Return a description of the split: "70% training, 15% validation, 15% test"."""
    return ", ".join(f"{share:.0%} {PART_NAMES[part]}" for part, share in zip(PARTS, shares, strict=True))
