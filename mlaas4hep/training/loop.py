"""Epochs over the whole sample, until the validation loss gets no better.

    history = train(source, backend, params)

The loop knows neither files nor frameworks; the weights of the best epoch are the ones that stay. With a checkpoint,
a run that was killed goes on from its last batch that was saved, and ends as it would have.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from mlaas4hep import console
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError
from mlaas4hep.stream import Batch, BatchSource
from mlaas4hep.stream.census import Composition
from mlaas4hep.stream.labels import Labels
from mlaas4hep.stream.split import PARTS
from mlaas4hep.training.backend import AtOnce, Backend, Stepwise
from mlaas4hep.training.checkpoint import Checkpoint, Standing
from mlaas4hep.training.stopping import PATIENCE, Stop, Stopped
from mlaas4hep.training.task import Task


@dataclass(frozen=True)
class Scored:
    """The events of one part, with the model's scores.

    Attributes:
        y: as batches have it.
        scores: float32 (events, outputs).
        weight: float32 (events,).
        task: what the scores are.
    """

    y: np.ndarray
    scores: np.ndarray
    weight: np.ndarray
    task: Task

    def figures(self) -> dict[str, float]:
        """Return the figures of merit, see `Task.figures`."""
        return self.task.figures(self.y, self.scores, self.weight)

    def members(self, index: int) -> np.ndarray:
        """Return which events are of a class, or have a label, bool (events,)."""
        found: np.ndarray = self.y == index if self.y.ndim == 1 else self.y[:, index] > 0
        return found


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training part; of models that are trained at once, one of their rounds.

    Attributes:
        epoch: its number, from 1.
        train_loss: mean over the epoch, by signed weights as that of the validation part, as the framework sees it
            (dropout on, weights moving).
        figures: of the validation part, after the epoch, see `Task.figures`.
        seconds: of training, without validation.
        events: of the training part, shuffled copies included.
        waiting: seconds of those in which training waited for data.
        learning_rate: of the optimizer, where `lr_patience` of the params may change it.
    """

    epoch: int
    train_loss: float
    figures: dict[str, float]
    seconds: float
    events: int
    waiting: float = 0.0
    learning_rate: float | None = None

    @property
    def loss(self) -> float:
        """Loss of the validation part."""
        return self.figures["loss"]


@dataclass(frozen=True)
class History:
    """What happened in training.

    Attributes:
        epochs: their figures, in order.
        best: the number of the epoch whose weights stay.
    """

    epochs: tuple[Epoch, ...]
    best: int

    def to_json(self) -> list[dict[str, Any]]:
        """Return the epochs as plain dicts."""
        return [flat(epoch) for epoch in self.epochs]


def flat(epoch: Epoch) -> dict[str, Any]:
    """Return an epoch as a plain dict, with the figures among the rest."""
    found = asdict(epoch)
    figures = found.pop("figures")
    if epoch.learning_rate is None:
        del found["learning_rate"]
    return {**found, **figures}


Report = Callable[[Epoch, bool], None]
"""Called after every epoch, with whether it is the best so far."""


@dataclass
class Control:
    """How a run is watched and stopped from outside.

    Attributes:
        report: what is told of every epoch.
        recall: what is told of those that were before a checkpoint.
        checkpoint: where the run's standing is kept, if anywhere.
        resume: whether to go on from there.
        stop: whether training is to stop after the batch under way.
    """

    report: Report | None = None
    recall: Report | None = None
    checkpoint: Checkpoint | None = None
    resume: bool = False
    stop: Stop = field(default_factory=Stop)


def train(source: BatchSource, backend: Backend, params: Params, control: Control | None = None) -> History:
    """Train until `params.epochs` have passed or the validation loss got no better for `params.patience` of them.

    Raises:
        ConfigError: the loss is no number.
        Stopped: `control.stop` said so.
    """
    control = control or Control()
    if isinstance(backend, AtOnce):
        with control.stop.looked_for(PATIENCE):
            return _train_at_once(source, backend, control)
    assert isinstance(backend, Stepwise)
    with control.stop.looked_for():
        return _Run(source, backend, params, control).train()


