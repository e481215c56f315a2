"""A whole run: files and a model file in, a bundle out.

    train_model("files.txt", "labels.txt", "ex_keras.py", Params(epochs=5), fout="model")

Printing is left to the script.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep import console
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, MLaaS4HEPError, first_line
from mlaas4hep.files import check_replaceable, check_unfinished, only_one
from mlaas4hep.reader import Specs
from mlaas4hep.reader.preproc import Preproc
from mlaas4hep.signing import read_private_key
from mlaas4hep.stream import PARTS, BatchSource, DataGenerator
from mlaas4hep.stream.cache import key_of
from mlaas4hep.stream.census import specs_by_fold
from mlaas4hep.training.backend import AtOnce, Backend, make_backend
from mlaas4hep.training.bundle import COMPARED, MORE_FIGURES, Fit, Trained, model_name, write_bundle
from mlaas4hep.training.checkpoint import Checkpoint, is_checkpoint
from mlaas4hep.training.content import Content
from mlaas4hep.training.destination import check_bundle_destination
from mlaas4hep.training.event_content import EventContent
from mlaas4hep.training.logs import EpochLog, is_epoch_table
from mlaas4hep.training.loop import Control, Epoch, Scored, check_parts, evaluate, recall, train
from mlaas4hep.training.model_file import ModelFile, load_model_file
from mlaas4hep.training.stopping import BEGIN_ANEW, Stop
from mlaas4hep.training.stored import Result, find, keep
from mlaas4hep.training.task import Task
from mlaas4hep.user_code import explain

_ANOTHER_NAME = "move it, or give the bundle another name"


class AlreadyTrained(MLaaS4HEPError):
    """There is nothing to resume: the bundle is what the run would make."""


@dataclass
class Watch:
    """What a run tells whom, and what stops it.

    Attributes:
        started: called with the sample when the training of a model begins, and with the number of its fold.
        report: called after every epoch, with whether it is the best so far, and the fold.
        resume: go on from a checkpoint, where there is one.
        stop: whether the run is to stop.
    """

    started: Callable[[Any, Backend, int], None] | None = None
    report: Callable[[Epoch, bool, int], None] | None = None
    resume: bool = False
    stop: Stop = field(default_factory=Stop)


def train_model(
    files: str | Sequence[str | os.PathLike[str]],
    labels: str | Sequence[object] | None,
    model: str,
    params: Params | None = None,
    *,
    fout: str | os.PathLike[str],
    specs: str | Specs | None = None,
    preproc: str | Preproc | None = None,
    watch: Watch | None = None,
    sign: str = "",
) -> Trained:
    """Train a model file's model, or one for each fold, and write the bundle.

    What is cheap and can go wrong (the model file, the folder, the files, the labels) is looked at first.

    Args:
        files, labels, specs, preproc: see `DataGenerator`.
        model: path or name of a model file.
        fout: folder of the bundle. Beside it lie, until it is written, checkpoints and a table of epochs.
        sign: file of the private key that signs the ONNX files; "": they are not signed.

    Raises:
        AlreadyTrained: the run was to be resumed, and has its bundle.
        Stopped: it was asked to stop.
        MLaaS4HEPError: something of the above is not as it must be; the message says what to change.
    """
    params, watch = params or Params.parse({}), watch or Watch()
    with open_run(Path(fout), params, watch, sign) as run:
        file = load_model_file(model)
        whole = run.stack.enter_context(DataGenerator(files, labels, params, specs, preproc=preproc))
        run.begin(key_of([whole.sample.key, file.source]))
        generators = [whole]
        if params.kfold:
            learnt = [whole.specs] * params.kfold if specs else specs_by_fold(whole.sample, params.kfold)
            generators = [
                run.stack.enter_context(DataGenerator(files, labels, params, mine, preproc=preproc, fold=fold))
                for fold, mine in enumerate(learnt)
            ]
        fits = [run.fit(generator, file, fold) for fold, generator in enumerate(generators)]
        return run.finish(file, whole, EventContent(whole, generators), fits)


@contextmanager
def open_run(destination: Path, params: Params, watch: Watch, sign: str = "") -> Iterator[Run]:
    """Begin a run that writes a bundle, which no other may do meanwhile.

    Raises:
        ConfigError: there is something that is no bundle of ours, or another run writes there; or `sign` is no key.
        FileUnreadable: the key cannot be read.
        Stopped: it was asked to stop.
    """
    signing_key = read_private_key(sign) if sign else None
    check_bundle_destination(destination)
    paths = _checkpoint_paths(destination, params.kfold)
    table = destination.with_name(f"{destination.name}.epochs.csv")
    for path in paths:
        check_replaceable(path, is_checkpoint, "a checkpoint", _ANOTHER_NAME)
    check_replaceable(table, is_epoch_table, "a table of epochs", _ANOTHER_NAME)
    for path in (destination, *paths, table):
        check_unfinished(path)
    with watch.stop.explained(lambda: _how_to_go_on(paths)), ExitStack() as stack:
        stack.enter_context(only_one(destination))
        log = EpochLog(table, params.tensorboard)
        stack.callback(log.close)
        yield Run(destination, params, watch, paths, log, stack, signing_key)


class Run:
    """A run on its way to a bundle; see `open_run`.

    Attributes:
        stack: what is closed when the run ends.
    """

    def __init__(
        self,
        destination: Path,
        params: Params,
        watch: Watch,
        paths: Sequence[Path],
        log: EpochLog,
        stack: ExitStack,
        signing_key: Any = None,
    ) -> None:
        self.stack = stack
        self._signing_key = signing_key
        self._destination, self._params, self._watch, self._paths = destination, params, watch, paths
        self._log = log
        self._checkpoints: list[Checkpoint] = []
        self._key = ""

    def begin(self, key: str) -> None:
        """Say what is trained; `key` names all that the result depends on.

        Raises:
            AlreadyTrained: the run was to be resumed, and has its bundle.
        """
        self._key = key
        self._checkpoints = [Checkpoint(path, key) for path in self._paths]
        if self._watch.resume:
            _check_unfinished(self._destination, key, self._checkpoints)

    def fit(self, source: BatchSource, file: ModelFile, fold: int = 0) -> Fit:
        """Train one model and look at what it has learnt."""
        params, watch, checkpoint = self._params, self._watch, self._checkpoints[fold]
        task = Task.of(source.labels)
        with _explained(file):
            backend = make_backend(file, source.shapes, task, params)
        if not backend.normalised:
            source.leave_raw()
        _try_metrics(file, _no_scores(task, backend.outputs))
        if watch.started:
            watch.started(source, backend, fold)
        check_parts(source)
        control = _FoldControl(watch, self._log, fold, checkpoint)
        if not (params.kfold and isinstance(backend, AtOnce)):
            return Fit(backend, source, *_train(source, backend, file, params, control))
        known = find(checkpoint, backend, task) if watch.resume else None
        if known is not None:
            recall(known[1].history, control)
            return Fit(known[0], source, *known[1])
        result = _train(source, backend, file, params, control)
        keep(checkpoint, backend, result, source.examples(COMPARED, part=None).inputs)
        return Fit(backend, source, *result)

    def finish(self, file: ModelFile, source: BatchSource, content: Content, fits: Sequence[Fit]) -> Trained:
        """Write the bundle."""
        name = model_name(self._destination, self._params.name)
        trained = Trained(name, file, source, content, tuple(fits), self._key)
        trained.more.update(_own_metrics(file, trained.test))
        write_bundle(self._destination, trained, self._log, self._signing_key)
        for checkpoint in self._checkpoints:
            checkpoint.remove()
        return trained


def _train(source: BatchSource, backend: Backend, file: ModelFile, params: Params, control: Control) -> Result:
    with _explained(file):
        history = train(source, backend, params, control)
    return Result(history, *(evaluate(source, backend, part) for part in PARTS))


class _FoldControl(Control):
    """The control of one model's training, that hands on what it is told, with the fold."""

    def __init__(self, watch: Watch, log: EpochLog, fold: int, checkpoint: Checkpoint) -> None:
        def report(epoch: Epoch, best: bool, known: bool = False) -> None:
            log.add(epoch, fold, known)
            if watch.report:
                watch.report(epoch, best, fold)

        super().__init__(report, partial(report, known=True), checkpoint, watch.resume, watch.stop)


