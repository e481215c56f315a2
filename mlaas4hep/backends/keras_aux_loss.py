"""Losses of Keras models that get the event weights and the training-only inputs.

    loss = AuxLoss(function, integer_labels=False)      # function(outputs, labels, weights, aux) returns one number
    model.compile(optimizer, loss)
    model.train_on_batch(inputs, loss.pack(y, weight, {"aux": aux, "aux_mask": mask}))

A loss of Keras gets the targets and the outputs alone. Labels, weights and training-only inputs are therefore packed
into one matrix, which works in all frameworks that Keras computes with, and with compiled graphs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np


class AuxLoss(keras.losses.Loss):  # type: ignore[misc]  # mypy does not follow keras
    """A loss that unpacks labels, weights and training-only inputs; see the module's docstring."""

    def __init__(self, function: Callable[[Any, Any, Any, Any], Any], integer_labels: bool) -> None:
        """Wrap a function.

        Args:
            integer_labels: whether labels are integer classes, (events,).
        """
        super().__init__(name="aux_loss")
        self._function, self._integer_labels = function, integer_labels
        self._shapes: dict[str, tuple[int, ...]] = {}

    def pack(self, y: np.ndarray, weight: np.ndarray, aux: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the matrix that `call` gets as `y_true`, float32 (events, columns)."""
        self._shapes = {name: values.shape[1:] for name, values in aux.items()}
        columns = [y, weight, *aux.values()]
        return np.concatenate([np.asarray(one, np.float32).reshape(len(weight), -1) for one in columns], axis=1)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of a batch, given the matrix of `pack` and the outputs."""
        aux, stop = {}, y_true.shape[1]
        for name, shape in reversed(self._shapes.items()):
            start = stop - math.prod(shape)
            aux[name] = keras.ops.reshape(y_true[:, start:stop], (-1, *shape))
            stop = start
        labels, weights = y_true[:, : stop - 1], y_true[:, stop - 1]
        if self._integer_labels:
            labels = keras.ops.cast(labels[:, 0], "int64")
        return self._function(y_pred, labels, weights, aux)
