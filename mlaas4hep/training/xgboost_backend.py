"""XGBoost: an estimator of its scikit-learn interface says how to boost; the events come from the stream.

A training part that takes more than `fit_gb` lies on disk while it is trained on (XGBoost's external memory). Trees see
values as they are in the files, and NaN where there is none.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xgboost

from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, require
from mlaas4hep.stream import Batch, DataGenerator
from mlaas4hep.training.backend import Rounds, Shapes
from mlaas4hep.training.model_file import ModelFile
from mlaas4hep.training.tables import NO_NEGATIVE_WEIGHTS, Rows
from mlaas4hep.training.task import Task

ROWS = 50_000
"""Events that are handed to XGBoost at a time, about."""

DEFAULTS = (None, "binary:logistic", "reg:squarederror", "multi:softprob", "multi:softmax")
"""Objectives that an estimator has unless it is given one: the task says which of them is meant."""

OBJECTIVES = {
    "classification": ("binary:logistic",),
    "multilabel": ("binary:logistic",),
    "regression": ("reg:squarederror", "reg:squaredlogerror", "reg:pseudohubererror", "reg:absoluteerror", "reg:gamma",
                   "reg:tweedie", "count:poisson"),
}  # fmt: skip
"""Those that suit a task, and that ONNX can express; the first is the usual one."""

SUPPORTED = {
    "booster": ("gbtree",),
    "tree_method": ("auto", "hist"),
    "multi_strategy": ("one_output_per_tree",),
}
"""What a setting may be, where it is given: ONNX knows no other booster and trees, no other method reads a stream."""

IGNORED = ("callbacks", "feature_types", "feature_weights")
"""Settings that nothing would come of."""

LOSSES = {"classification": "logloss", "multilabel": "logloss", "regression": "rmse"}
"""What XGBoost calls the loss of a task; of several classes it is mlogloss."""


class XGBoostBackend:
    """Boosted trees; see `AtOnce`. Of several labels or targets, each has trees of its own."""

    framework = "xgboost"
    normalised = False

    def __init__(self, model: Any, file: ModelFile, shapes: Shapes, task: Task, params: Params) -> None:
        self.task = task
        self._file = file
        self._rows = Rows(shapes, missing=True)
        self.takes = self._rows.takes
        classes = len(task.classes)
        self._multiclass = task.name == "classification" and classes > 2
        self.outputs = 1 if task.name == "classification" and classes == 2 else classes
        _check(model, file.path, "multi:softprob" if self._multiclass else "", OBJECTIVES[task.name])
        self._rounds = model.get_num_boosting_rounds()
        self._patience = model.early_stopping_rounds
        self._limit = params.fit_gb * 1e9
        self._params, self._metric = self._parameters(model.get_xgb_params(), model.eval_metric, params.seed)
        self._boosters: list[xgboost.Booster] = []

    def _parameters(
        self, given: dict[str, Any], metric: Any, seed: int
    ) -> tuple[dict[str, Any], Callable[..., float] | None]:
        """Return what XGBoost is told, and the metric that is a function of the user's, if there is one."""
        params = {name: value for name, value in given.items() if value is not None and name != "eval_metric"}
        params.setdefault("seed", params.pop("random_state", seed))
        if self._multiclass:
            params |= {"objective": "multi:softprob", "num_class": len(self.task.classes)}
        elif params.get("objective") in DEFAULTS:
            params["objective"] = OBJECTIVES[self.task.name][0]
        self._loss = "mlogloss" if self._multiclass else LOSSES[self.task.name]
        metrics = list(metric) if isinstance(metric, (list, tuple)) else [] if metric is None else [metric]
        own = [one for one in metrics if callable(one)]
        if len(own) > 1:
            raise ConfigError(f"{self._file.path}: XGBoost takes one function in eval_metric, and there are {len(own)}")
        if metrics:  # the last of them says when to stop; a function is always the last
            names = [one for one in metrics if not callable(one)]
            params["eval_metric"] = names if self._loss in names else [self._loss, *names]
        return params, own[0] if own else None

    def fit(
        self,
        train: Callable[[int], Iterable[Batch]],
        valid: Callable[[], Iterable[Batch]],
        report: Rounds,
    ) -> int:
        """Boost, as long as the estimator's `early_stopping_rounds` says, and keep the best rounds, or else all."""
        columns = [None] if self.task.name == "classification" else list(range(self.outputs))
        told = report if len(columns) == 1 else lambda *_: None  # rounds of several are not those of one model
        for column in columns:
            self._boosters.append(self._boost(lambda: train(0), valid, column, told))
        return self._boosters[0].num_boosted_rounds() if len(columns) == 1 else 0

    def _boost(
        self,
        train: Callable[[], Iterable[Batch]],
        valid: Callable[[], Iterable[Batch]],
        column: int | None,
        report: Rounds,
    ) -> xgboost.Booster:
        bins = {"max_bin": self._params["max_bin"]} if "max_bin" in self._params else {}
        with tempfile.TemporaryDirectory(prefix="mlaas4hep-xgboost-") as folder:
            learnt = _matrix(self._chunks(train, column), self._limit, f"{folder}/train", **bins)
            looked_at = _matrix(self._chunks(valid, column), self._limit, f"{folder}/valid", ref=learnt, **bins)
            trained = xgboost.train(
                self._params,
                learnt,
                self._rounds,
                evals=[(learnt, "train"), (looked_at, "valid")],
                custom_metric=_named(self._metric) if self._metric else None,
                callbacks=[_Rounds(report, self._patience, self._figures)],
                verbose_eval=False,
            )
            best = trained[: trained.best_iteration + 1] if self._patience else trained
            booster = xgboost.Booster(model_file=best.save_raw("ubj"))
            del learnt, looked_at, trained, best  # they hold files of the folder
        return booster

    def _figures(self, found: Mapping[str, Sequence[float]]) -> dict[str, float]:
        """Return the last figures of a part by name, "loss" among them as `Task.figures` has it."""
        figures = {name: float(values[-1]) for name, values in found.items()}
        if self._loss not in figures:  # an objective of the estimator's own has a loss of its own
            return {"loss": list(figures.values())[-1], **figures}
        loss = figures.pop(self._loss)
        return {"loss": (loss / self.task.spread[0]) ** 2 if self.task.spread else loss, **figures}

    def _chunks(self, batches: Callable[[], Iterable[Batch]], column: int | None) -> Callable[[], Iterable[_Chunk]]:
        def chunks() -> Iterable[_Chunk]:
            for batch in _joined(batches()):
                if (batch.weight < 0).any():
                    raise ConfigError(
                        "XGBoost takes no negative weights",
                        hint=NO_NEGATIVE_WEIGHTS,
                    )
                y = batch.y if column is None else batch.y[:, column]
                yield {"data": self._rows.of(batch.inputs), "label": y, "weight": batch.weight}

        return chunks

    def predict(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return scores, float32 (events, outputs)."""
        table = self._rows.of(inputs)
        found = [booster.inplace_predict(table).reshape(len(table), -1) for booster in self._boosters]
        return np.concatenate(found, axis=1).astype(np.float32)

    def size(self) -> str:
        """Return how many rounds there are, in words."""
        if not self._boosters:
            return f"up to {self._rounds:,} rounds"
        return f"{sum(booster.num_boosted_rounds() for booster in self._boosters):,} rounds"

    def save(self, folder: Path) -> str:
        """Write the trees as UBJSON; of several labels or targets each by its number."""
        names = ["model.ubj", *(f"model_{number}.ubj" for number in range(1, len(self._boosters)))]
        for name, booster in zip(names, self._boosters, strict=True):
            booster.save_model(folder / name)
        return names[0]

    def export(self, path: Path) -> None:
        """Write an ONNX graph from inputs and masks to scores."""
        converter = require("onnxmltools", "xgboost", "writing trees as ONNX")
        onnx = require("onnx", "xgboost", "writing ONNX")
        from onnxmltools.convert.common.data_types import FloatTensorType

        kinds = [("rows", FloatTensorType([None, self._rows.width]))]
        graphs = [converter.convert_xgboost(booster, initial_types=kinds) for booster in self._boosters]
        binary = self.task.name != "regression" and not self._multiclass
        onnx.save(self._rows.network(graphs, 1 if binary else None), str(path))


def _check(model: Any, path: Path, multiclass: str, objectives: Sequence[str]) -> None:
    """Raise ConfigError where an estimator has settings that nothing, or no model, would come of."""
    objectives = (multiclass,) if multiclass else objectives
    if callable(model.objective) or model.objective not in (*DEFAULTS, *objectives):
        found = "a function" if callable(model.objective) else f"'{model.objective}'"
        raise ConfigError(f"objective of {path} is {found}", hint=f"it may be {', '.join(objectives)}")
    for name, values in SUPPORTED.items():
        value = getattr(model, name)
        if value is not None and value not in values:
            raise ConfigError(f"{name} of {path} is '{value}'", hint=f"it may be {', '.join(values)}")
    for name in IGNORED:
        if getattr(model, name) is not None:
            raise ConfigError(
                f"{name} of {path} would not count", hint="leave it out; to stop there is early_stopping_rounds"
            )
    if model.missing is not None and not np.isnan(model.missing):
        raise ConfigError(
            f"missing of {path} is {model.missing:g}, and what has no value is NaN here",
            hint="leave it out; other values can be made NaN by --preproc",
        )
    if model.get_num_boosting_rounds() < 1:
        raise ConfigError(f"n_estimators of {path} is {model.n_estimators}: there is nothing to train")


def _named(metric: Callable[..., float]) -> Callable[[np.ndarray, Any], tuple[str, float]]:
    """Return a function metric(y_true, y_score) as XGBoost asks for it; it is told of weights if there are any."""

    def ask(scores: np.ndarray, data: Any) -> tuple[str, float]:
        y, weight = data.get_label(), data.get_weight()
        more = {} if (weight == 1).all() else {"sample_weight": weight}
        return getattr(metric, "__name__", "metric"), float(metric(y, scores, **more))

    return ask


_Chunk = dict[str, np.ndarray]


class _InterruptedPass(Exception):
    """An interruption on its way through XGBoost, whose cause is the KeyboardInterrupt."""


@contextmanager
def _as_exception() -> Iterator[None]:
    """Make an interruption an `Exception`: XGBoost remembers these, and raises them when it has ended its passes.

    A KeyboardInterrupt is lost in its callbacks instead. The pass would end early without an error, a later one would
    bring more events than XGBoost has made room for, and the process would die of SIGABRT.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise _InterruptedPass from error


class _Source(xgboost.DataIter):
    """Chunks of events as XGBoost asks for them, as often as it likes."""

    def __init__(self, chunks: Callable[[], Iterable[_Chunk]], cache: str | None) -> None:
        self._chunks = chunks
        self._iterator: Iterator[_Chunk] = iter(())
        super().__init__(cache_prefix=cache, release_data=True)

    def reset(self) -> None:
        """Begin anew."""
        with _as_exception():
            self._iterator = iter(self._chunks())

    def next(self, input_data: Callable[..., None]) -> bool:
        """Hand over the next chunk, and say whether there was one."""
        with _as_exception():
            chunk = next(self._iterator, None)
            if chunk is not None:
                input_data(**chunk)
        return chunk is not None


def _matrix(chunks: Callable[[], Iterable[_Chunk]], limit: float, cache: str, **more: Any) -> Any:
    """Return events as XGBoost keeps them: in memory, or at the path `cache` if they take more than `limit` bytes."""
    in_memory = sum(chunk["data"].size for chunk in chunks()) <= limit  # of a byte each, the number of a bin
    try:
        if in_memory:
            return xgboost.QuantileDMatrix(_Source(chunks, None), **more)
        return xgboost.ExtMemQuantileDMatrix(_Source(chunks, cache), **more)
    except _InterruptedPass as error:
        raise (error.__cause__ or error) from None


class EventIterator(_Source):
    """The events of a generator, for matrices of your own.

        data = xgboost.ExtMemQuantileDMatrix(EventIterator(generator, "train", cache="/tmp/train"))

    Where there is no value stands NaN. Labels come as the generator has them, in the order of its first epoch.
    """

    def __init__(self, generator: DataGenerator, part: str = "train", cache: str | None = None) -> None:
        """Read a part; `cache` is where XGBoost may keep it on disk, the beginning of names of files."""
        rows = Rows(generator.shapes, missing=True)

        def chunks() -> Iterator[_Chunk]:
            for batch in _joined(generator.batches(part)):
                yield {"data": rows.of(batch.inputs), "label": batch.y, "weight": batch.weight}

        super().__init__(chunks, cache)


def _joined(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Put batches together until they have ROWS events."""
    waiting: list[Batch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= ROWS:
            yield Batch.concatenate(waiting)
            waiting = []
    if waiting:
        yield Batch.concatenate(waiting)


class _Rounds(xgboost.callback.TrainingCallback):
    """Tells the figures of every round, and stops where the last of them has got no better for some rounds."""

    def __init__(self, report: Rounds, patience: int | None, figures: Callable[[Any], dict[str, float]]) -> None:
        super().__init__()
        self._report, self._figures = report, figures
        self._stopping = xgboost.callback.EarlyStopping(rounds=patience) if patience else None

    def before_training(self, model: Any) -> Any:
        """Begin to count."""
        return self._stopping.before_training(model) if self._stopping else model

    def after_iteration(self, model: Any, epoch: int, evals_log: dict[str, dict[str, Any]]) -> bool:
        """Tell of a round; without early stopping none is better than another, since all are kept."""
        stop = bool(self._stopping and self._stopping.after_iteration(model, epoch, evals_log))
        train, valid = (self._figures(evals_log[name]) for name in ("train", "valid"))
        self._report(epoch + 1, train["loss"], valid, bool(self._stopping) and model.best_iteration == epoch)
        return stop
