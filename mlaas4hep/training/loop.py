"""The training loop: epochs over the whole sample, with early stopping.

    history = train(source, backend, params)

The loop depends on no framework and no file format. At the end the model has the weights of the best epoch. A run that
was stopped or killed can continue from its last checkpoint, and ends with the same result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from mlaas4hep import console
from mlaas4hep.backends.protocol import Backend, BatchLossBackend, OneShotBackend, StepwiseBackend
from mlaas4hep.backends.task import Task
from mlaas4hep.comma_lists import abbreviated
from mlaas4hep.config import Params
from mlaas4hep.console import shortened
from mlaas4hep.errors import ConfigError
from mlaas4hep.stream import Batch, BatchSource
from mlaas4hep.stream.labels import Labels
from mlaas4hep.stream.sample_statistics import Composition
from mlaas4hep.stream.split import PARTS
from mlaas4hep.training.callbacks import CONTINUE_FROM_CHECKPOINT, GRACE_SECONDS, Callbacks, Stopped
from mlaas4hep.training.checkpoint import Checkpoint, TrainingState
from mlaas4hep.training.history import Epoch, History

LARGEST_WEIGHT = 1e25
"""Largest root mean square of the weights; the inverse is the smallest."""

LONGEST_COUNTS = 200
"""Maximum length of the numbers of events by label in a message."""

PART_NAMES = {"train": "training", "valid": "validation", "test": "test"}


@dataclass(frozen=True)
class Predictions:
    """The events of a set (training, validation or test), with the model's scores.

    Attributes:
        y: labels or targets, as in `Batch.y`.
        scores: float32 (events, outputs).
        weight: float32 (events,).
        task: defines the metrics of the scores.
    """

    y: np.ndarray
    scores: np.ndarray
    weight: np.ndarray
    task: Task

    def metrics(self) -> dict[str, float]:
        """Return metrics by name, see `Task.metrics`."""
        return self.task.metrics(self.y, self.scores, self.weight)

    def members(self, index: int) -> np.ndarray:
        """Return a mask of the events that belong to a class or have a label, bool (events,)."""
        mask: np.ndarray = self.y == index if self.y.ndim == 1 else self.y[:, index] > 0
        return mask


def train(
    source: BatchSource,
    backend: Backend,
    params: Params,
    callbacks: Callbacks | None = None,
    fold: int = 0,
    checkpoint: Checkpoint | None = None,
    resume: bool = False,
) -> History:
    """Train for `params.epochs`, or until the validation loss has not improved for `params.patience` epochs.

    Args:
        callbacks: called after every epoch.
        fold: index of the fold, passed to the callbacks.
        checkpoint: file for the state of the training; None: it is not saved. One-shot models have no checkpoints.
        resume: continue from the checkpoint, if it exists.

    Raises:
        ConfigError: the loss is not finite.
        Stopped: `callbacks.stop_training` was set.
    """
    callbacks = callbacks or Callbacks()
    if isinstance(backend, OneShotBackend):
        with callbacks.interrupt_after(GRACE_SECONDS):
            return _train_one_shot(source, backend, callbacks, fold)
    assert isinstance(backend, StepwiseBackend)
    with callbacks.interrupt_after():
        return _StepwiseTraining(source, backend, params, callbacks, fold, checkpoint).train(resume)


@dataclass
class _StepwiseTraining:
    """Trains a model batch by batch."""

    _source: BatchSource
    _backend: StepwiseBackend
    _params: Params
    _callbacks: Callbacks
    _fold: int
    _checkpoint: Checkpoint | None

    def __post_init__(self) -> None:
        self._state = TrainingState()
        self._best = self._backend.snapshot()
        self._last_save = time.monotonic()

    def train(self, resume: bool) -> History:
        """Train to the end, from the start or from the checkpoint."""
        if resume:
            self._restore()
        state = self._state
        while not state.finished:
            train_loss = self._train_epoch()
            metrics = self._validate()
            if not np.isfinite(train_loss) or not np.isfinite(metrics["loss"]):
                raise ConfigError(
                    f"the loss of epoch {state.epoch + 1} is not finite",
                    hint="lower the learning rate, or set 'normalise' to 'auto' in the params of events",
                )
            recorded = self._params.lr_patience or self._backend.has_schedule
            rate = self._backend.learning_rate if recorded else None
            epoch = Epoch(state.epoch + 1, train_loss, metrics, state.seconds, state.events, state.waiting, rate)
            improved = state.epoch == 0 or epoch.loss < state.epochs[state.best].loss
            state.epochs.append(epoch)
            if improved:
                state.best, self._best = state.epoch, self._backend.snapshot()
            self._callbacks.end_epoch(epoch, improved, self._fold)
            state.finished = self._is_last(state.epoch)
            self._reduce_learning_rate()
            state.epoch += 1
            state.batches = state.events = 0
            state.loss = state.weight = state.seconds = state.waiting = 0.0
            self._save()
        self._backend.restore(self._best)
        return self._history()

    def _validate(self) -> dict[str, float]:
        """Return the metrics of the validation set; "loss" is that of the model file, see `BatchLossBackend`."""
        losses: list[tuple[float, float]] = []

        def after_batch(batch: Batch) -> None:
            self._check_stop()
            loss = self._backend.batch_loss(batch) if isinstance(self._backend, BatchLossBackend) else None
            if loss is not None:
                size, weight = (float(each.sum(dtype=float)) for each in (np.abs(batch.weight), batch.weight))
                losses.append((loss * size, weight))

        metrics = evaluate(self._source, self._backend, "valid", True, after_batch).metrics()
        if losses:
            loss, weight = np.sum(losses, axis=0)  # as in training
            metrics["loss"] = float(loss / weight)
        return metrics

    def _restore(self) -> None:
        """Continue from the checkpoint, if it exists."""
        saved = self._checkpoint.load() if self._checkpoint else None
        if saved is None:
            return
        self._state, state, self._best = saved
        self._backend.load_state(state)
        self._state.finished = self._is_last(self._state.epoch - 1)
        self._callbacks.restore_epochs(self._history(), self._fold)

    def _history(self) -> History:
        return History(tuple(self._state.epochs), self._state.best + 1)

    def _is_last(self, epoch: int) -> bool:
        """Return whether training ends after an epoch (index from 0)."""
        return epoch - self._state.best >= self._params.patience or epoch + 1 >= self._params.epochs

    def _reduce_learning_rate(self) -> None:
        """Lower the learning rate if the validation loss has not improved for `lr_patience` epochs."""
        state, patience = self._state, self._params.lr_patience
        if patience and not state.finished and state.epoch - max(state.best, state.slowed) >= patience:
            state.slowed = state.epoch
            self._backend.scale_learning_rate(self._params.lr_factor)
            rate = self._backend.learning_rate
            console.notice(f"no improvement for {patience} epochs: learning rate reduced to {rate:.2g}")

    def _train_epoch(self) -> float:
        """Train on the rest of the current epoch; return the mean loss of the epoch."""
        state = self._state
        title = f"epoch {state.epoch + 1}/{self._params.epochs}"
        before, start = state.seconds, time.perf_counter()
        with console.progress(title, self._source.training_entries) as bar:
            bar.advance(state.events)
            for loss, size in self._backend.steps(self._batches(bar)):
                state.loss += loss * size
                state.weight += float(self._batch.weight.sum(dtype=float))
                state.batches, state.events = state.batches + 1, state.events + len(self._batch)
                state.seconds = before + time.perf_counter() - start
                self._check_stop()
                if time.monotonic() - self._last_save >= 60 * self._params.checkpoint:
                    self._save()
        return float(state.loss / state.weight) if state.weight else float("nan")

    def _batches(self, bar: console.Progress) -> Iterator[Batch]:
        """Yield the remaining batches of the current epoch, and measure the time spent waiting for them."""
        state = self._state
        batches = self._source.batches("train", state.epoch, skip=state.batches)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            state.waiting += time.perf_counter() - start
            if batch is None:
                return
            self._batch = batch
            yield batch
            bar.advance(int((batch.entry >= 0).sum()), self._progress)

    def _progress(self) -> str:
        state = self._state
        loss = f"loss {float(state.loss / state.weight):.4f}, " if state.weight > 0 else ""
        return f"{loss}waiting {state.waiting / max(state.seconds, 1e-9):.0%}"

    def _check_stop(self) -> None:
        """Save a checkpoint and raise Stopped if `stop_training` is set."""
        if self._callbacks.stop_training:
            hint = CONTINUE_FROM_CHECKPOINT if self._save() else ""
            state = self._state
            raise Stopped(f"stopped in epoch {state.epoch + 1} after {state.batches} batches", hint=hint)

    def _save(self) -> bool:
        """Save a checkpoint; return whether there is one."""
        state, self._last_save = self._state, time.monotonic()
        if not self._checkpoint:
            return False
        state.loss = float(state.loss)
        return self._checkpoint.save(state, self._backend.state(), self._best)


def _train_one_shot(source: BatchSource, backend: OneShotBackend, callbacks: Callbacks, fold: int) -> History:
    """Train a model that has its own loop; each of its rounds becomes an epoch of the history."""
    epochs: list[Epoch] = []
    start = time.perf_counter()
    count = int(source.composition.totals[PARTS.index("train")])
    mean = source.mean_training_weight()
    if not np.isclose(mean, 1.0, rtol=0.01):
        console.notice(f"the weights are divided by {mean:.4g}, their mean in the training set, as estimators expect")

    def check_stop() -> None:
        if callbacks.stop_training:
            raise Stopped("stopped while training a model that has no checkpoints")

    def checked(batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            check_stop()
            yield batch if mean == 1 else replace(batch, weight=(batch.weight / mean).astype(np.float32))

    def report(number: int, train_loss: float, metrics: dict[str, float], best: bool) -> None:
        nonlocal start
        now = time.perf_counter()
        epochs.append(Epoch(number, train_loss, metrics, now - start, count))
        start = now
        callbacks.end_epoch(epochs[-1], best, fold)
        check_stop()

    best = backend.fit(
        lambda epoch: checked(source.batches("train", epoch)),
        lambda: checked(source.batches("valid", shuffle=False)),
        report,
    )
    if not epochs:
        train, valid = (evaluate(source, backend, part, balanced=True).metrics() for part in ("train", "valid"))
        epochs.append(Epoch(1, train["loss"], valid, time.perf_counter() - start, count))
        callbacks.end_epoch(epochs[-1], True, fold)
    return History(tuple(epochs), best or 1)


def evaluate(
    source: BatchSource,
    backend: Backend,
    part: str,
    balanced: bool = False,
    after_batch: Callable[[Batch], None] | None = None,
) -> Predictions:
    """Return the scores of all events of a set.

    Args:
        part: "train", "valid" or "test".
        balanced: apply `balance` of the params, as in training.
        after_batch: called with each batch after it was scored.
    """
    parts = []
    for batch in source.batches(part, shuffle=False, balanced=balanced):
        parts.append((batch.y, backend.predict(batch.inputs), batch.weight))
        if after_batch:
            after_batch(batch)
    y, scores, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Predictions(y, scores, weight, Task.of(source.labels))


def batches_per_epoch(source: BatchSource) -> int:
    """Return the mean number of batches of the training set in an epoch, at least 1."""
    return max(1, int(np.ceil(source.mean_training_events() / source.params.batch_size)))


def check_parts(source: BatchSource) -> None:
    """Check, before a long training, that every set and every class has events and a positive sum of weights.

    Raises:
        ConfigError: a set or a class has no events, or its weights do not add up to more than 0; or events cannot be
            reweighted.
    """
    composition = source.composition
    for part, events, weight in zip(PARTS, composition.totals, composition.weights, strict=True):
        if not events:
            raise ConfigError(
                f"the {PART_NAMES[part]} set has no events",
                hint="use more events, or another 'identifier' in the params, whose hash determines the split",
            )
        if not weight > 0:
            raise ConfigError(
                f"the weights of the {PART_NAMES[part]} set add up to {weight:.4g}; the sum must be positive",
                hint=f"check 'weight' in the params: '{source.params.weight}'",
            )
    _check_weight_size(composition, source.params.weight)
    _check_classes(source.labels, composition)
    composition.factors(source.params.balance)
    source.mean_training_weight()


def _check_weight_size(composition: Composition, weight: str) -> None:
    """Raise ConfigError if weighted losses, which are sums over a batch, may leave the range of float32."""
    events, _, squares = composition.yields.sum(axis=(0, 1))
    size = float(np.sqrt(squares / events)) if events else 1.0
    if not 1 / LARGEST_WEIGHT <= size <= LARGEST_WEIGHT:
        raise ConfigError(
            f"the weights are about {size:.2g} (root mean square), for which losses leave the range of float32",
            hint=f"scale 'weight' in the params, for example '({weight}) / {size:.0e}'" if weight else "check 'lumi'",
        )


def _check_classes(labels: Labels, composition: Composition) -> None:
    if labels.task == "regression" or labels.uses_shuffled_copies:
        return
    for name, events in zip(labels.classes, composition.events.sum(axis=0), strict=True):
        if not events:
            hint = "check the files and cuts, or remove the label"
            raise ConfigError(f"no event has the label '{name}'", hint=hint)
    if labels.task == "classification" and (composition.events[0] > 0).sum() < 2:
        raise ConfigError("all events of the training set have the same label", hint="use more events")
    for part, events in zip(PARTS, composition.events, strict=True):
        absent = [f"'{name}'" for name, count in zip(labels.classes, events, strict=True) if not count]
        if absent:
            counts = ", ".join(f"{name} {count}" for name, count in zip(labels.classes, events, strict=True))
            console.notice(
                f"the {PART_NAMES[part]} set has no events with the label {abbreviated(absent)} (events by label:"
                f" {shortened(counts, LONGEST_COUNTS)}); the AUC and other metrics of this set may be undefined"
            )