class _Run:
    """A training that goes step by step."""

    def __init__(self, source: BatchSource, backend: Stepwise, params: Params, control: Control) -> None:
        self._source, self._backend, self._params, self._control = source, backend, params, control
        self._now = Standing()
        self._best = backend.snapshot()
        self._saved = time.monotonic()

    def train(self) -> History:
        """Train to the end, or from where a checkpoint stands."""
        self._go_on()
        now = self._now
        while not now.finished:
            train_loss = self._epoch()
            figures = evaluate(self._source, self._backend, "valid", True, self._stop_if_asked).figures()
            if not np.isfinite(train_loss) or not np.isfinite(figures["loss"]):
                raise ConfigError(
                    f"the loss of epoch {now.epoch + 1} is not a number",
                    hint="lower the learning rate, or set 'normalise' to 'auto' in the params of events",
                )
            rate = self._backend.scale_learning_rate(1.0) if self._params.lr_patience else None
            epoch = Epoch(now.epoch + 1, train_loss, figures, now.seconds, now.events, now.waiting, rate)
            improved = now.epoch == 0 or figures["loss"] < now.epochs[now.best]["figures"]["loss"]
            now.epochs.append(asdict(epoch))
            if improved:
                now.best, self._best = now.epoch, self._backend.snapshot()
            if self._control.report:
                self._control.report(epoch, improved)
            now.finished = self._is_over(now.epoch)
            self._slow_down()
            now.epoch += 1
            now.batches = now.events = 0
            now.loss = now.weight = now.seconds = now.waiting = 0.0
            self._save()
        self._backend.restore(self._best)
        return self._history()

    def _go_on(self) -> None:
        found = self._control.checkpoint.load() if self._control.checkpoint and self._control.resume else None
        if found is None:
            return
        self._now, state, self._best = found
        self._backend.load_state(state)
        self._now.finished = self._is_over(self._now.epoch - 1)
        recall(self._history(), self._control)

    def _history(self) -> History:
        return History(tuple(Epoch(**epoch) for epoch in self._now.epochs), self._now.best + 1)

    def _is_over(self, epoch: int) -> bool:
        """Whether an epoch is the last one."""
        return epoch - self._now.best >= self._params.patience or epoch + 1 >= self._params.epochs

    def _slow_down(self) -> None:
        """Lower the learning rate where the validation loss got no better for `lr_patience` epochs at this one."""
        now, patience = self._now, self._params.lr_patience
        if patience and not now.finished and now.epoch - max(now.best, now.slowed) >= patience:
            now.slowed = now.epoch
            rate = self._backend.scale_learning_rate(self._params.lr_factor)
            console.notice(f"no better for {patience} epochs: the learning rate is {rate:.2g} from now on")

    def _epoch(self) -> float:
        """Train on the rest of the epoch under way; return its mean loss."""
        now = self._now
        total = self._source.training_entries
        title = f"epoch {now.epoch + 1}/{self._params.epochs}"
        before, start = now.seconds, time.perf_counter()
        with console.progress(title, total) as bar:
            bar.advance(now.events)
            for loss, size in self._backend.steps(self._batches(bar)):
                now.loss, now.weight = now.loss + loss * size, now.weight + float(self._taken.weight.sum(dtype=float))
                now.batches, now.events = now.batches + 1, now.events + len(self._taken)
                now.seconds = before + time.perf_counter() - start
                self._stop_if_asked()
                if time.monotonic() - self._saved >= 60 * self._params.checkpoint:
                    self._save()
        return float(now.loss / now.weight) if now.weight else float("nan")

    def _batches(self, bar: console.Progress) -> Iterator[Batch]:
        """Yield the batches of the epoch under way, and count the time until they come."""
        now = self._now
        batches = self._source.batches("train", now.epoch, skip=now.batches)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            now.waiting += time.perf_counter() - start
            if batch is None:
                return
            self._taken = batch
            yield batch
            bar.advance(int((batch.entry >= 0).sum()), self._in_words)

    def _in_words(self) -> str:
        now = self._now
        loss = f"loss {float(now.loss / now.weight):.4f}, " if now.weight > 0 else ""
        return f"{loss}waiting {now.waiting / max(now.seconds, 1e-9):.0%}"

    def _stop_if_asked(self) -> None:
        now = self._now
        if self._control.stop.asked:
            hint = "the same command with --resume goes on from there" if self._save() else ""
            raise Stopped(f"stopped in epoch {now.epoch + 1} after {now.batches} batches", hint=hint)

    def _save(self) -> bool:
        """Keep a checkpoint; return whether there is one."""
        now, self._saved = self._now, time.monotonic()
        if not self._control.checkpoint:
            return False
        now.loss = float(now.loss)
        return self._control.checkpoint.save(now, self._backend.state(), self._best)