def _how_to_go_on(checkpoints: Sequence[Path]) -> str:
    kept = any(path.exists() for path in checkpoints)
    return "the same command with --resume goes on from the last checkpoint" if kept else BEGIN_ANEW


def _checkpoint_paths(destination: Path, folds: int) -> list[Path]:
    if not folds:
        return [destination.with_name(f"{destination.name}.checkpoint")]
    return [destination.with_name(f"{destination.name}.fold{fold}.checkpoint") for fold in range(folds)]


def _check_unfinished(destination: Path, key: str, checkpoints: Sequence[Checkpoint]) -> None:
    if any(checkpoint.path.exists() for checkpoint in checkpoints):
        return
    try:
        known = json.loads((destination / "training.json").read_text(encoding="utf-8")).get("key")
    except (OSError, ValueError):
        return
    if known == key:
        raise AlreadyTrained(
            f"{destination} is trained already, with these files, labels, preprocessing, parameters and model file"
        )


@contextmanager
def _explained(file: ModelFile) -> Iterator[None]:
    """Say in one line what a model, loss, optimizer or training step of the user's raises."""
    try:
        yield
    except (MLaaS4HEPError, BrokenPipeError, MemoryError):
        raise
    except Exception as error:
        explain(file.path, error)


def _no_scores(task: Task, outputs: int) -> Scored:
    y = np.arange(20) % 2 if task.name == "classification" else np.zeros((20, outputs), np.float32)
    return Scored(y, np.full((20, outputs), 0.5, np.float32), np.ones(20, np.float32), task)


