"""XGBoost, configured by an estimator of its scikit-learn interface, and trained on streamed events.

A training set that takes more than `fit_gb` of the params is kept on disk (XGBoost's external memory). Trees get
unnormalised values, and NaN for missing values.
"""

from __future__ import annotations

import copy
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xgboost

from mlaas4hep import console
from mlaas4hep.backends.input_rows import NO_NEGATIVE_WEIGHTS, InputRows
from mlaas4hep.backends.model_file import ModelFile
from mlaas4hep.backends.model_settings import check_estimator
from mlaas4hep.backends.protocol import Batches, EpochBatches, NothingLearned, RoundCallback, Shapes
from mlaas4hep.backends.task import Task
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, require
from mlaas4hep.machine.threads import thread_count
from mlaas4hep.stream import Batch, DataGenerator

CHUNK_EVENTS = 50_000
"""Approximate number of events that are passed to XGBoost at a time."""

DEFAULT_OBJECTIVES = (None, "binary:logistic", "reg:squarederror", "multi:softprob", "multi:softmax")
"""Default objectives of estimators; they are replaced by the first entry of OBJECTIVES for the task."""

OBJECTIVES = {
    "classification": ("binary:logistic",),
    "multilabel": ("binary:logistic",),
    "regression": ("reg:squarederror", "reg:squaredlogerror", "reg:pseudohubererror", "reg:absoluteerror", "reg:gamma",
                   "reg:tweedie", "count:poisson"),
}  # fmt: skip
"""Objectives for each task that can be exported to ONNX; the first is the default."""

SUPPORTED = {"booster": ("gbtree",), "tree_method": ("auto", "hist"), "multi_strategy": ("one_output_per_tree",)}
"""Allowed values of settings: ONNX supports no other boosters and trees, other tree methods cannot stream."""

UNSUPPORTED = ("callbacks", "feature_types", "feature_weights")
"""Settings that would have no effect."""

LOSSES = {"classification": "logloss", "multilabel": "logloss", "regression": "rmse"}
"""XGBoost's metric for the loss of a task; for more than two classes it is mlogloss."""


