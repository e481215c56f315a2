"""A complete training run: from files and a model file to a bundle.

    train_model("files.txt", "labels.txt", "ex_keras.py", Params(epochs=5), fout="model")

Printing is left to the scripts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep import console
from mlaas4hep.backends.make import make_backend
from mlaas4hep.backends.model_file import ModelFile, load_model_file
from mlaas4hep.backends.model_settings import unused_names
from mlaas4hep.backends.protocol import Backend, OneShotBackend
from mlaas4hep.backends.task import Task
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, MLaaS4HEPError, error_summary
from mlaas4hep.expressions.preproc import Preproc
from mlaas4hep.files import check_replaceable, check_unfinished, write_lock
from mlaas4hep.machine.threads import limit_threads
from mlaas4hep.reader import Specs
from mlaas4hep.samples.skipped_file import is_skipped_file, read_reasons, write_skipped_file
from mlaas4hep.signing import read_private_key
from mlaas4hep.stream import PARTS, BatchSource, DataGenerator
from mlaas4hep.stream.cache import versioned_hash
from mlaas4hep.stream.fold_specs import specs_by_fold
from mlaas4hep.training.bundle import model_name, sign_bundle, write_bundle
from mlaas4hep.training.callbacks import CONTINUE_FROM_CHECKPOINT, START_AGAIN, Callbacks
from mlaas4hep.training.checked_export import check_export
from mlaas4hep.training.checkpoint import Checkpoint, is_checkpoint
from mlaas4hep.training.destination import check_bundle_destination
from mlaas4hep.training.event_content import EventContent
from mlaas4hep.training.logs import EpochLog, is_epoch_table
from mlaas4hep.training.loop import Predictions, batches_per_epoch, check_parts, evaluate, train
from mlaas4hep.training.stored_model import TrainingResult, load_stored_model, store_model
from mlaas4hep.training.trained import EXTRA_METRICS, Fit, SampleContent, TrainedModel
from mlaas4hep.user_code.run import raise_config_error
from mlaas4hep.write_errors import FREE_SPACE, WriteFailed, failed_write

_MOVE_OR_RENAME = "move it, or give the bundle another name"


class AlreadyTrained(MLaaS4HEPError):
    """There is nothing to resume: the run has already written its bundle."""


def train_model(
    files: str | Sequence[str | os.PathLike[str]],
    labels: str | Sequence[object] | None,
    model: str,
    params: Params | None = None,
    *,
    fout: str | os.PathLike[str],
    specs: str | Specs | None = None,
    preproc: str | Preproc | None = None,
    callbacks: Callbacks | None = None,
    resume: bool = False,
    sign: str = "",
) -> TrainedModel:
    """Train the model of a model file, or one model per fold, and write the bundle.

    The model file, the output folder, the files and the labels are checked before training starts.

    Args:
        files, labels, specs, preproc: see `DataGenerator`.
        model: path or name of a model file.
        fout: folder of the bundle. During training, checkpoints and a table of epochs are written beside it.
        callbacks: called before training and after every epoch; may stop training.
        resume: continue from the checkpoint of a stopped run, if it exists.
        sign: file with the private key that signs the ONNX files; "": they are not signed.

    Raises:
        AlreadyTrained: `resume` is set, and the run has already written its bundle.
        Stopped: the run was stopped.
        MLaaS4HEPError: an argument is invalid, or a file cannot be read or written.
    """
    params = params or Params.parse({})
    if params.threads:
        limit_threads(params.threads)  # before the model file imports its framework
    with open_run(Path(fout), params, callbacks, resume, sign) as run:
        file = load_model_file(model)
        _check_outside_of_model(Path(fout), file)
        recorded = run.recorded_left_out()
        generator = run.stack.enter_context(
            DataGenerator(files, labels, params, specs, preproc=preproc, left_out=recorded)
        )
        run.begin(versioned_hash([generator.sample.key, *file.identity()]))
        run.record_left_out(generator.sample.skipped_samples())
        by_fold = [generator]
        if params.kfold:
            fold_specs = [generator.specs] * params.kfold if specs else specs_by_fold(generator.sample, params.kfold)
            by_fold = [
                run.stack.enter_context(generator.for_fold(fold, own_specs))
                for fold, own_specs in enumerate(fold_specs)
            ]
        content = EventContent(generator, by_fold)
        fits = [run.fit(fold_generator, file, content, fold) for fold, fold_generator in enumerate(by_fold)]
        return run.finish(file, generator, content, fits)


@contextmanager
def open_run(
    destination: Path, params: Params, callbacks: Callbacks | None, resume: bool, sign: str
) -> Iterator[TrainingRun]:
    """Start a run that writes a bundle, and lock its destination; for the arguments see `train_model`.

    Raises:
        ConfigError: the destination contains something other than a bundle, or `sign` is not a private key.
        FileUnreadable: the key cannot be read, or another run writes to the destination.
        Stopped: the run was stopped.
    """
    callbacks, signing_key = callbacks or Callbacks(), read_private_key(sign) if sign else None
    check_bundle_destination(destination)
    folds = [f".fold{fold}" for fold in range(params.kfold)] or [""]
    paths = [destination.with_name(f"{destination.name}{fold}.checkpoint") for fold in folds]
    table = destination.with_name(f"{destination.name}.epochs.csv")
    for path in paths:
        check_replaceable(path, is_checkpoint, "a checkpoint", _MOVE_OR_RENAME)
    skipped = _skipped_path(destination)
    check_replaceable(table, is_epoch_table, "a table of epochs", _MOVE_OR_RENAME)
    check_replaceable(skipped, is_skipped_file, "files that a run has left out", _MOVE_OR_RENAME)
    for path in (destination, *paths, table, skipped):
        check_unfinished(path)
    with callbacks.explain_stop(lambda: _how_to_continue(paths)), ExitStack() as stack:
        stack.enter_context(write_lock(destination))
        callbacks.log = EpochLog(table, params.tensorboard)
        stack.callback(callbacks.log.close)
        stack.enter_context(_explain_full_disk(paths))
        yield TrainingRun(stack, destination, params, callbacks, callbacks.log, resume, paths, signing_key)


@dataclass
class TrainingRun:
    """A run that trains models and writes their bundle; see `open_run`.

    Attributes:
        stack: context managers to close at the end of the run.
    """

    stack: ExitStack
    _destination: Path
    _params: Params
    _callbacks: Callbacks
    _log: EpochLog
    _resume: bool
    _paths: Sequence[Path]
    _signing_key: Any
    _checkpoints: list[Checkpoint] = field(default_factory=list)
    _key: str = ""

    def recorded_left_out(self) -> dict[str, str] | None:
        """Return reasons by name of the files that the run left out before it was stopped; None if it begins now."""
        if not self._resume:
            return None
        if any(path.exists() for path in self._paths):
            return read_reasons(_skipped_path(self._destination))
        return read_reasons(self._destination / "skipped.json") or None

    def record_left_out(self, samples: dict[str, Any]) -> None:
        """Write the files that the run leaves out, so that it can be resumed without them."""
        write_skipped_file(_skipped_path(self._destination), samples)

    def begin(self, key: str) -> None:
        """Set the key, which identifies everything that the result depends on.

        Raises:
            AlreadyTrained: the run is resumed and has already written its bundle. The bundle is signed, if requested.
        """
        self._key = key
        self._checkpoints = [Checkpoint(path, key) for path in self._paths]
        if self._resume and _is_trained(self._destination, key, self._checkpoints):
            signed = sign_bundle(self._destination, self._signing_key) if self._signing_key is not None else 0
            raise AlreadyTrained(
                f"{self._destination} is already trained with these files, labels, preprocessing, parameters and model"
                f" file{'; its ONNX files are signed now' if signed else ''}"
            )

    def fit(self, source: BatchSource, file: ModelFile, content: SampleContent, fold: int = 0) -> Fit:
        """Train the model of a fold and evaluate it."""
        checkpoint, task = self._checkpoints[fold], Task.of(source.labels)
        with _explain_model_errors(file):
            backend = make_backend(file, source.shapes, task, self._params, batches_per_epoch(source))
        if not fold:
            for line in unused_names(file, (*backend.reads, "metrics"), backend.framework):
                console.notice(line)
        if not backend.normalised:
            source.disable_normalisation()
        _check_metrics(file, _dummy_predictions(task, backend.outputs))
        if self._callbacks.on_train_begin:
            self._callbacks.on_train_begin(source, backend, fold)
        check_parts(source)
        if self._params.trial_export and not fold and not content.channels:  # networks for images are known to work
            check_export(backend, source, content, file)
        if not (self._params.kfold and isinstance(backend, OneShotBackend)):
            return Fit(backend, source, *self._train(source, backend, file, content, fold))
        if self._resume and (stored := load_stored_model(checkpoint, backend, task)):
            model, result = stored
            self._callbacks.restore_epochs(result.history, fold)
            return Fit(model, source, *result)
        result = self._train(source, backend, file, content, fold)
        store_model(checkpoint, backend, result, content.compared_events(fold).inputs)
        return Fit(backend, source, *result)

    def _train(
        self, source: BatchSource, backend: Backend, file: ModelFile, content: SampleContent, fold: int
    ) -> TrainingResult:
        checkpoint = self._checkpoints[fold]
        with _explain_model_errors(file):
            history = train(source, backend, self._params, self._callbacks, fold, checkpoint, self._resume)
        watch = partial(content.watch, fold=fold)
        return TrainingResult(history, *(evaluate(source, backend, part, after_batch=watch) for part in PARTS))

    def finish(self, file: ModelFile, source: BatchSource, content: SampleContent, fits: Sequence[Fit]) -> TrainedModel:
        """Write the bundle, and delete the checkpoints."""
        name = model_name(self._destination, self._params.name)
        trained = TrainedModel(name, file, source, content, tuple(fits), self._key)
        trained.custom_metrics.update(_compute_metrics(file, trained.test))
        write_bundle(self._destination, trained, self._log, self._signing_key)
        for checkpoint in self._checkpoints:
            checkpoint.remove()
        _skipped_path(self._destination).unlink(missing_ok=True)
        return trained


def _check_outside_of_model(destination: Path, file: ModelFile) -> None:
    """Raise ConfigError if the bundle would be a part of the folder of the model, which is copied into it."""
    if file.modules and file.modules.whole_folder:
        folder = file.modules.folder.resolve()
        if destination.resolve().is_relative_to(folder):
            raise ConfigError(f"{destination} is in the folder of the model, {folder}", hint="choose another --fout")


def _skipped_path(destination: Path) -> Path:
    """Return the path of the file that lists, during a run, the files that it leaves out."""
    return destination.with_name(f"{destination.name}.skipped.json")


def _how_to_continue(checkpoints: Sequence[Path]) -> str:
    return CONTINUE_FROM_CHECKPOINT if any(path.exists() for path in checkpoints) else START_AGAIN


@contextmanager
def _explain_full_disk(checkpoints: Sequence[Path]) -> Iterator[None]:
    try:
        yield
    except WriteFailed as error:
        if error.is_full:
            error.hint = f"{FREE_SPACE}, and {_how_to_continue(checkpoints)}"
        raise


def _is_trained(destination: Path, key: str, checkpoints: Sequence[Checkpoint]) -> bool:
    """Return whether a completed run with this key has written the bundle, and has deleted its checkpoints."""
    if any(checkpoint.path.exists() for checkpoint in checkpoints):
        return False
    with suppress(OSError, ValueError):
        training = json.loads((destination / "training.json").read_text(encoding="utf-8"))
        return bool(training.get("key") == key)
    return False


@contextmanager
def _explain_model_errors(file: ModelFile) -> Iterator[None]:
    """Convert errors raised by the user's model, loss, optimizer or training step to a ConfigError of one line."""
    try:
        yield
    except (MLaaS4HEPError, BrokenPipeError, MemoryError):
        raise
    except Exception as error:
        if failure := failed_write(error):
            raise failure from error
        raise_config_error(file.path, error)


