"""How much worse a model is when it cannot know a branch: permutation importance.

    found = permutation_importance(backend, generator.examples(5000), generator.sample.inputs, task)
    found.drops[0].branch, found.drops[0].value, found.drops[0].uncertainty

The values of one branch are dealt out to other events, all columns of a list and their masks together, and the model
is asked again (Breiman, Machine Learning 45, 5, 2001). Of branches that say the same, each may look unimportant.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from mlaas4hep.reader.inputs import Input, Inputs
from mlaas4hep.reader.layout import Slot
from mlaas4hep.reader.objects import ObjectLayout
from mlaas4hep.stream import Batch
from mlaas4hep.training.backend import Backend
from mlaas4hep.training.metrics import auc
from mlaas4hep.training.task import Task

EVENTS, FEW = 5000, 1000
"""How many events the figures are of, and how many a first look at all branches takes."""

BEST, REPEATS = 30, 5
"""How many branches get figures, and how often each is dealt out."""

SECONDS = 20.0
"""About how long it may take; a slow model gets figures of fewer branches, events or repeats."""


@dataclass(frozen=True, slots=True)
class Drop:
    """How much worse the model is without a branch.

    Attributes:
        value: drop of the AUC, or rise of the loss.
        uncertainty: by how much a branch that says nothing scatters around 0.
    """

    branch: str
    value: float
    uncertainty: float


@dataclass(frozen=True)
class Importance:
    """The most important branches.

    Attributes:
        measure: "AUC" of two classes, else "loss", also where a class is missing.
        drops: the largest first.
        tried, branches: how many branches had a first look, and how many there are.
        events, repeats: that the figures are of.
    """

    measure: str
    drops: tuple[Drop, ...]
    tried: int
    branches: int
    events: int
    repeats: int


def permutation_importance(
    backend: Backend, events: Batch, inputs: Inputs, task: Task, seed: int = 0, seconds: float = SECONDS
) -> Importance:
    """Return which branches the model needs most.

    One permutation of FEW events ranks all branches, as many as half of the time allows; of the BEST, the rest of the
    time gives figures.

    Args:
        events: normalised; not changed.
        inputs: that the events were made by.
        task: of the model.
    """
    start, rng = time.perf_counter(), np.random.default_rng(seed)
    places = _places(inputs)
    sample = _Sample(backend, events[: min(FEW, len(events))], task)
    first: dict[str, float] = {}
    for branch in rng.permutation(sorted(places)).tolist():  # so that no kind of branch is always left out
        first[branch] = sample.drop(places[branch], rng)
        if time.perf_counter() - start > seconds / 2:
            break
    best = sorted(first, key=lambda branch: -first[branch])[:BEST]
    used = time.perf_counter() - start
    affordable = int((seconds - used) / used * len(first) / (len(best) * REPEATS) * FEW) if best else 0
    sample = _Sample(backend, events[: max(FEW, affordable)], task)
    drops: dict[str, list[float]] = {branch: [] for branch in best}
    repeats = 0
    for repeats in range(1, REPEATS + 1):
        for branch in best:
            drops[branch].append(sample.drop(places[branch], rng))
        if repeats > 1 and time.perf_counter() - start > seconds:
            break
    figures = sorted((_figure(branch, values) for branch, values in drops.items()), key=lambda drop: -drop.value)
    return Importance(sample.measure, tuple(figures), len(first), len(places), len(sample), repeats)


def _figure(branch: str, drops: Sequence[float]) -> Drop:
    """The true order is one more permutation for a branch that says nothing, so the difference has both errors."""
    return Drop(branch, float(np.mean(drops)), float(np.std(drops, ddof=1) * np.sqrt(1 + 1 / len(drops))))


class _Sample:
    """Some events, a copy that may be changed for a while, and how well the model does on them as they are."""

    def __init__(self, backend: Backend, events: Batch, task: Task) -> None:
        self._backend = backend
        self._task = task
        self._events = events
        self._inputs = {name: np.array(values) for name, values in events.inputs.items()}
        scores = self._scores()
        two = task.name == "classification" and len(task.classes) == 2
        two = two and bool(np.isfinite(auc(events.y, scores, events.weight)))
        self.measure = "AUC" if two else "loss"
        self._base = self._badness(scores)

    def __len__(self) -> int:
        return len(self._events)

    def drop(self, places: Sequence[tuple[Input, Slot]], rng: np.random.Generator) -> float:
        """Return how much worse the model is with one branch dealt out anew."""
        with _permuted(self._inputs, places, rng):
            return self._badness(self._scores()) - self._base

    def _scores(self) -> np.ndarray:
        """FEW events at a time, since a model over objects may need much memory for each."""
        steps = range(0, len(self._events), FEW)
        cut = ({name: values[step : step + FEW] for name, values in self._inputs.items()} for step in steps)
        return np.concatenate([self._backend.predict(some) for some in cut])

    def _badness(self, scores: np.ndarray) -> float:
        if self.measure == "AUC":
            return -auc(self._events.y, scores, self._events.weight)
        return self._task.figures(self._events.y, scores, self._events.weight)["loss"]


def _places(inputs: Inputs) -> dict[str, list[tuple[Input, Slot]]]:
    """Return where the inputs hold each branch."""
    found: dict[str, list[tuple[Input, Slot]]] = {}
    for one in inputs.members:
        for slot in one.layout.slots:
            if slot.width:
                found.setdefault(slot.branch, []).append((one, slot))
    return found


@contextmanager
def _permuted(
    inputs: Mapping[str, np.ndarray], places: Sequence[tuple[Input, Slot]], rng: np.random.Generator
) -> Iterator[None]:
    """Deal the values of a branch out to other events, and take them back."""
    order = rng.permutation(len(next(iter(inputs.values()))))
    changed: list[tuple[np.ndarray, np.ndarray]] = []
    for one, slot in places:
        x, mask, columns = inputs[one.name], inputs[one.mask], slice(slot.first, slot.first + slot.width)
        if isinstance(one.layout, ObjectLayout):
            changed.append(_deal(x[:, :, columns], _among_alike(mask, rng)))
        else:
            changed += [_deal(x[:, columns], order), _deal(mask[:, columns], order)]
    yield
    for view, original in changed:
        view[...] = original


def _deal(view: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reorder the rows of a view; return it, and what it was."""
    original = view.copy()
    view[...] = original[order]
    return view, original


def _among_alike(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a permutation among events with the same number of objects, which the other features still tell."""
    count = mask.sum(axis=1)
    order = np.empty(len(mask), np.int64)
    order[np.argsort(count, kind="stable")] = np.lexsort((rng.random(len(mask)), count))
    return order
