"""Keras 3 models: from inputs, and masks if there are inputs for them, to scores. A compiled one keeps its loss."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mlaas4hep.console import filtered_stderr
from mlaas4hep.errors import ConfigError, require, said
from mlaas4hep.stream import Batch
from mlaas4hep.training.backend import Output, Shapes, array_shapes, choose, describe_shapes, probe, probe_inputs
from mlaas4hep.training.model_file import ModelFile

LEARNING_RATE = 1e-3
"""Of Adam, where the model is not compiled and the model file defines no `optimizer`."""


class KerasBackend:
    """A Keras model; see `Backend`."""

    framework = "keras"

    def __init__(self, model: keras.Model, file: ModelFile, shapes: Shapes, classes: int) -> None:
        if file.training_step is not None:
            raise ConfigError(
                f"{file.path} defines training_step, which is for PyTorch",
                hint="in Keras, give the model a method train_step",
            )
        self.model = model
        self._shapes = shapes
        self._file = file
        if not model.built and "x" in shapes:
            model.build((None, *shapes["x"]))
        self.takes = choose([tensor.name for tensor in model.inputs], shapes, f"the model of {file.path}")
        self.outputs, self._output = self._probe(classes)
        if not model.compiled:
            model.compile(
                optimizer=file.optimizer or keras.optimizers.Adam(LEARNING_RATE),
                loss=file.loss or default_loss(self.outputs, self._output),
            )
        self._one_hot = self.outputs > 1 and _wants_one_hot(model.loss)
        self._scores = _with_activation(model, self.outputs, self._output)

    def _probe(self, classes: int) -> tuple[int, Output]:
        try:
            output = keras.ops.convert_to_numpy(self.model(self._given(probe_inputs(self._shapes)), training=False))
        except Exception as error:  # TensorFlow, torch and Keras raise kinds of their own for a wrong shape
            wanted = describe_shapes(self._shapes)
            raise ConfigError(f"the model of {self._file.path} does not take {wanted}: {said(error)}") from error
        return probe(output, classes, self._file.path)

    def _given(self, inputs: Mapping[str, np.ndarray]) -> Any:
        given = [np.asarray(inputs[name], np.float32) for name in self.takes]
        return given if len(given) > 1 else given[0]

    def fit(self, batches: Iterable[Batch]) -> float:
        """Train on batches, one step each, and return the mean loss."""
        total, count = 0.0, 0
        for batch in batches:
            y = np.eye(self.outputs, dtype=np.float32)[batch.y] if self._one_hot else batch.y
            y = y[:, None].astype(np.float32) if self.outputs == 1 else y
            weight = batch.weight / batch.weight.mean()  # Keras divides by the number of events, not by the weights
            self.model.reset_metrics()
            logs = self.model.train_on_batch(self._given(batch.inputs), y, sample_weight=weight, return_dict=True)
            total += float(logs["loss"]) * len(batch)
            count += len(batch)
        return total / max(count, 1)

    def predict(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return probabilities, float32 (events, outputs)."""
        return np.asarray(self._scores.predict_on_batch(self._given(inputs)), np.float32)

    def snapshot(self) -> Any:
        """Return a copy of the weights."""
        return [np.copy(weight) for weight in self.model.get_weights()]

    def restore(self, weights: Any) -> None:
        """Set the weights to a copy that `snapshot` returned."""
        self.model.set_weights(weights)

    def parameters(self) -> int:
        """Return how many weights are trained."""
        return int(sum(np.prod(weight.shape) for weight in self.model.trainable_weights))

    def save(self, folder: Path) -> str:
        """Write the model in Keras's own format; `keras.saving.load_model(path, compile=False)` reads it."""
        self.model.save(folder / "model.keras", include_optimizer=False)
        return "model.keras"

    def export(self, path: Path) -> None:
        """Write an ONNX graph from what the model takes to probabilities."""
        require("tf2onnx", "keras", "writing a Keras model as ONNX")
        shapes = array_shapes(self._shapes)
        spec = [keras.InputSpec(shape=(None, *shapes[name]), dtype="float32", name=name) for name in self.takes]
        silent = contextlib.redirect_stdout(io.StringIO())
        with silent, warnings.catch_warnings(), filtered_stderr(""):  # what goes wrong is raised; the rest is chatter
            warnings.simplefilter("ignore")
            self._scores.export(path, format="onnx", input_signature=[spec] if len(spec) > 1 else spec, verbose=False)


def default_loss(outputs: int, output: Output) -> Any:
    """Return the cross-entropy that fits a model's outputs.

    Raises:
        ConfigError: the outputs are logarithms, which Keras has no loss for.
    """
    if output == "log_probabilities":
        raise ConfigError("the model gives logarithms of probabilities", hint="end it with softmax, or with nothing")
    if outputs == 1:
        return keras.losses.BinaryCrossentropy(from_logits=output == "logits")
    return keras.losses.SparseCategoricalCrossentropy(from_logits=output == "logits")


def _wants_one_hot(loss: Any) -> bool:
    names = {"categorical_crossentropy", "CategoricalCrossentropy", "categorical_focal_crossentropy", "kl_divergence"}
    return loss in names if isinstance(loss, str) else getattr(loss, "name", type(loss).__name__) in names


def _with_activation(model: keras.Model, outputs: int, output: Output) -> keras.Model:
    """Return a model that shares the weights and gives probabilities."""
    if output == "probabilities":
        return model
    inputs = [keras.Input(tensor.shape[1:], dtype=tensor.dtype) for tensor in model.inputs]
    activation = keras.layers.Activation("sigmoid" if outputs == 1 else "softmax")
    scores = activation(model(inputs if len(inputs) > 1 else inputs[0]))
    return keras.Model(inputs, scores)
