"""scikit-learn: estimators that learn bit by bit (`partial_fit`) see every epoch; others get all events at once.

The latter take the memory that `fit_gb` in the params allows. An estimator that takes NaN (tags, `allow_nan`) is given
values as they are in the files, and NaN where there is none, or 0 where its ONNX graph could not follow; another one
normalised values, and 0.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import base, ensemble, multioutput, pipeline, tree
from sklearn.utils import get_tags
from sklearn.utils.validation import has_fit_parameter

from mlaas4hep.config import Params
from mlaas4hep.errors import ConfigError, MLaaS4HEPError, first_line, require
from mlaas4hep.stream import Batch
from mlaas4hep.training.backend import Rounds, Shapes
from mlaas4hep.training.model_file import ModelFile
from mlaas4hep.training.tables import NO_NEGATIVE_WEIGHTS, Rows
from mlaas4hep.training.task import Task

NAN_UNKNOWN_TO_ONNX = (ensemble.BaseEnsemble, tree.BaseDecisionTree)
"""Estimators that know what to do with NaN, of which their ONNX graphs know nothing (skl2onnx 1.20)."""

TRIED = 200
"""Events that an estimator is fitted on to see whether it can be written as ONNX."""

BOOSTED = (ensemble.HistGradientBoostingClassifier, ensemble.HistGradientBoostingRegressor)


class SklearnBackend:
    """An estimator; see `AtOnce`."""

    framework = "scikit-learn"

    def __init__(self, model: Any, file: ModelFile, shapes: Shapes, task: Task, params: Params) -> None:
        self.task = task
        self._file = file
        self._params = params
        allowed = bool(get_tags(model).input_tags.allow_nan)
        self.normalised = not allowed
        self._rows = Rows(shapes, missing=allowed and not isinstance(model, NAN_UNKNOWN_TO_ONNX))
        self.takes = self._rows.takes
        classes = len(task.classes)
        self.outputs = 1 if task.name == "classification" and classes == 2 else classes
        self.model = self._prepared(model)

    def _prepared(self, model: Any) -> Any:
        """Return the estimator with a seed, wrapped where it is to give several numbers."""
        regression = self.task.name == "regression"
        if regression != base.is_regressor(model):
            kind = "regressor" if regression else "classifier"
            raise ConfigError(f"the task is {self.task.name}, and the estimator of {self._file.path} is no {kind}")
        if not regression and not hasattr(model, "predict_proba"):
            raise ConfigError(
                f"{type(model).__name__} of {self._file.path} gives no probabilities",
                hint="wrap it: sklearn.calibration.CalibratedClassifierCV(...)",
            )
        seeds = {name: self._params.seed for name, value in model.get_params().items()
                 if name.rpartition("__")[2] == "random_state" and value is None}  # fmt: skip
        model = base.clone(model).set_params(**seeds)
        if self.task.name == "multilabel":
            return multioutput.MultiOutputClassifier(model)
        return multioutput.MultiOutputRegressor(model) if regression and self.outputs > 1 else model

    def fit(
        self,
        train: Callable[[int], Iterable[Batch]],
        valid: Callable[[], Iterable[Batch]],
        report: Rounds,
    ) -> int:
        """Train on all events at once, or by epochs until the validation loss gets no better."""
        if hasattr(self.model, "partial_fit") and not isinstance(self.model, pipeline.Pipeline):
            return self._fit_by_epochs(train, valid, report)
        x, y, weight = self._everything(train(0))
        self._check_convertible(x, y)
        self.model.fit(x, y, **self._weights(weight, "fit"))
        for one in getattr(self.model, "estimators_", [self.model]):
            if isinstance(one, BOOSTED):
                _round_thresholds(one)
        return 0

    def _check_convertible(self, x: np.ndarray, y: np.ndarray) -> None:
        """Raise ConfigError, before hours of training, if ONNX cannot express the estimator, fitted on a few events."""
        _, first = np.unique(y, axis=0, return_index=True)
        rows = np.union1d(first[:TRIED], np.arange(min(TRIED, len(y))))
        model = base.clone(self.model)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(x[rows], y[rows])
        except Exception:  # so few may be too few
            return
        self._check_graphs(model)

    def _check_graphs(self, model: Any) -> None:
        try:
            self._graphs(model)
        except MLaaS4HEPError:
            raise
        except Exception as error:
            raise ConfigError(
                f"{type(model).__name__} of {self._file.path} cannot be written as ONNX, its only format here:"
                f" {first_line(error)}",
                hint="take other steps or another estimator",
            ) from error

    def _everything(self, batches: Iterable[Batch]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return all events: rows, labels, weights."""
        limit = self._params.fit_gb * 1e9
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        size = 0
        for batch in batches:
            parts.append((self._rows.of(batch.inputs), batch.y, batch.weight))
            size += 2 * parts[-1][0].nbytes  # once more when they are put together
            if size > limit:
                raise ConfigError(
                    f"{type(self.model).__name__} needs all events at once, more than the {self._params.fit_gb:g} GB of"
                    " 'fit_gb' in the params",
                    hint="raise it, select fewer branches, or take an estimator with partial_fit, or XGBoost",
                )
        x, y, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
        x[0, np.isnan(x).all(axis=0)] = 0  # some cannot do with a column without any value
        return x, self._target(y), weight

    def _target(self, y: np.ndarray) -> np.ndarray:
        return y[:, 0] if self.task.name == "regression" and self.outputs == 1 else y

    def _weights(self, weight: np.ndarray, method: str) -> dict[str, np.ndarray]:
        """Return the keyword that hands weights to an estimator; none where all are 1."""
        if (weight == 1).all():
            return {}
        if (weight < 0).any():  # some fail, others learn nonsense, and few say which
            raise ConfigError("estimators of scikit-learn take no negative weights", hint=NO_NEGATIVE_WEIGHTS)
        last, prefix = self.model, ""
        while isinstance(last, pipeline.Pipeline):
            name, last = last.steps[-1]
            prefix += f"{name}__"
        if isinstance(last, (multioutput.MultiOutputClassifier, multioutput.MultiOutputRegressor)):
            last = last.estimator
        if not has_fit_parameter(last, "sample_weight"):
            raise ConfigError(
                f"{type(last).__name__} of {self._file.path} takes no weights",
                hint="take 'weight' and 'balance' out of the params, or another estimator",
            )
        return {f"{prefix}sample_weight": weight}

    def _fit_by_epochs(
        self,
        train: Callable[[int], Iterable[Batch]],
        valid: Callable[[], Iterable[Batch]],
        report: Rounds,
    ) -> int:
        best, lowest, kept, tried = copy.deepcopy(self.model), float("inf"), 0, False
        for epoch in range(self._params.epochs):
            for batch in train(epoch):
                classes: dict[str, Any] = {}
                if self.task.name == "classification":
                    classes = {"classes": np.arange(len(self.task.classes))}
                elif self.task.name == "multilabel":
                    classes = {"classes": [np.arange(2)] * self.outputs}
                more = self._weights(batch.weight, "partial_fit")
                self.model.partial_fit(self._rows.of(batch.inputs), self._target(batch.y), **classes, **more)
                if not tried:
                    self._check_graphs(self.model)
                tried = True
            loss, train_loss = self._loss(valid()), self._loss(train(epoch))
            report(epoch + 1, train_loss, {"loss": loss}, loss < lowest)
            if loss < lowest:
                best, lowest, kept = copy.deepcopy(self.model), loss, epoch + 1
            if epoch + 1 - kept >= self._params.patience:
                break
        self.model = best
        return kept

    def _loss(self, batches: Iterable[Batch]) -> float:
        found = [(batch.y, self.predict(batch.inputs), batch.weight) for batch in batches]
        y, scores, weight = (np.concatenate(column) for column in zip(*found, strict=True))
        return self.task.figures(y, scores, weight)["loss"]

    def predict(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return scores, float32 (events, outputs)."""
        rows = self._rows.of(inputs)
        if self.task.name == "regression":
            scores = self.model.predict(rows).reshape(len(rows), -1)
        elif self.task.name == "multilabel":
            scores = np.stack([one[:, -1] for one in self.model.predict_proba(rows)], axis=1)
        else:
            scores = self.model.predict_proba(rows)
            scores = scores[:, 1:] if self.outputs == 1 else scores
        return np.asarray(scores, np.float32)

    def size(self) -> str:
        """Return what the model is, in words."""
        return type(self.model).__name__

    def save(self, folder: Path) -> str:
        """Write nothing: scikit-learn's own format is a pickle; the ONNX graph is the model."""
        return ""

    def export(self, path: Path) -> None:
        """Write an ONNX graph from inputs and masks to scores."""
        onnx = require("onnx", "sklearn", "writing ONNX")
        binary = self.task.name != "regression" and (self.outputs == 1 or self.task.name == "multilabel")
        onnx.save(self._rows.network(self._graphs(self.model), 1 if binary else None), str(path))

    def _graphs(self, model: Any) -> list[Any]:
        """Return the ONNX graph of an estimator; labels have one each, since that of all of them gives a list."""
        converter = require("skl2onnx", "sklearn", "writing an estimator as ONNX")
        from skl2onnx.common.data_types import FloatTensorType

        kinds = [("rows", FloatTensorType([None, self._rows.width]))]
        graphs = []
        for one in model.estimators_ if self.task.name == "multilabel" else [model]:
            options = None if self.task.name == "regression" else {id(one): {"zipmap": False}}
            with _numbers_for_bools():
                graphs.append(converter.to_onnx(one, initial_types=kinds, options=options, target_opset=18))
        return graphs


def _round_thresholds(model: Any) -> None:
    """Let trees split at float32 numbers, as ONNX does: no float32 changes sides when a threshold is rounded down."""
    for tree_predictor in (one for several in model._predictors for one in several):
        exact = tree_predictor.nodes["num_threshold"]
        rounded = exact.astype(np.float32)
        below = np.nextafter(rounded, np.float32(-np.inf))
        tree_predictor.nodes["num_threshold"] = np.where(rounded > exact, below, rounded)


@contextmanager
def _numbers_for_bools() -> Iterator[None]:
    """Let skl2onnx (1.20) write the bools of its trees as the numbers that protobuf wants them to be."""
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