class XGBoostBackend:
    """Boosted trees; see `OneShotBackend`. There is one booster per label or target."""

    framework = "xgboost"
    round_noun = "round"
    normalised = False
    native_file = "model.ubj"
    exporters: tuple[str, ...] = ("onnxmltools",)
    reads: tuple[str, ...] = ()

    def __init__(self, model: Any, file: ModelFile, shapes: Shapes, task: Task, params: Params) -> None:
        check_estimator(file, params)
        self.task = task
        self._file = file
        self._rows = InputRows(shapes, nan_for_missing=True)
        self.takes = self._rows.takes
        self.outputs = task.outputs
        self._multiclass = task.name == "classification" and self.outputs > 1
        _check_settings(model, file.path, ("multi:softprob",) if self._multiclass else OBJECTIVES[task.name])
        self._rounds = model.get_num_boosting_rounds()
        self._patience = model.early_stopping_rounds
        self._limit = params.fit_gb * 1e9
        self._params, self._custom_metric = self._parameters(model.get_xgb_params(), model.eval_metric, params.seed)
        if not {"n_jobs", "nthread"} & self._params.keys():
            self._params["nthread"] = thread_count(params.threads)
        self._boosters: list[xgboost.Booster] = []

    def _parameters(self, settings: dict[str, Any], metric: Any, seed: int) -> tuple[dict[str, Any], _Metric | None]:
        """Return the parameters for `xgboost.train`, and the user's metric function, if there is one."""
        params = {name: value for name, value in settings.items() if value is not None and name != "eval_metric"}
        params.setdefault("seed", params.pop("random_state", seed))
        if self._multiclass:
            params |= {"objective": "multi:softprob", "num_class": len(self.task.classes)}
        elif params.get("objective") in DEFAULT_OBJECTIVES:
            params["objective"] = OBJECTIVES[self.task.name][0]
        self._loss = "mlogloss" if self._multiclass else LOSSES[self.task.name]
        metrics = list(metric) if isinstance(metric, (list, tuple)) else [] if metric is None else [metric]
        functions = [one for one in metrics if callable(one)]
        if len(functions) > 1:
            raise ConfigError(
                f"eval_metric of {self._file.path} has {len(functions)} functions, but XGBoost supports only one",
                hint="keep one of them",
            )
        if metrics:  # early stopping uses the last metric; a function is always the last
            names = [one for one in metrics if not callable(one)]
            params["eval_metric"] = names if self._loss in names else [self._loss, *names]
        return params, functions[0] if functions else None

    def fit(self, train: EpochBatches, valid: Batches, report: RoundCallback) -> int:
        """Train; keep the rounds up to the best one if the estimator has `early_stopping_rounds`, else all rounds."""
        columns = [None] if self.task.name == "classification" else list(range(self.outputs))
        callback = report if len(columns) == 1 else lambda *_: None  # rounds of several boosters are not epochs
        for column in columns:
            self._boosters.append(self._boost(lambda: train(0), valid, column, callback))
        return self._boosters[0].num_boosted_rounds() if len(columns) == 1 else 0

    def short_copy(self) -> XGBoostBackend:
        """Return an untrained copy that trains for one round."""
        short = copy.copy(self)
        short._rounds, short._boosters = 1, []
        return short

    def _boost(self, train: Batches, valid: Batches, column: int | None, report: RoundCallback) -> xgboost.Booster:
        bins = {"max_bin": self._params["max_bin"]} if "max_bin" in self._params else {}
        with tempfile.TemporaryDirectory(prefix="mlaas4hep-xgboost-") as folder, warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*contains only positive or negative samples")  # reported once
            training = _make_matrix(_chunks(self._rows, train, column), self._limit, f"{folder}/train", **bins)
            chunks = _chunks(self._rows, valid, column)
            validation = _make_matrix(chunks, self._limit, f"{folder}/valid", ref=training, **bins)
            reporter = _RoundReporter(report, self._patience, self._last_metrics)
            trained = xgboost.train(
                self._params,
                training,
                self._rounds,
                evals=[(training, "train"), (validation, "valid")],
                custom_metric=_xgboost_metric(self._custom_metric) if self._custom_metric else None,
                callbacks=[reporter],
                verbose_eval=False,
            )
            best = trained[: trained.best_iteration + 1] if reporter.stops_early else trained
            booster = xgboost.Booster(model_file=best.save_raw("ubj"))
            del training, validation, trained, best  # they keep files of the folder open
        return booster

    def _last_metrics(self, history: Mapping[str, Sequence[float]]) -> dict[str, float]:
        """Return the metrics of the last round by name; "loss" is defined as in `Task.metrics`."""
        metrics = {name: float(values[-1]) for name, values in history.items()}
        if self._loss not in metrics:  # the objective of the estimator has another loss
            return {"loss": list(metrics.values())[-1], **metrics}
        loss = metrics.pop(self._loss)
        return {"loss": (loss / self.task.spread[0]) ** 2 if self.task.spread else loss, **metrics}

    def predict(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return scores, float32 (events, outputs)."""
        rows = self._rows.flatten(inputs)
        scores = [booster.inplace_predict(rows).reshape(len(rows), -1) for booster in self._boosters]
        return np.concatenate(scores, axis=1).astype(np.float32)

    def size(self) -> str:
        """Return the number of boosting rounds, as in "100 rounds"."""
        if not self._boosters:
            return f"up to {self._rounds:,} rounds"
        return f"{sum(booster.num_boosted_rounds() for booster in self._boosters):,} rounds"

    def save(self, folder: Path) -> str:
        """Write model.ubj (UBJSON); further labels or targets as model_1.ubj, model_2.ubj, ..."""
        for name, booster in zip(self._files, self._boosters, strict=True):
            booster.save_model(folder / name)
        return self.native_file

    def load(self, folder: Path) -> None:
        """Read the files that `save` wrote."""
        self._boosters = [xgboost.Booster(model_file=folder / name) for name in self._files]

    @property
    def _files(self) -> list[str]:
        count = 1 if self.task.name == "classification" else self.outputs
        return [self.native_file, *(f"model_{number}.ubj" for number in range(1, count))]

    def export(self, path: Path, exporter: str = "") -> None:
        """Write an ONNX graph from inputs and masks to scores.

        Raises:
            NothingLearned: all leaves of a booster are 0, for which onnxmltools (1.16) writes a wrong graph.
        """
        if any(map(_has_only_zeros, self._boosters)):
            raise NothingLearned(
                f"no tree of the model of {self._file.path} has a split, so that all events have the same score",
                hint="lower gamma or min_child_weight, and check the labels and weights",
            )
        converter = require("onnxmltools", "xgboost", "exporting trees to ONNX")
        onnx = require("onnx", "xgboost", "writing ONNX")
        from onnxmltools.convert.common.data_types import FloatTensorType

        kinds = [("rows", FloatTensorType([None, self._rows.width]))]
        graphs = [converter.convert_xgboost(booster, initial_types=kinds) for booster in self._boosters]
        binary = self.task.name != "regression" and not self._multiclass
        onnx.save(self._rows.onnx_graph(graphs, 1 if binary else None), str(path))


def _has_only_zeros(booster: xgboost.Booster) -> bool:
    """Return whether each tree of a booster is a single leaf with the value 0."""
    trees = (re.fullmatch(r"\s*0:leaf=(\S+?)\s*", tree) for tree in booster.get_dump())
    return all(leaf is not None and float(leaf[1]) == 0 for leaf in trees)


def _check_settings(model: Any, path: Path, objectives: Sequence[str]) -> None:
    """Raise ConfigError if a setting of an estimator is not supported, or would have no effect."""
    if callable(model.objective) or model.objective not in (*DEFAULT_OBJECTIVES, *objectives):
        objective = "a function" if callable(model.objective) else f"'{model.objective}'"
        raise _unsupported(f"objective of {path} is {objective}", objectives)
    for name, values in SUPPORTED.items():
        value = getattr(model, name)
        if value is not None and value not in values:
            raise _unsupported(f"{name} of {path} is '{value}'", values)
    for name in UNSUPPORTED:
        if getattr(model, name) is not None:
            hint = "remove it; early stopping uses early_stopping_rounds"
            raise ConfigError(f"{name} of {path} would have no effect", hint=hint)
    if model.missing is not None and not np.isnan(model.missing):
        raise ConfigError(
            f"missing of {path} is {model.missing:g}, but missing values are NaN",
            hint="remove it; --preproc can replace other values by NaN",
        )
    if model.get_num_boosting_rounds() < 1:
        raise ConfigError(f"n_estimators of {path} is {model.n_estimators}", hint="it must be at least 1")


def _unsupported(what: str, allowed: Sequence[str]) -> ConfigError:
    return ConfigError(f"{what}, which is not supported", hint=f"use one of: {', '.join(allowed)}")


def _xgboost_metric(metric: _Metric) -> Callable[[np.ndarray, Any], tuple[str, float]]:
    """Wrap metric(y_true, y_score) as XGBoost expects it; if events have weights, it gets `sample_weight`, too."""

    def evaluate(scores: np.ndarray, data: Any) -> tuple[str, float]:
        y, weight = data.get_label(), data.get_weight()
        weights = {} if (weight == 1).all() else {"sample_weight": weight}
        return getattr(metric, "__name__", "metric"), float(metric(y, scores, **weights))

    return evaluate


_Chunk = dict[str, np.ndarray]
_Chunks = Callable[[], Iterable[_Chunk]]
_Metric = Callable[..., float]


def _chunks(rows: InputRows, batches: Batches, column: int | None = None) -> _Chunks:
    """Return a function that yields events in chunks of about CHUNK_EVENTS, with one column of the labels, or all."""

    def chunks() -> Iterable[_Chunk]:
        for batch in _merge_batches(batches()):
            if (batch.weight < 0).any():
                raise ConfigError("XGBoost does not support negative weights", hint=NO_NEGATIVE_WEIGHTS)
            y = batch.y if column is None else batch.y[:, column]
            yield {"data": rows.flatten(batch.inputs), "label": y, "weight": batch.weight}

    return chunks


class _InterruptedPass(Exception):
    """Carries a KeyboardInterrupt, its cause, through XGBoost."""


@contextmanager
def _as_exception() -> Iterator[None]:
    """Convert a KeyboardInterrupt to an `Exception`, which XGBoost raises again after its passes over the data.

    XGBoost's callbacks lose a KeyboardInterrupt. The pass would end early without an error, the next pass would contain
    more events than XGBoost has allocated memory for, and the process would be killed by SIGABRT.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise _InterruptedPass from error


class _ChunkIterator(xgboost.DataIter):
    """Passes chunks of events to XGBoost, as often as it requests a pass."""

    def __init__(self, chunks: _Chunks, cache: str | None) -> None:
        self._chunks = chunks
        self._iterator: Iterator[_Chunk] = iter(())
        super().__init__(cache_prefix=cache, release_data=True)

    def reset(self) -> None:
        """Start a new pass."""
        with _as_exception():
            self._iterator = iter(self._chunks())

    def next(self, input_data: Callable[..., None]) -> bool:
        """Pass on the next chunk; return False at the end of the pass."""
        with _as_exception():
            chunk = next(self._iterator, None)
            if chunk is not None:
                input_data(**chunk)
        return chunk is not None


def _make_matrix(chunks: _Chunks, limit: float, cache: str, **more: Any) -> Any:
    """Return a quantile matrix, in memory or, if it takes more than `limit` bytes, in files with the prefix `cache`."""
    in_memory = sum(chunk["data"].size for chunk in chunks()) <= limit  # each value is a bin number of one byte
    try:
        if in_memory:
            return xgboost.QuantileDMatrix(_ChunkIterator(chunks, None), **more)
        return xgboost.ExtMemQuantileDMatrix(_ChunkIterator(chunks, cache), **more)
    except _InterruptedPass as error:
        raise (error.__cause__ or error) from None


class EventIterator(_ChunkIterator):
    """The events of a generator, for custom training with XGBoost.

        data = xgboost.ExtMemQuantileDMatrix(EventIterator(generator, "train", cache="/tmp/train"))

    Missing values are NaN. Events come in the order of the first epoch.
    """

    def __init__(self, generator: DataGenerator, part: str = "train", cache: str | None = None) -> None:
        """Read a part ("train", "valid" or "test"); `cache` is the prefix of files in which XGBoost may keep it."""
        rows = InputRows(generator.shapes, nan_for_missing=True)
        super().__init__(_chunks(rows, lambda: generator.batches(part)), cache)


def _merge_batches(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Concatenate batches to chunks of about CHUNK_EVENTS events."""
    pending: list[Batch] = []
    for batch in batches:
        pending.append(batch)
        if sum(map(len, pending)) >= CHUNK_EVENTS:
            yield Batch.concatenate(pending)
            pending = []
    if pending:
        yield Batch.concatenate(pending)


class _RoundReporter(xgboost.callback.TrainingCallback):
    """Reports the metrics of every round, and stops if the last metric has not improved for `patience` rounds."""

    def __init__(
        self, report: RoundCallback, patience: int | None, last_metrics: Callable[[Any], dict[str, float]]
    ) -> None:
        super().__init__()
        self._report, self._last_metrics = report, last_metrics
        self._early_stopping = xgboost.callback.EarlyStopping(rounds=patience) if patience else None

    @property
    def stops_early(self) -> bool:
        """Whether a metric decides how many rounds are kept."""
        return self._early_stopping is not None

    def before_training(self, model: Any) -> Any:
        """Reset the early stopping."""
        return self._early_stopping.before_training(model) if self._early_stopping else model

    def after_iteration(self, model: Any, epoch: int, evals_log: dict[str, dict[str, Any]]) -> bool:
        """Report a round; without early stopping no round is the best, because all are kept."""
        name, values = list(evals_log["valid"].items())[-1]
        if self._early_stopping and not np.isfinite(values[-1]):
            console.notice(f"no early stopping, because '{name}' of the validation set is not finite")
            self._early_stopping = None
        stop = bool(self._early_stopping and self._early_stopping.after_iteration(model, epoch, evals_log))
        train, valid = (self._last_metrics(evals_log[name]) for name in ("train", "valid"))
        self._report(epoch + 1, train["loss"], valid, bool(self._early_stopping) and model.best_iteration == epoch)
        return stop