def _try_metrics(file: ModelFile, some: Scored) -> None:
    """Raise ConfigError, before hours of training, where a metric has no name of its own, or fails."""
    names = [name for name, _ in _metrics_of(file)]
    for name in names:
        if name in (*some.figures(), *MORE_FIGURES) or names.count(name) > 1:
            raise ConfigError(f"metrics of {file.path}: the name '{name}' is taken", hint="give the function another")
    for name, metric in _metrics_of(file):
        _ask(file, name, metric, some)


def _own_metrics(file: ModelFile, test: Scored) -> dict[str, float]:
    """Return what the metrics of the model file say of the test part; one that fails is left out, and that is said."""
    found = {}
    for name, metric in _metrics_of(file):
        try:
            found[name] = _ask(file, name, metric, test)
        except ConfigError as error:
            console.notice(f"the bundle is written without it: {error}")
    return found


def _metrics_of(file: ModelFile) -> list[tuple[str, Callable[..., object]]]:
    """Return the functions metric(y, scores) that a model file lists in `metrics`, or names in a dict."""
    metrics = file.metrics or {}
    if isinstance(metrics, dict):
        return [(str(name), metric) for name, metric in metrics.items()]
    if not isinstance(metrics, (list, tuple)):
        raise ConfigError(f"metrics of {file.path} is {metrics!r}", hint="it must be a list of functions, or a dict")
    return [(getattr(metric, "__name__", "metric"), metric) for metric in metrics]


def _ask(file: ModelFile, name: str, metric: Callable[..., Any], events: Scored) -> float:
    try:
        return float(metric(events.y, events.scores))
    except Exception as error:
        raise ConfigError(
            f"the metric '{name}' of {file.path} fails: {first_line(error)}",
            hint="it takes y (events,) and scores (events, outputs) and returns a number",
        ) from error
