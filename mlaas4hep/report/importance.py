"""Permutation importance: how much the metric of a model degrades when one branch is permuted among events.

    result = permutation_importance(backend, generator.examples(5000), generator.sample.inputs, task)
    result.drops[0].branch, result.drops[0].value, result.drops[0].uncertainty

All columns of a list and their masks are permuted together (Breiman, Machine Learning 45, 5, 2001). Strongly correlated
branches may each look unimportant.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from mlaas4hep.backends.metrics import auc
from mlaas4hep.backends.protocol import Backend
from mlaas4hep.backends.task import Task
from mlaas4hep.reader.inputs import Input, Inputs
from mlaas4hep.reader.layout import Slot
from mlaas4hep.reader.objects import ObjectLayout
from mlaas4hep.stream import Batch

MAX_EVENTS, RANKING_EVENTS = 5000, 1000
"""Number of events for the result, and for the preliminary ranking of all branches."""

MAX_BRANCHES, REPEATS = 30, 5
"""Number of branches in the result, and of permutations of each."""

Column = tuple[Input, Slot]
"""The columns of a branch in one input."""

TIME_LIMIT = 20.0
"""Approximate time limit in seconds; for slow models, fewer branches, events or permutations are used."""


@dataclass(frozen=True, slots=True)
class Drop:
    """The importance of a branch.

    Attributes:
        branch: name of the branch.
        value: decrease of the AUC, or increase of the loss.
        uncertainty: standard deviation of the value for a branch without information.
    """

    branch: str
    value: float
    uncertainty: float


@dataclass(frozen=True)
class Importance:
    """The most important branches.

    Attributes:
        measure: "AUC" for two classes; "loss" for other tasks, and if a class is missing.
        drops: in decreasing order.
        tried: number of branches in the preliminary ranking.
        branches: number of all branches.
        events: number of events used.
        repeats: number of permutations of each branch.
    """

    measure: str
    drops: tuple[Drop, ...]
    tried: int
    branches: int
    events: int
    repeats: int

    @property
    def change(self) -> str:
        """Description of the values of `drops`."""
        return "decrease of the AUC" if self.measure == "AUC" else "increase of the loss"


def permutation_importance(
    backend: Backend, events: Batch, inputs: Inputs, task: Task, seed: int = 0, seconds: float = TIME_LIMIT
) -> Importance:
    """Return the branches with the largest importance.

    A single permutation of `RANKING_EVENTS` events ranks the branches, as many as half of the time limit allows. The
    first `MAX_BRANCHES` are then measured in the remaining time.

    Args:
        backend: the trained model.
        events: normalised events; not modified.
        inputs: the inputs of the model.
        task: the task of the model.
        seed: seed of the permutations.
        seconds: approximate time limit.
    """
    start, rng = time.perf_counter(), np.random.default_rng(seed)
    columns = _columns_by_branch(inputs)
    sample = _Sample(backend, events[: min(RANKING_EVENTS, len(events))], task)
    ranking: dict[str, float] = {}
    for branch in rng.permutation(sorted(columns)).tolist():  # a random order, so that the time limit has no bias
        ranking[branch] = sample.drop(columns[branch], rng)
        if time.perf_counter() - start > seconds / 2:
            break
    best = sorted(ranking, key=lambda branch: -ranking[branch])[:MAX_BRANCHES]
    used = time.perf_counter() - start
    affordable = int((seconds - used) / used * len(ranking) / (len(best) * REPEATS) * RANKING_EVENTS) if best else 0
    sample = _Sample(backend, events[: max(RANKING_EVENTS, affordable)], task)
    values: dict[str, list[float]] = {branch: [] for branch in best}
    repeats = 0
    for repeats in range(1, REPEATS + 1):
        for branch in best:
            values[branch].append(sample.drop(columns[branch], rng))
        if repeats > 1 and time.perf_counter() - start > seconds:
            break
    drops = sorted((_mean_drop(branch, each) for branch, each in values.items()), key=lambda drop: -drop.value)
    return Importance(sample.measure, tuple(drops), len(ranking), len(columns), len(sample), repeats)


def _mean_drop(branch: str, values: Sequence[float]) -> Drop:
    """Return the mean; its error includes that of the unpermuted metric, one more permutation without information."""
    return Drop(branch, float(np.mean(values)), float(np.std(values, ddof=1) * np.sqrt(1 + 1 / len(values))))


class _Sample:
    """Events with a modifiable copy of their inputs, and the metric of the model on the unmodified inputs."""

    def __init__(self, backend: Backend, events: Batch, task: Task) -> None:
        self._backend = backend
        self._task = task
        self._events = events
        self._inputs = {name: np.array(values) for name, values in events.inputs.items()}
        scores = self._scores()
        has_auc = task.is_binary and bool(np.isfinite(auc(events.y, scores, events.weight)))
        self.measure = "AUC" if has_auc else "loss"
        self._unpermuted = self._loss(scores)

    def __len__(self) -> int:
        return len(self._events)

    def drop(self, columns: Sequence[Column], rng: np.random.Generator) -> float:
        """Return the degradation of the metric with these columns permuted."""
        with _permuted(self._inputs, columns, rng):
            return self._loss(self._scores()) - self._unpermuted

    def _scores(self) -> np.ndarray:
        """Predict in batches, since models over objects may need much memory per event."""
        size = RANKING_EVENTS
        starts = range(0, len(self._events), size)
        batches = ({name: values[start : start + size] for name, values in self._inputs.items()} for start in starts)
        return np.concatenate([self._backend.predict(batch) for batch in batches])

    def _loss(self, scores: np.ndarray) -> float:
        if self.measure == "AUC":
            return -auc(self._events.y, scores, self._events.weight)
        return self._task.metrics(self._events.y, scores, self._events.weight)["loss"]


def _columns_by_branch(inputs: Inputs) -> dict[str, list[Column]]:
    """Return the columns that contain each branch."""
    columns: dict[str, list[Column]] = {}
    for member in inputs.members:
        for slot in member.layout.slots:
            if slot.width:
                columns.setdefault(slot.branch, []).append((member, slot))
    return columns


@contextmanager
def _permuted(inputs: Mapping[str, np.ndarray], columns: Sequence[Column], rng: np.random.Generator) -> Iterator[None]:
    """Permute the values of a branch among events within the block, and restore them afterwards."""
    order = rng.permutation(len(next(iter(inputs.values()))))
    permuted: list[tuple[np.ndarray, np.ndarray]] = []
    for member, slot in columns:
        x, mask, selected = inputs[member.name], inputs[member.mask], slice(slot.first, slot.first + slot.width)
        if isinstance(member.layout, ObjectLayout):
            values = x[..., selected]
            if mask.ndim == 2:
                permuted.append(_reorder(values, _order_within_counts(mask, rng)))
            else:
                permuted.append(_shuffle(values, mask, rng))
        else:
            permuted += [_reorder(x[:, selected], order), _reorder(mask[:, selected], order)]
    yield
    for view, original in permuted:
        view[...] = original


def _reorder(view: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reorder the rows of a view; return the view and a copy of its original values."""
    original = view.copy()
    view[...] = original[order]
    return view, original


def _shuffle(view: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Permute the parts of all objects; return the view and a copy of its original values."""
    original = view.copy()
    view[mask] = rng.permutation(original[mask])
    return view, original


def _order_within_counts(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a permutation among events with equal numbers of objects, since other features reveal this number."""
    count = mask.sum(axis=1)
    order = np.empty(len(mask), np.int64)
    order[np.argsort(count, kind="stable")] = np.lexsort((rng.random(len(mask)), count))
    return order