def recall(history: History, control: Control) -> None:
    """Tell of the epochs that were before."""
    lowest = float("inf")
    for epoch in history.epochs:
        if control.recall:
            control.recall(epoch, epoch.loss < lowest)
        lowest = min(lowest, epoch.loss)


def _train_at_once(source: BatchSource, backend: AtOnce, control: Control) -> History:
    """Let a model train itself; every round is an epoch of the history."""
    rounds: list[Epoch] = []
    start = time.perf_counter()
    count = int(source.composition.totals[PARTS.index("train")])

    def report(number: int, train_loss: float, figures: dict[str, float], best: bool) -> None:
        nonlocal start
        now = time.perf_counter()
        rounds.append(Epoch(number, train_loss, figures, now - start, count))
        start = now
        if control.report:
            control.report(rounds[-1], best)
        _check_at_once(control)

    kept = backend.fit(
        lambda epoch: _while_not_stopped(source.batches("train", epoch), control),
        lambda: _while_not_stopped(source.batches("valid", shuffle=False), control),
        report,
    )
    if not rounds:
        figures = [evaluate(source, backend, part, balanced=True).figures() for part in ("train", "valid")]
        rounds.append(Epoch(1, figures[0]["loss"], figures[1], time.perf_counter() - start, count))
        if control.report:
            control.report(rounds[-1], True)
    return History(tuple(rounds), kept or 1)


def _while_not_stopped(batches: Iterator[Batch], control: Control) -> Iterator[Batch]:
    for batch in batches:
        _check_at_once(control)
        yield batch


def _check_at_once(control: Control) -> None:
    if control.stop.asked:
        raise Stopped("stopped in the training of a model that is trained in one go")


def evaluate(
    source: BatchSource,
    backend: Backend,
    part: str,
    balanced: bool = False,
    between: Callable[[], None] | None = None,
) -> Scored:
    """Return the scores of all events of a part.

    Args:
        balanced: as training sees them, with `balance` of the params; else each once and with its own weight.
        between: called after each batch.
    """
    found = []
    for batch in source.batches(part, shuffle=False, balanced=balanced):
        found.append((batch.y, backend.predict(batch.inputs), batch.weight))
        if between:
            between()
    y, scores, weight = (np.concatenate(column) for column in zip(*found, strict=True))
    return Scored(y, scores, weight, Task.of(source.labels))


def check_parts(source: BatchSource) -> None:
    """Raise ConfigError, before hours of training, if a part of the sample, or a class, is empty, or has no weight."""
    composition = source.composition
    for part, events, weight in zip(PARTS, composition.totals, composition.weights, strict=True):
        if not events:
            raise ConfigError(
                f"no event falls into the {part} part",
                hint="more events are needed, or another 'identifier' in the params: the split goes by it",
            )
        if not weight > 0:
            raise ConfigError(
                f"the weights of the {part} part add up to {weight:.4g}, and must to more than 0",
                hint=f"look at 'weight' in the params: '{source.params.weight}'",
            )
    _check_classes(source.labels, composition)
    composition.factors(source.params.balance)


def _check_classes(labels: Labels, composition: Composition) -> None:
    if labels.task == "regression" or labels.contrast:
        return
    for name, events in zip(labels.classes, composition.events.sum(axis=0), strict=True):
        if not events:
            raise ConfigError(
                f"no event has the label '{name}'", hint="look at files and cuts, or leave it out of --labels"
            )
    if labels.task == "classification" and (composition.events[0] > 0).sum() < 2:
        raise ConfigError("all events of the train part have the same label", hint="more events are needed")