def _dummy_predictions(task: Task, outputs: int) -> Predictions:
    y = np.arange(20) % 2 if task.name == "classification" else np.zeros((20, outputs), np.float32)
    return Predictions(y, np.full((20, outputs), 0.5, np.float32), np.ones(20, np.float32), task)


def _check_metrics(file: ModelFile, predictions: Predictions) -> None:
    """Raise ConfigError, before a long training, if the name of a metric is not unique, or the metric fails."""
    names = [name for name, _ in _metrics_of(file)]
    for name in names:
        if name in (*predictions.metrics(), *EXTRA_METRICS) or names.count(name) > 1:
            what = f"metrics of {file.path}: the name '{name}' is already used"
            raise ConfigError(what, hint="give the function another name")
    for name, metric in _metrics_of(file):
        _compute_metric(file, name, metric, predictions)


def _compute_metrics(file: ModelFile, test: Predictions) -> dict[str, float]:
    """Return the metrics of the model file for the test set; a metric that fails is reported and left out."""
    values = {}
    for name, metric in _metrics_of(file):
        try:
            values[name] = _compute_metric(file, name, metric, test)
        except ConfigError as error:
            console.notice(f"the bundle is written without this metric: {error}")
    return values


def _metrics_of(file: ModelFile) -> list[tuple[str, Callable[..., object]]]:
    """Return the functions metric(y, scores) of `metrics` in a model file (a list or a dict), with their names."""
    metrics = file.metrics or {}
    if isinstance(metrics, dict):
        return [(str(name), metric) for name, metric in metrics.items()]
    if not isinstance(metrics, (list, tuple)):
        raise ConfigError(f"metrics of {file.path} is {metrics!r}", hint="it must be a list of functions, or a dict")
    return [(getattr(metric, "__name__", "metric"), metric) for metric in metrics]


def _compute_metric(file: ModelFile, name: str, metric: Callable[..., Any], events: Predictions) -> float:
    try:
        return float(metric(events.y, events.scores))
    except Exception as error:
        raise ConfigError(
            f"the metric '{name}' of {file.path} fails: {error_summary(error)}",
            hint="it gets y (events,) and scores (events, outputs), and must return a number",
        ) from error
