"""scikit-learn estimators. Those with `partial_fit` train epoch by epoch; others are fitted to all events at once.

Events that are fitted at once may take up to `fit_gb` of the params. Estimators that support NaN (tag `allow_nan`) get
unnormalised values, and NaN for missing values, or 0 if their ONNX graphs do not support NaN. Other estimators get
normalised values, and 0 for missing values.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import base, ensemble, multioutput, pipeline, tree
from sklearn.utils import get_tags
from sklearn.utils.validation import has_fit_parameter

from mlaas4hep.backends.input_rows import NO_NEGATIVE_WEIGHTS, InputRows
from mlaas4hep.backends.model_file import ModelFile
from mlaas4hep.backends.model_settings import check_estimator
from mlaas4hep.backends.protocol import Batches, EpochBatches, RoundCallback, Shapes
from mlaas4hep.backends.task import Task
from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, require
from mlaas4hep.stream import Batch

NAN_NOT_IN_ONNX = (ensemble.BaseEnsemble, tree.BaseDecisionTree)
"""Estimators that support NaN, but whose ONNX graphs do not (skl2onnx 1.20)."""

HISTOGRAM_BOOSTING = (ensemble.HistGradientBoostingClassifier, ensemble.HistGradientBoostingRegressor)


class SklearnBackend:
    """An estimator; see `OneShotBackend`."""

    framework = "scikit-learn"
    round_noun = "epoch"
    native_file = ""
    exporters: tuple[str, ...] = ("skl2onnx",)
    reads: tuple[str, ...] = ()

    def __init__(self, model: Any, file: ModelFile, shapes: Shapes, task: Task, params: Params) -> None:
        check_estimator(file, params)
        self.task = task
        self._file = file
        self._params = params
        allow_nan = bool(get_tags(model).input_tags.allow_nan)
        self.normalised = not allow_nan
        self._rows = InputRows(shapes, nan_for_missing=allow_nan and not isinstance(model, NAN_NOT_IN_ONNX))
        self.takes = self._rows.takes
        self.outputs = task.outputs
        self.model = self._prepare(model)

    def _prepare(self, model: Any) -> Any:
        """Return a copy of the estimator with a seed, wrapped if there are several labels or targets."""
        regression = self.task.name == "regression"
        if regression != base.is_regressor(model):
            kind = "regressor" if regression else "classifier"
            raise ConfigError(
                f"the task is {self.task.name}, but the estimator of {self._file.path} is not a {kind}",
                hint=f"return a {kind}, or change 'task' in the params",
            )
        if not regression and not hasattr(model, "predict_proba"):
            raise ConfigError(
                f"{type(model).__name__} of {self._file.path} has no predict_proba",
                hint="wrap it: sklearn.calibration.CalibratedClassifierCV(...)",
            )
        seeds = {name: self._params.seed for name, value in model.get_params().items()
                 if name.rpartition("__")[2] == "random_state" and value is None}  # fmt: skip
        model = base.clone(model).set_params(**seeds)
        if self.task.name == "multilabel":
            return multioutput.MultiOutputClassifier(model)
        return multioutput.MultiOutputRegressor(model) if regression and self.outputs > 1 else model

    def fit(self, train: EpochBatches, valid: Batches, report: RoundCallback) -> int:
        """Fit to all events at once, or train epoch by epoch with early stopping; see `OneShotBackend.fit`."""
        if hasattr(self.model, "partial_fit") and not isinstance(self.model, pipeline.Pipeline):
            return self._fit_by_epochs(train, valid, report)
        x, y, weight = self._read_all(train(0))
        self.model.fit(x, y, **self._weights(weight))
        for estimator in getattr(self.model, "estimators_", [self.model]):
            if isinstance(estimator, HISTOGRAM_BOOSTING):
                _round_thresholds(estimator)
        return 0

    def short_copy(self) -> SklearnBackend:
        """Return an untrained copy that trains for one epoch, if it trains epoch by epoch."""
        short = copy.copy(self)
        short.model, short._params = base.clone(self.model), self._params.model_copy(update={"epochs": 1})
        return short

    def _read_all(self, batches: Iterable[Batch]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the rows, float32 (events, columns), labels and weights of all events, up to `fit_gb` of memory."""
        limit = self._params.fit_gb * 1e9
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        size = 0
        for batch in batches:
            parts.append((self._rows.flatten(batch.inputs), batch.y, batch.weight))
            size += 2 * parts[-1][0].nbytes  # twice, because of the concatenation
            if size > limit:
                raise ConfigError(
                    f"{type(self.model).__name__} needs all events at once, and they take more than the"
                    f" {self._params.fit_gb:g} GB of 'fit_gb' in the params",
                    hint="increase it, select fewer branches, or use an estimator with partial_fit, or XGBoost",
                )
        x, y, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
        x[0, np.isnan(x).all(axis=0)] = 0  # some estimators fail for a column of NaN only
        return x, self._target(y), weight

    def _target(self, y: np.ndarray) -> np.ndarray:
        return y[:, 0] if self.task.name == "regression" and self.outputs == 1 else y

    def _weights(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """Return the keyword argument for event weights; empty if all weights are 1."""
        if (weight == 1).all():
            return {}
        if (weight < 0).any():  # some estimators fail, others train on them wrongly without an error
            raise ConfigError("estimators of scikit-learn do not support negative weights", hint=NO_NEGATIVE_WEIGHTS)
        last, prefix = self.model, ""
        while isinstance(last, pipeline.Pipeline):
            name, last = last.steps[-1]
            prefix += f"{name}__"
        if isinstance(last, (multioutput.MultiOutputClassifier, multioutput.MultiOutputRegressor)):
            last = last.estimator
        if not has_fit_parameter(last, "sample_weight"):
            raise ConfigError(
                f"{type(last).__name__} of {self._file.path} does not support weights",
                hint="remove 'weight' and 'balance' from the params, or use another estimator",
            )
        return {f"{prefix}sample_weight": weight}

    def _fit_by_epochs(self, train: EpochBatches, valid: Batches, report: RoundCallback) -> int:
        best, lowest, best_epoch = copy.deepcopy(self.model), float("inf"), 0
        for epoch in range(self._params.epochs):
            for batch in train(epoch):
                classes: dict[str, Any] = {}
                if self.task.name == "classification":
                    classes = {"classes": np.arange(len(self.task.classes))}
                elif self.task.name == "multilabel":
                    classes = {"classes": [np.arange(2)] * self.outputs}
                weights = self._weights(batch.weight)
                self.model.partial_fit(self._rows.flatten(batch.inputs), self._target(batch.y), **classes, **weights)
            loss, train_loss = self._loss(valid()), self._loss(train(epoch))
            report(epoch + 1, train_loss, {"loss": loss}, loss < lowest)
            if loss < lowest:
                best, lowest, best_epoch = copy.deepcopy(self.model), loss, epoch + 1
            if epoch + 1 - best_epoch >= self._params.patience:
                break
        self.model = best
        return best_epoch

    def _loss(self, batches: Iterable[Batch]) -> float:
        columns = [(batch.y, self.predict(batch.inputs), batch.weight) for batch in batches]
        y, scores, weight = (np.concatenate(column) for column in zip(*columns, strict=True))
        return self.task.metrics(y, scores, weight)["loss"]

    def predict(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return scores, float32 (events, outputs)."""
        rows = self._rows.flatten(inputs)
        if self.task.name == "regression":
            scores = self.model.predict(rows).reshape(len(rows), -1)
        elif self.task.name == "multilabel":
            scores = np.stack([label[:, -1] for label in self.model.predict_proba(rows)], axis=1)
        else:
            scores = self.model.predict_proba(rows)
            scores = scores[:, 1:] if self.outputs == 1 else scores
        return np.asarray(scores, np.float32)

    def size(self) -> str:
        """Return the name of the estimator's class."""
        return type(self.model).__name__

    def save(self, folder: Path) -> str:
        """Write nothing: scikit-learn's own format is a pickle, so only the ONNX graph is saved."""
        return self.native_file

    def export(self, path: Path, exporter: str = "") -> None:
        """Write an ONNX graph from inputs and masks to scores."""
        onnx = require("onnx", "sklearn", "writing ONNX")
        binary = self.task.is_binary or self.task.name == "multilabel"
        onnx.save(self._rows.onnx_graph(self._onnx_graphs(self.model), 1 if binary else None), str(path))

    def _onnx_graphs(self, model: Any) -> list[Any]:
        """Return the ONNX graph of an estimator; for multi-label one graph per label."""
        converter = require("skl2onnx", "sklearn", "exporting an estimator to ONNX")
        from skl2onnx.common.data_types import FloatTensorType

        kinds = [("rows", FloatTensorType([None, self._rows.width]))]
        graphs = []
        for one in model.estimators_ if self.task.name == "multilabel" else [model]:
            options = None if self.task.name == "regression" else {id(one): {"zipmap": False}}
            with _bools_as_integers():
                graphs.append(converter.to_onnx(one, initial_types=kinds, options=options, target_opset=18))
        return graphs


def _round_thresholds(model: Any) -> None:
    """Round the thresholds of trees down to float32, as in ONNX. The branch of a float32 value does not change."""
    for tree_predictor in (one for iteration in model._predictors for one in iteration):
        exact = tree_predictor.nodes["num_threshold"]
        rounded = exact.astype(np.float32)
        below = np.nextafter(rounded, np.float32(-np.inf))
        tree_predictor.nodes["num_threshold"] = np.where(rounded > exact, below, rounded)


@contextmanager
def _bools_as_integers() -> Iterator[None]:
    """Let skl2onnx (1.20) write the bools of its trees as integers, which protobuf requires."""
    from skl2onnx.common import _container

    make_node = _container.make_node

    def make(*arguments: Any, **attributes: Any) -> Any:
        for name, values in attributes.items():
            if isinstance(values, list) and any(isinstance(value, (bool, np.bool_)) for value in values):
                attributes[name] = [int(value) for value in values]
        return make_node(*arguments, **attributes)

    _container.make_node = make
    try:
        yield
    finally:
        _container.make_node = make_node
