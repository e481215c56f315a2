"""Export a model to ONNX, and check that the graph gives the scores of the model.

    exported = export_checked(backend, content, fold=0, task=task, path=Path("model.onnx"))
    exported.graph                      # from raw events to scores; model.onnx is the graph of the model alone

A backend may have several exporters. The first one whose graph gives the same scores is used.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep import console
from mlaas4hep.backends.make import preserved_random_state
from mlaas4hep.backends.model_file import ModelFile
from mlaas4hep.backends.protocol import Backend, NothingLearned, OneShotBackend
from mlaas4hep.backends.task import TOLERANCE, Task
from mlaas4hep.errors import ConfigError, MLaaS4HEPError, error_summary, require
from mlaas4hep.stream import BatchSource
from mlaas4hep.training.compared_events import ComparedEvents
from mlaas4hep.training.onnx_session import new_session
from mlaas4hep.training.trained import SampleContent
from mlaas4hep.write_errors import write_errno

TRIAL_EVENTS = 200
"""Minimum number of events to which one-shot models are fitted before the training, to check their export."""

SINGLE_EVENTS = 5
"""Number of compared events that are also scored one by one."""


@dataclass(frozen=True)
class ExportedGraph:
    """A graph that gives the scores of its model.

    Attributes:
        graph: the ONNX graph from raw events to scores.
        events: the events that were compared.
        scores: their scores, float32 (events, outputs).
    """

    graph: Any
    events: ComparedEvents
    scores: np.ndarray

    @property
    def undefined(self) -> str:
        """Describe the events for which the model's scores are not finite; "" if there are none."""
        rows = np.flatnonzero(~np.isfinite(self.scores).all(axis=1))
        if not len(rows):
            return ""
        first = _event(self.events, int(rows[0]))
        return f"{len(rows)} of {len(self.scores)} events that were compared, for example for {first}"


class ScoresDiffer(ConfigError):
    """A model was exported, but its graph gives other scores."""


def check_export(backend: Backend, source: BatchSource, content: SampleContent, file: ModelFile) -> None:
    """Export a model, with folds the first one, before its training, and report in a notice if it cannot be served.

    Networks are exported with their initial weights; one-shot models are fitted to a few events. The random number
    generators are restored.

    Raises:
        ConfigError: the model cannot be exported, and can be saved in no other format.
    """
    task = Task.of(source.labels)
    with preserved_random_state(), tempfile.TemporaryDirectory(prefix="mlaas4hep-export-") as folder:
        model = _fitted_to_few_events(backend, source, task) if isinstance(backend, OneShotBackend) else backend
        if model is None:
            return
        try:
            exported = export_checked(model, content, 0, task, Path(folder) / "network.onnx")
        except NothingLearned:
            return  # from so few events
        except MLaaS4HEPError as error:
            if not backend.native_file and not isinstance(error, ScoresDiffer):
                raise ConfigError(
                    f"{backend.size()} of {file.path} cannot be exported to ONNX, the only format in which"
                    f" estimators are saved: {error}",
                    hint="use other steps or another estimator",
                ) from error
            console.notice(f"the model can be trained, but it cannot be served as it is: {error}")
        else:
            if exported.undefined:
                console.notice(f"the scores of the untrained model are not finite for {exported.undefined}")


def _fitted_to_few_events(backend: OneShotBackend, source: BatchSource, task: Task) -> Backend | None:
    """Return a copy of a model that is fitted to a few events, with made-up classes; None if it cannot be fitted."""
    count = max(TRIAL_EVENTS, 2 * len(task.classes))
    batch = source.examples(count, part=None)
    batch = batch[np.arange(count) % len(batch)]
    y = batch.y if task.name == "regression" else task.made_up_labels(count)
    batch = replace(batch, y=y, weight=np.ones(count, np.float32))
    short = backend.short_copy()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            short.fit(lambda _: [batch], lambda: [batch], lambda *_: None)
    except Exception:  # these events may not suffice; a mistake of the model file is reported by the training
        return None
    return short


def export_checked(backend: Backend, content: SampleContent, fold: int, task: Task, path: Path) -> ExportedGraph:
    """Export the model of a fold; `path` is the file of the graph of the model alone.

    Raises:
        ConfigError: the scores of an event depend on the other events, or no exporter gives a graph with the scores of
            the model. The reason is that of the first exporter.
    """
    onnx = require("onnx", "keras", "writing ONNX")
    events = content.compared_events(fold)
    scores = independent_scores(backend, events, task)
    problem: Exception | None = None
    for exporter in backend.exporters:
        try:
            backend.export(path, exporter)
            graph = content.scoring_graph(onnx.load(str(path)), backend.takes, fold)
            check_scores(graph, events, scores, task)
            return ExportedGraph(graph, events, scores)
        except Exception as error:  # exporters raise errors of any type
            if write_errno(error):  # not a failed export
                raise
            problem = problem or error
    path.unlink(missing_ok=True)
    assert problem is not None
    if isinstance(problem, MLaaS4HEPError):
        raise problem
    raise ConfigError(f"the export to ONNX failed: {error_summary(problem)}") from problem


def independent_scores(backend: Backend, events: ComparedEvents, task: Task) -> np.ndarray:
    """Return the scores of a model for some events, float32 (events, outputs).

    Raises:
        ConfigError: single events have other scores.
    """
    scores = backend.predict(events.inputs)
    count = min(SINGLE_EVENTS, len(events))
    rows = [{name: values[row : row + 1] for name, values in events.inputs.items()} for row in range(count)]
    single = np.concatenate([backend.predict(row) for row in rows])
    differences = task.differences(single, scores[:count])
    if not differences.max() <= TOLERANCE:
        raise ConfigError(
            "the scores of the model depend on the other events in the batch: they differ by up to"
            f" {differences.max():.2g}",
            hint="predictions must not be random, and must not use means over the batch",
        )
    return scores


def check_scores(graph: Any, events: ComparedEvents, expected: np.ndarray, task: Task) -> None:
    """Check that an ONNX graph gives the expected scores, also for single events; nothing without ONNX Runtime.

    Args:
        graph: ONNX graph from raw events to scores.
        expected: float32 (events, outputs). Where they are not finite, those of the graph must not be, either.

    Raises:
        ConfigError: the scores differ.
    """
    try:
        session = new_session(graph.SerializeToString())
    except ModuleNotFoundError:
        return  # onnxruntime is optional for training
    count = min(SINGLE_EVENTS, len(events))
    raws = [events.raw, *(events.raw[row : row + 1] for row in range(count))]
    scores = np.concatenate([session.run(["scores"], {"inputs": raw})[0] for raw in raws])
    differences = task.differences(scores, np.concatenate([expected, expected[:count]]))
    worst = int(differences.argmax())
    if not differences[worst] <= TOLERANCE:
        row = worst if worst < len(events) else worst - len(events)
        found, needed = (", ".join(f"{value:.6g}" for value in values) for values in (scores[worst], expected[row]))
        raise ScoresDiffer(
            f"the scores of the ONNX graph differ from those of the model, for example for {_event(events, row)}:"
            f" {found} instead of {needed}",
            hint="the prediction may be random, or use operations that ONNX does not support",
        )


def _event(events: ComparedEvents, row: int) -> str:
    name = events.names[row]
    return f"an event {name}" if name.startswith("with") else name
